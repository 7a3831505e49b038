"""What the upsamplers add to bicubic enlargement, measured against true renders."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stages.degrade import DegradeConfig, low_res
from tools.evaluate.draw import BATCH
from tools.evaluate.stats import Estimate, mean
from tools.world import crops, render, sample
from tools.world.raycast import Crop
from tools.world.scene import Scene
from unclip.images import of_grey_levels, resize
from unclip.models.upsampler import Upsampler
from unclip.noise import generator
from unclip.stage import Stage
from unclip.upsampling import upsample

SIDE = 256  # of the squares that are compared, in pixels of the target
SEED, OTHERS = 2, 3  # of the scenes that are measured, and of those that settings are chosen on
SHRINKS = (0.0, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True, eq=False)
class Enlarged:
    """Squares of true renders and what was made of their small versions."""

    truth: Float[Tensor, "n 3 h w"]
    drawn: Float[Tensor, "n 3 h w"]
    bicubic: Float[Tensor, "n 3 h w"]


def measure(
    stage: Stage[Upsampler], count: int, degrade: DegradeConfig
) -> tuple[dict[str, dict[str, Estimate]], Enlarged]:
    """PSNR (dB) and edge error, "drawn" and "bicubic", by kind of input: degraded (every one), degraded as
    in training, where some may stay clean, and clean. The second value holds the pictures of the first kind, to look at.
    """
    truth = squares(stage.net.config.size, count)
    every = dataclasses.replace(degrade, probability=1.0)
    kinds = {"degraded": every, "as in training": degrade, "clean": DegradeConfig()}
    made = {kind: enlarge(stage, truth, how) for kind, how in kinds.items()}
    return {kind: _compared(pictures) for kind, pictures in made.items()}, made["degraded"]


def shrinks(stage: Stage[Upsampler], count: int, degrade: DegradeConfig) -> dict[str, dict[str, Estimate]]:
    """PSNR gain (dB) and edge error on inputs as in training and on clean ones, of other squares, by `shrink`."""
    truth = squares(stage.net.config.size, count, OTHERS)
    found: dict[str, dict[str, Estimate]] = {}
    for kind, how in {"as in training": degrade, "clean": DegradeConfig()}.items():
        for by in SHRINKS:
            values = _compared(enlarge(stage.at(shrink=by), truth, how))
            told = {f"{name}, {kind}": values[name] for name in ("PSNR gain", "edge error, drawn")}
            found[f"{by:g}"] = found.get(f"{by:g}", {}) | told
    return found


def squares(size: int, count: int, seed: int = SEED) -> Float[Tensor, "n 3 h w"]:
    """Squares of true renders of the test split at `size` px, mostly on things."""
    scenes = [sample(seed, index, "test") for index in range(count)]
    side = min(size, SIDE)
    parts = [_cut(scenes[k : k + 10], size, side, k) for k in range(0, count, 10)]
    return torch.cat(parts)


def enlarge(stage: Stage[Upsampler], truth: Float[Tensor, "n 3 h w"], degrade: DegradeConfig) -> Enlarged:
    """The squares made small and corrupted, then enlarged again; square k is drawn with seed k."""
    scale = stage.net.config.scale
    drawn, small = [], []
    for start in range(0, len(truth), BATCH):
        part = truth[start : start + BATCH]
        low = low_res(part, scale, degrade, generator("evaluate", stage.name, start))[0].clamp(-1, 1)
        small.append(low)
        drawn.append(upsample(stage, low.to(stage.device), range(start, start + len(part)), len(part)).cpu())
    bicubic = resize(torch.cat(small), truth.shape[-1]).clamp(-1, 1)
    return Enlarged(truth, torch.cat(drawn).clamp(-1, 1), bicubic)


def psnr(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio in dB of each picture in [-1, 1]."""
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(dim=1).clamp(min=1e-10))


def edge_error(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Mean absolute difference of the gradients' lengths, relative to the mean of the true ones' (b's) over all pictures.

    Not each picture's own mean: of a flat one that is nothing.
    """
    found, true = _edges(a), _edges(b)
    return (found - true).abs().flatten(1).mean(dim=1) / true.mean().clamp(min=1e-6)


def _edges(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    along = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.hypot(across, along)


def _compared(made: Enlarged) -> dict[str, Estimate]:
    ways = {"drawn": made.drawn, "bicubic": made.bicubic}
    found = {f"PSNR, {name}": mean(psnr(x, made.truth).tolist()) for name, x in ways.items()}
    gains = (psnr(made.drawn, made.truth) - psnr(made.bicubic, made.truth)).tolist()
    edges = {f"edge error, {name}": mean(edge_error(x, made.truth).tolist()) for name, x in ways.items()}
    return found | {"PSNR gain": mean(gains)} | edges


def _cut(scenes: Sequence[Scene], size: int, side: int, start: int) -> Float[Tensor, "n 3 h w"]:
    places: list[Crop] = [
        crops.place(scene, size, side, random.Random(f"evaluate {size} {start + k}")) for k, scene in enumerate(scenes)
    ]
    # an upsampler's grid: corners at multiples of four pixels
    places = [(top // 4 * 4, left // 4 * 4, height, width) for top, left, height, width in places]
    return of_grey_levels(render(scenes, size, places))
