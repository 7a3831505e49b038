"""The configs of our nets and diffusers' JSON configs of Karlo's: what one can say and the other cannot is refused."""

from typing import Any

from unclip.config import build
from unclip.errors import UnclipError
from unclip.interop.jsons import Json, check, read, refuse
from unclip.models.decoder import DecoderConfig
from unclip.models.prior import PriorConfig
from unclip.models.unet import UNetConfig
from unclip.models.upsampler import UpsamplerConfig

CROSS, PLAIN = (
    ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"),
    (
        "ResnetDownsampleBlock2D",
        "ResnetUpsampleBlock2D",
    ),
)

PRIOR = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
    "dropout": 0.0,
    "time_embed_dim": None,
    "embedding_proj_dim": None,
    "clip_embed_dim": None,
}
PRIOR_REQUIRED = {
    "additional_embeddings": 4,
    "time_embed_act_fn": "silu",
    "norm_in_type": None,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "added_emb_type": "prd",
}
TEXT_PROJ = {"clip_extra_context_tokens": 4, "clip_embeddings_dim": 768, "time_embed_dim": 0, "cross_attention_dim": 0}
UNET = {  # of both of diffusers' U-Nets
    "sample_size": None,
    "down_block_types": [""],
    "mid_block_type": "",
    "up_block_types": [""],
    "block_out_channels": [0],
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "attention_head_dim": 8,
    "downsample_padding": 1,  # neither U-Net's blocks read it
}
UNET_REQUIRED = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "time_embedding_type": "positional",
}
CONDITION = UNET | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 1280, "class_embed_type": ""}
CONDITION_REQUIRED = UNET_REQUIRED | {
    "only_cross_attention": False,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "use_linear_projection": False,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "upcast_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}
UNCONDITIONAL = UNET | {
    "mid_block_type": "UNetMidBlock2D",
    "in_channels": 3,
    "out_channels": 3,
    "add_attention": True,
    "attn_norm_num_groups": None,
}
UNCONDITIONAL_REQUIRED = UNET_REQUIRED | {
    "downsample_type": "conv",
    "upsample_type": "conv",
    "class_embed_type": None,
    "num_train_timesteps": None,
}


def prior_config(json: Json, where: str = "prior/config.json") -> PriorConfig:
    """The prior that a PriorTransformer's config describes: Karlo's, Kandinsky 2.1's and 2.2's. Raises UnclipError."""
    v = read(json, where, PRIOR, PRIOR_REQUIRED)
    width, d = v["num_attention_heads"] * v["attention_head_dim"], v["embedding_dim"]
    check(where, {"time_embed_dim": width, "embedding_proj_dim": d, "clip_embed_dim": d}, v)
    ours = {"image_emb": d, "width": width, "depth": v["num_layers"], "heads": v["num_attention_heads"]}
    ours |= {"text": "hidden", "text_hidden": d, "context": v["num_embeddings"], "null": "empty", "scale": 1.0}
    return build(PriorConfig, ours | {"dropout": float(v["dropout"])}, where)


def prior_json(config: PriorConfig) -> dict[str, Any]:
    """The PriorTransformer config of a prior. Raises UnclipError where there is none."""
    _match("prior", config, text="hidden", null="empty", text_hidden=config.image_emb)
    if (config.text_scale or config.scale) != 1:
        refuse("prior", "text_scale", config.text_scale or config.scale, "1.0, which this layout always has")
    head = config.width // config.heads
    values = {"num_attention_heads": config.heads, "attention_head_dim": head, "num_layers": config.depth}
    values |= {"embedding_dim": config.image_emb, "num_embeddings": config.context, "dropout": config.dropout}
    return {"_class_name": "PriorTransformer"} | PRIOR | PRIOR_REQUIRED | values


def decoder_config(decoder: Json, text_proj: Json, context: int = 77) -> DecoderConfig:
    """The decoder that the configs of a UNet2DConditionModel and a UnCLIPTextProjModel describe.

    Neither says how many text tokens there are: `context`, as CLIP's config has it. Raises UnclipError.
    """
    where, projecting = "decoder/config.json", "text_proj/config.json"
    v = read(decoder, where, CONDITION, CONDITION_REQUIRED)
    p = read(text_proj, projecting, TEXT_PROJ, {})
    unet = _unet(v, where)
    if v["class_embed_type"] != "identity":
        refuse(where, "class_embed_type", v["class_embed_type"] or None, "'identity'")
    if v["in_channels"] != 3 or v["out_channels"] not in (3, 6):
        refuse(where, "in_channels, out_channels", (v["in_channels"], v["out_channels"]), "3, and 3 or 6")
    wide = {"time_embed_dim": 4 * unet["channels"], "cross_attention_dim": v["cross_attention_dim"]}
    check(projecting, wide, p)
    ours = {"unet": unet | {"head_channels": v["attention_head_dim"]}, "size": v["sample_size"] or 64}
    ours |= {"image_emb": p["clip_embeddings_dim"], "text_hidden": p["clip_embeddings_dim"], "text": "hidden"}
    ours |= {"text_width": v["cross_attention_dim"], "image_tokens": p["clip_extra_context_tokens"], "context": context}
    ours |= {"image_scale": 1.0, "pooled_text": True, "null_text": "empty", "learned_variance": v["out_channels"] == 6}
    return build(DecoderConfig, ours, where)


def decoder_json(config: DecoderConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of the UNet2DConditionModel and the UnCLIPTextProjModel of a decoder. Raises UnclipError."""
    fixed = {"text": "hidden", "text_hidden": config.image_emb, "image_scale": 1.0}
    _match("decoder", config, **fixed, pooled_text=True, null_text="empty", draft=None)
    values = _unet_json("decoder", config.unet) | {"class_embed_type": "identity", "sample_size": config.size}
    values |= {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": config.unet.head_channels}
    values |= {"in_channels": 3, "out_channels": 6 if config.learned_variance else 3}
    values |= {"cross_attention_dim": config.text_width}
    proj = {"clip_extra_context_tokens": config.image_tokens, "clip_embeddings_dim": config.image_emb}
    proj |= {"time_embed_dim": 4 * config.unet.channels, "cross_attention_dim": config.text_width}
    unet = {"_class_name": "UNet2DConditionModel"} | CONDITION | CONDITION_REQUIRED | values
    return unet, {"_class_name": "UnCLIPTextProjModel"} | proj


def upsampler_config(first: Json, last: Json | None = None, scale: int = 4) -> UpsamplerConfig:
    """The upsampler that one or two UNet2DModels' configs describe; `last` serves the time 0. Raises UnclipError.

    The enlargement is the pipeline's: `scale`.
    """
    where = "super_res_first/config.json"
    ours = _upsampler(first, where)
    if last is not None:
        other = "super_res_last/config.json"
        if _upsampler(last, other) != ours:
            raise UnclipError(f"{other}: describes another net than {where}; expected two of the same shape")
        ours |= {"last_until": 0}
    return build(UpsamplerConfig, ours | {"scale": scale}, where)


def upsampler_json(config: UpsamplerConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The UNet2DModel configs of an upsampler's net and its last net, if it has one. Raises UnclipError."""
    _match("upsampler", config, level=False, residual=None)
    if config.last_until:
        refuse("upsampler", "last_until", config.last_until, "0 or none")
    values = _unet_json("upsampler", config.unet) | {"sample_size": config.size, "add_attention": False}
    values |= {"in_channels": 6, "out_channels": 6 if config.learned_variance else 3}
    json = {"_class_name": "UNet2DModel"} | UNCONDITIONAL | UNCONDITIONAL_REQUIRED | values
    return json, None if config.last_until is None else dict(json)


def _upsampler(json: Json, where: str) -> dict[str, Any]:
    v = read(json, where, UNCONDITIONAL, UNCONDITIONAL_REQUIRED)
    check(where, {"add_attention": False}, v)
    if v["in_channels"] != 6 or v["out_channels"] not in (3, 6):
        refuse(where, "in_channels, out_channels", (v["in_channels"], v["out_channels"]), "6, and 3 or 6")
    if v["sample_size"] is None:
        refuse(where, "sample_size", None, "the side of the pictures")
    return {"unet": _unet(v, where), "size": v["sample_size"], "learned_variance": v["out_channels"] == 6}


def _unet(v: Json, where: str) -> dict[str, Any]:
    """The keys of our UNetConfig but for the heads, from the values that both of their U-Nets have."""
    widths, levels = v["block_out_channels"], len(v["block_out_channels"])
    channels = widths[0] if widths else 0
    if channels < 1 or any(width % channels for width in widths):
        refuse(where, "block_out_channels", widths, "multiples of the first")
    conditional = "cross_attention_dim" in v
    kinds = {PLAIN[0]: False} | ({CROSS[0]: True} if conditional else {})
    for name in v["down_block_types"]:
        if name not in kinds:
            refuse(where, "down_block_types", name, " or ".join(kinds))
    attention = [level for level, name in enumerate(v["down_block_types"]) if kinds[name]]
    if len(v["down_block_types"]) != levels:
        refuse(where, "down_block_types", list(v["down_block_types"]), f"{levels} blocks")
    middle = "UNetMidBlock2DSimpleCrossAttn" if conditional else "UNetMidBlock2D"
    expected = {"up_block_types": _ups(attention, levels), "mid_block_type": middle, "time_embedding_dim": 4 * channels}
    check(where, expected, {**v, "up_block_types": list(v["up_block_types"])})
    if v["resnet_time_scale_shift"] not in ("default", "scale_shift"):
        refuse(where, "resnet_time_scale_shift", v["resnet_time_scale_shift"], "'default' or 'scale_shift'")
    ours = {"channels": channels, "multipliers": [width // channels for width in widths], "attention": attention}
    ours |= {"depth": v["layers_per_block"], "dropout": float(v["dropout"]), "groups": v["norm_num_groups"]}
    return ours | {"scale_shift": v["resnet_time_scale_shift"] == "scale_shift"}


def _unet_json(net: str, unet: UNetConfig) -> dict[str, Any]:
    """What both of their U-Nets need to know of ours."""
    _match(f"{net}: unet", unet, patch=1)
    if unet.bypass:
        refuse(f"{net}: unet", "bypass", True, "none")
    if unet.groups is None and (unet.channels < 128 or unet.channels % 32):
        refuse(f"{net}: unet", "groups", None, "a number: here its norms differ in it")
    if len(set(unet.depths)) > 1:
        refuse(f"{net}: unet", "depth", list(unet.depths), "one number for all levels")
    levels = range(len(unet.multipliers))
    values = {"block_out_channels": [unet.channels * m for m in unet.multipliers], "layers_per_block": unet.depths[0]}
    values |= {"down_block_types": [CROSS[0] if k in unet.attention else PLAIN[0] for k in levels]}
    values |= {"up_block_types": _ups(unet.attention, len(levels)), "norm_num_groups": unet.groups or 32}
    return values | {
        "dropout": unet.dropout,
        "resnet_time_scale_shift": "scale_shift" if unet.scale_shift else "default",
    }


def _ups(attention: Any, levels: int) -> list[str]:
    return [CROSS[1] if level in attention else PLAIN[1] for level in reversed(range(levels))]


def _match(net: str, config: Any, **fixed: Any) -> None:
    for key, value in fixed.items():
        if getattr(config, key) != value:
            refuse(net, key, getattr(config, key), f"{value!r}, which this layout always has")
