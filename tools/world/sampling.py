"""Draws scenes: names first, then places that make the names true; what cannot be seen well is drawn again."""

import math
import random
from dataclasses import dataclass, replace
from functools import lru_cache

from tools.world import layout, palette, splits
from tools.world.relations import relations
from tools.world.scene import Light, Scene, Thing, Vector
from tools.world.visibility import visible_shares

VISIBLE = 0.40  # the promise: the least share of a solid that others leave to be seen
MARGIN = 0.08  # kept above it, since a coarse grid measures it and small things must still be read
SIGN_VISIBLE = 0.9
COUNTS = {1: 0.36, 2: 0.44, 3: 0.20}
KIN = 0.22  # share of scenes of several things that all have one shape, so that counts can be told
SIGN, PRINTED = 0.10, 0.5  # share of scenes with a sign; of single large plain things with a word on them
DRAWING = 0.3


@dataclass(frozen=True)
class Names:
    """What a scene is to be: (shape, colour, size, material) per thing, and the relation of the first to the second."""

    rows: tuple[layout.Row, ...]
    relation: str | None


def sample(seed: int, index: int, split: str) -> Scene:
    """Scene `index` of `split`: a function of the three arguments alone.

    Raises UnclipError for an unknown split.
    """
    splits.check_split(split)
    if split == "twins":
        return _twins(seed, index // 2)[index % 2]
    rng = random.Random(f"unclip world {split} {seed} {index}")
    while True:
        names = _names(rng, split)
        for _ in range(4):  # names that fit nowhere are given up
            scene = _place(rng, names)
            if scene and _acceptable(scene, split):
                return scene


@lru_cache(maxsize=1)  # each is asked for twice, one after the other
def _twins(seed: int, number: int) -> tuple[Scene, Scene]:
    """A crowded scene, and the one that the same luck makes of its names with the first two exchanged."""
    rng = random.Random(f"unclip world twins {seed} {number}")
    while True:
        names = _names(rng, "crowded")
        first, second, *others = names.rows
        for _ in range(4):
            luck = rng.getstate()
            one = _place(rng, names)
            next_luck = rng.getstate()
            rng.setstate(luck)
            other = _place(rng, replace(names, rows=(second, first, *others)))
            rng.setstate(next_luck)
            if one is None or other is None or first == second or one != replace(other, things=one.things):
                continue  # nothing has changed, or more than the things: the camera, the light or the floor
            if _acceptable(one, "crowded") and _acceptable(other, "crowded"):
                return one, other


def _names(rng: random.Random, split: str) -> Names:
    """Names of a scene; those of the composition split are held out on purpose, half by a pair, half by a relation."""
    shapes, colours = palette.SHAPES, tuple(palette.COLOURS)
    counts = {k: share for k, share in COUNTS.items() if k > 1 or split not in ("crowded", "stacked")}
    count = rng.choices(list(counts), list(counts.values()))[0]
    triple = rng.choice(splits.HELD_OUT_RELATIONS) if split == "composition" and rng.random() < 0.5 else None
    count = max(count, 2) if triple else count
    kin = count > 1 and not triple and rng.random() < KIN
    names = [(rng.choice(shapes), rng.choice(colours)) for _ in range(count)]
    if kin:
        shape, colour = names[0]
        alike = rng.random() < 0.4
        names = [(shape, colour if alike else other) for _, other in names]
    if triple:
        names[:2] = [(triple[0], names[0][1]), (triple[2], names[1][1])]
    elif split == "composition":
        shape, colour = rng.choice([(s, c) for c, s in splits.HELD_OUT_PAIRS])
        names[rng.randrange(count)] = shape, colour
    elif split == "stacked" and names[1][0] not in layout.FLAT_TOPS:
        names[1] = rng.choice(layout.FLAT_TOPS), names[1][1]
    rows = tuple((s, c, rng.choice(palette.SIZES), rng.choice(palette.MATERIALS)) for s, c in names)
    relation = triple[1] if triple else "on top of" if split == "stacked" else None
    return Names(rows, relation or (_relation(rng, names) if count > 1 else None))


def _relation(rng: random.Random, names: list[tuple[str, str]]) -> str:
    """A relation that the second shape can bear; twice "on top of" where it can, as half of all shapes cannot."""
    flat = names[1][0] in layout.FLAT_TOPS
    return rng.choice((*palette.RELATIONS, palette.RELATIONS[0]) if flat else palette.RELATIONS[1:])


def _place(rng: random.Random, names: Names) -> Scene | None:
    camera = layout.camera(rng)
    things = layout.arrange(rng, camera, names.rows, names.relation)
    if things is None:
        return None
    sign = None
    if len(things) < 3 and rng.random() < SIGN:
        sign = layout.sign(rng, camera, things, rng.choice(palette.WORDS))
    elif len(things) == 1 and rng.random() < PRINTED:
        things = (_printed(rng, things[0]),)
    light = Light(_towards_light(rng), rng.uniform(0.88, 1.1), _tint(rng))
    floor, style = rng.choice(list(palette.FLOORS)), "drawing" if rng.random() < DRAWING else "photo"
    return Scene(things, sign, floor, style, camera, light)


def _acceptable(scene: Scene, split: str) -> bool:
    """Whether a scene belongs to `split` and all in it can be seen."""
    if splits.held_out(scene, relations(scene)) != (split == "composition"):
        return False
    if len(scene.solids) == 1:
        return True
    shares = visible_shares(scene)
    count = len(scene.things)
    return min(shares[:count]) >= VISIBLE + MARGIN and all(share >= SIGN_VISIBLE for share in shares[count:])


def _printed(rng: random.Random, thing: Thing) -> Thing:
    """A large solid with a plain front gets a word on it; others stay as they are."""
    if thing.size != "large" or thing.material == "striped" or thing.shape == "cone":
        return thing
    return replace(thing, word=rng.choice(palette.WORDS), yaw=math.radians(rng.uniform(-22, 22)))


def _towards_light(rng: random.Random) -> Vector:
    """From above on the viewer's side, so that what faces the camera is lit."""
    azimuth, elevation = math.radians(rng.uniform(-75, 75)), math.radians(rng.uniform(38, 66))
    flat = math.cos(elevation)
    return flat * math.sin(azimuth), math.sin(elevation), -flat * math.cos(azimuth)


def _tint(rng: random.Random) -> Vector:
    return rng.uniform(0.94, 1.06), rng.uniform(0.97, 1.03), rng.uniform(0.94, 1.06)
