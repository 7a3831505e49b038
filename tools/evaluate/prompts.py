"""Test prompts: captions of scenes that no training saw, with what they claim."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from tools.world.captions import Caption, described
from tools.world.sampling import sample
from tools.world.scene import Scene
from tools.world.splits import HELD_OUT_PAIRS, held_out_relation

SEED = 1  # scenes of the trainings' own validation have seed 0


@dataclass(frozen=True)
class Prompt:
    """A caption and the scene it was told of, one of many it fits."""

    caption: Caption
    scene: Scene

    @property
    def text(self) -> str:
        """What is typed."""
        return self.caption.text


def prompts(
    split: str, count: int, seed: int = SEED, wanted: Callable[[Prompt], bool] = lambda _: True
) -> list[Prompt]:
    """`count` `wanted` prompts of a split ("test" is i.i.d.), one per scene; those of "composition" tell what was held out.

    Captions that name no thing ("a scene") are passed over: nothing they say can be checked.
    """
    return list(islice(filter(wanted, _told(split, seed)), count))


def _told(split: str, seed: int) -> Iterator[Prompt]:
    index = 0
    while True:
        scene = sample(seed, index, split)
        found = [caption for caption in described(scene) if caption.things]
        found = [caption for caption in found if split != "composition" or tells_held_out(caption)]
        if found:
            yield Prompt(random.Random(f"prompt {split} {seed} {index}").choice(found), scene)
        index += 1


def tells_held_out(caption: Caption) -> bool:
    """Whether a caption names a pair, or a relation between shapes, that training never showed."""
    claims = dict(caption.things)
    if any((claim.colour, claim.shape) in HELD_OUT_PAIRS for claim in claims.values()):
        return True
    if caption.relation is None:
        return False
    subject, name, other = caption.relation
    shapes = claims[subject].shape, claims[other].shape
    return shapes[0] is not None and shapes[1] is not None and held_out_relation(shapes[0], name, shapes[1])
