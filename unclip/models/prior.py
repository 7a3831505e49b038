"""The diffusion prior (2204.06125, section 2.2): from text to a CLIP image embedding."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from unclip.config import Positive, PositiveFloat, Share, config
from unclip.models.text import Null, checked, drop, embedding_table, null_token, require
from unclip.nn.attention import KV, key_mask
from unclip.nn.embedding import TimeEmbedding, small
from unclip.nn.transformer import Transformer

SUFFIX = 3  # tokens: time, noised image_emb, query


@config
class PriorConfig:
    """The shape of a prior. `image_emb` is CLIP's dimension d, `context` the most text tokens it reads."""

    image_emb: Positive
    width: Positive
    depth: Positive
    heads: Positive
    text: Literal["own", "hidden"]
    """Own BPE embeddings (the paper; needs `vocabulary`) or CLIP's hidden states (Karlo; needs `text_hidden`)."""
    context: Positive = 77
    vocabulary: Positive | None = None
    text_hidden: Positive | None = None
    null: Null = "learned"
    scale: PositiveFloat | None = None
    """What embeddings are multiplied by; None: 0.5375 sqrt(d), which is the paper's 17.2 at d = 1024."""
    text_scale: PositiveFloat | None = None
    """The same for `text_emb`; None: as `scale`."""
    dropout: Share = 0.0

    def __post_init__(self):
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width = {self.width} must be even and a multiple of heads = {self.heads}")
        key = "vocabulary" if self.text == "own" else "text_hidden"
        require([(key, getattr(self, key))], f'text = "{self.text}"')


@dataclass(frozen=True, eq=False)
class PriorCond:
    """Text for the prior; `keep` says which rows keep it (None: all). `text_mask` True = real token (None: all)."""

    text_emb: Float[Tensor, "b d"]
    tokens: Int[Tensor, "b l"] | None = None
    text_hidden: Float[Tensor, "b l w"] | None = None
    text_mask: Bool[Tensor, "b l"] | None = None
    keep: Bool[Tensor, " b"] | None = None


@dataclass(frozen=True, eq=False)
class PriorPrepared:
    """The text prefix's keys and values in every layer, and which of its tokens are real."""

    cache: tuple[KV, ...]
    mask: Bool[Tensor, "b l"]


class Prior(nn.Module):
    """A causal transformer over text tokens, text_emb, time, noised image_emb, query; the query's output predicts.

    x is an image embedding as `standardise` makes it. Any padding, in content or amount, leaves the output as it is.
    """

    shift: Tensor
    std: Tensor

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = config
        d, width = config.image_emb, config.width
        self.text = (
            embedding_table(config.vocabulary or 0, width)
            if config.text == "own"
            else nn.Linear(config.text_hidden or 0, width)
        )
        self.text_emb = nn.Linear(d, width)
        self.time = TimeEmbedding(width, width)
        self.image_emb = nn.Linear(d, width)
        self.query = small(width, std=0.02)
        self.positions = small(config.context + 4, width, std=0.01)
        self.null_text = null_token(width, config.null)
        self.null_text_emb = null_token(d, config.null)
        self.transformer = Transformer(width, config.depth, config.heads, config.dropout)
        self.out = nn.Linear(width, d)
        scale = config.scale or 0.5375 * math.sqrt(d)
        self.text_scale = config.text_scale or scale
        self.register_buffer("shift", torch.zeros(d))
        self.register_buffer("std", torch.full((d,), 1 / scale))

    def standardise(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """CLIP's image embeddings as the diffusion sees them: (z - shift) / std."""
        return (z - self.shift) / self.std

    def restore(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The inverse of `standardise`."""
        return z * self.std + self.shift

    def forward(
        self, x: Float[Tensor, "n d"], t: Num[Tensor, " n"], cond: PriorCond | PriorPrepared
    ) -> Float[Tensor, "n d"]:
        """The net's output for x at time t; x may hold several rows for each of cond's, one after another."""
        ready = cond if isinstance(cond, PriorPrepared) else self.prepare(cond)
        each = len(x) // len(ready.mask)
        suffixes = rearrange(self.suffix(x, t), "(b n) s w -> b (n s) w", n=each)
        states = self.transformer(suffixes, _sees(ready.mask, each), ready.cache)
        return self.out(rearrange(states[:, SUFFIX - 1 :: SUFFIX], "b n w -> (b n) w"))

    def prepare(self, cond: PriorCond) -> PriorPrepared:
        """Everything that ignores x and t: the causal pass over the text, which no later token can change."""
        tokens, mask = self.prefix(cond)
        return PriorPrepared(self.transformer.cache(tokens, key_mask(mask, causal=True)), mask)

    def prefix(self, cond: PriorCond) -> tuple[Float[Tensor, "b n w"], Bool[Tensor, "b n"]]:
        """The text tokens, then text_emb, with positions added; and which of them are real."""
        name = "tokens" if self.config.text == "own" else "text_hidden"
        text, mask = checked("prior", name, getattr(cond, name), cond.text_mask, self.config.context)
        x, mask = drop(self.text(text), mask, cond.keep, self.null_text)
        emb = cond.text_emb * self.text_scale
        if cond.keep is not None and self.null_text_emb is not None:
            emb = torch.where(cond.keep[:, None], emb, self.null_text_emb.to(emb.dtype))
        # a text shorter than the context leaves positions out, so that text_emb always has its own
        x = torch.cat([x + self.positions[: x.shape[1]], self.text_emb(emb)[:, None] + self.positions[-4]], dim=1)
        return x, torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def suffix(self, x: Float[Tensor, "b d"], t: Num[Tensor, " b"]) -> Float[Tensor, "b 3 w"]:
        """The tokens of time, noised embedding and query, with positions added."""
        query = self.query.expand(len(x), -1)
        return torch.stack([self.time(t), self.image_emb(x), query.to(x.dtype)], dim=1) + self.positions[-3:]


def _sees(real: Bool[Tensor, "b l"], count: int) -> Bool[Tensor, "b 1 q l+q"]:
    """Which keys each token of `count` suffixes sees: the real ones of the text, and its own suffix as far as itself."""
    one = torch.ones(SUFFIX, SUFFIX, dtype=torch.bool, device=real.device).tril()
    own = torch.block_diag(*[one] * count).expand(len(real), 1, -1, -1)
    return torch.cat([real[:, None, None].expand(-1, 1, count * SUFFIX, -1), own], dim=3)
