"""Native Karlo's weight files, written from a diffusers pipeline by the key maps alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PRIOR = "prior-ckpt-step=01000000-of-01000000.ckpt"
DECODER = "decoder-ckpt-step=01000000-of-01000000.ckpt"
UPSAMPLERS = "improved-sr-ckpt-step=1.2M.ckpt"
STATISTICS = "ViT-L-14_stats.th"

State = dict[str, Tensor]
Row = tuple[
    str, tuple[str, ...], bool
]  # a native tensor, the diffusers tensors it packs, whether it is a 1x1 convolution

EMBED = (("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2"))
PRIOR_BLOCK = (
    ("attn.c_qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    ("attn.c_proj", ("attn1.to_out.0",)),
    ("ln_1", ("norm1",)),
    ("mlp.c_fc", ("ff.net.0.proj",)),
    ("mlp.c_proj", ("ff.net.2",)),
    ("ln_2", ("norm3",)),
)
PRIOR_ENDS = (
    *EMBED,
    ("text_enc_proj", "encoder_hidden_states_proj"),
    ("text_emb_proj", "embedding_proj"),
    ("clip_img_proj", "proj_in"),
    ("out_proj", "proj_to_clip_embeddings"),
    ("final_ln", "norm_out"),
)
TEXT = (
    ("clip_emb", "clip_image_embeddings_project_to_time_embeddings"),
    ("text_feat_proj", "embedding_proj"),
    ("clip_tok_proj", "clip_extra_context_tokens_proj"),
    ("text_seq_proj.0", "encoder_hidden_states_proj"),
    ("text_seq_proj.1", "text_encoder_hidden_states_norm"),
)
RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
ATTENTION = (
    ("norm", ("group_norm",), False),
    ("qkv", ("to_q", "to_k", "to_v"), True),
    ("encoder_kv", ("add_k_proj", "add_v_proj"), True),
    ("proj_out", ("to_out.0",), True),
)


def _both(native: str, sources: tuple[str, ...], pointwise: bool = False) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield f"{native}.{kind}", tuple(f"{source}.{kind}" for source in sources), pointwise


def prior_rows(layers: int) -> Iterator[Row]:
    """The native prior, without its prefix."""
    yield "positional_embedding", ("positional_embedding",), False
    yield "prd_emb", ("prd_embedding",), False
    for native, source in PRIOR_ENDS:
        yield from _both(native, (source,))
    for layer in range(layers):
        for native, sources in PRIOR_BLOCK:
            block = tuple(f"transformer_blocks.{layer}.{source}" for source in sources)
            yield from _both(f"transformer.resblocks.{layer}.{native}", block)


def text_rows() -> Iterator[Row]:
    """text_proj, which is inside the native decoder; its diffusers names begin with "text_proj:"."""
    yield "cf_param", ("text_proj:learned_classifier_free_guidance_embeddings",), False
    for native, source in TEXT:
        yield from _both(native, (f"text_proj:{source}",))


def unet_rows(levels: int, layers: int, state: Mapping[str, Tensor]) -> Iterator[Row]:
    """A native U-Net, without its prefix; `state` tells where attention and skip convolutions are."""
    for native, source in (*EMBED, ("input_blocks.0.0", "conv_in"), ("out.0", "conv_norm_out"), ("out.2", "conv_out")):
        yield from _both(native, (source,))
    modules = {name.rsplit(".", 2)[0] for name in state} | {name.rsplit(".", 3)[0] for name in state}
    for block, candidates in _unet_blocks(levels, layers):
        for number, source in enumerate(name for name in candidates if name in modules):
            yield from _unet_module(f"{block}.{number}", source, state)


def _unet_blocks(levels: int, layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Native blocks and the diffusers modules that may be in them; those that a net lacks leave no gap in the numbers."""
    for number in range(1, levels * (layers + 1)):
        level, i = divmod(number - 1, layers + 1)
        down = f"down_blocks.{level}"
        resampler = (f"{down}.downsamplers.0",) if i == layers else ()
        yield f"input_blocks.{number}", resampler or (f"{down}.resnets.{i}", f"{down}.attentions.{i}")
    yield "middle_block", ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
    for number in range(levels * (layers + 1)):
        level, i = divmod(number, layers + 1)
        up = f"up_blocks.{level}"
        resampler = (f"{up}.upsamplers.0",) if i == layers else ()
        yield f"output_blocks.{number}", (f"{up}.resnets.{i}", f"{up}.attentions.{i}", *resampler)


def _unet_module(native: str, source: str, state: Mapping[str, Tensor]) -> Iterator[Row]:
    """One attention or residual block."""
    if f"{source}.group_norm.weight" in state:
        for name, parts, pointwise in ATTENTION:
            yield from _both(f"{native}.{name}", tuple(f"{source}.{part}" for part in parts), pointwise)
        return
    for name, part in RESIDUAL:
        if f"{source}.{part}.weight" in state:
            yield from _both(f"{native}.{name}", (f"{source}.{part}",))


def packed(state: Mapping[str, Tensor], rows: Iterator[Row], prefix: str, head_dim: int) -> State:
    """The native state; queries, keys and values lie together, ordered [head][q, k, v][dim]. Uses every tensor once."""
    native: State = {}
    left = dict(state)
    for name, sources, pointwise in rows:
        parts = [left.pop(source) for source in sources]
        tensor = parts[0]
        if len(parts) > 1:
            tensor = torch.stack([part.unflatten(0, (-1, head_dim)) for part in parts], 1).flatten(0, 2)
        if pointwise and tensor.ndim == 2:
            tensor = tensor[..., None]
        native[f"{prefix}.{name}"] = tensor.clone(memory_format=torch.contiguous_format)
    assert not left, sorted(left)
    return native


def native_prior(prior: Any) -> State:
    """The prior's native state; clip_mean and clip_std are in a file of their own."""
    state = {name: tensor for name, tensor in prior.state_dict().items() if name not in ("clip_mean", "clip_std")}
    return packed(state, prior_rows(prior.config.num_layers), "model", prior.config.attention_head_dim)


def native_decoder(decoder: Any, text_proj: Any) -> State:
    """The decoder's native state, text_proj's with it."""
    state = decoder.state_dict()
    rows = [*unet_rows(*_depth(decoder), state), *text_rows()]
    state |= {f"text_proj:{name}": tensor for name, tensor in text_proj.state_dict().items()}
    return packed(state, iter(rows), "model", decoder.config.attention_head_dim)


def native_upsampler(unet: Any, prefix: str) -> State:
    """One of the two super-resolution nets, under `prefix`: model_first_steps or model_last_step."""
    state = unet.state_dict()
    return packed(state, unet_rows(*_depth(unet), state), prefix, 1)


def _depth(unet: Any) -> tuple[int, int]:
    return len(unet.config.block_out_channels), unet.config.layers_per_block


def native(pipeline: Any, folder: Path) -> Path:
    """Write the pipeline's weights into `folder` as native Karlo's files; those of the prior only where it has one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(pipeline, "prior"):
        prior = pipeline.prior
        torch.save({"state_dict": native_prior(prior)}, folder / PRIOR)
        mean, deviation = (tensor.detach().flatten().clone() for tensor in (prior.clip_mean, prior.clip_std))
        torch.save((mean, deviation), folder / STATISTICS)
    torch.save({"state_dict": native_decoder(pipeline.decoder, pipeline.text_proj)}, folder / DECODER)
    upsamplers = native_upsampler(pipeline.super_res_first, "model_first_steps")
    upsamplers |= native_upsampler(pipeline.super_res_last, "model_last_step")
    torch.save({"state_dict": upsamplers}, folder / UPSAMPLERS)
    return folder
