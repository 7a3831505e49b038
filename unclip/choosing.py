"""Of several pictures drawn for one, CLIP keeps that which fits best (2102.12092, section 2.6, does so among 512)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unclip.clip import Clip
from unclip.conditioning import Prompts
from unclip.settings import Settings


@dataclass(frozen=True)
class Choice:
    """Of the small pictures of `best_of` seeds the best is kept; likeness to its prompt counts `text_weight` (`agreement`)."""

    best_of: int
    text_weight: float

    def at(self, settings: Settings) -> "Choice":
        """This choice under a user's settings."""
        asked = {field.name: getattr(settings, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: value for name, value in asked.items() if value is not None})


def agreement(
    clip: Clip,
    pictures: Float[Tensor, "b c h w"],
    image_emb: Float[Tensor, "b d"],
    prompts: Prompts,
    text_weight: float,
) -> Float[Tensor, " b"]:
    """The cosine of each picture's CLIP embedding with `image_emb`, which it was drawn from, and `text_weight` times that with
    its prompt's.

    The prior may have misread the text, and the first alone finds the picture truest to the mistake. An empty prompt has no
    part in it. Raises UnclipError when this CLIP reads texts only.
    """
    seen = clip.image_emb(pictures.clamp(-1, 1))
    told = torch.where(prompts.keep.to(seen.device), F.cosine_similarity(seen, prompts.text.emb.to(seen)), 0)
    return F.cosine_similarity(seen, image_emb.to(seen)) + text_weight * told


def picked(tries: Sequence[Float[Tensor, "b ..."]], which: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Row by row, that of several tensors which is wanted."""
    return torch.stack([tries[int(k)][row] for row, k in enumerate(which)])
