"""Of several pictures drawn for one, CLIP keeps that which fits best (2102.12092, section 2.6, does so among 512)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unclip.clip import Clip
from unclip.conditioning import Prompts
from unclip.models.decoder import Decoder
from unclip.noise import Noise, stream
from unclip.stage import Stage


@dataclass(frozen=True, eq=False)
class Wanted:
    """What pictures are to be like: embeddings of texts or pictures, and the rows that each speaks for."""

    emb: Float[Tensor, "b d"]
    keep: Bool[Tensor, " b"]


def wanted(prompts: Prompts, image_emb: Float[Tensor, "b d"]) -> list[Wanted]:
    """The image embedding, and the text where there is any."""
    return [Wanted(image_emb, torch.ones_like(prompts.keep)), Wanted(prompts.text.emb, prompts.keep)]


def best(clip: Clip, pictures: Sequence[Float[Tensor, "b c h w"]], likes: Sequence[Wanted]) -> Float[Tensor, "b c h w"]:
    """Row by row, the picture with the largest sum of cosines between its CLIP embedding and those wanted.

    Between equals the first. Raises UnclipError when this CLIP reads texts only.
    """
    stacked = torch.stack(list(pictures))
    scores = torch.stack([_agreement(clip, one, likes) for one in pictures]).to(stacked.device)
    return stacked[scores.argmax(dim=0), torch.arange(stacked.shape[1], device=stacked.device)]


def further(stage: Stage[Decoder], seeds: Sequence[int], count: int) -> list[Noise]:
    """The noises of the second of `count` pictures to the last, each from a stream of its own."""
    side = stage.net.config.size
    return [stream(f"{stage.name}/{k}", seeds, (3, side, side), stage.device) for k in range(1, count)]


def _agreement(clip: Clip, pictures: Float[Tensor, "b c h w"], likes: Sequence[Wanted]) -> Float[Tensor, " b"]:
    seen = clip.image_emb(pictures.clamp(-1, 1))
    found = [F.cosine_similarity(seen, one.emb.to(seen)) * one.keep.to(seen) for one in likes]
    return torch.stack(found).sum(dim=0)
