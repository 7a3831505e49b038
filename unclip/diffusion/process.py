"""What a net's output means: the schedule it was trained on, what it predicts, the variance of its reverse steps."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unclip.config import Natural, NonNegativeFloat, Positive, PositiveFloat, config
from unclip.diffusion.schedule import (
    Schedule,
    Time,
    Transition,
    cosine,
    cosine_in_single_precision,
    linear,
    spread,
    zero_terminal_snr,
)
from unclip.errors import UnclipError


@config
class ProcessConfig:
    """How a net was trained; it travels in the net's checkpoint.

    `variance` is that of ancestral steps: "small" (beta-tilde), "large" (beta), "learned" (2102.09672; the net has
    twice the channels) or "analytic" (2201.06503), which needs `eps_power`, measured once the net is trained:
    E||eps||^2 / d of the net's own noise estimate at the times `power_times` gives. Until it is there, "analytic"
    samples like "small". `data_variance` bounds the analytic variance; 1 suits data in [-1, 1]. The net is called with
    t - `time_offset`: 0 for nets trained here, 1 for foreign ones that count from 0. `tables` "float32" are diffusers'.
    """

    schedule: Literal["linear", "cosine"] = "cosine"
    timesteps: Positive = 1000
    zero_terminal_snr: bool = False
    predicts: Literal["x0", "eps", "v"] = "eps"
    variance: Literal["small", "large", "learned", "analytic"] = "small"
    time_offset: Natural = 0
    tables: Literal["float64", "float32"] = "float64"
    eps_power: tuple[NonNegativeFloat, ...] = ()
    data_variance: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        if self.zero_terminal_snr and self.predicts == "eps":
            raise ValueError('zero_terminal_snr: at T eps says nothing of x0; set predicts = "v" or "x0"')
        if self.tables == "float32" and (self.schedule != "cosine" or self.zero_terminal_snr):
            raise ValueError('tables = "float32": only for schedule = "cosine" without zero_terminal_snr')
        if self.timesteps < 2 or (self.schedule == "linear" and self.timesteps <= 20):
            raise ValueError(
                f"timesteps = {self.timesteps}: a cosine schedule needs at least 2, a linear one at least 21"
            )
        if len(self.eps_power) == 1 or len(self.eps_power) > self.timesteps:
            raise ValueError(
                f"eps_power: {len(self.eps_power)} values; expected none, or 2 to {self.timesteps} (timesteps)"
            )


@dataclass(frozen=True)
class Denoised:
    """An estimate of the data at one time.

    `var_frac` in [0, 1] interpolates the log-variance of the next step from beta-tilde to beta; `x0_var`, which
    broadcasts against `x0`, is the variance of the data around the estimate (analytic variance).
    """

    x0: Float[Tensor, "*shape"]
    var_frac: Float[Tensor, "*shape"] | None = None
    x0_var: Float[Tensor, "..."] | None = None


@dataclass(frozen=True, eq=False)
class Process:
    """Reads a net's output by its config, and makes the target that it is trained on."""

    config: ProcessConfig

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule the net was trained on."""
        timesteps, zero = self.config.timesteps, self.config.zero_terminal_snr
        if self.config.tables == "float32":
            return cosine_in_single_precision(timesteps)
        if self.config.schedule == "cosine":
            return cosine(timesteps, max_beta=None) if zero else cosine(timesteps)
        return zero_terminal_snr(linear(timesteps)) if zero else linear(timesteps)

    def channels(self, data: int) -> int:
        """How many channels the net must put out for data of that many."""
        return 2 * data if self.config.variance == "learned" else data

    def net_time(self, t: Time, batch: int, device: torch.device | str) -> Int[Tensor, " batch"]:
        """The times as the net wants them: an integer tensor [batch] on its device, less the time offset."""
        times = t if isinstance(t, Tensor) else torch.full((batch,), t, dtype=torch.long, device=device)
        return times.to(device) - self.config.time_offset

    def target(self, x0: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"], t: Time) -> Float[Tensor, " b *d"]:
        """What the net should predict at x_t: x0, eps, or v = sqrt(ab) eps - sqrt(1 - ab) x0 (2202.00512 app. D)."""
        if self.config.predicts == "x0":
            return x0
        if self.config.predicts == "eps":
            return eps
        alpha_bar = self.schedule.at(t)
        return spread(alpha_bar.sqrt(), x0) * eps - spread((1 - alpha_bar).sqrt(), x0) * x0

    def prediction(self, out: Float[Tensor, "b c *d"]) -> Float[Tensor, "b _ *d"]:
        """The part of the output that predicts; the rest, if any, speaks of the variance."""
        return out.chunk(2, dim=1)[0] if self.config.variance == "learned" else out

    def read(self, out: Float[Tensor, "b _ *d"], xt: Float[Tensor, "b c *d"], t: Time) -> Denoised:
        """The estimate that the net's output at (xt, t) stands for; never clipped, and at least float32."""
        out = out.to(torch.promote_types(xt.dtype, torch.float32))
        x0 = self._x0(self.prediction(out), xt, t)
        if self.config.variance == "learned":
            return Denoised(x0, var_frac=(out.chunk(2, dim=1)[1] + 1) / 2)
        if self.config.variance == "large":
            return Denoised(x0, var_frac=x0.new_ones(()).expand_as(x0))
        if self.config.variance == "analytic" and self.config.eps_power:
            return Denoised(x0, x0_var=spread(self.x0_var(t), xt))
        return Denoised(x0)

    def x0_var(self, t: Time, bound: float | None = None) -> Float[Tensor, "*b"]:
        """The mean variance of x_0 given x_t, (1 - ab) / ab (1 - E||eps||^2 / d), in float64 (2201.06503 theorem 1).

        It is clipped to [0, `bound`], by default the config's `data_variance`. `eps_power` is interpolated linearly in
        time. Raises UnclipError when `eps_power` was never measured.
        """
        bound = self.config.data_variance if bound is None else bound
        if isinstance(t, Tensor):
            return torch.stack([self.x0_var(int(one), bound) for one in t])
        alpha_bar = self.schedule.at(t)
        if alpha_bar == 0:  # pure noise tells nothing of the data, whose own variance is left
            return torch.full_like(alpha_bar, bound)
        return ((1 - alpha_bar) / alpha_bar * (1 - self._eps_power(t))).clamp(0, bound)

    def _x0(self, prediction: Tensor, xt: Tensor, t: Time) -> Tensor:
        if self.config.predicts == "x0":
            return prediction
        if self.config.predicts == "eps":
            return self.schedule.x0(prediction, xt, t)
        alpha_bar = self.schedule.at(t)
        return spread(alpha_bar.sqrt(), xt) * xt - spread((1 - alpha_bar).sqrt(), xt) * prediction

    def _eps_power(self, t: int) -> float:
        values = self.config.eps_power
        if not values:
            raise UnclipError('variance = "analytic" needs process.eps_power; measure it once the net is trained')
        times = power_times(self.config.timesteps, len(values))
        k = min(max(bisect_left(times, t), 1), len(times) - 1)
        share = (t - times[k - 1]) / (times[k] - times[k - 1])
        return values[k - 1] * (1 - share) + values[k] * share


def power_times(timesteps: int, points: int) -> list[int]:
    """The rising times, even between 1 and T, where `eps_power` of that many values is measured; 2 <= points <= T."""
    return [1 + (2 * k * (timesteps - 1) + points - 1) // (2 * (points - 1)) for k in range(points)]


def reverse_log_variance(denoised: Denoised, step: Transition) -> Float[Tensor, "..."]:
    """The log-variance of an ancestral step; it broadcasts against the estimate.

    Learned: between log beta-tilde and log beta of the kept step (2102.09672 eq. 15). Analytic: 2201.06503 theorem 1.
    Else beta-tilde.
    """
    x0 = denoised.x0
    if denoised.x0_var is not None:
        variance = spread(step.variance, x0) + spread(step.x0.square(), x0) * denoised.x0_var
        return variance.clamp(min=1e-30).log()
    small = spread(step.variance.log(), x0)
    if denoised.var_frac is None:
        return small
    return small + denoised.var_frac * (spread(step.beta.log(), x0) - small)
