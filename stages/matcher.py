"""Trains a matcher, by which pictures are chosen: python -m stages.matcher CONFIG [key.path=value …] [--init WEIGHTS]"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.data import Batch, DataConfig
from stages.degrade import DegradeConfig, low_res
from stages.embeddings import followed
from stages.export import export
from stages.fit import Preview, Watch, fit, held_out, stream
from stages.run import OptimConfig, Run, RunConfig, command
from stages.state import begin
from unclip.clip import Clip
from unclip.config import Positive, build, config, to_dict
from unclip.images import square
from unclip.models.matcher import Matcher, MatcherConfig


@config
class MatcherSource:
    """The CLIP whose maps and states are read; it sees every picture of the training anew, since they are degraded."""

    path: str


@config
class ObjectiveConfig:
    """Of how many texts a picture is told apart: `negatives`, captions that are nearly its own, as far as the shards hold any,
    and `others`, its neighbours' in the batch, which now and then are true of it too (of the demo's pictures 3 to 6 %)."""

    negatives: Positive = 4
    others: Positive = 1


@config
class MatcherRun:
    """The config file of a matcher. `degrade`: what pictures suffer, since those to be judged are no photographs either."""

    model: MatcherConfig
    clip: MatcherSource
    data: DataConfig
    degrade: DegradeConfig = DegradeConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if not self.data.images:
            raise ValueError("data.images = false, but a matcher is trained on pictures")
        if self.objective.others >= self.run.batch:
            raise ValueError(f"objective.others = {self.objective.others} must be below run.batch = {self.run.batch}")


@dataclass(frozen=True)
class Objective:
    """How well a net tells that a picture's caption is true of it and others are not, by two losses, per sample.

    `choice`: the cross-entropy of the caption among all its texts. `truth`: that of each text's being true, in which the
    caption counts as much as all that are false. `told_apart`: whether no negative is likelier than the caption.
    """

    settings: MatcherRun
    clip: Clip

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Per-sample losses."""
        assert batch.images is not None
        how, rows = self.settings.objective, len(batch.images)
        pictures = square(batch.images, self.clip.config.image_size)
        if net.training:
            pictures = low_res(pictures, 1, self.settings.degrade, rng)[0].clamp(-1, 1)
        columns, there = texts(batch, how, rng)
        hidden, mask = self._read([text for column in columns for text in column])
        cells = self.clip.cells(pictures, self.settings.model.layer)
        own, *wrong = net(cells, hidden, mask).float().unflatten(0, (-1, rows))
        there = there.to(own.device)
        false = torch.stack(wrong).masked_fill(~there, -torch.inf)
        choice = -torch.cat([own[None], false]).log_softmax(dim=0)[0]
        truth = F.softplus(-own) + F.softplus(false).sum(dim=0) / there.sum(dim=0).clamp(min=1)
        right = own > false[: how.negatives].amax(dim=0)
        return {"loss": choice + truth, "choice": choice, "truth": truth, "told_apart": right.float()}

    def _read(self, told: list[str]) -> tuple[Float[Tensor, "n l w"], Bool[Tensor, "n l"]]:
        """CLIP's states of texts and which of them are real, without the padding that all have at their ends."""
        text = self.clip.text(told)
        assert text.hidden is not None
        assert text.mask is not None
        length = int(text.mask.sum(dim=1).max())
        return text.hidden[:, :length], text.mask[:, :length]


def texts(batch: Batch, how: ObjectiveConfig, rng: torch.Generator) -> tuple[list[list[str]], Bool[Tensor, "k b"]]:
    """The captions of a batch, then columns of texts that are false of its pictures, and which of these there are.

    Captions of neighbours follow negatives; where there is none, or a neighbour's is the picture's own, a place stays empty.
    """
    captions = list(batch.captions)
    chosen = [
        [wrong[k] for k in torch.randperm(len(wrong), generator=rng)[: how.negatives]] for wrong in batch.negatives
    ]
    chosen = chosen or [[] for _ in captions]
    columns = [[row[k] if k < len(row) else "" for row in chosen] for k in range(how.negatives)]
    for turn in range(1, how.others + 1):
        beside = captions[-turn:] + captions[:-turn]
        columns.append([other if other != own else "" for own, other in zip(captions, beside, strict=True)])
    return [captions, *columns], torch.tensor([[bool(text) for text in column] for column in columns])


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config, where [model] leaves open what follows from its CLIP filled in: the sizes of what is read of it.

    Raises UnclipError when [model] says otherwise than the CLIP.
    """
    source, model = values.get("clip"), values.get("model")
    path, layer = (
        table.get(key) if isinstance(table, Mapping) else None for table, key in ((source, "path"), (model, "layer"))
    )
    if not (isinstance(path, str) and type(layer) is int and isinstance(model, Mapping)):
        return dict(values)  # validation will say what is wrong
    clip = Clip(path)
    size = clip.config.image_size
    cells = clip.cells(torch.zeros(1, 3, size, size), layer)
    follows = {"text_hidden": clip.config.text_width, "cells": cells.shape[1], "side": cells.shape[2]}
    return {**values, "model": followed(model, follows, path)}


def train(values: dict[str, Any], init: str | None) -> None:
    """Trains a matcher from the tables of its config file."""
    settings = build(MatcherRun, completed(values), "matcher config")
    run = Run(settings.run, settings.optim, to_dict(settings) | {"init": init or ""})
    if run.finished:
        run.say("finished before; nothing to do")
        return
    torch.manual_seed(settings.run.seed)
    state = begin(Matcher(settings.model), run, init)
    clip = Clip(settings.clip.path, state.accelerator.device)
    watch = Watch(
        held_out(settings.data, run),
        lambda net: Preview(),  # the losses of validation say all
        lambda state: export(state, run, settings.model, {"clip": clip.fingerprint}),
    )
    fit(state, Objective(settings, clip), stream(settings.data, state, run), run, watch)


if __name__ == "__main__":
    command(train)
