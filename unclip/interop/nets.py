"""What both writers of foreign layouts ask of a box: its nets, their configs, and tensors as files may hold them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unclip.checkpoint import Weights
from unclip.clip import ClipConfig, build_net
from unclip.config import build
from unclip.errors import UnclipError
from unclip.folder import Box
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.models.prior import Prior, PriorConfig
from unclip.models.upsampler import Upsampler, UpsamplerConfig

CONFIGS: dict[str, type] = {
    "clip": ClipConfig,
    "prior": PriorConfig,
    "decoder": DecoderConfig,
    "upsampler": UpsamplerConfig,
}
NETS: dict[str, type[nn.Module]] = {"prior": Prior, "decoder": Decoder, "upsampler": Upsampler}


def complete(box: Box) -> tuple[Weights, Weights, Weights]:
    """CLIP, decoder and the one upsampler that foreign layouts have. Raises UnclipError for other systems."""
    if box.decoder is None or len(box.upsamplers) != 1:
        raise UnclipError(
            f"{box.where}: {len(box.upsamplers)} upsamplers and {'a' if box.decoder else 'no'} decoder; this layout holds"
            " a decoder and one upsampler"
        )
    return box.clip, box.decoder, box.upsamplers[0]


def net_config(weights: Weights) -> Any:
    """The net's own config. Raises UnclipError for a damaged one."""
    return build(CONFIGS[weights.header.net], weights.header.model, f"{weights.where}: header: model")


def hollow_tensors(role: str, config: Any) -> dict[str, Tensor]:
    """The tensors of a net on the meta device: names and shapes."""
    with torch.device("meta"):
        net = build_net(config) if role == "clip" else NETS[role](config)
    return net.state_dict()


def cast_tensors(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors for a file, floating-point ones in `dtype` if given."""
    # parts of a fused tensor share its memory, which a file must not
    return {name: (x.to(dtype) if dtype and x.is_floating_point() else x).clone() for name, x in tensors.items()}
