"""Small random nets of the released structure; their last layers are fitted, so that samples stay inside (-1, 1).

All weights are seeded normal numbers, norms and biases too. Only the last convolution of each U-Net is solved for: it
predicts the noise of smooth toy images by least squares. With guidance 8 a random one would drive all pixels to ±1, where
clamping hides differences.
"""

import json
from typing import Any

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from .karlo_tokens import LAYOUTS, VOCABULARY

EMBEDDING, CROSS, SMALL, LARGE, HEAD = 32, 48, 16, 64, 8
WIDTHS = (32, 64, 64, 96)  # 32 groups; the released ratio is 1:2:3:4
UNET = {"block_out_channels": WIDTHS, "layers_per_block": 2, "attention_head_dim": HEAD}
SIZES: dict[str, dict[str, Any]] = {
    "prior": {"num_attention_heads": 6, "attention_head_dim": HEAD, "num_layers": 2, "embedding_dim": EMBEDDING},
    "decoder": {**UNET, "sample_size": SMALL, "cross_attention_dim": CROSS},
    "super_res_first": {**UNET, "sample_size": LARGE},
    "super_res_last": {**UNET, "sample_size": LARGE},
    "text_proj": {"clip_embeddings_dim": EMBEDDING, "time_embed_dim": 4 * WIDTHS[0], "cross_attention_dim": CROSS},
}
TOWER: dict[str, Any] = {"projection_dim": EMBEDDING, "num_hidden_layers": 2, "hidden_act": "quick_gelu"}


def released(part: str, layout: str = "karlo-unclip", name: str = "config.json") -> dict[str, Any]:
    """A component's JSON as released."""
    return json.loads((LAYOUTS / layout / part / name).read_text(encoding="utf-8"))


def part_of(name: str, kind: Any, rng: torch.Generator) -> Any:
    """A diffusers component with the released config but for its sizes."""
    return randomised(kind.from_config(released(name) | SIZES[name]), rng)


def text_encoder(rng: torch.Generator) -> CLIPTextModelWithProjection:
    """CLIP's text tower; the legacy end-of-text id 2 makes it pool at the largest id."""
    heads: dict[str, Any] = {"hidden_size": EMBEDDING, "intermediate_size": 4 * EMBEDDING, "num_attention_heads": 4}
    ids: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    return randomised(CLIPTextModelWithProjection(CLIPTextConfig(**TOWER, **heads, **ids)), rng)


def image_encoder(rng: torch.Generator) -> CLIPVisionModelWithProjection:
    """CLIP's image tower, 28 px in patches of 7."""
    heads: dict[str, Any] = {"hidden_size": CROSS, "intermediate_size": 4 * CROSS, "num_attention_heads": 6}
    return randomised(
        CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, **heads, image_size=28, patch_size=7)), rng
    )


def randomised(net: Any, rng: torch.Generator) -> Any:
    """`net` in evaluation, every parameter drawn: norms around 1, biases around 0, matrices that keep a unit scale."""
    with torch.no_grad():
        for name, weights in net.named_parameters():
            noise = torch.randn(weights.shape, generator=rng)
            if name == "clip_std":
                noise = (0.3 * noise).exp()
            elif name.endswith("bias"):
                noise = 0.1 * noise
            elif name.endswith("weight") and weights.ndim == 1:
                noise = 1 + 0.2 * noise
            elif name.endswith("weight") and "position_embedding" not in name and "token_embedding" not in name:
                noise = noise / weights[0].numel() ** 0.5
            else:  # learned tokens, positions, statistics
                noise = 0.5 * noise
            weights.copy_(noise)
    return net.eval().requires_grad_(False)


def prior(rng: torch.Generator) -> PriorTransformer:
    """The prior; guided by 4 its x0 stays mostly within the clamp at 5."""
    net = part_of("prior", PriorTransformer, rng)
    net.proj_to_clip_embeddings.weight.mul_(0.4)
    return net


def decoder(rng: torch.Generator) -> tuple[UNet2DConditionModel, UnCLIPTextProjModel]:
    """The decoder, fitted under random conditions, and text_proj, which makes its conditions."""
    net, text_proj = part_of("decoder", UNet2DConditionModel, rng), part_of("text_proj", UnCLIPTextProjModel, rng)
    count = 48
    noisy, noise, times, _ = (half.repeat(2, *[1] * (half.ndim - 1)) for half in _noisy(count // 2, SMALL, rng))
    states, label = text_proj(
        image_embeddings=torch.randn(count // 2, EMBEDDING, generator=rng),  # the first half has none
        prompt_embeds=torch.randn(count, EMBEDDING, generator=rng),
        text_encoder_hidden_states=torch.randn(count, 77, EMBEDDING, generator=rng),
        do_classifier_free_guidance=True,
    )
    mask = torch.arange(81) < torch.randint(6, 81, (count, 1), generator=rng)
    call = {"encoder_hidden_states": states, "class_labels": label, "attention_mask": mask}
    _fit(net, noise, 8.0, sample=noisy, timestep=times, **call)
    return net, text_proj


def upsampler(name: str, rng: torch.Generator) -> UNet2DModel:
    """A super-resolution net, fitted on toy images and their small copies."""
    net = part_of(name, UNet2DModel, rng)
    noisy, noise, times, clean = _noisy(6, LARGE, rng)
    low = F.interpolate(F.interpolate(clean, SMALL, mode="area"), LARGE, mode="bicubic", antialias=True)
    _fit(net, noise, 1.0, sample=torch.cat([noisy, low], 1), timestep=times)
    return net


def _noisy(count: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smooth images with cosine noise at random times: noisy, noise, times, clean."""
    clean = F.interpolate(torch.randn(count, 3, 4, 4, generator=rng), size, mode="bicubic").mul(0.3).clamp(-0.9, 0.9)
    times = torch.linspace(0, 999, count).round().long()
    angle = ((times / 1000 + 0.008) / 1.008 * torch.pi / 2).view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=rng)
    return angle.cos() * clean + angle.sin() * noise, noise, times, clean


@torch.no_grad()
def _fit(net: Any, noise: Tensor, guidance: float, **call: Any) -> None:
    """Solve the last convolution's first three channels for `noise` (ridge regression on its 3x3 inputs).

    With guidance the batch is [without a condition; with one], and the guided prediction shall be the noise, too.
    """
    layer: Any = net.conv_out
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    net(**call)
    hook.remove()
    features = inputs[0]
    if guidance > 1:
        bare, told = features.chunk(2)
        features = torch.cat([features, bare + guidance * (told - bare)])
        noise = torch.cat([noise, noise[: len(bare)]])
    columns = F.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1)
    wanted = noise.flatten(2).transpose(1, 2).flatten(0, 1).double()
    ridge = 1e-3 * len(columns) * torch.eye(columns.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(columns.T @ columns + ridge, columns.T @ wanted).T.float()
    layer.weight[:3] = solution[:, :-1].view_as(layer.weight[:3])
    layer.bias[:3] = solution[:, -1]
    layer.weight[3:] *= 0.3  # the decoder's variances
