"""The words of captions: synonyms, articles, plurals, relations, frames."""

import random
from collections.abc import Sequence
from typing import Protocol

from tools.world.relations import INVERSE

SHAPES = {
    "cube": ("cube", "cube", "cube", "box", "block"),
    "sphere": ("sphere", "sphere", "ball", "ball"),
    "cylinder": ("cylinder", "cylinder", "cylinder", "drum"),
    "cone": ("cone",),
    None: ("object", "thing", "solid", "shape"),
}
PLURALS = {"box": "boxes"}
COLOURS = {
    "gray": ("gray", "gray", "grey"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise"),
}
SIZES = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
MATERIALS = {"matte": ("matte", "matte", "dull"), "shiny": ("shiny", "shiny", "glossy"), "striped": ("striped",)}
WRITTEN = ('with the word "{}" on it', 'that says "{}"', 'with "{}" written on it')
SIGNS = ('and a sign that says "{}"', 'with a sign reading "{}"', 'next to a sign that says "{}"')
FLOORS = (" on a {} floor", " on a {} floor", " on {} ground", " with a {} floor")
STYLES = {
    "photo": ("a photo of {}", "a photo of {}", "a photograph of {}"),
    "drawing": ("a drawing of {}", "a drawing of {}", "a cartoon of {}"),
}
FRAMES = ("{}", "{}", "{}", "{}", "there is {}", "a picture of {}", "an image of {}")
NUMBERS = {2: ("two", "two", "2", "a pair of"), 3: ("three", "three", "3")}
ANOTHER, OTHERS = ("and something else", "and another object"), ("and other things", "and two more objects")
GENERIC = ("a picture", "a scene", "a simple scene", "an image", "something on the floor")  # of one thing or many
RELATIONS = {
    "on top of": ("on top of", "on top of", "standing on", "on"),
    "under": ("under", "below", "underneath"),
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}


class Told(Protocol):
    """What a caption says of one thing; None for what it leaves out."""

    @property
    def colour(self) -> str | None: ...
    @property
    def shape(self) -> str | None: ...
    @property
    def size(self) -> str | None: ...
    @property
    def material(self) -> str | None: ...
    @property
    def word(self) -> str | None: ...


def colour(rng: random.Random, name: str) -> str:
    """A colour by its name or a synonym."""
    return rng.choice(COLOURS.get(name, (name,)))


def noun(rng: random.Random, told: Told) -> str:
    """One thing: "a small red cube"."""
    words = _words(rng, told)
    text = f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
    return text if told.word is None else f"{text} {rng.choice(WRITTEN).format(told.word)}"


def plural(rng: random.Random, told: Told) -> str:
    """Several alike: "small red cubes"."""
    *words, last = _words(rng, told)
    return " ".join((*words, PLURALS.get(last, last + "s")))


def listing(nouns: Sequence[str]) -> str:
    """A list: "a, b and c"."""
    return " and ".join([", ".join(nouns[:-1]), nouns[-1]]) if len(nouns) > 1 else nouns[0]


def relation(rng: random.Random, first: str, name: str, second: str) -> str:
    """A pair: "a red cube behind a cone", or the same told backwards; equal things are told apart by "another"."""
    if rng.random() < 0.35:
        first, name, second = second, INVERSE[name], first
    if first == second:
        second = "another " + second.split(" ", 1)[1]
    return f"{first} {rng.choice(RELATIONS[name])} {second}"


def _words(rng: random.Random, told: Told) -> list[str]:
    adjectives = [
        rng.choice(table[value])
        for table, value in ((SIZES, told.size), (MATERIALS, told.material))
        if value is not None
    ]
    adjectives += [] if told.colour is None else [colour(rng, told.colour)]
    return [*adjectives, rng.choice(SHAPES[told.shape])]
