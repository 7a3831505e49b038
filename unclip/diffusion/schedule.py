"""How much signal is left at each time: the table of alpha_bar, and everything that follows from it alone.

Times are whole numbers: 0 is data (alpha_bar = 1 exactly) and T is noise. Coefficients are formed in float64 and only
then cast to the dtype of the sample they multiply, since a float32 table is visibly wrong at both ends; there is one
nonetheless, to draw as diffusers does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unclip.diffusion.spacing import Spacing, spaced
from unclip.errors import UnclipError

Time = int | Int[Tensor, " b"]


def spread(values: Float[Tensor, "*b"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A table's coefficients, one or one per sample, in the dtype of `like` and shaped to multiply it."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if values.ndim == 0:
        return values.to(dtype)  # stays on the CPU: torch takes a 0-dim tensor as a number on any device
    return values.to(dtype).to(like.device).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Gaussian:
    """A normal law with a diagonal covariance; `variance` broadcasts against `mean`."""

    mean: Float[Tensor, "..."]
    variance: Float[Tensor, "..."]


@dataclass(frozen=True, eq=False)
class Transition:
    """The coefficients of a reverse step from t to s (2006.11239 eq. 7 with the betas of the kept steps), in float64.

    `beta` is the forward variance 1 - alpha_bar_t / alpha_bar_s, `variance` the posterior's (beta-tilde), and the
    posterior's mean is `x0 * x_0 + xt * x_t`. Each is one number, or one per sample when the times were.
    """

    beta: Float[Tensor, "*b"]
    variance: Float[Tensor, "*b"]
    x0: Float[Tensor, "*b"]
    xt: Float[Tensor, "*b"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise schedule as a float64 table alpha_bar[0..T] on the CPU, from 1 (data) down to nearly 0 (noise).

    A time is an int, or an integer tensor [b] with one time per sample; keep that tensor on the CPU, or each call waits
    for the accelerator. With `betas`, those of single steps from time k to k + 1, both tables are float32 and a reverse
    step is computed as in diffusers' UnCLIPScheduler, whose result never quite reaches the estimate at the end.
    """

    alpha_bar: Float[Tensor, " times"]
    betas: Float[Tensor, " steps"] | None = None

    def __post_init__(self) -> None:
        table = self.alpha_bar
        assert table.dtype == (torch.float64 if self.betas is None else torch.float32)
        assert table.ndim == 1
        assert len(table) >= 2
        assert table[0].item() == 1
        assert table[-1].item() >= 0
        assert bool((table.diff() < 0).all()), "alpha_bar must fall"

    @property
    def timesteps(self) -> int:
        """T, the time of noise."""
        return len(self.alpha_bar) - 1

    def at(self, t: Time) -> Float[Tensor, "*b"]:
        """alpha_bar at time t in [0, T], on the CPU in the table's precision."""
        if isinstance(t, Tensor):
            t = t.cpu()
            low, high = int(t.min()), int(t.max())
            assert 0 <= low <= high <= self.timesteps, f"times {low}..{high} outside 0..{self.timesteps}"
        else:
            assert 0 <= t <= self.timesteps, f"time {t} outside 0..{self.timesteps}"
        return self.alpha_bar[t]

    def snr(self, t: Time) -> Float[Tensor, "*b"]:
        """alpha_bar / (1 - alpha_bar) at time t: infinite at 0, falling, 0 where no signal is left."""
        alpha_bar = self.at(t)
        return alpha_bar / (1 - alpha_bar)

    def log_snr(self, t: Time) -> Float[Tensor, "*b"]:
        """The natural logarithm of `snr`."""
        return self.snr(t).log()

    def times(self, steps: int | Sequence[int | float], spacing: Spacing = "trailing") -> list[int]:
        """A sampler's times: `steps` + 1 whole numbers strictly decreasing from T to 0; all but the last are evaluated.

        "linspace" is even between T and 1 (2102.09672 sec. 4), "trailing" even between T and 0 (2305.08891),
        "quadratic" dense near the data (2010.02502 app. D.2), "logsnr" even in log-SNR. A list is taken as it is.
        Raises UnclipError for more steps than the schedule has, and for a list that does not fall strictly from T to 0.
        """
        last = self.timesteps
        if isinstance(steps, int):
            if not 1 <= steps <= last:
                raise UnclipError(f"steps = {steps}: expected 1 to {last}, the timesteps of the schedule")
            return spaced([float(value) for value in self.log_snr(torch.arange(1, last + 1))], steps, spacing)
        times = [int(t) for t in steps]
        ends = len(times) >= 2 and times[0] == last and times[-1] == 0
        if not ends or times != list(steps) or any(t <= s for t, s in pairwise(times)):
            raise UnclipError(f"times = {list(steps)}: expected whole numbers that fall strictly from {last} to 0")
        return times

    def noised(self, x0: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"], t: Time) -> Float[Tensor, " b *d"]:
        """A sample of q(x_t | x_0) made with the standard normal `eps` (2006.11239 eq. 4)."""
        alpha_bar = self.at(t)
        return spread(alpha_bar.sqrt(), x0) * x0 + spread((1 - alpha_bar).sqrt(), x0) * eps

    def transition(self, t: Time, s: Time) -> Transition:
        """The coefficients of the reverse step from t to any s < t."""
        at_t, at_s = self.at(t), self.at(s)
        assert bool((at_t < at_s).all()), f"a reverse step goes down in time, not from {t} to {s}"
        if self.betas is not None:
            return _in_single_precision(at_t, at_s, self.betas[s] if t == s + 1 else 1 - at_t / at_s)
        beta = (at_s - at_t) / at_s  # and not 1 - at_t / at_s, which loses digits where steps are small
        share = beta / (1 - at_t)
        return Transition(
            beta=beta,
            variance=share * (1 - at_s),
            x0=share * at_s.sqrt(),
            xt=(at_t / at_s).sqrt() * (1 - at_s) / (1 - at_t),
        )

    def posterior(self, x0: Float[Tensor, " b *d"], xt: Float[Tensor, " b *d"], t: Time, s: Time) -> Gaussian:
        """q(x_s | x_t, x_0) for any s < t (2006.11239 eq. 6, 7); at s = 0 it is x0 itself, with variance 0."""
        step = self.transition(t, s)
        return Gaussian(spread(step.x0, xt) * x0 + spread(step.xt, xt) * xt, spread(step.variance, xt))

    def eps(self, x0: Float[Tensor, " b *d"], xt: Float[Tensor, " b *d"], t: Time) -> Float[Tensor, " b *d"]:
        """The noise that leads from x0 to xt; t at least 1, since at t = 0 there is none."""
        alpha_bar = self.at(t)
        assert bool((alpha_bar < 1).all()), "eps at t = 0 is 0 / 0"
        return (xt - spread(alpha_bar.sqrt(), xt) * x0) / spread((1 - alpha_bar).sqrt(), xt)

    def x0(self, eps: Float[Tensor, " b *d"], xt: Float[Tensor, " b *d"], t: Time) -> Float[Tensor, " b *d"]:
        """The data that `eps` leads from to xt; needs some signal, alpha_bar_t > 0."""
        alpha_bar = self.at(t)
        assert bool((alpha_bar > 0).all()), "x0 cannot be told from eps where alpha_bar = 0"
        return (xt - spread((1 - alpha_bar).sqrt(), xt) * eps) / spread(alpha_bar.sqrt(), xt)


def linear(timesteps: int = 1000) -> Schedule:
    """Betas from 1e-4 to 0.02 (2006.11239 sec. 4), times 1000 / T when T is not 1000 so that the end stays as noisy.

    Raises UnclipError for T of 20 and less, where the last beta would reach 1.
    """
    if timesteps <= 20:
        raise UnclipError(
            f"timesteps = {timesteps}: a linear schedule needs more than 20; take more, or schedule = cosine"
        )
    ends = (1e-4 * 1000 / timesteps, 0.02 * 1000 / timesteps)
    return _from_betas(torch.linspace(*ends, timesteps, dtype=torch.float64, device="cpu"))


def cosine(timesteps: int = 1000, max_beta: float | None = 0.999) -> Schedule:
    """alpha_bar as a squared cosine with offset 0.008 (2102.09672 eq. 17), each beta at most `max_beta`.

    Without a `max_beta` the terminal SNR is exactly zero (2305.08891 sec. 3.1).
    """
    at = torch.arange(timesteps + 1, dtype=torch.float64, device="cpu") / timesteps
    curve = ((at + 0.008) / 1.008 * math.pi / 2).cos().square()
    if max_beta is not None:
        return _from_betas((1 - curve[1:] / curve[:-1]).clamp(max=max_beta))
    curve[-1] = 0  # cos(pi / 2) is 6e-17 in floating point
    return Schedule(curve / curve[0])


def cosine_in_single_precision(timesteps: int = 1000, max_beta: float = 0.999) -> Schedule:
    """`cosine` as diffusers' UnCLIPScheduler keeps it, in float32: its alpha_bar_T is wrong by 1e-5 of itself."""
    curve = [math.cos((k / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(timesteps + 1)]
    betas = torch.tensor([min(1 - b / a, max_beta) for a, b in pairwise(curve)], dtype=torch.float32, device="cpu")
    return Schedule(torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)]), betas)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with sqrt(alpha_bar) shifted and scaled to be 0 at T and unchanged at t = 1 (2305.08891 alg. 1)."""
    signal = schedule.alpha_bar.sqrt()
    first, last = signal[1], signal[-1]
    moved = (signal[1:] - last) * first / (first - last)
    return Schedule(torch.cat([signal[:1], moved]).square())


def _in_single_precision(at_t: Tensor, at_s: Tensor, beta: Tensor) -> Transition:
    """The order of operations matters here: a last bit is all that is to be kept."""
    noise_t, noise_s = 1 - at_t, 1 - at_s
    return Transition(
        beta=beta,
        variance=noise_s / noise_t * beta,
        x0=at_s**0.5 * beta / noise_t,
        xt=(1 - beta) ** 0.5 * noise_s / noise_t,
    )


def _from_betas(betas: Float[Tensor, " steps"]) -> Schedule:
    return Schedule(torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)]))
