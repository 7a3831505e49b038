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
from unclip.clip import Clip, Text
from unclip.config import Natural, Positive, build, config, to_dict
from unclip.images import square
from unclip.models.matcher import Matcher, MatcherConfig


@config
class MatcherSource:
    """The CLIP whose maps and states are read; it sees every picture of the training anew, since they are degraded."""

    path: str


@config
class ObjectiveConfig:
    """Of how many texts a picture is told apart: `negatives`, captions that are nearly its own, as far as the shards hold any,
    and `others`, its neighbours' in the batch."""

    negatives: Positive = 4
    others: Natural = 1


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


@dataclass(frozen=True)
class Objective:
    """How well a net tells that a picture's caption is true of it and others are not, by two losses, per sample.

    `choice`: the cross-entropy of the caption among all its texts. `truth`: that of each text's being true, in which the
    caption counts as much as all that are false. `told_apart`: whether it is the likeliest but for its neighbours'.
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
        columns, given = texts(batch, how.negatives, rng)
        read = self._read([text for column in columns for text in column])
        assert read.hidden is not None
        assert read.mask is not None
        hidden, mask = (torch.cat([x, *_turned(x[:rows], how.others)]) for x in (read.hidden, read.mask))
        cells = self.clip.cells(pictures, self.settings.model.layer)
        own, *wrong = net(cells, hidden, mask).float().unflatten(0, (-1, rows))
        there = torch.cat([given, torch.ones(how.others, rows, dtype=torch.bool)]).to(own.device)
        false = torch.stack(wrong).masked_fill(~there, -torch.inf)
        choice = -torch.cat([own[None], false]).log_softmax(dim=0)[0]
        truth = F.softplus(-own) + F.softplus(false).sum(dim=0) / there.sum(dim=0).clamp(min=1)
        right = own > false[: how.negatives].amax(dim=0)
        return {"loss": choice + truth, "choice": choice, "truth": truth, "told_apart": right.float()}

    def _read(self, told: list[str]) -> Text:
        """What CLIP reads in texts, without the padding that all of them have."""
        ids, mask = self.clip.tokenizer(told, self.clip.config.context)
        text, length = self.clip.encode(ids.to(self.clip.device), mask.to(self.clip.device)), int(mask.sum(dim=1).max())
        assert text.hidden is not None
        assert text.mask is not None
        return Text(text.emb, text.hidden[:, :length], text.mask[:, :length])


def texts(batch: Batch, number: int, rng: torch.Generator) -> tuple[list[list[str]], Bool[Tensor, "k b"]]:
    """The captions of a batch, then `number` columns of negatives of theirs, and which of these there are: others are empty."""
    count = len(batch.captions)
    columns, given = [list(batch.captions)], torch.zeros(number, count, dtype=torch.bool)
    chosen = [[wrong[k] for k in torch.randperm(len(wrong), generator=rng)[:number]] for wrong in batch.negatives]
    for k in range(number):
        columns.append([row[k] if k < len(row) else "" for row in chosen] or [""] * count)
        given[k] = torch.tensor([k < len(row) for row in chosen] or [False] * count)
    return columns, given


def _turned(x: Float[Tensor, "b ..."] | Bool[Tensor, "b ..."], others: int) -> list[Tensor]:
    """The rows of a batch beside each other row than their own, `others` times."""
    return [x.roll(turn, dims=0) for turn in range(1, others + 1)]


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config, where [model] leaves open what follows from its CLIP filled in: the sizes of what is read of it.

    Raises UnclipError when [model] says otherwise than the CLIP.
    """
    source, model = values.get("clip"), values.get("model")
    path, layer = (
        table.get(key) if isinstance(table, Mapping) else None for table, key in ((source, "path"), (model, "layer"))
    )
    if not (isinstance(path, str) and isinstance(layer, int) and isinstance(model, Mapping)):
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
