"""Trains a decoder's draft before the decoder: python -m stages.draft CONFIG [key.path=value …] [--init WEIGHTS]"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stages.data import Batch, DataConfig, validation_batches
from stages.embeddings import ClipSource, completed, image_emb, open_clip, prompts
from stages.export import export
from stages.fit import Preview, Watch, fit, held_out, stream
from stages.run import OptimConfig, Run, RunConfig, command
from stages.state import begin
from unclip.clip import Clip
from unclip.config import Share, build, config, to_dict
from unclip.errors import UnclipError
from unclip.images import grid, square, to_pil
from unclip.models.draft import SIDE, Draft, DraftConfig

SHOWN = 64  # the side of a sheet's pictures


@config
class ObjectiveConfig:
    """Shares of samples trained without the image embedding and, independently, without text; as the decoder's."""

    image_drop: Share = 0.1
    text_drop: Share = 0.5


@config
class DraftRun:
    """The config file of a draft."""

    model: DraftConfig
    clip: ClipSource
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig
    run: RunConfig


@dataclass(frozen=True)
class Objective:
    """The squared error of the small picture, the image embedding and the caption dropped at random, per sample."""

    settings: DraftRun
    core: Draft
    clip: Clip

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Per-sample losses."""
        how, count, truth = self.settings.objective, len(batch.keys), targets(batch)
        keep_image = torch.rand(count, generator=rng).to(truth.device) >= how.image_drop
        keep_text = torch.rand(count, generator=rng).to(truth.device) >= how.text_drop
        drawn = net(*self.told(batch, keep_image, keep_text))
        return {"loss": (drawn.float() - truth).square().mean(dim=(1, 2, 3))}

    def told(self, batch: Batch, keep_image: Tensor, keep_text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the net is called with."""
        words = prompts(self.clip, self.settings.clip, batch, self.core)
        return image_emb(self.clip, self.settings.clip, batch), words.text.emb, keep_image, keep_text & words.keep


def targets(batch: Batch) -> Float[Tensor, "b 3 s s"]:
    """The batch's pictures at a draft's size."""
    assert batch.images is not None
    return square(batch.images, SIDE)


def train(values: dict[str, Any], init: str | None) -> None:
    """Trains a draft from the tables of its config file."""
    settings = build(DraftRun, completed(values), "draft config")
    if not settings.data.images:
        raise UnclipError("draft config: data.images = false; a draft is trained on pictures")
    run = Run(settings.run, settings.optim, to_dict(settings) | {"init": init or ""})
    if run.finished:
        run.say("finished before; nothing to do")
        return
    torch.manual_seed(settings.run.seed)
    core = Draft(settings.model)
    state = begin(core, run, init)
    clip = open_clip(settings.clip, settings.data, state.accelerator.device)
    objective = Objective(settings, core, clip)
    validation = held_out(settings.data, run)
    parents, shown = {"clip": clip.fingerprint}, settings.run.previews
    watch = Watch(
        validation,
        lambda net: preview(net, objective, validation_batches(settings.data, shown, shown)[0]),
        lambda state: export(state, run, settings.model, parents),
    )
    fit(state, objective, stream(settings.data, state, run), run, watch)


def preview(net: nn.Module, objective: Objective, batch: Batch) -> Preview:
    """Pairs of rows: pictures of the validation data at a draft's size, and their drafts."""
    batch = batch.to(next(net.parameters()).device)
    keep = torch.ones(len(batch.keys), dtype=torch.bool, device=next(net.parameters()).device)
    truth, drawn = targets(batch), net(*objective.told(batch, keep, keep)).clamp(-1, 1)
    rows = []
    for start in range(0, len(truth), 8):
        for pictures in (truth, drawn):
            rows += [to_pil(x) for x in functional.interpolate(pictures[start : start + 8], SHOWN)]
    return Preview(sheet=grid(rows, columns=min(8, len(truth))))


if __name__ == "__main__":
    command(train)
