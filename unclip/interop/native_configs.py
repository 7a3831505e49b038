"""The shapes of native Karlo's nets, read from the shapes of their tensors: its files hold no configs."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from unclip.clip import ClipConfig
from unclip.config import Positive, build, config
from unclip.diffusion.process import ProcessConfig
from unclip.errors import UnclipError
from unclip.models.decoder import DecoderConfig
from unclip.models.prior import PriorConfig
from unclip.models.upsampler import UpsamplerConfig
from unclip.stage import Sampling


@config
class NativeShape:
    """What no tensor tells: the channels of an attention head, of our nets and of CLIP, and the pictures' sides."""

    head_channels: Positive = 64
    clip_head_channels: Positive = 64
    size: Positive = 64
    upsampled: Positive = 256


KARLO = NativeShape()


def _released(predicts: Any, variance: Any, **sampling: Any) -> tuple[ProcessConfig, Sampling]:
    process = ProcessConfig(predicts=predicts, variance=variance, time_offset=1)
    return process, Sampling(sampler="ddpm", spacing="linspace", **sampling)


STAGES = {
    "prior": _released("x0", "small", steps=25, guidance=4.0, limit=10.0),
    "decoder": _released("eps", "learned", steps=25, guidance=8.0),
    "upsampler": _released("eps", "small", steps=7),
}
"""How native Karlo draws, which its files do not say (its "fast" settings)."""


def prior_config(tensors: Mapping[str, Tensor], where: str, shape: NativeShape = KARLO) -> PriorConfig:
    """The shape of a prior. Raises UnclipError that begins with `where` if tensors that tell it are missing or odd."""
    with telling(where):
        _, positions, width = _shape(tensors, "model.positional_embedding", 3)
        told = {
            "image_emb": _shape(tensors, "model.out_proj.weight", 2)[0],
            "width": width,
            "depth": _count(tensors, r"model\.transformer\.resblocks\.(\d+)\."),
            "heads": width // shape.head_channels,
            "text": "hidden",
            "text_hidden": _shape(tensors, "model.text_enc_proj.weight", 2)[1],
            "context": positions - 4,
            "null": "empty",
            "scale": 1.0,
        }
    return build(PriorConfig, told, where)


def decoder_config(tensors: Mapping[str, Tensor], where: str, shape: NativeShape = KARLO) -> DecoderConfig:
    """The shape of a decoder. Raises UnclipError as above."""
    with telling(where):
        width, hidden = _shape(tensors, "model.text_seq_proj.0.weight", 2)
        tokens, d = _shape(tensors, "model.clip_tok_proj.weight", 2)
        told = {
            "unet": _unet(tensors, "model.", shape),
            "image_emb": d,
            "text": "hidden",
            "text_width": width,
            "text_hidden": hidden,
            "size": shape.size,
            "image_tokens": tokens // width,
            "image_scale": 1.0,
            "pooled_text": True,
            "null_text": "empty",
            "learned_variance": _shape(tensors, "model.out.2.weight", 4)[0] == 6,
        }
    return build(DecoderConfig, told, where)


def upsampler_config(tensors: Mapping[str, Tensor], where: str, shape: NativeShape = KARLO) -> UpsamplerConfig:
    """The shape of an upsampler; with a second net where there is one. Raises UnclipError as above."""
    second = any(name.startswith("model_last_step.") for name in tensors)
    with telling(where):
        unet = _unet(tensors, "model_first_steps.", shape)
    sizes = {"size": shape.upsampled, "scale": shape.upsampled // shape.size}
    return build(UpsamplerConfig, {"unet": unet, **sizes, "last_until": 0 if second else None}, where)


def clip_config(
    tensors: Mapping[str, Tensor], where: str, shape: NativeShape = KARLO, merges: tuple[str, ...] | None = None
) -> ClipConfig:
    """The shape of one of OpenAI's CLIPs with a vision transformer, or of its text tower. Raises UnclipError as above."""
    with telling(where):
        context, width = _shape(tensors, "positional_embedding", 2)
        text = {
            "context_length": context,
            "width": width,
            "heads": width // shape.clip_head_channels,
            "layers": _count(tensors, r"transformer\.resblocks\.(\d+)\."),
        }
        vision = _vision(tensors, shape) if "visual.conv1.weight" in tensors else None
        told = {"embed_dim": _shape(tensors, "text_projection", 2)[1], "quick_gelu": True, "normalize": False}
    return build(ClipConfig, told | {"text": text, "vision": vision, "merges": merges}, where)


@contextlib.contextmanager
def telling(where: str) -> Iterator[None]:
    """Puts the file's name before what is wrong with its tensors."""
    try:
        yield
    except UnclipError as error:
        raise UnclipError(f"{where}: {error}") from None


def _vision(tensors: Mapping[str, Tensor], shape: NativeShape) -> dict[str, Any]:
    width, _, _, patch = _shape(tensors, "visual.conv1.weight", 4)
    side = round((_shape(tensors, "visual.positional_embedding", 2)[0] - 1) ** 0.5)
    layers = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
    tower = {"image_size": side * patch, "patch_size": patch, "width": width, "layers": layers}
    return tower | {"head_width": shape.clip_head_channels}


def _unet(tensors: Mapping[str, Tensor], prefix: str, shape: NativeShape) -> dict[str, Any]:
    """A U-Net: from the widths of its blocks on the way down, and from where it attends."""
    channels = _shape(tensors, f"{prefix}input_blocks.0.0.weight", 4)[0]
    blocks = _count(tensors, rf"{re.escape(prefix)}input_blocks\.(\d+)\.")
    widths = [_shape(tensors, f"{prefix}input_blocks.{k}.0.out_layers.3.weight", 4)[0] for k in range(1, blocks)]
    # a level is some blocks and one that halves the picture, all of the level's width
    per_level = next((k for k in range(1, len(widths)) if widths[k] != widths[0]), blocks)
    levels = widths[::per_level]
    if len(widths) < 2 or blocks % per_level or any(width % channels for width in levels):
        raise UnclipError(f"{prefix}input_blocks: their widths are {widths}; expected levels of equally many blocks")
    emb = _shape(tensors, f"{prefix}input_blocks.1.0.emb_layers.1.weight", 2)[0]
    starts = [f"{prefix}input_blocks.{1 + level * per_level}" for level in range(len(levels))]
    attention = tuple(level for level, start in enumerate(starts) if f"{start}.1.norm.weight" in tensors)
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in levels),
        "depth": per_level - 1,
        "attention": attention,
        "head_channels": shape.head_channels if attention else 64,
        "scale_shift": emb == 2 * widths[0],
        "groups": 32,
    }


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that has so many axes, none of them empty."""
    if name not in tensors:
        raise UnclipError(f"no tensor {name!r}; expected native Karlo's names")
    found = tuple(tensors[name].shape)
    if len(found) != axes or 0 in found:
        raise UnclipError(f"{name!r} is {list(found)}; expected {axes} axes, none of them empty")
    return found


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbered modules there are."""
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    return max(found, default=-1) + 1
