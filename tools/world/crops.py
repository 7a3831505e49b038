"""Where training crops of large renders lie."""

import random

from tools.world.geometry import bounds, corners
from tools.world.raycast import Crop
from tools.world.scene import Scene

ON_A_THING = 0.8  # share of crops that are placed to contain some of a thing


def place(scene: Scene, size: int, crop: int, rng: random.Random) -> Crop:
    """A square crop of `crop` pixels of a `size` render: mostly around a point on some thing, else anywhere."""
    last = size - crop
    if rng.random() >= ON_A_THING:
        return rng.randint(0, last), rng.randint(0, last), crop, crop
    thing = rng.choice(scene.solids)
    left, top, right, bottom = bounds(scene.camera, corners(thing))
    u, v = rng.uniform(left, right) * size, rng.uniform(top, bottom) * size
    x, y = (min(max(round(c - rng.random() * crop), 0), last) for c in (u, v))
    return y, x, crop, crop
