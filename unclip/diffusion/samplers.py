"""From noise to data: generators of steps, so that progress, previews and early stops belong to the caller.

Every sampler walks a list of times that falls from noise to 0 (`Schedule.times`) and evaluates the denoiser once at
each but the last. The noise estimate is derived from the data estimate, so thresholding the latter is all it takes to
threshold both.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from unclip.diffusion.guidance import Denoiser
from unclip.diffusion.process import Denoised, reverse_log_variance
from unclip.diffusion.schedule import Schedule, Transition, spread
from unclip.errors import UnclipError
from unclip.noise import Noise


@dataclass(frozen=True)
class Step:
    """One step that was taken: from time t to s, where the sample is now `x`, by the estimate `x0` of the data."""

    t: int
    s: int
    x: Float[Tensor, "*shape"]
    x0: Float[Tensor, "*shape"]


def ddpm(
    denoise: Denoiser,
    x: Float[Tensor, " b *d"],
    times: Sequence[int],
    schedule: Schedule,
    noise: Noise,
    variance: Literal["small", "large"] = "small",
) -> Iterator[Step]:
    """Ancestral sampling (2006.11239 alg. 2) over any subset of the times (2102.09672 sec. 4); no noise at the end.

    The variance is the denoiser's where it has one (learned, analytic), else beta-tilde ("small") or beta ("large").
    """
    for t, s in pairwise(times):
        estimate = denoise(x, t)
        mean = schedule.posterior(estimate.x0, x, t, s).mean
        if s == 0:
            x = mean
        else:
            x = mean + _deviation(estimate, schedule.transition(t, s), variance) * noise().to(x)
        yield Step(t, s, x, estimate.x0)


def ddim(
    denoise: Denoiser,
    x: Float[Tensor, " b *d"],
    times: Sequence[int],
    schedule: Schedule,
    noise: Noise | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM (2010.02502 eq. 12), sigma = eta sqrt(beta-tilde): deterministic at eta = 0, small-variance DDPM at 1.

    Raises UnclipError for eta outside [0, 1], and for eta > 0 without noise.
    """
    if not 0 <= eta <= 1:
        raise UnclipError(f"eta = {eta}: expected 0 (deterministic) to 1 (as random as DDPM)")
    if eta > 0 and noise is None:
        raise UnclipError(f"eta = {eta} needs noise; give some, or eta = 0")
    for t, s in pairwise(times):
        x0 = denoise(x, t).x0
        alpha_bar, variance = schedule.at(s), eta**2 * schedule.transition(t, s).variance
        direction = spread((1 - alpha_bar - variance).clamp(min=0).sqrt(), x)
        drift = spread(alpha_bar.sqrt(), x) * x0 + direction * schedule.eps(x0, x, t)
        x = drift if s == 0 or noise is None or eta == 0 else drift + spread(variance.sqrt(), x) * noise().to(x)
        yield Step(t, s, x, x0)


def ddim_invert(
    denoise: Denoiser, x0: Float[Tensor, " b *d"], times: Sequence[int], schedule: Schedule
) -> Iterator[Step]:
    """The noise from which `ddim` at eta = 0 leads to x0, by walking the same times upwards (2105.05233 app. F).

    `times` falls to 0 as for `ddim`; the steps come with s > t and the last holds x_T. At t = 0 the noise in x0 would
    be 0 / 0, so the picture is taken for x_1. The error falls with the number of steps; guidance makes it large.
    """
    x, rising = x0, [t for t in reversed(times) if t > 1]
    for t, s in pairwise([1, *rising]):
        estimate = denoise(x, t).x0
        x = schedule.noised(estimate, schedule.eps(estimate, x, t), s)
        yield Step(t, s, x, estimate)


def dpmpp_2m(denoise: Denoiser, x: Float[Tensor, " b *d"], times: Sequence[int], schedule: Schedule) -> Iterator[Step]:
    """DPM-Solver++(2M) (2211.01095 alg. 2): second order, one evaluation a step; the ends are first order."""
    before: Tensor | None = None
    step_before = math.nan
    for t, s in pairwise(times):
        x0 = denoise(x, t).x0
        step = float(schedule.log_snr(s) - schedule.log_snr(t)) / 2
        mixed = x0
        if before is not None and s > 0:  # a step to 0 is infinite in log-SNR: it lands on the estimate itself
            mixed = x0 + step / step_before / 2 * (x0 - before)
        keep = ((1 - schedule.at(s)) / (1 - schedule.at(t))).sqrt()
        take = -schedule.at(s).sqrt() * math.expm1(-step)
        x = spread(keep, x) * x + spread(take, x) * mixed
        before, step_before = x0, step
        yield Step(t, s, x, x0)


def _deviation(estimate: Denoised, step: Transition, variance: Literal["small", "large"]) -> Float[Tensor, "..."]:
    """The standard deviation of an ancestral step."""
    if estimate.var_frac is not None or estimate.x0_var is not None:
        return (0.5 * reverse_log_variance(estimate, step)).exp()
    fixed = step.beta if variance == "large" else step.variance
    return spread((0.5 * fixed.log()).exp(), estimate.x0)  # in the table's precision


Sampler = Callable[[Denoiser, Tensor, Sequence[int], Schedule, Noise, float], Iterator[Step]]
"""(denoise, x_T, times, schedule, noise, eta) -> steps; a sampler takes no notice of what it does not need."""

SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "ddpm": lambda denoise, x, times, schedule, noise, eta: ddpm(denoise, x, times, schedule, noise),
        "ddim": lambda denoise, x, times, schedule, noise, eta: ddim(denoise, x, times, schedule, noise, eta),
        "dpmpp_2m": lambda denoise, x, times, schedule, noise, eta: dpmpp_2m(denoise, x, times, schedule),
    }
)


def sample(
    name: str,
    denoise: Denoiser,
    x: Float[Tensor, " b *d"],
    times: Sequence[int],
    schedule: Schedule,
    noise: Noise,
    eta: float = 0.0,
) -> Iterator[Step]:
    """The steps of the sampler called `name`; `eta` matters to "ddim" only. Raises UnclipError for an unknown name."""
    if name not in SAMPLERS:
        raise UnclipError(f"sampler = {name!r}: expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name](denoise, x, times, schedule, noise, eta)
