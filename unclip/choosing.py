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
    """Of the small pictures of `best_of` seeds the best is kept; likeness to its prompt counts `text_weight`, that to its
    embedding 1."""

    best_of: int
    text_weight: float

    def at(self, settings: Settings) -> "Choice":
        """This choice under a user's settings."""
        asked = {field.name: getattr(settings, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: value for name, value in asked.items() if value is not None})

    def best(self, like: Float[Tensor, "2 k b"]) -> Int[Tensor, " b"]:
        """Which of k pictures is the best by their `likeness`, for each of b; the first of equals."""
        to_emb, to_text = like
        return (to_emb + self.text_weight * to_text).argmax(dim=0)


def likeness(
    clip: Clip, pictures: Float[Tensor, "b c h w"], image_emb: Float[Tensor, "b d"], prompts: Prompts
) -> Float[Tensor, "2 b"]:
    """The cosines of each picture's CLIP embedding with `image_emb`, which it was drawn from, and with its prompt's.

    The prior may have misread the prompt, and the first alone would keep the picture truest to the mistake; CLIP's one vector
    of a text tells less of it than the prior read, word by word. With an empty prompt the second is 0. Raises UnclipError when
    this CLIP reads texts only.
    """
    seen = clip.image_emb(pictures.clamp(-1, 1))
    told = F.cosine_similarity(seen, prompts.text.emb.to(seen))
    return torch.stack([F.cosine_similarity(seen, image_emb.to(seen)), told * prompts.keep.to(seen.device)])


def picked(tries: Sequence[Float[Tensor, "b ..."]], which: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Row by row, that of several tensors which is wanted."""
    return torch.stack([tries[int(k)][row] for row, k in enumerate(which)])
