"""Of several pictures drawn for one, CLIP keeps that which fits best (2102.12092, section 2.6, does so among 512)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unclip.clip import Clip


def agreement(clip: Clip, pictures: Float[Tensor, "b c h w"], image_emb: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """The cosine of each picture's CLIP embedding with `image_emb`, which it was drawn from.

    The text has no part in it: the prior has read that, word by word. CLIP's one vector of a text tells less of it, and would
    choose, of all that fit, the look that it takes for typical. Raises UnclipError when this CLIP reads texts only.
    """
    seen = clip.image_emb(pictures.clamp(-1, 1))
    return F.cosine_similarity(seen, image_emb.to(seen))


def picked(tries: Sequence[Float[Tensor, "b ..."]], which: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Row by row, that of several tensors which is wanted."""
    return torch.stack([tries[int(k)][row] for row, k in enumerate(which)])
