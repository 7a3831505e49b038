"""What figures share: a system, a reader that says what its pictures show, scenes, and what a figure leaves."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tools.evaluate import draw
from tools.evaluate.stats import Estimate, mean
from tools.reader import Reading, Seen, read
from tools.reader.net import PER_THING, Reader
from tools.world import sample
from tools.world.scene import Scene, Thing
from unclip.drawing import Picture
from unclip.images import to_pil, to_tensor
from unclip.system import UnCLIP

SEED = 4  # of the split test, where no training is; tools.evaluate's are others
BATCH = 20
NAMES = tuple(PER_THING)
NUISANCE = ("light", "pitch", "zoom")  # what no caption names


@dataclass(frozen=True)
class Claim:
    """What the paper says its figure shows, or a bar of this project's, and whether the measured numbers say so too."""

    text: str
    verdict: Literal["holds", "fails", "undecided"]


def so(text: str, holds: bool) -> Claim:
    """A claim that a number settles: a bar, or something exact."""
    return Claim(text, "holds" if holds else "fails")


def more(text: str, gain: Estimate) -> Claim:
    """A claim that something is more, measured by its gain: undecided where the gain's interval holds 0."""
    return Claim(text, "holds" if gain.low > 0 else "fails" if gain.high < 0 else "undecided")


def gain(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """The mean of paired differences: of the same scenes or prompts, under two conditions."""
    return mean([float(a) - float(b) for a, b in zip(after, before, strict=True)])


@dataclass(frozen=True, eq=False)
class Figure:
    """A remade figure: a sheet of pictures in rows of `columns`, what was measured, and the claims it bears out or not."""

    title: str
    numbers: Mapping[str, Any]
    claims: Sequence[Claim]
    rows: Float[Tensor, "n 3 h w"]
    columns: int = 8
    caption: str = ""


@dataclass(eq=False)
class Studio:
    """A system under the reader's eyes; `count` is how many scenes or prompts the figures take."""

    system: UnCLIP
    reader: Reader
    count: int
    _scenes: dict[int, list[Scene]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The side of the decoder's pictures."""
        return self.system.sizes[0]

    def scenes(self, number: int, count: int | None = None) -> list[Scene]:
        """Test scenes of that many things, without sign or word."""
        wanted = count or self.count
        kept, index = self._scenes.get(number, []), self._next.get(number, 0)
        while len(kept) < wanted:
            scene = sample(SEED, index, "test")
            plain = scene.sign is None and not any(thing.word for thing in scene.things)
            kept += [scene] if len(scene.things) == number and plain else []
            index += 1
        self._scenes[number], self._next[number] = kept, index
        return kept[:wanted]

    def renders(self, scenes: Sequence[Scene]) -> Float[Tensor, "n 3 h w"]:
        """The scenes' pictures."""
        return draw.renders(scenes, self.size)

    def draw(self, make: Callable[..., Iterable[Picture]], *given: Any, **how: Any) -> Float[Tensor, "n 3 h w"]:
        """What a method of the system draws, at the decoder's size."""
        made: Iterator[Picture] = iter(make(*given, batch=BATCH, size=self.size, **how))
        return torch.stack([to_tensor(picture.image) for picture in made])

    def read(self, images: Float[Tensor, "n 3 h w"]) -> list[Reading]:
        """What pictures show."""
        return read(self.reader, images)[0]


def pil(image: Float[Tensor, "3 h w"]) -> Any:
    """A picture as the system takes it."""
    return to_pil(image)


def shown(reading: Reading) -> Seen | None:
    """The only thing of a picture; None where there are more or none."""
    return reading.things[0] if len(reading.things) == 1 else None


def kept(reading: Reading, scene: Scene, but: Collection[str] = ()) -> bool:
    """Whether a picture of one thing shows the scene's names, except those in `but`, floor and style."""
    seen, (thing,) = shown(reading), scene.things
    told = {name: value for name, value in names(thing).items() if name not in but}
    same = seen is not None and all(getattr(seen, name) == value for name, value in told.items())
    return same and reading.whole["floor"] == scene.floor and reading.whole["style"] == scene.style


def changed(reading: Reading, before: Reading) -> float:
    """The share of nuisance factors that are read otherwise than before."""
    return sum(reading.whole[factor] != before.whole[factor] for factor in NUISANCE) / len(NUISANCE)


def names(thing: Thing) -> dict[str, str]:
    """What a caption may name of a thing."""
    return {name: getattr(thing, name) for name in NAMES}


def told_of(thing: Thing) -> str:
    """A text that names a thing."""
    return f"a {thing.material} {thing.colour} {thing.shape}"
