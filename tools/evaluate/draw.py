"""The same prompts drawn by the whole system and by what it must beat: its own parts used otherwise, and real pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tools.evaluate.kept import kept
from tools.evaluate.prompts import Prompt
from tools.world import render, sample
from tools.world.scene import Scene
from unclip.choosing import likeness, picked
from unclip.clip import Clip
from unclip.conditioning import Prompts, decoder_cond, read
from unclip.images import of_grey_levels
from unclip.noise import redrawn, stream
from unclip.priors import finish
from unclip.requests import made_by
from unclip.settings import Settings
from unclip.system import UnCLIP

Mode = Literal[
    "unclip", "oracle", "text as image", "caption only", "embedding only", "unconditional", "retrieval", "real"
]
TITLES: dict[Mode, str] = {
    "unclip": "the whole system",
    "oracle": "decoder given the true image embedding",
    "text as image": "text embedding in place of the image embedding",
    "caption only": "decoder given the caption alone",
    "embedding only": "decoder given the prior's embedding alone",
    "unconditional": "unconditional",
    "retrieval": "nearest training picture by CLIP",
    "real": "real renders",
}
DRAWN: tuple[Mode, ...] = ("unclip", "oracle", "text as image", "caption only", "embedding only", "unconditional")
IMAGELESS: tuple[Mode, ...] = ("caption only", "unconditional")
TEXTLESS: tuple[Mode, ...] = ("embedding only", "unconditional")
BATCH = 20


@dataclass(frozen=True, eq=False)
class Bank:
    """Training pictures and their CLIP image embeddings."""

    images: Float[Tensor, "n 3 64 64"]
    emb: Float[Tensor, "n d"]


def renders(scenes: Sequence[Scene], size: int) -> Float[Tensor, "n 3 s s"]:
    """Scenes as pictures in [-1, 1]."""
    parts = [render(scenes[start : start + 25], size) for start in range(0, len(scenes), 25)]
    return of_grey_levels(torch.cat(parts).cpu())


def bank(clip: Clip, count: int, size: int) -> Bank:
    """The first `count` pictures that the trainings saw (seed 0), rendered again."""
    images = renders([sample(0, index, "train") for index in range(count)], size)
    return Bank(images, embeddings(clip, images))


def embeddings(clip: Clip, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """CLIP image embeddings, in batches."""
    return torch.cat([clip.image_emb(part).cpu() for part in images.split(200)])


def pictures(
    system: UnCLIP,
    mode: Mode,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None] = lambda n: None,
    keep: Path | None = None,
) -> Float[Tensor, "n 3 64 64"]:
    """Small pictures of the prompts under one of the DRAWN modes; picture k has seed k, and is the system's best of several.

    All that were drawn for them are kept in the folder `keep`.
    """
    drawn = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        found, like = tries(system, mode, part, range(start, start + len(part)), system.choice.best_of, keep)
        drawn.append(picked(list(found), system.choice.best(like)))
        progress(len(part))
    return torch.cat(drawn)


def tries(
    system: UnCLIP, mode: Mode, part: Sequence[Prompt], seeds: Sequence[int], count: int, keep: Path | None = None
) -> tuple[Float[Tensor, "k b 3 64 64"], Float[Tensor, "3 k b"]]:
    """Pictures of `count` seeds for each prompt, and their `likeness` to what is told of it: the embedding and the text.

    Told nothing, it draws one. What was kept in the folder `keep` is not drawn again.
    """
    told = read(system.clip, [prompt.text for prompt in part])
    about = {} if keep is None else _made_from(system) | {"mode": mode, "prompts": repr(part)}
    made = []
    for k in range(1 if mode == "unconditional" else count):
        others = [redrawn(seed, k) for seed in seeds]
        draw = partial(_drawn, system, mode, part, told, others)
        made.append(draw() if keep is None else kept(keep, about | {"seeds": others}, draw))
    like = likeness(system.clip, [(one["images"], one["image_emb"]) for one in made], told, system.matching).cpu()
    if mode in TEXTLESS:
        like[1:] = 0
    return torch.stack([one["images"] for one in made]), like


def _made_from(system: UnCLIP) -> dict[str, Any]:
    """What a system's small pictures depend on, as far as a recipe would say it; the upsamplers have no part in them."""
    stages = (system.decoder.name, *system.prior.sampling)
    return {
        "weights": {key: name for key, name in system.identity["weights"].items() if key in ("clip", *stages)},
        "sampling": {key: how for key, how in system.sampling.items() if key in stages},
        "candidates": system.prior.resolve(Settings()).candidates,
        "noise": system.config.noise,
        "made_by": made_by(system.decoder.device, system.decoder.dtype),
    }


def _drawn(
    system: UnCLIP, mode: Mode, part: Sequence[Prompt], told: Prompts, seeds: Sequence[int]
) -> dict[str, Tensor]:
    emb = _embedding(system, mode, part, told, seeds)
    images = decoded(system, told, emb, seeds, mode not in IMAGELESS, mode not in TEXTLESS)
    return {"images": images.cpu(), "image_emb": emb.cpu()}


def _embedding(
    system: UnCLIP, mode: Mode, part: Sequence[Prompt], told: Prompts, seeds: Sequence[int]
) -> Float[Tensor, "b d"]:
    if mode in ("unclip", "embedding only"):
        return system.prior.draw(told, seeds)
    if mode == "oracle":
        return system.clip.image_emb(renders([prompt.scene for prompt in part], system.sizes[0]))
    return told.text.emb


def of_embeddings(
    system: UnCLIP, prompts: Sequence[Prompt], emb: Float[Tensor, "n d"], keep_image: bool = True
) -> Float[Tensor, "n 3 64 64"]:
    """The decoder's pictures of prompts and image embeddings, or of the prompts alone; picture k has seed k."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        told = read(system.clip, [prompt.text for prompt in prompts[start : start + BATCH]])
        rows = range(start, start + len(told.words))
        parts.append(decoded(system, told, emb[rows.start : rows.stop].to(told.text.emb), rows, keep_image).cpu())
    return torch.cat(parts)


def decoded(
    system: UnCLIP,
    told: Prompts,
    emb: Float[Tensor, "b d"],
    seeds: Sequence[int],
    keep_image: bool = True,
    keep_text: bool = True,
) -> Float[Tensor, "b 3 64 64"]:
    """What the decoder draws under its own settings when it is told of the embedding, of the text, of both or of neither."""
    stage, clip, net = system.decoder, system.clip, system.decoder.net
    all_rows, size = torch.ones(len(seeds), dtype=torch.bool, device=emb.device), net.config.size
    cond = decoder_cond(net, clip, told, emb, all_rows & keep_image, told.keep & keep_text)
    none = decoder_cond(net, clip, told, emb, ~all_rows, ~all_rows)
    noise = stream(stage.name, seeds, (3, size, size), stage.device)
    return finish(stage, stage.run(cond, noise, none))
