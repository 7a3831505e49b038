"""Captions that are nearly right: what a scene does not show, told in the words of a caption that it does.

A contrastive model that never meets them learns which words belong to a picture and not how they are joined
(arXiv 2210.01936). Theirs exchange words of the caption; these exchange what the scene shows and tell it again, so that
they stay English and can be checked.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from tools.world import palette
from tools.world.captions import NAMED, Caption, Claim, Teller, retellable
from tools.world.relations import INVERSE, relations
from tools.world.scene import Scene, Thing
from tools.world.splits import held_out

EACH = 4  # of one caption
STACKED = ("on top of", "under")
MOST = 3  # things in a scene
VALUES: dict[str, Sequence[str]] = {
    "colour": tuple(palette.COLOURS),
    "shape": palette.SHAPES,
    "size": palette.SIZES,
    "material": palette.MATERIALS,
}
Change = Callable[[Scene, random.Random], Scene]


def negatives(scene: Scene, number: int = EACH) -> list[list[str]]:
    """For each of a scene's captions up to `number` that are false of it, always the same ones.

    None tells a combination that training never shows: what is only ever met as false would be learned as such.
    """
    rng = random.Random(f"negatives {scene!r}")
    return [list(islice(_false(scene, retell, rng), number)) for _, retell in retellable(scene)]


def _false(scene: Scene, retell: Teller, rng: random.Random) -> Iterator[str]:
    met = set[str]()
    for change in _changes(scene, rng):
        changed = change(scene, rng)
        if held_out(changed, relations(changed)):
            continue
        caption = retell(changed)
        if caption.text not in met and not plausible(caption, scene):
            met.add(caption.text)
            yield caption.text


def plausible(caption: Caption, scene: Scene) -> bool:
    """Whether all that a caption claims may be said of a scene, its things taken for whichever of the scene's fit.

    A relation that the geometry leaves open may be said, and other things beside the two that stand in it may go untold.
    """
    if any(told not in (None, shown) for told, shown in ((caption.floor, scene.floor), (caption.style, scene.style))):
        return False
    counted = caption.count is not None and caption.relation is None
    if (counted and caption.count != len(scene.things)) or len(caption.things) > len(scene.things):
        return False
    if caption.sign is not None and (scene.sign is None or scene.sign.word != caption.sign):
        return False
    places = [index for index, _ in caption.things]
    for chosen in itertools.permutations(range(len(scene.things)), len(places)):
        at = dict(zip(places, chosen, strict=True))
        fits = all(_fits(claim, scene.things[at[index]]) for index, claim in caption.things)
        related = caption.relation
        if fits and (related is None or _may(scene, at[related.subject], related.name, at[related.object])):
            return True
    return False


def _may(scene: Scene, a: int, name: str, b: int) -> bool:
    """Whether thing `a` is `name` thing `b`, or might be: what is off centre on another also stands a little beside it."""
    shown = {(i, j): named for i, named, j in relations(scene)}
    named = shown.get((a, b)) or INVERSE.get(shown.get((b, a), ""))
    stacked = named in STACKED
    return named is None or name == named or (stacked and name not in STACKED)


def _fits(claim: Claim, thing: Thing) -> bool:
    return all(getattr(claim, key) in (None, getattr(thing, key)) for key in (*NAMED, "word"))


def _changes(scene: Scene, rng: random.Random) -> Iterator[Change]:
    """Every kind of change in a random order, each with luck making a caption false."""
    kinds: list[Change] = [*(_other(key) for key in NAMED), _elsewhere]
    if len(scene.things) < MOST:
        kinds += [_more]
    if len(scene.things) > 1:
        kinds += [_fewer]
        kinds += [_exchanged(("colour",)), _exchanged(("shape",)), _exchanged(("size", "material"))]
        kinds += [_exchanged(tuple(NAMED)), _exchanged(tuple(NAMED)), _turned]
    yield from rng.sample(kinds, len(kinds))


def _other(key: str) -> Change:
    """One thing of another colour, shape, size or material."""

    def change(scene: Scene, rng: random.Random) -> Scene:
        k = rng.randrange(len(scene.things))
        others = [value for value in VALUES[key] if value != getattr(scene.things[k], key)]
        return _with(scene, {k: replace(scene.things[k], **{key: rng.choice(others)})})

    return change


def _exchanged(keys: Sequence[str]) -> Change:
    """Two things that exchange some of their names; all of them: their places."""

    def change(scene: Scene, rng: random.Random) -> Scene:
        i, j = rng.sample(range(len(scene.things)), 2)
        a, b = scene.things[i], scene.things[j]
        return _with(
            scene, {x: replace(to, **{key: getattr(of, key) for key in keys}) for x, to, of in ((i, a, b), (j, b, a))}
        )

    return change


def _turned(scene: Scene, rng: random.Random) -> Scene:
    """What is beside each other stands one behind the other, and the other way round."""
    sign = rng.choice((-1, 1))
    return _with(
        scene,
        {k: replace(t, centre=(sign * t.centre[2], t.centre[1], t.centre[0])) for k, t in enumerate(scene.things)},
    )


def _elsewhere(scene: Scene, rng: random.Random) -> Scene:
    """On another floor, or in the other style."""
    if rng.random() < 0.5:
        return replace(scene, floor=rng.choice([name for name in palette.FLOORS if name != scene.floor]))
    return replace(scene, style=rng.choice([name for name in palette.STYLES if name != scene.style]))


def _fewer(scene: Scene, rng: random.Random) -> Scene:
    """One thing on which nothing stands is gone."""
    beneath = {thing.on for thing in scene.things}
    gone = rng.choice([k for k in range(len(scene.things)) if k not in beneath])
    kept = [thing for k, thing in enumerate(scene.things) if k != gone]
    return replace(scene, things=tuple(replace(t, on=t.on - (t.on > gone)) if t.on is not None else t for t in kept))


def _more(scene: Scene, rng: random.Random) -> Scene:
    """One thing more, beside one that is there."""
    beside = rng.choice(scene.things)
    x, y, z = beside.centre
    step = rng.choice((-2.0, 2.0))
    place = (x + step, y, z) if rng.random() < 0.5 else (x, y, z + step)
    names = {key: rng.choice(VALUES[key]) for key in ("colour", "shape")}
    return replace(scene, things=(*scene.things, replace(beside, centre=place, on=None, **names)))


def _with(scene: Scene, changed: dict[int, Thing]) -> Scene:
    return replace(scene, things=tuple(changed.get(k, thing) for k, thing in enumerate(scene.things)))
