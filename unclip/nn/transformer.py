"""A pre-LN transformer that can run the beginning of a sequence once and its end many times."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unclip.nn.attention import KV, SelfAttention, attend, join


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x); erf GELU, MLP four times as wide (the block of GLIDE and Karlo).

    The outputs of both halves start `gain` times as large as torch makes them."""

    def __init__(self, width: int, heads: int, dropout: float, gain: float = 1.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        last = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.attention.out.weight.mul_(gain)
            last.weight.mul_(gain)

    def project(self, x: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b _ n _"], ...]:
        """The queries, keys and values of x, each [b, heads, n, channels]."""
        return self.attention.project(self.norm1(x))

    def update(
        self, x: Float[Tensor, "b n c"], q: Float[Tensor, "b _ n _"], kv: KV, mask: Bool[Tensor, "b _ _ m"]
    ) -> Float[Tensor, "b n c"]:
        """x after the block, its attention reading `kv`."""
        x = x + self.dropout(self.attention.out(attend(q, *kv, mask)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """Blocks and a last LayerNorm. `cache` runs a prefix, `forward` a sequence or what follows a cached prefix.

    Dropout acts on what each half of a block adds. The outputs of attention and MLP start smaller by 1/sqrt(2 depth)
    (GPT-2's rule), so that the small initial embeddings of tokens and positions are not drowned.
    """

    def __init__(self, width: int, depth: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout, gain=(2 * depth) ** -0.5) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b _ _ m"], past: Sequence[KV] | None = None
    ) -> Float[Tensor, "b n c"]:
        """The states of x; with `past`, of x as the continuation of what `past` caches (m = past + n keys)."""
        for i, block in enumerate(self._typed()):
            q, k, v = block.project(x)
            x = block.update(x, q, join(past[i], k, v) if past is not None else (k, v), mask)
        return self.norm(x)

    def cache(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b _ _ n"]) -> tuple[KV, ...]:
        """The keys and values of x in every layer; valid for any continuation if the mask is causal."""
        pairs: list[KV] = []
        for block in self._typed():
            q, k, v = block.project(x)
            pairs.append((k, v))
            if len(pairs) < len(self.blocks):  # nobody reads what the last block makes of a prefix
                x = block.update(x, q, (k, v), mask)
        return tuple(pairs)

    def _typed(self) -> Iterable[Block]:
        return cast(Iterable[Block], self.blocks)
