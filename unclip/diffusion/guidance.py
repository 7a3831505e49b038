"""Functions that make a denoiser of a net and its conditioning, and functions that make one denoiser of another."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softshrink

from unclip.diffusion.process import Denoised, Process
from unclip.errors import UnclipError

Net = Callable[[Tensor, Tensor, Any], Tensor]
"""(x_t, times [b], conditioning) -> raw output."""

Denoiser = Callable[[Tensor, int], Denoised]
"""(x_t, t) -> estimate of the data."""


def plain(net: Net, process: Process, cond: Any) -> Denoiser:
    """The denoiser of a net under one conditioning, raw or prepared."""

    def denoise(x: Tensor, t: int) -> Denoised:
        return process.read(_call(net, process, cond, x, t), x, t)

    return denoise


def guided(
    net: Net,
    process: Process,
    cond: Any,
    uncond: Any,
    scale: float,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Classifier-free guidance: uncond + scale (cond - uncond) on the prediction (2207.12598 eq. 6, scale = 1 + w).

    Variance channels are never guided: they are the conditional ones. Scale 1 is the conditional net alone and scale 0
    the unconditional one, each at the cost of one call. `interval` = (low, high), fractions of T, limits guidance to
    the times inside it (2404.07724); elsewhere the scale is 1. Raises UnclipError for an interval outside 0 <= low <
    high <= 1.
    """
    low, high = (0.0, 1.0) if interval is None else interval
    if not 0 <= low < high <= 1:
        raise UnclipError(
            f"guidance interval = {interval}: expected (low, high) with 0 <= low < high <= 1, fractions of T"
        )
    timesteps = process.schedule.timesteps

    def denoise(x: Tensor, t: int) -> Denoised:
        here = scale if low * timesteps <= t <= high * timesteps else 1
        if here == 0:
            return process.read(_call(net, process, uncond, x, t), x, t)
        out = _call(net, process, cond, x, t)
        if here == 1:
            return process.read(out, x, t)
        base = process.prediction(_call(net, process, uncond, x, t))
        prediction = process.prediction(out)
        variance = out[:, prediction.shape[1] :]
        return process.read(torch.cat([base + here * (prediction - base), variance], dim=1), x, t)

    return denoise


def clipped(denoise: Denoiser, limit: float = 1.0) -> Denoiser:
    """The denoiser with its estimates clipped to [-limit, limit], static thresholding (2006.11239)."""

    def clip(x: Tensor, t: int) -> Denoised:
        estimate = denoise(x, t)
        return replace(estimate, x0=estimate.x0.clamp(-limit, limit))

    return clip


def dynamic_threshold(denoise: Denoiser, percentile: float = 0.995, limit: float = 1.0) -> Denoiser:
    """The denoiser with dynamic thresholding (2205.11487 sec. 2.3), each sample by itself.

    An estimate whose `percentile` (in [0, 1]) of absolute values exceeds `limit` is clipped there and scaled back to
    `limit`.
    """

    def threshold(x: Tensor, t: int) -> Denoised:
        estimate = denoise(x, t)
        return replace(estimate, x0=_squeezed(estimate.x0, percentile, limit))

    return threshold


def shrunk(denoise: Denoiser, by: float) -> Denoiser:
    """The denoiser with every number of its estimates `by` nearer to 0, or 0: soft thresholding (10.1109/18.382009).

    Of a residual that is 0 almost everywhere a net's estimate is not quite 0; what stands out of that is kept.
    """

    def shrink(x: Tensor, t: int) -> Denoised:
        estimate = denoise(x, t)
        return replace(estimate, x0=softshrink(estimate.x0, by))

    return shrink


def _call(net: Net, process: Process, cond: Any, x: Tensor, t: int) -> Tensor:
    return net(x, process.net_time(t, x.shape[0], x.device), cond)


def _squeezed(x0: Float[Tensor, "b ..."], percentile: float, limit: float) -> Float[Tensor, "b ..."]:
    # row by row: torch.quantile refuses more than 16 million numbers at once, which is five pictures of 1024 pixels
    rows = [row.abs().quantile(percentile) for row in x0.flatten(1)]
    top = torch.stack(rows).clamp(min=limit).reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-top, top) * (limit / top)
