"""Of several pictures drawn for one, CLIP keeps that which fits best (2102.12092, section 2.6, does so among 512)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unclip.clip import Clip
from unclip.conditioning import Prompts


def agreement(
    clip: Clip,
    pictures: Float[Tensor, "b c h w"],
    prompts: Prompts,
    image_emb: Float[Tensor, "b d"],
    keep_image: bool = True,
    keep_text: bool = True,
) -> Float[Tensor, " b"]:
    """The cosine of each picture's CLIP embedding with `image_emb`, plus that with its text's where the prompt has any.

    `keep_*`: which of the two count. Raises UnclipError when this CLIP reads texts only.
    """
    seen = clip.image_emb(pictures.clamp(-1, 1))
    image = F.cosine_similarity(seen, image_emb.to(seen))
    text = F.cosine_similarity(seen, prompts.text.emb.to(seen)) * prompts.keep.to(seen)
    return keep_image * image + keep_text * text


def picked(tries: Sequence[Float[Tensor, "b ..."]], which: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Row by row, that of several tensors which is wanted."""
    return torch.stack([tries[int(k)][row] for row, k in enumerate(which)])
