"""Of several pictures drawn for one, CLIP keeps that which fits best (2102.12092, section 2.6, does so among 512)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unclip.clip import Clip
from unclip.conditioning import Prompts


@dataclass(frozen=True, eq=False)
class Wanted:
    """What pictures are to be like: embeddings of texts or pictures, and the rows that each speaks for."""

    emb: Float[Tensor, "b d"]
    keep: Bool[Tensor, " b"]


def wanted(prompts: Prompts, image_emb: Float[Tensor, "b d"]) -> list[Wanted]:
    """The image embedding, and the text where there is any."""
    return [Wanted(image_emb, torch.ones_like(prompts.keep)), Wanted(prompts.text.emb, prompts.keep)]


def agreement(clip: Clip, pictures: Float[Tensor, "b c h w"], likes: Sequence[Wanted]) -> Float[Tensor, " b"]:
    """The sum of the cosines between each picture's CLIP embedding and those wanted of it.

    Raises UnclipError when this CLIP reads texts only.
    """
    seen = clip.image_emb(pictures.clamp(-1, 1))
    found = [F.cosine_similarity(seen, one.emb.to(seen)) * one.keep.to(seen) for one in likes]
    return torch.stack(found).sum(dim=0)


def picked(tries: Sequence[Float[Tensor, "b ..."]], which: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Row by row, that of several tensors which is wanted."""
    return torch.stack([tries[int(k)][row] for row, k in enumerate(which)])
