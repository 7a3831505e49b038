"""How often readings agree with the scenes that were rendered."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from tools.reader.net import PER_THING, Reader
from tools.reader.reading import Reading, Seen, read, relation
from tools.reader.targets import nuisance
from tools.world import geometry
from tools.world.relations import relations
from tools.world.scene import Scene


def right(net: Reader, images: Float[Tensor, "b 3 h w"], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of right answers by question: per thing, per related pair, per picture; "all" is the whole scene graph."""
    readings, _ = read(net, images)
    answers: dict[str, list[bool]] = {}
    for scene, reading in zip(scenes, readings, strict=True):
        for key, correct in judged(scene, reading):
            answers.setdefault(key, []).append(correct)
    return {key: sum(given) / len(given) for key, given in answers.items()}


def judged(scene: Scene, reading: Reading) -> list[tuple[str, bool]]:
    """(question, whether it was answered rightly) for one picture; with the wrong count all questions about things fail."""
    known = {"floor": scene.floor, "style": scene.style, **nuisance(scene)}
    answers = [(key, reading.whole[key] == value) for key, value in known.items()]
    counted = len(reading.things) == len(scene.things)
    pairs = matched(scene, reading.things) if counted else [None] * len(scene.things)
    for thing, seen in zip(scene.things, pairs, strict=True):
        answers += [(key, seen is not None and getattr(seen, key) == getattr(thing, key)) for key in PER_THING]
    for subject, name, other in relations(scene):
        a, b = pairs[subject], pairs[other]
        answers.append(("relation", a is not None and b is not None and relation(a, b) == name))
    answers.append(("count", counted))
    told = [correct for key, correct in answers if key not in ("light", "pitch", "zoom")]
    return [*answers, ("all", all(told))]


def matched(scene: Scene, things: Sequence[Seen]) -> list[Seen]:
    """The readings in the order of the scene's things: the assignment of least distance in the frame."""
    places = [geometry.project(scene.camera, thing.centre) for thing in scene.things]

    def distance(order: Sequence[Seen]) -> float:
        return sum((seen.u - u) ** 2 + (seen.v - v) ** 2 for seen, (u, v) in zip(order, places, strict=True))

    return list(min(itertools.permutations(things), key=distance))


def report(found: dict[str, dict[str, float]]) -> str:
    """Validation as a table: a column per kind of picture."""
    kinds = list(found)
    lines = [f"{'right':>10} " + " ".join(f"{kind:>10}" for kind in kinds)]
    lines += [f"{key:>10} " + " ".join(f"{found[kind][key]:>10.2%}" for kind in kinds) for key in found[kinds[0]]]
    return "\n".join(lines)
