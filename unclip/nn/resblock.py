"""The two blocks of ADM's U-Net (2105.05233): residual convolutions under a time embedding; attention with context."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from unclip.nn.attention import KV, attend, join, split_heads


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """GroupNorm of `groups` groups; by default 32 as in ADM, fewer in narrow nets: at least 4 channels a group (EDM).

    A group of one channel is instance norm, which forgets each channel's mean, and with it colour.
    """
    most = min(32, max(channels // 4, 1))
    default = next(g for g in range(most, 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups or default, channels, eps=1e-5)


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with weights and bias set to zero: what it ends starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """SiLU of a tensor that nobody else needs, in its own memory where no gradient will ask for it."""
    return functional.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """norm, SiLU, [resize], conv, (time embedding), norm, SiLU, dropout, conv; plus the input, resized too.

    `scale_shift`: the second norm's output is multiplied by 1 + the first half of the embedding's projection and the
    second half is added (AdaGN); else the projection is added before that norm. `resize` is nearest x2 or a 2x2 mean.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_width: int,
        *,
        dropout: float = 0.0,
        scale_shift: bool = True,
        groups: int | None = None,
        resize: Literal["up", "down"] | None = None,
    ):
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.norm1 = group_norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_width, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b _ _ _"], emb: Float[Tensor, "b _"]) -> Float[Tensor, "b _ _ _"]:
        """x under the embedding `emb`, to which SiLU was applied already (once for all blocks)."""
        h = self.conv1(self._resized(silu(self.norm1(x))))
        e = self.emb(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        return self.skip(self._resized(x)) + self.conv2(self.dropout(silu(h)))

    def _resized(self, x: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b c _ _"]:
        if self.resize == "up":
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return functional.avg_pool2d(x, 2) if self.resize == "down" else x


class AttentionBlock(nn.Module):
    """Pixels attend to context tokens and to each other: keys = [context ; pixels] (GLIDE 2112.10741, section 2.1).

    The context enters raw, by its own projection `context_kv`; without `context_width` this is plain self-attention.
    """

    def __init__(self, channels: int, head_channels: int, context_width: int | None = None, groups: int | None = None):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.out = zeroed(nn.Linear(channels, channels))

    def context(self, context: Float[Tensor, "b l _"]) -> KV:
        """The keys and values of the context, which serve every step of sampling."""
        assert self.context_kv is not None, "this block was built without a context"
        k, v = split_heads(self.context_kv(context), 2, self.heads)
        return k, v

    def forward(
        self, x: Float[Tensor, "b c h w"], context: KV | None = None, mask: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """x + attention; `mask` says which of the context's tokens are real."""
        height, width = x.shape[2:]
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = split_heads(self.qkv(pixels), 3, self.heads)
        visible = None
        if context is not None:
            k, v = join(context, k, v)
            if mask is not None:
                visible = functional.pad(mask, (0, height * width), value=True)[:, None, None, :]
        out = self.out(attend(q, k, v, visible))
        return x + rearrange(out, "b (h w) c -> b c h w", h=height, w=width)
