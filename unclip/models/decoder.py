"""The decoder (2204.06125, section 2.1): a 64 px picture from a CLIP image embedding and, optionally, its caption."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional

from unclip.config import Positive, PositiveFloat, config
from unclip.errors import UnclipError
from unclip.models.draft import Draft, DraftConfig
from unclip.models.text import HiddenText, Null, OwnText, checked, last_real, null_token, require
from unclip.models.unet import UNet, UNetConfig
from unclip.nn.attention import KV


@config
class DecoderConfig:
    """The shape of a decoder. `image_emb` is CLIP's dimension d, `size` the pictures' side, `context` the most tokens.

    `text`: "own" = GLIDE's transformer over BPE tokens, trained here (needs `vocabulary`, `text_depth`, `text_heads`);
    "hidden" = CLIP's states, projected (needs `text_hidden`); "none". `text_width` is the width of all context tokens.
    """

    unet: UNetConfig
    image_emb: Positive
    text: Literal["own", "hidden", "none"]
    text_width: Positive
    size: Positive = 64
    image_tokens: Positive = 4
    image_scale: PositiveFloat | None = None
    """What image_emb (and text_emb) is multiplied by; None: sqrt(d), which gives normalised embeddings variance 1."""
    context: Positive = 77
    vocabulary: Positive | None = None
    text_hidden: Positive | None = None
    text_depth: Positive | None = None
    text_heads: Positive | None = None
    pooled_text: bool = False
    """Also add a projection of text_emb to the time embedding (Karlo)."""
    draft: Positive | None = None
    """The width of a `Draft` of image_emb (with pooled_text also of text_emb), which the U-Net sees beside x, so that it need
    not read off tokens where things are. To give a trained decoder one: run.fresh = ["draft", "unet.hint",
    "unet.hint_bypass"] beside --init; with run.pretrained its weights come from a training of its own."""
    null_text: Null = "learned"
    learned_variance: bool = True

    def __post_init__(self):
        if not self.unet.attention:
            raise ValueError("unet.attention is empty, but the decoder reads its context by attention: name a level")
        keys = {"own": ("vocabulary", "text_depth", "text_heads"), "hidden": ("text_hidden",), "none": ()}[self.text]
        require([(key, getattr(self, key)) for key in keys], f'text = "{self.text}"')
        if self.text == "own" and self.text_width % (self.text_heads or 1):
            raise ValueError(f"text_width = {self.text_width} is no multiple of text_heads = {self.text_heads}")


@dataclass(frozen=True, eq=False)
class DecoderCond:
    """What a picture is to show. `keep_*`: which rows keep image and text (None: all); text_mask True = real token."""

    image_emb: Float[Tensor, "b d"]
    tokens: Int[Tensor, "b l"] | None = None
    text_hidden: Float[Tensor, "b l w"] | None = None
    text_mask: Bool[Tensor, "b l"] | None = None
    text_emb: Float[Tensor, "b d"] | None = None
    keep_image: Bool[Tensor, " b"] | None = None
    keep_text: Bool[Tensor, " b"] | None = None


@dataclass(frozen=True, eq=False)
class DecoderPrepared:
    """Keys and values of the context for every attention, which tokens are real, what the time embedding gains, the draft."""

    context: tuple[KV, ...]
    mask: Bool[Tensor, "b l"]
    emb: Float[Tensor, "b e"]
    draft: Float[Tensor, "b 3 s s"] | None = None


class Decoder(nn.Module):
    """A U-Net under an image embedding, which joins the time embedding and makes `image_tokens` tokens before the text.

    With `draft` it also enters as a coarse picture. The rows of `image_tokens` are token after token (Karlo's interleave
    them: permute). Padding changes nothing.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        hint = 3 if config.draft else 0
        self.unet = UNet(config.unet, 3, 6 if config.learned_variance else 3, config.text_width, hint)
        emb, d = self.unet.emb_width, config.image_emb
        self.image_scale = config.image_scale or math.sqrt(d)
        self.image = nn.Linear(d, emb)
        self.image_tokens = nn.Linear(d, config.image_tokens * config.text_width)
        self.null_image = null_token(d, "learned")
        self.text = _text(config)
        self.text_state = nn.Linear(config.text_width, emb) if config.text == "own" else None
        self.text_emb = nn.Linear(d, emb) if config.pooled_text else None
        self.null_text_emb = null_token(d, config.null_text) if config.pooled_text else None
        self.draft = _draft(config)

    def forward(
        self, x: Float[Tensor, "b 3 h w"], t: Num[Tensor, " b"], cond: DecoderCond | DecoderPrepared
    ) -> Float[Tensor, "b c h w"]:
        """The net's output for x at time t: 3 channels of prediction, then 3 of variance if that is learned."""
        ready = cond if isinstance(cond, DecoderPrepared) else self.prepare(cond)
        hint = None if ready.draft is None else ready.draft.to(x.dtype)
        if hint is not None:
            hint = functional.interpolate(hint, x.shape[2:], mode="bilinear")
        return self.unet(x, t, ready.emb, ready.context, ready.mask, hint)

    def prepare(self, cond: DecoderCond) -> DecoderPrepared:
        """Everything that ignores x and t: the text encoder, the projections, the context's keys and values."""
        image = cond.image_emb * self.image_scale
        if cond.keep_image is not None and self.null_image is not None:
            image = torch.where(cond.keep_image[:, None], image, self.null_image.to(image.dtype))
        emb = self.image(image)
        context = rearrange(self.image_tokens(image), "b (n w) -> b n w", n=self.config.image_tokens)
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        if self.text is not None:
            states, real = self._states(cond)
            emb = emb + self.text_state(last_real(states, real)) if self.text_state is not None else emb
            context, mask = torch.cat([context, states], dim=1), torch.cat([mask, real], dim=1)
        if self.text_emb is not None:
            emb = emb + self.text_emb(self._pooled(cond))
        return DecoderPrepared(self.unet.context(context), mask, emb, self._drafted(cond))

    def _drafted(self, cond: DecoderCond) -> Float[Tensor, "b 3 s s"] | None:
        if self.draft is None:
            return None
        return self.draft(cond.image_emb, cond.text_emb, cond.keep_image, cond.keep_text)

    def _states(self, cond: DecoderCond) -> tuple[Tensor, Tensor]:
        name = "tokens" if self.config.text == "own" else "text_hidden"
        text, mask = checked("decoder", name, getattr(cond, name), cond.text_mask, self.config.context)
        assert self.text is not None
        return self.text(text, mask, cond.keep_text)

    def _pooled(self, cond: DecoderCond) -> Float[Tensor, "b d"]:
        if cond.text_emb is None:
            raise UnclipError("this decoder was built with pooled_text and reads text_emb, which was not given")
        emb = cond.text_emb * self.image_scale
        if cond.keep_text is None:
            return emb
        if self.null_text_emb is None:
            raise UnclipError(
                "this decoder has no null text: give it the empty caption's text_emb instead of keep = False"
            )
        return torch.where(cond.keep_text[:, None], emb, self.null_text_emb.to(emb.dtype))


def _draft(config: DecoderConfig) -> Draft | None:
    if config.draft is None:
        return None
    return Draft(DraftConfig(image_emb=config.image_emb, width=config.draft, text_emb=config.pooled_text))


def _text(config: DecoderConfig) -> OwnText | HiddenText | None:
    """The text encoder that the config names."""
    width, null = config.text_width, config.null_text
    if config.text == "own":
        depth, heads = config.text_depth or 0, config.text_heads or 0
        return OwnText(config.vocabulary or 0, config.context, width, depth, heads, null)
    return HiddenText(config.text_hidden or 0, width, null) if config.text == "hidden" else None
