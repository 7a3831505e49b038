"""Trains a CLIP: python -m stages.clip CONFIG [key.path=value …] [--init WEIGHTS]"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from open_clip import CLIP, ClipLoss
from torch import Tensor, nn

from stages.data import Batch, DataConfig
from stages.export import provenance
from stages.fit import Preview, Watch, fit, held_out, stream
from stages.run import OptimConfig, Run, RunConfig, command
from stages.samples import captions_of
from stages.shards import Faults, find, read
from stages.state import State, begin
from unclip.checkpoint import read_header
from unclip.clip import ClipConfig, build_net, export, normalise
from unclip.config import Natural, NonNegativeFloat, Share, build, config, to_dict
from unclip.images import square
from unclip.models.draft import SIDE, DraftConfig, Redrawing
from unclip.tokenizer import Tokenizer, used_merges

REDRAWN_BY = 512  # the width of the MLPs that `redraw` trains


@config
class ObjectiveConfig:
    """`crop`: a random square of at least this share of the picture is seen; 1 is the whole picture.

    `negatives`: how many captions that are nearly its own each picture is also told apart from, where the shards hold any;
    without them a CLIP learns which words fit a picture and not how they are joined (arXiv 2210.01936).
    `redraw`: weight of the squared errors of two MLPs' drafts of the picture, from its embedding and from its caption's, which
    are trained beside CLIP and not kept: so that embeddings say where what is (`Redrawing`).
    """

    crop: Share = 0.9
    negatives: Natural = 0
    redraw: NonNegativeFloat = 0.0


@config
class ClipRun:
    """The config file of a CLIP. `vocabulary`: "clip", its whole BPE; "data", the merges that training captions use."""

    vocabulary: Literal["clip", "data"] = "clip"
    model: ClipConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if self.run.accumulate > 1:
            raise ValueError(
                f"run.accumulate = {self.run.accumulate}: a contrastive loss sees one micro-batch only, so accumulation"
                " changes it; raise run.batch or use more processes"
            )
        if not self.data.images:
            raise ValueError("data.images = false, but a CLIP is trained on pictures")


@dataclass(frozen=True)
class Objective:
    """The contrastive loss of pictures and captions (arXiv 2103.00020), negatives from all processes."""

    settings: ClipRun
    model: ClipConfig
    tokenizer: Tokenizer
    rank: int = 0
    world: int = 1

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The loss, and whether each picture finds its caption in the batch and each caption its picture."""
        assert batch.images is not None
        images = random_square(batch.images, self.settings.objective.crop, rng) if net.training else batch.images
        wrong, owners = self._wrong(batch, rng)
        ids, _ = self.tokenizer([*batch.captions, *wrong], self.model.context)
        image, texts, scale, *drafts = net(normalise(images, self.model), ids.to(images.device))
        text, scale = texts[: len(image)], scale.float().clamp(max=100)  # the bound: arXiv 2103.00020, section 2.5
        world = self.world if net.training else 1
        contrast = ClipLoss(local_loss=True, gather_with_grad=True, rank=self.rank, world_size=world)
        loss = contrast(image.float(), text.float(), scale)
        hits = (image @ text.T).argmax(dim=1) == torch.arange(len(image), device=image.device)
        parts = {"accuracy": hits.float()}
        if self.settings.objective.negatives:
            apart, right = told_apart(image.float(), text.float(), texts[len(image) :].float(), owners, scale)
            loss, parts = loss + apart, parts | {"told_apart": right.float()}
        for drawn in drafts:
            errors = (drawn.float() - square(images, SIDE)).square().mean(dim=(2, 3, 4))
            loss = loss + self.settings.objective.redraw * errors.sum(dim=0)
            parts |= {"redrawn": errors[0], "redrawn_of_text": errors[1]}
        return {"loss": loss.expand(len(image)), **parts}

    def _wrong(self, batch: Batch, rng: torch.Generator) -> tuple[list[str], Tensor]:
        """Some of the batch's negatives, and the row of each."""
        chosen = [
            (row, texts[k])
            for row, texts in enumerate(batch.negatives)
            for k in torch.randperm(len(texts), generator=rng)[: self.settings.objective.negatives].tolist()
        ]
        return [text for _, text in chosen], torch.tensor([row for row, _ in chosen], dtype=torch.long)


def told_apart(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    wrong: Float[Tensor, "n d"],
    owners: Int[Tensor, " n"],
    scale: Float[Tensor, ""],
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """The cross-entropy of each picture's own caption among it and its negatives, and whether it is the nearest of them.

    `owners` are the negatives' rows; a row without any loses nothing.
    """
    rows = torch.arange(len(image))[:, None]
    elsewhere = (owners != rows).to(image.device)
    others = (scale * image @ wrong.T).masked_fill(elsewhere, -torch.inf)  # -inf times the scale would have no gradient
    logits = torch.cat([scale * (image * text).sum(dim=1, keepdim=True), others], dim=1)
    return -logits.log_softmax(dim=1)[:, 0], logits.argmax(dim=1) == 0


def train(values: dict[str, Any], init: str | None) -> None:
    """Trains a CLIP from the tables of its config file."""
    settings = build(ClipRun, values, "clip config")
    run = Run(settings.run, settings.optim, to_dict(settings) | {"init": init or ""})
    if run.finished:
        run.say("finished before; nothing to do")
        return
    model = settings.model
    if settings.vocabulary == "data":
        model = dataclasses.replace(model, merges=_vocabulary(settings.data, init))
    torch.manual_seed(settings.run.seed)
    state = _begun(settings, model, run, init)
    accelerator = state.accelerator
    objective = Objective(
        settings, model, Tokenizer(model.merges), accelerator.process_index, accelerator.num_processes
    )
    validation = held_out(settings.data, run)
    watch = Watch(
        validation,
        lambda net: preview(net, objective, validation),
        lambda state: export(_clip(state.average), model, run.weights, provenance(state, run)),
    )
    fit(state, objective, stream(settings.data, state, run), run, watch)


def _begun(settings: ClipRun, model: ClipConfig, run: Run, init: str | None) -> State:
    net = build_net(model)
    if not settings.objective.redraw:
        return begin(net, run, init)
    if init is not None:
        run.settings = dataclasses.replace(run.settings, pretrained={"clip": init} | run.settings.pretrained)
    return begin(Redrawing(net, DraftConfig(image_emb=model.embed_dim, width=REDRAWN_BY)), run)


def _vocabulary(data: DataConfig, init: str | None) -> tuple[str, ...]:
    """The merges that the training captions use; of a CLIP that is trained on, its own, whose embeddings it has."""
    held = None if init is None else read_header(init).model.get("merges")
    return used_merges(all_captions(data)) if held is None else tuple(held)


def _clip(net: nn.Module) -> CLIP:
    return cast(CLIP, net.clip if isinstance(net, Redrawing) else net)


def all_captions(data: DataConfig) -> Iterator[str]:
    """Every caption of the training shards; damaged samples are left out."""
    shards = find(data.shards, "data.shards")
    for raw in read(shards, range(len(shards.paths)), ("txt", "json"), Faults()):
        with contextlib.suppress(ValueError):
            yield from captions_of(raw)


def preview(net: nn.Module, objective: Objective, validation: Sequence[Batch]) -> Preview:
    """How often a validation picture's own caption is the nearest of all captions, and among the nearest five."""
    net, images, texts = _clip(net), [], []
    device = next(net.parameters()).device
    with torch.no_grad():
        for batch in validation:
            assert batch.images is not None
            images.append(net.encode_image(normalise(batch.images.to(device), objective.model), normalize=True))
            ids, _ = objective.tokenizer(batch.captions, objective.model.context)
            texts.append(net.encode_text(ids.to(device), normalize=True))
    scores = torch.cat(images) @ torch.cat(texts).T
    ranks = (scores > scores.diagonal()[:, None]).sum(dim=1)
    numbers = {f"recall_at_{k}": float((ranks < k).float().mean()) for k in (1, 5)}
    return Preview(numbers=numbers | {"logit_scale": float(net.logit_scale.exp())})


def random_square(images: Float[Tensor, "b c h w"], share: float, rng: torch.Generator) -> Float[Tensor, "b c h w"]:
    """A random square of each picture, at least `share` of its area, enlarged to the picture's size (bilinear)."""
    if share == 1:
        return images
    low = math.sqrt(share)
    side = low + (1 - low) * torch.rand(len(images), generator=rng)
    places = (2 * torch.rand(len(images), 2, generator=rng) - 1) * (1 - side)[:, None]
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = places
    where = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, where, padding_mode="border", align_corners=False)


if __name__ == "__main__":
    command(train)
