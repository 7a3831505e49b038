"""A batched ray caster for the demo world, in torch, on any device.

The frame is a grid of square tiles. Tiles that some solid or shadow may touch are supersampled, the others hold
nothing but smooth floor and take one ray per pixel. Tiles lie on the grid of the whole picture and rays are exact to
the bit (see solids.py), so that a crop equals the crop of the whole, alone or in any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tools.world.batch import Batch, collate
from tools.world.scene import Scene
from tools.world.shading import shade
from unclip.errors import UnclipError

Crop = tuple[int, int, int, int]  # top, left, height, width in pixels of the whole picture
RAYS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 23}  # some 200 MB and 6 GB


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of a batch: their scene, their first pixel (y, x), and which solids may be seen or throw a shadow there."""

    scene: Int[Tensor, " m"]
    corner: Int[Tensor, "m 2"]
    seen: Bool[Tensor, "m k"]
    shaded: Bool[Tensor, "m k"]

    def pick(self, rows: Tensor | slice) -> "Tiles":
        """These tiles only."""
        return Tiles(self.scene[rows], self.corner[rows], self.seen[rows], self.shaded[rows])


def render(
    scenes: Sequence[Scene], size: int, crops: Sequence[Crop] | None = None, device: torch.device | str = "cpu"
) -> UInt8[Tensor, "b 3 h w"]:
    """Pictures of `scenes` at `size` x `size`, or only the `crops` (one per scene, equal in height and width) of them.

    Memory beyond the result is bounded whatever the size. Raises UnclipError for a crop that leaves the picture.
    """
    crops = crops or [(0, 0, size, size)] * len(scenes)
    _check(crops, size)
    batch = collate(scenes, device)
    edge, samples = _resolution(size)
    tiles, across = _lay(batch, crops, size, edge)
    busy = (tiles.seen | tiles.shaded).any(1)
    pixels = torch.empty(len(busy), edge * edge, 3, dtype=torch.uint8, device=device)
    for some, fine in ((busy, samples), (~busy, 1)):
        per_chunk = max(1, RAYS_AT_ONCE[torch.device(device).type] // (edge * edge * fine * fine))
        for chunk in some.nonzero().squeeze(1).split(per_chunk) if bool(some.any()) else ():
            pixels[chunk] = _pixels(batch, tiles.pick(chunk), size, edge, fine)
    whole = rearrange(pixels, "(b ty tx) (y x) c -> b c (ty y) (tx x)", b=len(scenes), tx=across, y=edge)
    cut = [w[:, top % edge :, left % edge :][:, :h, :w_] for w, (top, left, h, w_) in zip(whole, crops, strict=True)]
    return torch.stack(cut)


def _resolution(size: int) -> tuple[int, int]:
    """Tile edge in pixels and samples per pixel edge."""
    if size <= 128:
        return 4, 4
    return (8, 3) if size <= 512 else (16, 2)


def _check(crops: Sequence[Crop], size: int) -> None:
    for crop in crops:
        top, left, height, width = crop
        if min(top, left) < 0 or min(height, width) < 1 or top + height > size or left + width > size:
            raise UnclipError(f"crop {crop} (top, left, height, width) does not lie within {size} x {size} pixels")
        if crop[2:] != crops[0][2:]:
            raise UnclipError(f"crops of one batch must be equal in height and width; got {crop} and {crops[0]}")


def _lay(batch: Batch, crops: Sequence[Crop], size: int, edge: int) -> tuple[Tiles, int]:
    """The tiles that cover each crop, scene by scene in reading order, and how many lie side by side."""
    device = batch.eye.device
    _, _, height, width = crops[0]
    # an unaligned crop touches one tile more; the last tile may overhang the picture and is cut later
    down, across = (-(-n // edge) + any(crop[i] % edge for crop in crops) for i, n in ((0, height), (1, width)))
    first = torch.tensor([(crop[0] // edge, crop[1] // edge) for crop in crops], device=device)
    ty, tx = torch.meshgrid(torch.arange(down, device=device), torch.arange(across, device=device), indexing="ij")
    corner = (first[:, None] + torch.stack([ty.flatten(), tx.flatten()], 1)) * edge
    low, high = corner / size, (corner + edge) / size

    def touched(boxes: Float[Tensor, "b k 4"]) -> Bool[Tensor, "b n k"]:
        left, top, right, bottom = boxes[:, None].unbind(-1)
        v0, u0, v1, u1 = (x[..., None] for x in (low[..., 0], low[..., 1], high[..., 0], high[..., 1]))
        return (u0 <= right) & (u1 >= left) & (v0 <= bottom) & (v1 >= top)

    seen, fallen = touched(batch.seen), touched(batch.fallen)
    # on solids a shadow may fall anywhere between its solid and the floor, but no solid shades itself
    others = (seen.sum(-1, keepdim=True) - seen.long()) > 0
    shaded = fallen | (touched(batch.swept) & others)
    scene = torch.arange(len(batch), device=device)[:, None].expand(-1, down * across)
    return Tiles(scene.flatten(), *(x.flatten(0, 1) for x in (corner, seen, shaded))), across


def _pixels(batch: Batch, tiles: Tiles, size: int, edge: int, samples: int) -> UInt8[Tensor, "m p 3"]:
    device = tiles.scene.device
    # samples outside, pixels inside: their sum then has one order for every pixel
    n = torch.arange(edge * samples, device=device)
    fine = [
        rearrange(i, "(y sy) (x sx) -> (sy sx y x)", sy=samples, sx=samples)
        for i in torch.meshgrid(n, n, indexing="ij")
    ]
    n = torch.arange(edge, device=device)
    middle = [i.flatten() for i in torch.meshgrid(n, n, indexing="ij")]
    places = []
    for grid, split in ((middle, 1), (fine, samples)):
        v, u = ((tiles.corner[:, i, None] * split + grid[i] + 0.5) / (split * size) for i in (0, 1))
        places.append((u, v))
    colours = shade(batch, tiles.scene, (tiles.seen, tiles.shaded), places[0], places[1])
    mean = sum(colours.unbind(2), torch.zeros((), device=device)) * (255 / samples**2)
    return rearrange((mean + 0.5).to(torch.uint8), "c m p -> m p c")
