"""Whether embeddings have things in the told places: probes of true ones read what stands left, in front or on top."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tools.evaluate import draw
from tools.evaluate.probe import probe
from tools.evaluate.prompts import Prompt
from tools.evaluate.stats import Estimate, share
from tools.world import palette, relations, sample
from tools.world.captions import Claim
from tools.world.relations import INVERSE, Relation
from tools.world.scene import Scene, Thing
from unclip.clip import Clip

SEED = 5  # of the split crowded: what probes are fitted to; they are tested on the prompts of another split
AXES = ("left of", "in front of", "on top of")
NAMES = {"colour": tuple(palette.COLOURS), "shape": tuple(palette.SHAPES)}
CLASSES = [len(values) for values in NAMES.values()] * 2
DECAY = 1e-3


@dataclass(frozen=True, eq=False)
class Probe:
    """For one axis, a linear reading of colour and shape, of what comes first on it and of what comes second."""

    net: nn.Linear

    def prefers(self, emb: Float[Tensor, " d"], first: Claim, second: Claim) -> bool:
        """Whether the embedding rather shows the two as told than exchanged."""
        with torch.no_grad():
            logs = [part.log_softmax(dim=0) for part in self.net(emb).split(CLASSES)]
        gain = 0.0
        for k, (name, values) in enumerate(NAMES.items()):
            a, b = getattr(first, name), getattr(second, name)
            if a and b:
                a, b = values.index(a), values.index(b)
                gain += float(logs[k][a] + logs[k + 2][b] - logs[k][b] - logs[k + 2][a])
        return gain > 0


def measure(
    clip: Clip, prompts: Sequence[Prompt], columns: Mapping[str, Float[Tensor, "n d"]], scenes: int
) -> dict[str, dict[str, Estimate]]:
    """For each column, embeddings of the prompts, the share with the two things of a relation in the told places, by axis.

    Of prompts of two things that differ in a told colour or shape. The probes are fitted to the true embeddings of as many
    `scenes` of two things.
    """
    probes = _probes(clip, scenes)
    told = [(k, *found) for k, prompt in enumerate(prompts) if (found := _told(prompt)) is not None]
    return {
        title: {
            axis: share([probes[axis].prefers(emb[k], first, second) for k, on, first, second in told if on == axis])
            for axis in AXES
            if any(on == axis for _, on, _, _ in told)
        }
        for title, emb in columns.items()
    }


def _told(prompt: Prompt) -> tuple[str, Claim, Claim] | None:
    """The axis of a prompt's relation and its claims of what comes first and second on it; None where a probe cannot tell."""
    caption, claims = prompt.caption, dict(prompt.caption.things)
    if caption.relation is None or len(prompt.scene.things) != 2 or len(claims) != 2:
        return None
    axis, first, second = _ordered(caption.relation)
    a, b = claims[first], claims[second]
    if not any(getattr(a, name) and getattr(b, name) and getattr(a, name) != getattr(b, name) for name in NAMES):
        return None
    return axis, a, b


def _ordered(relation: Relation) -> tuple[str, int, int]:
    """A relation told along its axis: "right of" is "left of" the other way round."""
    if relation.name in AXES:
        return relation.name, relation.subject, relation.object
    return INVERSE[relation.name], relation.object, relation.subject


def _probes(clip: Clip, scenes: int) -> dict[str, Probe]:
    kept = list(islice(_pairs(), scenes))
    emb = draw.embeddings(clip, draw.renders(kept, clip.config.image_size))
    found = {}
    for axis in AXES:
        rows, labels = [], []
        for k, scene in enumerate(kept):
            on, first, second = _ordered(relations(scene)[0])
            if on == axis:
                rows.append(k)
                labels.append([*_values(scene.things[first]), *_values(scene.things[second])])
        found[axis] = Probe(probe(emb[rows], torch.tensor(labels), CLASSES, DECAY))
    return found


def _pairs() -> Iterator[Scene]:
    """Scenes of two things, without end."""
    return (scene for k in count() if len((scene := sample(SEED, k, "crowded")).things) == 2)


def _values(thing: Thing) -> list[int]:
    return [values.index(getattr(thing, name)) for name, values in NAMES.items()]
