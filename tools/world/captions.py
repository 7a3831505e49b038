"""What people might say of a scene: several captions each, true, and mostly leaving something out.

A caption never tells a nuisance factor (camera, light, exact place, tint). Its `Claims` record what it does tell, so
that a drawing made from it can be checked without parsing English.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tools.world import phrases
from tools.world.relations import Relation, relations
from tools.world.scene import Scene, Thing

CAPTIONS = 6
NAMED = {"colour": 0.82, "shape": 0.93, "size": 0.38, "material": 0.42}  # chance that a caption names each
KNOWN_STYLE, KNOWN_FLOOR, KNOWN_WORD, GENERIC = 0.4, 0.3, 0.7, 0.04


@dataclass(frozen=True)
class Claim:
    """What a caption says of one thing; None for what it leaves out."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    material: str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims: things in the scene's order (by index), and the rest where told.

    `count` is how many things there are in all, told by listing or by number; `relation` indexes `things`.
    """

    text: str
    things: tuple[tuple[int, Claim], ...] = ()
    count: int | None = None
    relation: Relation | None = None
    floor: str | None = None
    style: str | None = None
    sign: str | None = None


Teller = Callable[[Scene], Caption]


def captions(scene: Scene, number: int = CAPTIONS) -> list[str]:
    """Up to `number` different captions of a scene, always the same ones."""
    return [caption.text for caption in described(scene, number)]


def described(scene: Scene, number: int = CAPTIONS) -> list[Caption]:
    """The captions of a scene together with what each claims."""
    return [caption for caption, _ in retellable(scene, number)]


def retellable(scene: Scene, number: int = CAPTIONS) -> list[tuple[Caption, Teller]]:
    """`described`, each with what tells any scene by the same decisions: what to name, in which words."""
    rng, found = random.Random(f"captions {scene!r}"), dict[str, tuple[Caption, Teller]]()
    for _ in range(2 * number):
        state = rng.getstate()
        caption = describe(scene, rng)
        found[caption.text] = caption, partial(_retold, state)
    return list(found.values())[:number]


def describe(scene: Scene, rng: random.Random) -> Caption:
    """One caption, drawn by `rng`."""
    if rng.random() < GENERIC:
        return Caption(rng.choice(phrases.GENERIC))
    tellers = [_listed]
    if len(scene.things) > 1:
        tellers += [_counted] if len({thing.shape for thing in scene.things}) == 1 else []
        tellers += (
            [_related, _related, _related] if relations(scene) else []
        )  # sampled scenes have some, changed ones may not
    body = rng.choice(tellers)(scene, rng)
    text, told = body.text, {}
    if scene.sign is not None and rng.random() < KNOWN_WORD:
        text += " " + rng.choice(phrases.SIGNS).format(scene.sign.word)
        told["sign"] = scene.sign.word
    if rng.random() < KNOWN_FLOOR:
        text += rng.choice(phrases.FLOORS).format(phrases.colour(rng, scene.floor))
        told["floor"] = scene.floor
    if rng.random() < KNOWN_STYLE:
        told["style"] = scene.style
        text = rng.choice(phrases.STYLES[scene.style]).format(text)
    else:
        text = rng.choice(phrases.FRAMES).format(text)
    text = text[0].upper() + text[1:] if rng.random() < 0.05 else text
    text += "." if rng.random() < 0.05 else ""
    return Caption(text, body.things, body.count, body.relation, **told)


def _retold(state: tuple[Any, ...], scene: Scene) -> Caption:
    rng = random.Random(0)
    rng.setstate(state)
    return describe(scene, rng)


def _claim(thing: Thing, rng: random.Random) -> Claim:
    told = {key: getattr(thing, key) for key, chance in NAMED.items() if rng.random() < chance}
    if not told.keys() - {"size"}:
        told["colour"] = thing.colour
    return Claim(**told, word=thing.word if rng.random() < KNOWN_WORD else None)


def _listed(scene: Scene, rng: random.Random) -> Caption:
    """As in "a red cube, a cone and a blue sphere": all things, or one of them and a hint that there are others."""
    claims = [(i, _claim(thing, rng)) for i, thing in enumerate(scene.things)]
    rng.shuffle(claims)
    if len(claims) > 1 and rng.random() < 0.12:
        more = rng.choice(phrases.OTHERS if len(claims) > 2 else phrases.ANOTHER)
        return Caption(
            f"{phrases.noun(rng, claims[0][1])} {more}", tuple(claims[:1]), len(claims) if len(claims) == 2 else None
        )
    nouns = [phrases.noun(rng, claim) for _, claim in claims]
    return Caption(phrases.listing(nouns), tuple(claims), len(claims))


def _counted(scene: Scene, rng: random.Random) -> Caption:
    """As in "three cubes", with what they share told or not; only where all have one shape."""
    shared = {key for key in NAMED if len({getattr(thing, key) for thing in scene.things}) == 1}
    claim = _claim(scene.things[0], rng)
    claim = Claim(**{key: getattr(claim, key) for key in shared} | {"shape": scene.things[0].shape})
    count = len(scene.things)
    text = f"{rng.choice(phrases.NUMBERS[count])} {phrases.plural(rng, claim)}"
    return Caption(text, tuple((i, claim) for i in range(count)), count)


def _related(scene: Scene, rng: random.Random) -> Caption:
    """As in "a red cube on top of a blue cube", told either way round, then what else there is."""
    subject, name, other = relation = rng.choice(relations(scene))
    claims = {i: _claim(thing, rng) for i, thing in enumerate(scene.things)}
    first, second = (phrases.noun(rng, claims[i]) for i in (subject, other))
    text = phrases.relation(rng, first, name, second)
    rest = [i for i in claims if i not in (subject, other)]
    told = _told(claims, (subject, other))
    if rest and rng.random() < 0.85:
        text += rng.choice((" and ", ", and ", " with ")) + phrases.noun(rng, claims[rest[0]])
        told = _told(claims, (subject, other, *rest))
    return Caption(text, told, len(told) if len(told) == len(claims) else None, relation)


def _told(claims: dict[int, Claim], indices: Sequence[int]) -> tuple[tuple[int, Claim], ...]:
    return tuple((i, claims[i]) for i in indices)
