"""A stage: a trained net, the process it was trained under, and how to sample it.

Previews during training and the product draw through this and only this.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unclip.checkpoint import Weights
from unclip.config import NonNegativeFloat, Positive, PositiveFloat, Share, build, config
from unclip.diffusion.guidance import Denoiser, clipped, dynamic_threshold, guided, plain, shrunk
from unclip.diffusion.inpainting import Known, repaint
from unclip.diffusion.process import Process, ProcessConfig
from unclip.diffusion.samplers import Step, ddim_invert, sample
from unclip.errors import UnclipError
from unclip.loading import Shelf, computing
from unclip.noise import Noise

N = TypeVar("N", bound=nn.Module)

LEAST_SIGNAL = 4e-3  # alpha_bar below which an estimate of x0 from predicted noise is mostly the net's error


@config
class Sampling:
    """How a stage is sampled.

    `guidance` 1 is none. `interval` limits guidance to times between two shares of T. `threshold` keeps estimates of x0
    within ±`limit`: "static" clips, "dynamic" (arXiv 2205.11487, section 2.3) scales by the `percentile` of |x0|.
    `level` is the noise that an upsampler built for it adds to its low-res picture (standard deviation, 0 is best in FID).
    `shrink`, for upsamplers that draw a residual, brings every number of every estimate so much nearer to 0 (`shrunk`), in
    units of what is diffused, which is the residual divided by `model.residual`.
    """

    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = "ddim"
    steps: Positive = 50
    spacing: Literal["linspace", "trailing", "quadratic", "logsnr"] = "trailing"
    eta: Share = 0.0
    guidance: NonNegativeFloat = 1.0
    interval: tuple[Share, Share] | None = None
    threshold: Literal["none", "static", "dynamic"] = "static"
    limit: PositiveFloat = 1.0
    percentile: Share = 0.995
    level: Share = 0.0
    shrink: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval = {list(self.interval)}: expected two shares of T, the lower one first")


def check_shrink(how: Sampling, model: Any) -> None:
    """Raises ValueError where `how` shrinks what a net of this config draws although that is no residual."""
    if how.shrink and getattr(model, "residual", None) is None:
        raise ValueError(f"sampling.shrink = {how.shrink:g}: is for upsamplers that draw a residual; leave it out")


@dataclass(frozen=True, eq=False)
class Stage(Generic[N]):
    """A net with its process and its default sampling; `name` keys its noise. `dtype` is the net's precision.

    A net that stands on a `shelf` is fetched from there when it is to be called.
    """

    name: str
    net: N
    process: Process
    sampling: Sampling
    dtype: torch.dtype = torch.float32
    shelf: Shelf | None = None

    @property
    def device(self) -> torch.device:
        """Where the net computes."""
        return next(self.net.parameters()).device if self.shelf is None else self.shelf.device

    @property
    def times(self) -> list[int]:
        """The times of its steps, falling to 0.

        A net that predicts noise says nothing of x0 where there is no signal: dividing by sqrt(alpha_bar) there, 0.00005 for
        Karlo, multiplies its error. Clipped, the estimate is harmless; unclipped it would undo an inversion, so that the
        last time at which there is signal stands for all of those.
        """
        schedule = self.process.schedule
        times = schedule.times(self.sampling.steps, self.sampling.spacing)
        if self.process.config.predicts != "eps" or self.sampling.threshold != "none":
            return times
        top = int((schedule.alpha_bar >= LEAST_SIGNAL).nonzero().max())
        return [top, *(t for t in times if t < top)]

    def denoiser(self, cond: Any, uncond: Any = None) -> Denoiser:
        """The stage's estimate of x0 from (x_t, t) under `cond`, guided away from `uncond`, shrunk, thresholded."""
        how = self.sampling
        cond = self._prepare(cond)
        if how.guidance == 1 or uncond is None:
            denoise = plain(self._call, self.process, cond)
        else:
            denoise = guided(self._call, self.process, cond, self._prepare(uncond), how.guidance, how.interval)
        if how.shrink:
            denoise = shrunk(denoise, how.shrink)
        if how.threshold == "static":
            return clipped(denoise, how.limit)
        return dynamic_threshold(denoise, how.percentile, how.limit) if how.threshold == "dynamic" else denoise

    def run(self, cond: Any, noise: Noise, uncond: Any = None, known: Known | None = None) -> Iterator[Step]:
        """The steps from noise to data. The first draw of `noise` is x_T and sets the shape; the last step's x is x_0.

        Where pixels are `known`, they are drawn around by DDIM's steps, whatever the sampler.
        """
        how, schedule, times = self.sampling, self.process.schedule, self.times
        denoise = self.denoiser(cond, uncond)
        x = noise().to(torch.promote_types(self.dtype, torch.float32))
        if known is None:
            return sample(how.sampler, denoise, x, times, schedule, noise, how.eta)
        return repaint(denoise, x, times, schedule, noise, known, how.eta)

    def invert(self, cond: Any, x0: Float[Tensor, "b ..."]) -> Iterator[Step]:
        """The steps from data to the x_T that DDIM leads back from, unguided and unclipped (2105.05233, app. F)."""
        bare = self.at(guidance=1.0, threshold="none", shrink=0.0)
        return ddim_invert(bare.denoiser(cond), x0, bare.times, self.process.schedule)

    def at(self, **changes: Any) -> "Stage[N]":
        """This stage with other sampling settings; None leaves one as it is.

        Raises UnclipError, before any work is done, for more steps than the process has.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        how = dataclasses.replace(self.sampling, **given)
        try:
            self.process.schedule.times(how.steps, how.spacing)
        except UnclipError as error:
            raise UnclipError(f"{self.name}: {error}") from None
        return dataclasses.replace(self, sampling=how)

    # no_grad and autocast stand around each call of the net, never around a yield, which would leak them to the caller

    def _prepare(self, cond: Any) -> Any:
        if self.shelf is not None:
            self.shelf.fetch(self.net)
        with torch.no_grad(), computing(self.device, self.dtype):
            return cast(Any, self.net).prepare(cond)  # every diffusion net has it; nn.Module cannot say so

    def _call(self, x: Float[Tensor, "b ..."], t: Tensor, cond: Any) -> Float[Tensor, "b ..."]:
        with torch.no_grad(), computing(self.device, self.dtype):
            return self.net(x, t, cond).to(x.dtype)


def open_stage(name: str, weights: Weights, net_type: type[N], shelf: Shelf) -> Stage[N]:
    """The stage that weights belong to, with the sampling they recommend."""
    process = Process(build(ProcessConfig, weights.header.process, f"{weights.where}: header: process"))
    sampling = build(Sampling, weights.header.sampling, f"{weights.where}: header: sampling")
    return Stage(name, shelf.net(weights, net_type), process, sampling, shelf.dtype, shelf)
