"""Scenes as tensors: one row per scene, one column per solid (things, then the sign; padded)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tools.world import geometry, palette, solids
from tools.world.scene import Scene, Thing, Vector

Half = tuple[Vector, Vector]  # centre and half extents
OUTLINE = 0.011  # the width of a drawn outline, as a share of the frame
NOTHING = Thing("", "gray", "", "matte", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.0)
EMPTY_BOX = (2.0, 2.0, -2.0, -2.0)


@dataclass(frozen=True, eq=False)
class Batch:
    """What the ray caster reads; colours are linear light (squared sRGB), boxes left, top, right, bottom."""

    eye: Float[Tensor, "b 3"]
    axes: Float[Tensor, "b 3 3"]  # right and up times tan(fov / 2), then forward
    light: Float[Tensor, "b 3"]
    strength: Float[Tensor, " b"]
    tint: Float[Tensor, "b 3"]
    floor: Float[Tensor, "b 3"]
    drawing: Bool[Tensor, " b"]
    shape: Int[Tensor, "b k"]  # index into solids.SOLIDS; -1 is padding
    centre: Float[Tensor, "b k 3"]
    half: Float[Tensor, "b k 3"]
    hull_centre: Float[Tensor, "b k 3"]  # the solid grown by an outline's width
    hull_half: Float[Tensor, "b k 3"]
    pen: Float[Tensor, "b k"]  # that width, in world units
    turn: Float[Tensor, "b k 3"]  # cos and sin of the yaw, and the yaw
    colour: Float[Tensor, "b k 3"]
    ink: Float[Tensor, "b k 3"]
    material: Int[Tensor, "b k"]  # index into palette.MATERIALS
    word: Int[Tensor, "b k"]  # index into palette.WORDS; -1 is none
    seen: Float[Tensor, "b k 4"]  # box around each solid
    fallen: Float[Tensor, "b k 4"]  # box around its shadow on the floor
    swept: Float[Tensor, "b k 4"]  # box around the solid, that shadow and all between

    def __len__(self) -> int:
        return len(self.eye)


def linear(colour: Vector) -> Vector:
    """sRGB to what the renderer calls linear light: the square, whose inverse is exact in every vector lane."""
    return colour[0] ** 2, colour[1] ** 2, colour[2] ** 2


def collate(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> Batch:
    """The batch of `scenes` on `device`."""
    width = max(len(scene.solids) for scene in scenes)
    rows = [_row(scene, width) for scene in scenes]
    columns = {key: torch.tensor([row[key] for row in rows]).to(device) for key in rows[0]}
    return Batch(**columns)


def _row(scene: Scene, width: int) -> dict[str, object]:
    camera, light = scene.camera, scene.light
    tan = math.tan(camera.fov / 2)
    right, up, forward = geometry.axes(camera)
    row: dict[str, object] = {
        "eye": camera.eye,
        "axes": (tuple(tan * c for c in right), tuple(tan * c for c in up), forward),
        "light": light.direction,
        "strength": light.strength,
        "tint": light.tint,
        "floor": linear(palette.FLOORS[scene.floor]),
        "drawing": scene.style == "drawing",
    }
    columns = [_column(scene, thing) for thing in scene.solids]
    columns += [_column(scene, NOTHING)] * (width - len(columns))
    return row | {key: [column[key] for column in columns] for key in columns[0]}


def _column(scene: Scene, thing: Thing) -> dict[str, object]:
    real = bool(thing.shape)
    pen = 2 * OUTLINE * math.tan(scene.camera.fov / 2) * geometry.depth(scene.camera, thing.centre)
    hull = _hull(thing, pen)
    seen = geometry.bounds(scene.camera, geometry.corners(thing, 2 * pen)) if real else EMPTY_BOX
    fallen = _fallen(scene, thing) if real else EMPTY_BOX
    colour = palette.BOARD if thing.shape == "sign" else palette.COLOURS[thing.colour]
    chalked = thing.colour in palette.CHALKED and thing.shape != "sign"
    return {
        "shape": solids.index(thing.shape) if real else -1,
        "centre": thing.centre,
        "half": thing.half,
        "hull_centre": hull[0],
        "hull_half": hull[1],
        "pen": pen,
        "turn": (math.cos(thing.yaw), math.sin(thing.yaw), thing.yaw),
        "colour": linear(colour),
        "ink": linear(palette.CHALK if chalked else palette.INK),
        "material": palette.MATERIALS.index(thing.material),
        "word": -1 if thing.word is None else palette.WORDS.index(thing.word),
        "seen": seen,
        "fallen": fallen,
        "swept": geometry.union(seen, fallen),
    }


def _hull(thing: Thing, pen: float) -> Half:
    """Centre and half extents of the solid grown by `pen`; a cone's apex moves further, as its sides do."""
    (x, y, z), (hx, hy, hz) = thing.centre, thing.half
    if thing.shape != "cone":
        return thing.centre, (hx + pen, hy + pen, hz + pen)
    tip = pen * math.hypot(hx, 2 * hy) / hx
    scale = 1 + (pen + tip) / (2 * hy)
    return (x, y + (tip - pen) / 2, z), (hx * scale, hy * scale, hz * scale)


def _fallen(scene: Scene, thing: Thing) -> geometry.Box:
    lx, ly, lz = scene.light.direction
    points = geometry.corners(thing)
    return geometry.bounds(scene.camera, [(x - y * lx / ly, 0.0, z - y * lz / ly) for x, y, z in points])
