"""Tensor names of Karlo's own checkpoints (and of the OpenAI CLIP beside them), and ours.

Their attention is fused as ours is, but its rows go head by head: [head][q, k, v][channel].
"""

from typing import cast

import torch
from torch import nn

from unclip.clip import ClipConfig, build_net
from unclip.interop.entries import Entry, copied, fitted, interleaved, layer, rearranged, rearranged_layer, tokens_last
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.models.prior import Prior, PriorConfig
from unclip.models.unet import Layer, UNet
from unclip.models.upsampler import Upsampler, UpsamplerConfig
from unclip.nn.resblock import AttentionBlock, ResBlock

STATS = ("clip_mean", "clip_std")
"""The two tensors of the stats file, which are part of the prior."""
KERNEL = "i 1 <-> i"
"""Columns of a convolution over one position, a linear layer in other words."""


def prior_entries(config: PriorConfig) -> tuple[Entry, ...]:
    """The prior: "model.…", and "clip_mean" and "clip_std", which are the first and second tensor of the stats file.

    Raises UnclipError for a config that the layout cannot hold.
    """
    with torch.device("meta"):
        net = Prior(config)
    entries = [
        rearranged("positions", "model.positional_embedding", "1 n w <-> n w"),
        rearranged("query", "model.prd_emb", "1 1 w <-> w"),
        copied("shift", STATS[0]),
        copied("std", STATS[1]),
        *layer("time.mlp.0", "model.time_embed.0"),
        *layer("time.mlp.2", "model.time_embed.2"),
        *layer("text", "model.text_enc_proj"),
        *layer("text_emb", "model.text_emb_proj"),
        *layer("image_emb", "model.clip_img_proj"),
        *layer("transformer.norm", "model.final_ln"),
        *layer("out", "model.out_proj"),
    ]
    for k in range(config.depth):
        ours, theirs = f"transformer.blocks.{k}", f"model.transformer.resblocks.{k}"
        entries += layer(f"{ours}.norm1", f"{theirs}.ln_1")
        entries += interleaved(f"{ours}.attention.qkv", f"{theirs}.attn.c_qkv", 3, config.width // config.heads)
        entries += layer(f"{ours}.attention.out", f"{theirs}.attn.c_proj")
        entries += layer(f"{ours}.norm2", f"{theirs}.ln_2")
        entries += layer(f"{ours}.mlp.0", f"{theirs}.mlp.c_fc")
        entries += layer(f"{ours}.mlp.2", f"{theirs}.mlp.c_proj")
    return fitted(entries, net)


def decoder_entries(config: DecoderConfig) -> tuple[Entry, ...]:
    """The decoder, "model.…". Raises UnclipError for a config that the layout cannot hold."""
    with torch.device("meta"):
        net = Decoder(config)
    entries = [
        copied("null_image", "model.cf_param"),
        *layer("image", "model.clip_emb"),
        *layer("text_emb", "model.text_feat_proj"),
        *tokens_last("image_tokens", "model.clip_tok_proj", config.image_tokens),
        *layer("text.project", "model.text_seq_proj.0"),
        *layer("text.norm", "model.text_seq_proj.1"),
        *_unet(net.unet, "unet", "model"),
    ]
    return fitted(entries, net)


def upsampler_entries(config: UpsamplerConfig) -> tuple[Entry, ...]:
    """The upsampler: "model_first_steps.…", and "model_last_step.…" where the config has a last net.

    Raises UnclipError for a config that the layout cannot hold.
    """
    with torch.device("meta"):
        net = Upsampler(config)
    entries = _unet(net.unet, "unet", "model_first_steps")
    if net.last is not None:
        entries += _unet(net.last, "last", "model_last_step")
    return fitted(entries, net)


def clip_entries(config: ClipConfig) -> tuple[Entry, ...]:
    """CLIP under the names of OpenAI's state dict, which open_clip kept."""
    with torch.device("meta"):
        net = build_net(config)
    return fitted([copied(name, name) for name in net.state_dict()], net)


def _unet(net: UNet, ours: str, theirs: str) -> list[Entry]:
    """A U-Net; our layers are their blocks one to one, but for their first, which is our entry."""
    entries = [
        *layer(f"{ours}.time.mlp.0", f"{theirs}.time_embed.0"),
        *layer(f"{ours}.time.mlp.2", f"{theirs}.time_embed.2"),
        *layer(f"{ours}.entry", f"{theirs}.input_blocks.0.0"),
        *layer(f"{ours}.norm", f"{theirs}.out.0"),
        *layer(f"{ours}.exit", f"{theirs}.out.2"),
    ]
    head = net.config.head_channels
    for k, one in enumerate(cast(list[Layer], net.down)):
        entries += _layer(one, head, f"{ours}.down.{k}", [f"{theirs}.input_blocks.{k + 1}.{i}" for i in range(3)])
    first, second = cast(list[Layer], net.middle)
    entries += _layer(first, head, f"{ours}.middle.0", [f"{theirs}.middle_block.{i}" for i in range(3)])
    after = 1 if first.attention is None else 2
    entries += _layer(second, head, f"{ours}.middle.1", [f"{theirs}.middle_block.{after}"])
    for k, one in enumerate(cast(list[Layer], net.up)):
        entries += _layer(one, head, f"{ours}.up.{k}", [f"{theirs}.output_blocks.{k}.{i}" for i in range(3)])
    return entries


def _layer(one: Layer, head: int, ours: str, places: list[str]) -> list[Entry]:
    """The parts of a layer, which take the `places` of a block in turn."""
    free = iter(places)
    entries = _res(one.res, f"{ours}.res", next(free))
    if one.attention is not None:
        entries += _attention(one.attention, head, f"{ours}.attention", next(free))
    if one.resize is not None:
        entries += _res(one.resize, f"{ours}.resize", next(free))
    return entries


def _res(block: ResBlock, ours: str, theirs: str) -> list[Entry]:
    names = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "emb": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
    }
    if isinstance(block.skip, nn.Conv2d):
        names["skip"] = "skip_connection"
    return [entry for mine, name in names.items() for entry in layer(f"{ours}.{mine}", f"{theirs}.{name}")]


def _attention(block: AttentionBlock, head: int, ours: str, theirs: str) -> list[Entry]:
    entries = layer(f"{ours}.norm", f"{theirs}.norm")
    entries += interleaved(f"{ours}.qkv", f"{theirs}.qkv", 3, head, KERNEL)
    if block.context_kv is not None:
        entries += interleaved(f"{ours}.context_kv", f"{theirs}.encoder_kv", 2, head, KERNEL)
    return entries + rearranged_layer(f"{ours}.out", f"{theirs}.proj_out", "o <-> o", KERNEL)
