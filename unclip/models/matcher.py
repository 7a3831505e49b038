"""A judge of pictures and texts: it reads both together, and says whether the text is true of the picture."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from unclip.config import Natural, Positive, config
from unclip.nn.attention import KV
from unclip.nn.embedding import small
from unclip.nn.resblock import group_norm, zeroed
from unclip.nn.transformer import Transformer


@config
class MatcherConfig:
    """What it reads of CLIP: the map after block `layer` of the picture tower, with `cells` channels and `side` cells a side,
    and hidden text states `text_hidden` wide.

    The map passes through `blocks` residual blocks of `channels`, then a transformer of `width`, `depth` and `heads`.
    """

    layer: Natural
    cells: Positive
    side: Positive
    text_hidden: Positive
    channels: Positive
    blocks: Natural
    width: Positive
    depth: Positive
    heads: Positive

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}")


class Residual(nn.Module):
    """x plus two convolutions of it, which start as zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = group_norm(channels), zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The block's output."""
        return x + self.conv2(functional.silu(self.norm2(self.conv1(functional.silu(self.norm1(x))))))


class Matcher(nn.Module):
    """Image-text matching (BLIP, 2201.12086, section 3.2): a text's states read the cells of a picture's feature map, layer by
    layer.

    CLIP compares one vector of each, which says which words fit and little of how they are joined (2210.01936).
    """

    def __init__(self, config: MatcherConfig):
        super().__init__()
        self.config = config
        body = [Residual(config.channels) for _ in range(config.blocks)]
        self.see = nn.Sequential(
            nn.GroupNorm(1, config.cells, affine=False),
            nn.Conv2d(config.cells, config.channels, 1),
            *body,
            group_norm(config.channels),
            nn.Conv2d(config.channels, config.width, 1),
        )
        self.places = small(config.side**2, config.width, std=0.1)
        self.read = nn.Linear(config.text_hidden, config.width)
        self.transformer = Transformer(config.width, config.depth, config.heads)
        self.out = nn.Linear(config.width, 1)

    def forward(
        self,
        cells: Float[Tensor, "b c s s"],
        text_hidden: Float[Tensor, "n l w"],
        text_mask: Bool[Tensor, "n l"],
    ) -> Float[Tensor, " n"]:
        """The logit that each of n = k b texts is true of its picture; text i is told of picture i mod b.

        `text_hidden` are CLIP's hidden states, `text_mask` says which are of real tokens.
        """
        assert len(text_mask) % len(cells) == 0, "every picture has as many texts as every other"
        seen = rearrange(self.see(cells), "b c h w -> b (h w) c") + self.places
        every = torch.ones(len(text_mask), 1, 1, seen.shape[1], dtype=torch.bool, device=seen.device)
        pairs, times = self.transformer.cache(seen, every[: len(seen)]), len(text_mask) // len(cells)
        past = [cast(KV, tuple(x.repeat(times, 1, 1, 1) for x in pair)) for pair in pairs]
        mask = torch.cat([every, text_mask[:, None, None, :]], dim=-1)
        states = self.transformer(self.read(text_hidden), mask, past)
        shares = text_mask / text_mask.sum(dim=1, keepdim=True)
        return self.out((states * shares[..., None]).sum(dim=1))[:, 0]
