"""ADM's U-Net (2105.05233), the trunk of the decoder and the upsamplers, in the layout of GLIDE and Karlo."""

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from unclip.config import Natural, Positive, Share, config
from unclip.errors import UnclipError
from unclip.nn.attention import KV
from unclip.nn.embedding import TimeEmbedding
from unclip.nn.resblock import AttentionBlock, ResBlock, group_norm, silu, zeroed


@config
class UNetConfig:
    """The shape of a U-Net; level 0 is full resolution (after `patch`), each next level has half the side.

    The number of residual blocks (`depth`) is per level, one for all or each its own; on the way up there is one more.
    """

    channels: Positive
    multipliers: tuple[Positive, ...]
    depth: Positive | tuple[Positive, ...]
    attention: tuple[Natural, ...] = ()
    """The levels whose residual blocks are followed by attention; if any, the middle has attention too."""
    head_channels: Positive = 64
    dropout: Share = 0.0
    scale_shift: bool = True
    """Time enters by AdaGN (True) or is added before the second norm (False; Karlo's upsamplers)."""
    patch: Positive = 1
    """Pixels are folded patch x patch into channels at the entry and unfolded at the exit: patch^2 fewer positions."""
    bypass: bool | None = None
    """The input's channels, mixed by a matrix that the time embedding makes, join the output; None: where patch > 1.

    A folded trunk learns to copy pixels slowly: with patch 4 this took the loss after 160 steps from 0.43 to 0.15.
    """
    groups: Positive | None = None
    """Groups of every GroupNorm; None: 32, fewer where that would leave fewer than 4 channels to a group."""
    checkpointing: bool = False
    """Recompute each layer in the backward pass instead of storing it: less memory, a third more time."""

    def __post_init__(self):
        if not self.multipliers:
            raise ValueError("multipliers is empty, expected one number per level, such as [1, 2, 3, 4]")
        if self.channels % 2:
            raise ValueError(
                f"channels = {self.channels} must be even: half of the time's sinusoid is cosines, half sines"
            )
        levels = len(self.multipliers)
        if not isinstance(self.depth, int) and len(self.depth) != levels:
            raise ValueError(f"depth = {list(self.depth)}: expected one number, or one for each of {levels} levels")
        if any(level >= levels for level in self.attention):
            raise ValueError(f"attention = {list(self.attention)} names a level beyond the last, {levels - 1}")
        widths = [self.channels * m for m in self.multipliers]
        attending = [widths[level] for level in self.attention] + (widths[-1:] if self.attention else [])
        for width in attending:
            if width % self.head_channels:
                raise ValueError(
                    f"head_channels = {self.head_channels} does not divide the {width} channels of a level"
                )
        if self.groups and any(width % self.groups for width in [self.channels, *widths]):
            raise ValueError(f"groups = {self.groups} does not divide the channels of all levels, {widths}")

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of residual blocks of each level, on the way down."""
        return (self.depth,) * len(self.multipliers) if isinstance(self.depth, int) else self.depth


class Layer(nn.Module):
    """One entry of the way down or up: a residual block, then attention and a resizing block where there are any."""

    def __init__(self, res: ResBlock, attention: AttentionBlock | None = None, resize: ResBlock | None = None):
        super().__init__()
        self.res, self.attention, self.resize = res, attention, resize

    def forward(
        self,
        x: Float[Tensor, "b _ _ _"],
        emb: Float[Tensor, "b _"],
        context: KV | None,
        mask: Bool[Tensor, "b _"] | None,
    ) -> Float[Tensor, "b _ _ _"]:
        """x after the layer; `context` are the keys and values that this layer's attention made of the context."""
        x = self.res(x, emb)
        x = self.attention(x, context, mask) if self.attention is not None else x
        return self.resize(x, emb) if self.resize is not None else x


class UNet(nn.Module):
    """Pixels, a time, an additive embedding and context tokens in; `out_channels` pixels out, zero before training.

    Layer k of `down` is ADM's input block k + 1 and layer k of `up` its output block k: foreign weights map one to one.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        context_width: int | None = None,
        hint_channels: int = 0,
    ):
        super().__init__()
        self.config, self.context_width = config, context_width
        self.emb_width = 4 * config.channels
        folded = config.patch**2
        self.time = TimeEmbedding(config.channels, self.emb_width)
        self.entry = nn.Conv2d(in_channels * folded, config.channels, 3, padding=1)
        self.down, skips = self._descent()
        width = config.channels * config.multipliers[-1]
        attention = self._attention(width) if config.attention else None
        self.middle = nn.ModuleList([Layer(self._res(width, width), attention), Layer(self._res(width, width))])
        self.up = self._ascent(width, skips)
        bypass = config.patch > 1 if config.bypass is None else config.bypass
        self.bypass = zeroed(nn.Linear(self.emb_width, in_channels * out_channels)) if bypass else None
        # a hint enters as more channels of x would, but by weights of its own: a trained net can be given one
        hinted = hint_channels > 0
        self.hint = zeroed(nn.Conv2d(hint_channels * folded, config.channels, 3, padding=1)) if hinted else None
        self.hint_bypass = (
            zeroed(nn.Linear(self.emb_width, hint_channels * out_channels)) if hinted and bypass else None
        )
        self.norm = group_norm(config.channels * config.multipliers[0], config.groups)
        self.exit = zeroed(nn.Conv2d(config.channels * config.multipliers[0], out_channels * folded, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "b _ h w"],
        t: Num[Tensor, " b"],
        emb: Float[Tensor, "b _"] | None = None,
        context: Sequence[KV] = (),
        mask: Bool[Tensor, "b _"] | None = None,
        hint: Float[Tensor, "b _ h w"] | None = None,
    ) -> Float[Tensor, "b _ h w"]:
        """The output at time t, for any height and width that the levels can halve; raises UnclipError for others.

        `emb` is added to the time embedding; `context` is what `context()` returned, `mask` says which tokens are real.
        `hint` is a picture that a net built with `hint_channels` sees beside x; at first it makes no difference.
        """
        self._check(x)
        assert (hint is None) == (self.hint is None), "a net that is built for a hint needs one, and no other takes one"
        e = self.time(t)
        e = functional.silu(e if emb is None else e + emb)
        pairs = iter(context)
        h = self.entry(functional.pixel_unshuffle(x, self.config.patch))
        if self.hint is not None and hint is not None:
            h = h + self.hint(functional.pixel_unshuffle(hint, self.config.patch))
        skips = [h]
        for layer in self.down:
            h = self._run(layer, h, e, pairs, mask)
            skips.append(h)
        for layer in self.middle:
            h = self._run(layer, h, e, pairs, mask)
        for layer in self.up:
            h = torch.cat([h, skips.pop()], dim=1)  # what it was joined from is let go before the layer needs memory
            h = self._run(layer, h, e, pairs, mask)
        out = functional.pixel_shuffle(self.exit(silu(self.norm(h))), self.config.patch)
        out = out if self.bypass is None else out + self._bypassed(x, self.bypass(e))
        return out if self.hint_bypass is None or hint is None else out + self._bypassed(hint, self.hint_bypass(e))

    def context(self, tokens: Float[Tensor, "b l _"]) -> tuple[KV, ...]:
        """The keys and values of context tokens in every attention, in the order of the pass; they serve every step."""
        layers = cast(list[Layer], [*self.down, *self.middle, *self.up])
        return tuple(layer.attention.context(tokens) for layer in layers if layer.attention is not None)

    @staticmethod
    def _bypassed(x: Float[Tensor, "b _ h w"], mix: Float[Tensor, "b _"]) -> Float[Tensor, "b _ h w"]:
        matrix = rearrange(mix, "b (o i) -> b o i", i=x.shape[1])
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round the pixels
            return torch.einsum("boi,bihw->bohw", matrix.float(), x.float())

    def _run(
        self, layer: nn.Module, h: Tensor, emb: Tensor, pairs: Iterator[KV], mask: Tensor | None
    ) -> Float[Tensor, "b _ _ _"]:
        pair = next(pairs, None) if layer.attention is not None else None
        if self.config.checkpointing and self.training:
            return cast(Tensor, checkpoint(layer, h, emb, pair, mask, use_reentrant=False))
        return layer(h, emb, pair, mask)

    def _res(self, channels: int, out: int, resize: Literal["up", "down"] | None = None) -> ResBlock:
        c = self.config
        return ResBlock(
            channels, out, self.emb_width, dropout=c.dropout, scale_shift=c.scale_shift, groups=c.groups, resize=resize
        )

    def _attention(self, channels: int) -> AttentionBlock:
        return AttentionBlock(channels, self.config.head_channels, self.context_width, self.config.groups)

    def _descent(self) -> tuple[nn.ModuleList, list[int]]:
        """The way down, and the channels of every skip connection from first to last."""
        width, layers = self.config.channels, nn.ModuleList()
        skips = [width]
        for level, multiplier in enumerate(self.config.multipliers):
            out = self.config.channels * multiplier
            for _ in range(self.config.depths[level]):
                layers.append(
                    Layer(self._res(width, out), self._attention(out) if level in self.config.attention else None)
                )
                skips.append(width := out)
            if level < len(self.config.multipliers) - 1:
                layers.append(Layer(self._res(width, width, "down")))
                skips.append(width)
        return layers, skips

    def _ascent(self, width: int, skips: list[int]) -> nn.ModuleList:
        layers, skips = nn.ModuleList(), list(skips)
        for level, multiplier in reversed(list(enumerate(self.config.multipliers))):
            out = self.config.channels * multiplier
            for k in range(self.config.depths[level] + 1):
                last = level > 0 and k == self.config.depths[level]
                attention = self._attention(out) if level in self.config.attention else None
                layers.append(
                    Layer(self._res(width + skips.pop(), out), attention, self._res(out, out, "up") if last else None)
                )
                width = out
        return layers

    def _check(self, x: Tensor) -> None:
        unit = self.config.patch * 2 ** (len(self.config.multipliers) - 1)
        if x.shape[2] % unit or x.shape[3] % unit:
            given = f"{x.shape[2]}x{x.shape[3]}"
            raise UnclipError(
                f"a picture of {given} pixels does not fit this net: both sides must be multiples of {unit}"
            )
