"""Readings: the things of a picture with their names and places, and what is said of the picture as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tools.reader.net import CELL, PER_PICTURE, PER_THING, PLAIN, SIZE, Reader
from tools.reader.targets import UNIT
from unclip import checkpoint
from unclip.images import resize

FOUND = 0.4  # the least score of a centre
MOST = 5  # more things than any scene has, so that a picture may show too many
SURE = 0.5  # a name less likely than this is not read


@dataclass(frozen=True)
class Seen:
    """A thing as read: names (`unsure` lists those that are guesses), place on the floor (world units) and in the frame."""

    shape: str
    colour: str
    size: str
    material: str
    on: bool
    x: float
    z: float
    u: float
    v: float
    unsure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A picture as read: its things from left to right; names of the whole by key (floor, style, light, pitch, zoom)."""

    things: tuple[Seen, ...]
    whole: dict[str, str]
    unsure: tuple[str, ...] = ()


def open_reader(path: str | Path, device: torch.device | str = "cpu") -> Reader:
    """The reader in a checkpoint. Raises UnclipError for any other file."""
    return checkpoint.load(path, Reader, device)[0]


@torch.no_grad()
def read(
    reader: Reader, images: Float[Tensor, "b 3 h w"], batch: int = 100
) -> tuple[list[Reading], Float[Tensor, "b f"]]:
    """What square pictures in [-1, 1], of any size from 64 px up, show; and their features."""
    device = next(reader.parameters()).device
    readings: list[Reading] = []
    features = []
    for part in images.split(batch):
        small = resize(part, (SIZE, SIZE)) if part.shape[-1] != SIZE else part
        grid, whole, pooled = reader(small.clamp(-1, 1).to(device))
        readings += decoded(grid.cpu(), whole.cpu())
        features.append(pooled.cpu())
    return readings, torch.cat(features)


def decoded(grid: Float[Tensor, "b g 32 32"], whole: Float[Tensor, "b w"]) -> list[Reading]:
    """Readings from the net's logits."""
    heat = grid[:, 0].sigmoid()
    peaks = heat * (F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0] == heat)
    scores, cells = peaks.flatten(1).topk(MOST)
    names = whole.split([len(values) for values in PER_PICTURE.values()], dim=1)
    found = [part.softmax(dim=1).max(dim=1) for part in names]
    readings = []
    for row in range(len(grid)):
        things = [
            _seen(grid[row].flatten(1)[:, cell], int(cell))
            for score, cell in zip(scores[row], cells[row], strict=True)
            if score >= FOUND
        ]
        named = {
            key: values[int(best.indices[row])] for (key, values), best in zip(PER_PICTURE.items(), found, strict=True)
        }
        unsure = [key for key, best in zip(PER_PICTURE, found, strict=True) if best.values[row] < SURE]
        readings.append(Reading(tuple(sorted(things, key=lambda thing: thing.u)), named, tuple(unsure)))
    return readings


def _seen(column: Float[Tensor, " g"], cell: int) -> Seen:
    _, on, x, z = column[: len(PLAIN)].tolist()
    parts = column[len(PLAIN) :].split([len(values) for values in PER_THING.values()])
    best = {key: part.softmax(dim=0).max(dim=0) for key, part in zip(PER_THING, parts, strict=True)}
    names = {key: PER_THING[key][int(top.indices)] for key, top in best.items()}
    cells = SIZE // CELL
    u, v = (cell % cells + 0.5) / cells, (cell // cells + 0.5) / cells
    unsure = tuple(key for key, top in best.items() if top.values < SURE)
    return Seen(**names, on=on > 0, x=x * UNIT, z=z * UNIT, u=u, v=v, unsure=unsure)


def relation(a: Seen, b: Seen) -> str:
    """How `a` stands to `b`, by the world's rule without its dominance: every pair is in some relation."""
    if a.on != b.on and abs(a.u - b.u) < 0.5 * abs(a.v - b.v) + 0.08:
        return "on top of" if a.on else "under"
    dx, dz = a.x - b.x, a.z - b.z
    if abs(dx) >= abs(dz):
        return "left of" if dx < 0 else "right of"
    return "in front of" if dz < 0 else "behind"


def pairs(things: Sequence[Seen]) -> list[tuple[Seen, str, Seen]]:
    """All ordered pairs with their relation."""
    return [(a, relation(a, b), b) for a in things for b in things if a is not b]
