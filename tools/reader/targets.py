"""What the reader should say of a render: its scene graph as tensors on the reader's grid."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tools.reader.net import CELL, FIELDS, LIGHTS, PER_PICTURE, PER_THING, PITCHES, SIZE
from tools.world import geometry
from tools.world.scene import Scene

MOST = 3  # things in a scene
SPREAD = 0.9  # of the bump around a centre, in cells
UNIT = 2.0  # world units per unit of the grid's places


@dataclass(frozen=True, eq=False)
class Targets:
    """`heat` is 1 at centres; rows of `things` are (cell, on, shape, colour, size, material), -1 where there is none."""

    heat: Float[Tensor, "... 32 32"]
    things: Int[Tensor, "... 3 6"]
    places: Float[Tensor, "... 3 2"]
    whole: Int[Tensor, "... w"]

    def at(self, index: Any) -> "Targets":
        """Some rows of a batch."""
        return Targets(self.heat[index], self.things[index], self.places[index], self.whole[index])


def targets(scene: Scene) -> Targets:
    """The targets of one scene."""
    cells = SIZE // CELL
    heat, things = torch.zeros(cells, cells), torch.full((MOST, 6), -1)
    places = torch.zeros(MOST, 2)
    rows, columns = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    for k, thing in enumerate(scene.things):
        u, v = (min(int(share * cells), cells - 1) for share in geometry.project(scene.camera, thing.centre))
        bump = torch.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * SPREAD**2))
        heat = torch.maximum(heat, bump)
        names = [values.index(getattr(thing, key)) for key, values in PER_THING.items()]
        things[k] = torch.tensor([v * cells + u, int(thing.on is not None), *names])
        places[k] = torch.tensor([thing.centre[0] / UNIT, thing.centre[2] / UNIT])
    named = {"floor": scene.floor, "style": scene.style, **nuisance(scene)}
    whole = torch.tensor([values.index(named[key]) for key, values in PER_PICTURE.items()])
    return Targets(heat, things, places, whole)


def nuisance(scene: Scene) -> dict[str, str]:
    """What no caption names, in the reader's bins; their borders cut the world's ranges into equal parts."""
    x, _, z = scene.light.direction
    azimuth = math.degrees(math.atan2(x, -z))
    return {
        "light": f"light {_bin(azimuth, -75, 75, LIGHTS)}",
        "pitch": f"pitch {_bin(math.degrees(scene.camera.pitch), 18, 33, PITCHES)}",
        "zoom": f"zoom {_bin(math.degrees(scene.camera.fov), 28, 42, FIELDS)}",
    }


def collate(rows: list[Targets]) -> Targets:
    """A batch of targets."""
    return Targets(*(torch.stack([getattr(row, field.name) for row in rows]) for field in fields(Targets)))


def joined(first: Targets, second: Targets) -> Targets:
    """Two batches as one."""
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(Targets)]
    return Targets(*(torch.cat(pair) for pair in pairs))


def _bin(value: float, low: float, high: float, number: int) -> int:
    return min(max(int((value - low) / (high - low) * number), 0), number - 1)
