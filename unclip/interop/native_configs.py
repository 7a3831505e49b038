"""The shapes of native Karlo's nets, read from the shapes of their tensors: its files hold no configs."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unclip.clip import ClipConfig
from unclip.config import Positive, config
from unclip.errors import UnclipError
from unclip.models.decoder import DecoderConfig
from unclip.models.prior import PriorConfig
from unclip.models.unet import UNetConfig
from unclip.models.upsampler import UpsamplerConfig


@config
class NativeShape:
    """What no tensor tells: the channels of an attention head, of our nets and of CLIP, and the pictures' sides."""

    head_channels: Positive = 64
    clip_head_channels: Positive = 64
    size: Positive = 64
    upsampled: Positive = 256


KARLO = NativeShape()


def prior_config(tensors: Mapping[str, Tensor], shape: NativeShape = KARLO) -> PriorConfig:
    """The shape of a prior. Raises UnclipError when a tensor that tells it is missing."""
    positions, out = _shape(tensors, "model.positional_embedding"), _shape(tensors, "model.out_proj.weight")
    return PriorConfig(
        image_emb=out[0],
        width=positions[-1],
        depth=_count(tensors, r"model\.transformer\.resblocks\.(\d+)\."),
        heads=positions[-1] // shape.head_channels,
        text="hidden",
        text_hidden=_shape(tensors, "model.text_enc_proj.weight")[1],
        context=positions[1] - 4,
        null="empty",
        scale=1.0,
    )


def decoder_config(tensors: Mapping[str, Tensor], shape: NativeShape = KARLO) -> DecoderConfig:
    """The shape of a decoder. Raises UnclipError when a tensor that tells it is missing."""
    width, hidden = _shape(tensors, "model.text_seq_proj.0.weight")
    tokens, d = _shape(tensors, "model.clip_tok_proj.weight")
    return DecoderConfig(
        unet=_unet(tensors, "model.", shape),
        image_emb=d,
        text="hidden",
        text_width=width,
        text_hidden=hidden,
        size=shape.size,
        image_tokens=tokens // width,
        image_scale=1.0,
        pooled_text=True,
        null_text="empty",
        learned_variance=_shape(tensors, "model.out.2.weight")[0] == 6,
    )


def upsampler_config(tensors: Mapping[str, Tensor], shape: NativeShape = KARLO) -> UpsamplerConfig:
    """The shape of an upsampler; with a second net where there is one. Raises UnclipError as above."""
    second = any(name.startswith("model_last_step.") for name in tensors)
    return UpsamplerConfig(
        unet=_unet(tensors, "model_first_steps.", shape),
        size=shape.upsampled,
        scale=shape.upsampled // shape.size,
        last_until=0 if second else None,
    )


def clip_config(
    tensors: Mapping[str, Tensor], shape: NativeShape = KARLO, merges: tuple[str, ...] | None = None
) -> ClipConfig:
    """The shape of one of OpenAI's CLIPs with a vision transformer, or of its text tower. Raises UnclipError as above."""
    context, text = _shape(tensors, "positional_embedding")
    return ClipConfig(
        embed_dim=_shape(tensors, "text_projection")[1],
        quick_gelu=True,
        vision=_vision(tensors, shape) if "visual.conv1.weight" in tensors else None,
        text={
            "context_length": context,
            "width": text,
            "heads": text // shape.clip_head_channels,
            "layers": _count(tensors, r"transformer\.resblocks\.(\d+)\."),
        },
        merges=merges,
        normalize=False,
    )


def _vision(tensors: Mapping[str, Tensor], shape: NativeShape) -> dict[str, Any]:
    width, _, _, patch = _shape(tensors, "visual.conv1.weight")
    side = round((_shape(tensors, "visual.positional_embedding")[0] - 1) ** 0.5)
    layers = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
    tower = {"image_size": side * patch, "patch_size": patch, "width": width, "layers": layers}
    return tower | {"head_width": shape.clip_head_channels}


def _unet(tensors: Mapping[str, Tensor], prefix: str, shape: NativeShape) -> UNetConfig:
    """A U-Net: from the widths of its blocks on the way down, and from where it attends."""
    channels = _shape(tensors, f"{prefix}input_blocks.0.0.weight")[0]
    blocks = _count(tensors, rf"{re.escape(prefix)}input_blocks\.(\d+)\.")
    widths = [_shape(tensors, f"{prefix}input_blocks.{k}.0.out_layers.3.weight")[0] for k in range(1, blocks)]
    # a level is some blocks and one that halves the picture, all of the level's width
    per_level = next((k for k in range(1, len(widths)) if widths[k] != widths[0]), blocks)
    levels = widths[::per_level]
    if blocks % per_level or any(width % channels for width in levels):
        raise UnclipError(f"{prefix}input_blocks: their widths are {widths}; expected levels of equally many blocks")
    emb = _shape(tensors, f"{prefix}input_blocks.1.0.emb_layers.1.weight")[0]
    starts = [f"{prefix}input_blocks.{1 + level * per_level}" for level in range(len(levels))]
    attention = tuple(level for level, start in enumerate(starts) if f"{start}.1.norm.weight" in tensors)
    return UNetConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in levels),
        depth=per_level - 1,
        attention=attention,
        head_channels=shape.head_channels if attention else 64,
        scale_shift=emb == 2 * widths[0],
        groups=32,
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise UnclipError(f"no tensor {name!r}; expected native Karlo's names")
    return tuple(tensors[name].shape)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbered modules there are."""
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    return max(found, default=-1) + 1
