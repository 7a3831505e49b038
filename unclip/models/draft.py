"""A coarse picture straight from CLIP's embeddings, which a decoder is shown beside x."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unclip.config import Positive, config
from unclip.errors import UnclipError

SIDE = 16
"""The side of a draft, in pixels."""


@config
class DraftConfig:
    """`image_emb` is CLIP's dimension d, `width` that of the hidden layers; `text_emb`: read the caption's embedding too."""

    image_emb: Positive
    width: Positive
    text_emb: bool = False


class Draft(nn.Module):
    """An MLP from normalised embeddings to the picture's mean under them, SIDE px wide, in [-1, 1].

    At the noisiest times a decoder's U-Net can do no more than that, and takes far longer to learn where embeddings put things.
    """

    def __init__(self, config: DraftConfig):
        super().__init__()
        self.config = config
        d, width = config.image_emb, config.width
        self.scale = math.sqrt(d)  # gives normalised embeddings variance 1
        self.layers = nn.Sequential(
            nn.Linear(2 * d if config.text_emb else d, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 3 * SIDE**2),
        )

    def forward(
        self,
        image_emb: Float[Tensor, "b d"],
        text_emb: Float[Tensor, "b d"] | None = None,
        keep_image: Bool[Tensor, " b"] | None = None,
        keep_text: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 3 s s"]:
        """The drafts. Where a row is not kept (None: all are), zeros, which are no embedding, stand for it."""
        told = [_kept(image_emb, keep_image)]
        if self.config.text_emb:
            if text_emb is None:
                raise UnclipError("this draft reads text_emb, which was not given")
            told.append(_kept(text_emb, keep_text))
        return rearrange(self.layers(torch.cat(told, dim=1) * self.scale), "b (c h w) -> b c h w", c=3, h=SIDE)


class Redrawing(nn.Module):
    """A CLIP and drafts of its image and its text embeddings, to be trained as one: embeddings learn to say where what is.

    Contrast alone teaches them little of that, and slowly. The text's draft is the mean of all pictures that fit.
    """

    def __init__(self, clip: nn.Module, config: DraftConfig):
        super().__init__()
        self.clip = clip
        self.of_image, self.of_text = Draft(config), Draft(config)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], tokens: Int[Tensor, "n l"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "n d"], Float[Tensor, ""], Float[Tensor, "2 b 3 s s"]]:
        """What the CLIP answers (embeddings of both, logit scale), and the drafts; the first b texts are the pictures'."""
        image, text, scale = self.clip(images, tokens)
        return image, text, scale, torch.stack([self.of_image(image), self.of_text(text[: len(image)])])


def _kept(emb: Float[Tensor, "b d"], keep: Bool[Tensor, " b"] | None) -> Float[Tensor, "b d"]:
    return emb if keep is None else emb * keep[:, None].to(emb.dtype)
