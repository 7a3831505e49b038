"""Enlarging pictures with one upsampler stage."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unclip.diffusion.inpainting import Known
from unclip.models.upsampler import Upsampler, UpsamplerCond, restore, standardise
from unclip.noise import Seed, augmented, stream
from unclip.priors import OnStep, finish, silent
from unclip.stage import Stage


def upsample(
    stage: Stage[Upsampler],
    x: Float[Tensor, "b 3 h w"],
    seeds: Sequence[Seed],
    chunk: int,
    on_step: OnStep = silent,
    known: Known | None = None,
) -> Float[Tensor, "b 3 h2 w2"]:
    """Pictures enlarged by one upsampler, `chunk` of them at a time; where pixels are `known`, exactly these."""
    scale = stage.net.config.scale
    shape = (3, x.shape[-2] * scale, x.shape[-1] * scale)
    done = []
    for start in range(0, len(seeds), chunk):
        part = slice(start, start + chunk)
        noise = stream(stage.name, seeds[part], shape, stage.device)
        cond = _low_res(stage, x[part], seeds[part])
        there = known and _part(stage, known, part, cond.low_res)
        x0 = finish(stage, stage.run(cond, noise, known=there), on_step)
        done.append(restore(stage.net.config, x0, cond.low_res))
        if known is not None:  # a residual's sum is rounded
            done[-1] = torch.where(known.keep[part].to(x.device), known.pixels[part].to(x), done[-1])
    return torch.cat(done)


def _part(stage: Stage[Upsampler], known: Known, rows: slice, low_res: Float[Tensor, "b 3 h w"]) -> Known:
    """What is known of some rows, as this upsampler diffuses it."""
    pixels = standardise(stage.net.config, known.pixels[rows].to(low_res), low_res)
    return Known(pixels, known.keep[rows], known.rounds)


def _low_res(stage: Stage[Upsampler], x: Float[Tensor, "b 3 h w"], seeds: Sequence[Seed]) -> UpsamplerCond:
    """What an upsampler starts from; noised by `sampling.level` if it was trained under noise-conditioning augmentation."""
    if not stage.net.config.level:
        return UpsamplerCond(low_res=x)
    level = torch.full((len(x),), stage.sampling.level, device=x.device)
    eps = stream(f"{stage.name}/low-res", seeds, x.shape[1:], x.device)()
    return UpsamplerCond(low_res=augmented(x, level, eps), level=level)


def chunk_size(batch: int, stage: Stage[Upsampler]) -> int:
    """How many pictures an upsampler takes at once: a batch at 128 px, fewer where they are larger."""
    return max(1, batch * 128**2 // max(stage.net.config.size, 128) ** 2)
