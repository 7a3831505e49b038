"""Tensor names of diffusers' UnCLIP folders (Karlo, Kandinsky's priors) and of transformers' CLIPs, and ours.

Where a net of ours is several of theirs, their names begin with the folder: "text_proj.…", "super_res_last.…".
"""

import math
from typing import cast

import torch
from torch import nn

from unclip.clip import ClipConfig, build_net
from unclip.interop.entries import (
    Entry,
    constant,
    copied,
    fitted,
    layer,
    rearranged,
    stacked,
    stacked_layer,
    tokens_last,
)
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.models.prior import Prior, PriorConfig
from unclip.models.unet import Layer, UNet
from unclip.models.upsampler import Upsampler, UpsamplerConfig
from unclip.nn.resblock import AttentionBlock, ResBlock

IGNORED = ("*.position_ids",)
"""Integer buffers that transformers' CLIPs held once."""


def prior_entries(config: PriorConfig) -> tuple[Entry, ...]:
    """The prior, in the names of PriorTransformer. Raises UnclipError for a config that the layout cannot hold."""
    with torch.device("meta"):
        net = Prior(config)
    entries = [
        rearranged("positions", "positional_embedding", "1 n w <-> n w"),
        rearranged("query", "prd_embedding", "1 1 w <-> w"),
        rearranged("shift", "clip_mean", "1 d <-> d"),
        rearranged("std", "clip_std", "1 d <-> d"),
        *layer("time.mlp.0", "time_embedding.linear_1"),
        *layer("time.mlp.2", "time_embedding.linear_2"),
        *layer("text", "encoder_hidden_states_proj"),
        *layer("text_emb", "embedding_proj"),
        *layer("image_emb", "proj_in"),
        *layer("transformer.norm", "norm_out"),
        *layer("out", "proj_to_clip_embeddings"),
    ]
    for k in range(config.depth):
        ours, theirs = f"transformer.blocks.{k}", f"transformer_blocks.{k}"
        entries += layer(f"{ours}.norm1", f"{theirs}.norm1")
        entries += stacked_layer(f"{ours}.attention.qkv", [f"{theirs}.attn1.to_{part}" for part in "qkv"])
        entries += layer(f"{ours}.attention.out", f"{theirs}.attn1.to_out.0")
        entries += layer(f"{ours}.norm2", f"{theirs}.norm3")  # norm2 would be a cross-attention's
        entries += layer(f"{ours}.mlp.0", f"{theirs}.ff.net.0.proj")
        entries += layer(f"{ours}.mlp.2", f"{theirs}.ff.net.2")
    return fitted(entries, net)


def decoder_entries(config: DecoderConfig) -> tuple[Entry, ...]:
    """The decoder: "decoder.…" of UNet2DConditionModel, "text_proj.…" of UnCLIPTextProjModel.

    Raises UnclipError for a config that the layout cannot hold.
    """
    with torch.device("meta"):
        net = Decoder(config)
    entries = [
        copied("null_image", "text_proj.learned_classifier_free_guidance_embeddings"),
        *layer("image", "text_proj.clip_image_embeddings_project_to_time_embeddings"),
        *layer("text_emb", "text_proj.embedding_proj"),
        *tokens_last("image_tokens", "text_proj.clip_extra_context_tokens_proj", config.image_tokens),
        *layer("text.project", "text_proj.encoder_hidden_states_proj"),
        *layer("text.norm", "text_proj.text_encoder_hidden_states_norm"),
        *_unet(net.unet, "unet", "decoder"),
    ]
    return fitted(entries, net)


def upsampler_entries(config: UpsamplerConfig) -> tuple[Entry, ...]:
    """The upsampler: "super_res_first.…" of UNet2DModel, and "super_res_last.…" where the config has a last net.

    Raises UnclipError for a config that the layout cannot hold.
    """
    with torch.device("meta"):
        net = Upsampler(config)
    entries = _unet(net.unet, "unet", "super_res_first")
    if net.last is not None:
        entries += _unet(net.last, "last", "super_res_last")
    return fitted(entries, net)


def clip_entries(config: ClipConfig) -> tuple[Entry, ...]:
    """CLIP: "text_encoder.…" of CLIPTextModelWithProjection, "image_encoder.…" of CLIPVisionModelWithProjection.

    Raises UnclipError for a config that the layout cannot hold.
    """
    with torch.device("meta"):
        net = build_net(config)
    text = "text_encoder.text_model"
    entries = [
        copied("token_embedding.weight", f"{text}.embeddings.token_embedding.weight"),
        copied("positional_embedding", f"{text}.embeddings.position_embedding.weight"),
        *layer("ln_final", f"{text}.final_layer_norm"),
        rearranged("text_projection", "text_encoder.text_projection.weight", "o i <-> i o"),
        constant("logit_scale", math.log(1 / 0.07)),  # CLIP's initial one: neither tower keeps the trained one
    ]
    for k in range(_blocks(net)):
        entries += _clip_block(f"transformer.resblocks.{k}", f"{text}.encoder.layers.{k}")
    if config.vision is None:
        return fitted(entries, net)
    picture = "image_encoder.vision_model"
    entries += [
        copied("visual.class_embedding", f"{picture}.embeddings.class_embedding"),
        copied("visual.positional_embedding", f"{picture}.embeddings.position_embedding.weight"),
        copied("visual.conv1.weight", f"{picture}.embeddings.patch_embedding.weight"),
        *layer("visual.ln_pre", f"{picture}.pre_layrnorm"),
        *layer("visual.ln_post", f"{picture}.post_layernorm"),
        rearranged("visual.proj", "image_encoder.visual_projection.weight", "o i <-> i o"),
    ]
    for k in range(_blocks(cast(nn.Module, net.visual))):
        entries += _clip_block(f"visual.transformer.resblocks.{k}", f"{picture}.encoder.layers.{k}")
    return fitted(entries, net)


def _blocks(tower: nn.Module) -> int:
    return len(cast(nn.ModuleList, cast(nn.Module, tower.transformer).resblocks))


def _clip_block(ours: str, theirs: str) -> list[Entry]:
    entries = [
        stacked(f"{ours}.attn.in_proj_{leaf}", [f"{theirs}.self_attn.{part}_proj.{leaf}" for part in "qkv"])
        for leaf in ("weight", "bias")
    ]
    entries += layer(f"{ours}.ln_1", f"{theirs}.layer_norm1")
    entries += layer(f"{ours}.attn.out_proj", f"{theirs}.self_attn.out_proj")
    entries += layer(f"{ours}.ln_2", f"{theirs}.layer_norm2")
    entries += layer(f"{ours}.mlp.c_fc", f"{theirs}.mlp.fc1")
    return entries + layer(f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2")


def _unet(net: UNet, ours: str, theirs: str) -> list[Entry]:
    """A U-Net; their blocks are our levels, ways up and down counted in the order of the pass."""
    depths = {"down": net.config.depths, "up": net.config.depths[::-1]}
    places = {way: [(level, i) for level, n in enumerate(each) for i in range(n + 1)] for way, each in depths.items()}
    entries = [
        *layer(f"{ours}.time.mlp.0", f"{theirs}.time_embedding.linear_1"),
        *layer(f"{ours}.time.mlp.2", f"{theirs}.time_embedding.linear_2"),
        *layer(f"{ours}.entry", f"{theirs}.conv_in"),
        *layer(f"{ours}.norm", f"{theirs}.conv_norm_out"),
        *layer(f"{ours}.exit", f"{theirs}.conv_out"),
    ]
    for way, layers in (("down", net.down), ("mid", net.middle), ("up", net.up)):
        for k, one in enumerate(cast(list[Layer], layers)):
            if way == "mid":
                block, i, mine, shrinks = f"{theirs}.mid_block", k, f"{ours}.middle.{k}", False
            else:
                level, i = places[way][k]
                block, mine = f"{theirs}.{way}_blocks.{level}", f"{ours}.{way}.{k}"
                shrinks = way == "down" and i == net.config.depths[level]
            entries += _res(one.res, f"{mine}.res", f"{block}.downsamplers.0" if shrinks else f"{block}.resnets.{i}")
            if one.attention is not None:
                entries += _attention(one.attention, f"{mine}.attention", f"{block}.attentions.{i}")
            if one.resize is not None:
                entries += _res(one.resize, f"{mine}.resize", f"{block}.upsamplers.0")
    return entries


def _res(block: ResBlock, ours: str, theirs: str) -> list[Entry]:
    names = {"norm1": "norm1", "conv1": "conv1", "emb": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
    if isinstance(block.skip, nn.Conv2d):
        names["skip"] = "conv_shortcut"
    return [entry for mine, name in names.items() for entry in layer(f"{ours}.{mine}", f"{theirs}.{name}")]


def _attention(block: AttentionBlock, ours: str, theirs: str) -> list[Entry]:
    entries = layer(f"{ours}.norm", f"{theirs}.group_norm")
    entries += stacked_layer(f"{ours}.qkv", [f"{theirs}.to_{part}" for part in "qkv"])
    if block.context_kv is not None:
        entries += stacked_layer(f"{ours}.context_kv", [f"{theirs}.add_{part}_proj" for part in "kv"])
    return entries + layer(f"{ours}.out", f"{theirs}.to_out.0")
