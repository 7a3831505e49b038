"""Where things stand: drawn in the frame first, since sizes and relations are meant as the camera sees them."""

import math
import random
from collections.abc import Sequence

from tools.world import geometry
from tools.world.relations import ground_relation
from tools.world.scene import Camera, Thing, Vector

# Apparent diameters as shares of the frame; nothing lies between, so that "small" and "large" are facts.
DIAMETER = {"small": (0.175, 0.215), "large": (0.30, 0.37)}
# Half height and half width per diameter, so that the four shapes look equally large.
PROPORTIONS = {"cube": (0.40, 0.40), "sphere": (0.5, 0.5), "cylinder": (0.46, 0.41), "cone": (0.56, 0.48)}
FLAT_TOPS = ("cube", "cylinder")
EDGE = 0.025  # free border of the frame
TRIES, RESTARTS = 20, 6
DISTANCE = 8.0
Row = tuple[str, str, str, str]  # shape, colour, size, material


def camera(rng: random.Random) -> Camera:
    """A camera above the floor that looks down at the middle of the world."""
    pitch = math.radians(rng.uniform(18, 33))
    eye = (0.0, 0.5 + DISTANCE * math.sin(pitch), -DISTANCE * math.cos(pitch))
    return Camera(eye, pitch, math.radians(rng.uniform(28, 42)), math.radians(rng.uniform(-3, 3)))


def arrange(rng: random.Random, view: Camera, rows: Sequence[Row], relation: str | None) -> tuple[Thing, ...] | None:
    """Things for `rows`, the first in `relation` to the second, every pair on the floor in some clear relation.

    None when no place was found.
    """
    order = (1, 0, 2)[: len(rows)] if relation == "on top of" else range(len(rows))
    for _ in range(RESTARTS):
        placed: dict[int, Thing] = {}
        for i in order:
            thing = _find(rng, view, rows[i], placed, relation if i < 2 else None)
            if thing is None:
                break
            placed[i] = thing
        else:
            return tuple(placed[i] for i in range(len(rows)))
    return None


def _find(rng: random.Random, view: Camera, row: Row, placed: dict[int, Thing], relation: str | None) -> Thing | None:
    """A place for one more thing; if it is the second of the two that are related, one that makes them so."""
    for _ in range(TRIES):
        stacked = relation == "on top of" and placed
        thing = _on_top(rng, view, row, placed[1]) if stacked else _on_floor(rng, view, row)
        if thing is None or not all(_apart(view, thing, other) for other in placed.values()):
            continue
        if thing.on is None and relation and placed and ground_relation(view, placed[0], thing) != relation:
            continue
        if _inside(view, thing):
            return thing
    return None


def sign(rng: random.Random, view: Camera, things: Sequence[Thing], word: str) -> Thing | None:
    """An upright board with `word`, apart from `things`, that faces the camera; None when no place was found."""
    for _ in range(TRIES):
        place = geometry.floor_point(view, rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.8))
        if place is None:
            continue
        width = rng.uniform(0.40, 0.48) * _frame(view, place)
        half = (width / 2, width * 0.23, width * 0.02)
        yaw = math.radians(rng.uniform(-18, 18))
        board = Thing("sign", "white", "", "matte", (place[0], half[1], place[2]), half, yaw, word=word)
        if _inside(view, board) and not any(_overlap(board, thing) for thing in things):
            return board
    return None


def _frame(view: Camera, place: Vector) -> float:
    """How wide the frame is at the depth of `place`, in world units."""
    return 2 * math.tan(view.fov / 2) * geometry.depth(view, place)


def _solid(rng: random.Random, row: Row, frame: float, base: Vector, on: int | None) -> Thing:
    shape, colour, size, material = row
    diameter = rng.uniform(*DIAMETER[size]) * frame
    up, across = (share * diameter for share in PROPORTIONS[shape])
    yaw = math.radians(rng.uniform(15, 75) if shape == "cube" else rng.uniform(-40, 40))
    return Thing(shape, colour, size, material, (base[0], base[1] + up, base[2]), (across, up, across), yaw, on)


def _on_floor(rng: random.Random, view: Camera, row: Row) -> Thing | None:
    low = sum(DIAMETER[row[2]]) / 4 + EDGE  # nearer to the border it would not be whole
    place = geometry.floor_point(view, rng.uniform(low, 1 - low), rng.uniform(1.6 * low, 0.95))
    return place and _solid(rng, row, _frame(view, place), place, None)


def _on_top(rng: random.Random, view: Camera, row: Row, under: Thing) -> Thing | None:
    if under.shape not in FLAT_TOPS:
        return None
    x, y, z = under.centre
    slip = 0.2 * under.half[0]
    base = (x + rng.uniform(-slip, slip), y + under.half[1], z + rng.uniform(-slip, slip))
    return _solid(rng, row, _frame(view, base), base, 1)


def _inside(view: Camera, thing: Thing) -> bool:
    left, top, right, bottom = geometry.bounds(view, geometry.corners(thing))
    return min(left, top) >= EDGE and max(right, bottom) <= 1 - EDGE


def _apart(view: Camera, a: Thing, b: Thing) -> bool:
    """Whether two things of a scene are in a clear relation and do not intersect."""
    if a.on is not None or b.on is not None:
        return a.on is not None or not _overlap(a, b)
    return ground_relation(view, a, b) is not None and not _overlap(a, b)


def _overlap(a: Thing, b: Thing) -> bool:
    gap = math.hypot(a.centre[0] - b.centre[0], a.centre[2] - b.centre[2])
    return gap < _footprint(a) + _footprint(b)


def _footprint(thing: Thing) -> float:
    return thing.half[0] * (math.sqrt(2) if thing.shape == "cube" else 1)
