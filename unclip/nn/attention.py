"""Multi-head attention over tokens, with a boolean mask and keys and values that were computed before."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

KV = tuple[Float[Tensor, "b _ _ _"], Float[Tensor, "b _ _ _"]]
# keys and values, each [batch, heads, tokens, channels of a head]


def split_heads(x: Float[Tensor, "b n _"], parts: int, heads: int) -> tuple[Float[Tensor, "b _ n _"], ...]:
    """The `parts` equal parts of the last axis (queries, keys, values in this order), each [b, heads, n, channels]."""
    return rearrange(x, "b n (parts h d) -> parts b h n d", parts=parts, h=heads).unbind(0)


def attend(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m d"],
    mask: Bool[Tensor, "b _ _ m"] | None = None,
) -> Float[Tensor, "b n c"]:
    """softmax(q k' / sqrt(d)) v with the heads joined; mask True = this query may see this key (1706.03762, eq. 1)."""
    return rearrange(scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")


def join(past: KV, k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n d"]) -> KV:
    """The keys and values of the past followed by those given."""
    return torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)


def key_mask(real: Bool[Tensor, "b l"], causal: bool) -> Bool[Tensor, "b 1 l l"]:
    """Who may see whom among l tokens: real ones are seen by all, or by later ones only when causal.

    Every token sees itself, so that padding, which nobody else sees, does not become NaN.
    """
    length = real.shape[1]
    square = torch.ones(length, length, dtype=torch.bool, device=real.device)
    seen = real[:, None, None, :].expand(-1, 1, length, -1)
    return (seen & square.tril() if causal else seen) | square.tril().triu()


class SelfAttention(nn.Module):
    """Multi-head self-attention with fused projections: queries, keys and values are the thirds of `qkv`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        assert width % heads == 0, "the width is shared equally among the heads"
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b _ n _"], ...]:
        """The queries, keys and values of x."""
        return split_heads(self.qkv(x), 3, self.heads)
