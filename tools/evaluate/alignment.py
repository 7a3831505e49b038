"""Alignment: how often pictures show what their captions claim, tag by tag."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tools.evaluate.judge import TAGS, Verdict, judge
from tools.evaluate.prompts import Prompt
from tools.evaluate.stats import Estimate, share
from tools.reader import Reading, read
from tools.reader.net import Reader


@dataclass(frozen=True)
class Aligned:
    """One tag: the share right, the shares swapped and unreadable, of how many."""

    right: Estimate
    swapped: float
    unreadable: float


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures of prompts, and how they were read."""

    images: Float[Tensor, "n 3 h w"]
    readings: Sequence[Reading]
    features: Float[Tensor, "n f"]
    verdicts: Sequence[dict[str, Verdict]]

    @property
    def aligned(self) -> dict[str, Aligned]:
        """The result by tag."""
        return aligned(self.verdicts)


def judged(reader: Reader, images: Float[Tensor, "n 3 h w"], prompts: Sequence[Prompt]) -> Drawn:
    """Pictures read and judged against the captions they were drawn for."""
    readings, features = read(reader, images)
    pairs = zip(prompts, readings, strict=True)
    return Drawn(images, readings, features, [judge(prompt.caption, reading) for prompt, reading in pairs])


def aligned(pictures: Sequence[dict[str, Verdict]]) -> dict[str, Aligned]:
    """The verdicts on pictures by tag, in TAGS' order, for those that any caption has."""
    found: dict[str, list[Verdict]] = {}
    for verdicts in pictures:
        for tag, verdict in verdicts.items():
            found.setdefault(tag, []).append(verdict)
    return {tag: _aligned(found[tag]) for tag in TAGS if tag in found}


def _aligned(verdicts: Sequence[Verdict]) -> Aligned:
    counts = Counter(verdicts)
    right = share([verdict is Verdict.RIGHT for verdict in verdicts])
    return Aligned(right, counts[Verdict.SWAPPED] / len(verdicts), counts[Verdict.UNREADABLE] / len(verdicts))
