"""Which combinations training never sees.

`train` and `test` (i.i.d.) scenes contain none of the pairs and none of the relation combinations below, whichever
way round a relation is told; every scene of `composition` contains at least one. Each colour, each shape and each
relation still occurs in training many times over in other company, and so does the paper's own prompt, "a red cube
on top of a blue cube". `crowded`, `stacked` and `twins` are more to train on: like `train`, but no scene has a thing alone;
of stacked ones each has a thing on another; of twins, each scene of an even index is followed by one in which two things
have changed places, and nothing else.
"""

from collections.abc import Iterable

from tools.world.relations import INVERSE, Relation
from tools.world.scene import Scene, Thing
from unclip.errors import UnclipError

SPLITS = ("train", "test", "composition", "crowded", "stacked", "twins")

# One colour and one shape each: no colour and no shape is held out twice.
HELD_OUT_PAIRS = (("purple", "cube"), ("green", "sphere"), ("yellow", "cylinder"), ("blue", "cone"))

# (subject's shape, relation, object's shape); "right of", "behind" and "under" are the same facts told backwards.
HELD_OUT_RELATIONS = (
    ("cone", "on top of", "cube"),
    ("sphere", "on top of", "cylinder"),
    ("sphere", "left of", "cone"),
    ("cylinder", "left of", "cube"),
    ("cube", "in front of", "sphere"),
    ("cone", "in front of", "cylinder"),
)


def check_split(split: str) -> None:
    """Raises UnclipError unless `split` is one of SPLITS."""
    if split not in SPLITS:
        raise UnclipError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")


def held_out_pair(thing: Thing) -> bool:
    """Whether training never shows this colour on this shape."""
    return (thing.colour, thing.shape) in HELD_OUT_PAIRS


def held_out_relation(subject: str, relation: str, object: str) -> bool:
    """Whether training never shows shape `subject` in this relation to shape `object`, told either way round."""
    told = (subject, relation, object), (object, INVERSE[relation], subject)
    return any(triple in HELD_OUT_RELATIONS for triple in told)


def held_out(scene: Scene, relations: Iterable[Relation]) -> bool:
    """Whether a scene belongs to the composition split."""
    shapes = [thing.shape for thing in scene.things]
    return any(map(held_out_pair, scene.things)) or any(
        held_out_relation(shapes[r.subject], r.name, shapes[r.object]) for r in relations
    )
