"""Small random pipelines of diffusers, and what they compute: the independent side of tests of interoperability.

Nothing here imports unclip. The parts are in the karlo_*.py beside it; tests need import this file only.
"""

import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UnCLIPImageVariationPipeline, UnCLIPPipeline, UnCLIPScheduler
from diffusers.utils import logging
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPTokenizer

from . import karlo_nets as nets
from .karlo_layout import save
from .karlo_native import DECODER, PRIOR, STATISTICS, UPSAMPLERS, native
from .karlo_schedule import native_schedule, native_timesteps
from .karlo_tokens import LAYOUTS, MERGES, SENTENCES, VOCABULARY, tokenizer_files

__all__ = [
    "DECODER", "LAYOUTS", "MERGES", "PRIOR", "SENTENCES", "STATISTICS", "UPSAMPLERS", "VOCABULARY", "Reference",
    "image_variation", "native", "native_schedule", "native_timesteps", "reference_run", "save", "text_to_image",
    "tokenizer", "tokenizer_files", "variation_run",
]  # fmt: skip

Generators = torch.Generator | list[torch.Generator]


def tokenizer() -> CLIPTokenizer:
    """transformers' tokenizer of the files that `tokenizer_files` writes."""
    with tempfile.TemporaryDirectory() as folder:
        return CLIPTokenizer.from_pretrained(tokenizer_files(Path(folder)))


def scheduler(part: str) -> Any:
    """A scheduler with the released config."""
    return UnCLIPScheduler.from_config(nets.released(part, name="scheduler_config.json"))


def _common(seed: int) -> tuple[dict[str, Any], torch.Generator]:
    """The components that both pipelines have; the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    decoder, text_proj = nets.decoder(rng)
    parts = {
        "decoder": decoder,
        "text_proj": text_proj,
        "text_encoder": nets.text_encoder(rng),
        "tokenizer": tokenizer(),
        "super_res_first": nets.upsampler("super_res_first", rng),
        "super_res_last": nets.upsampler("super_res_last", rng),
        "decoder_scheduler": scheduler("decoder_scheduler"),
        "super_res_scheduler": scheduler("super_res_scheduler"),
    }
    return parts, rng


def text_to_image(seed: int = 0) -> UnCLIPPipeline:
    """Text -> 16 px -> 64 px, in float32 on the CPU."""
    parts, rng = _common(seed)
    return _quiet(UnCLIPPipeline(**parts, prior=nets.prior(rng), prior_scheduler=scheduler("prior_scheduler")))


def image_variation(seed: int = 0) -> UnCLIPImageVariationPipeline:
    """Picture -> 16 px -> 64 px; what it shares with `text_to_image(seed)` has the same weights."""
    parts, rng = _common(seed)
    extractor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return _quiet(
        UnCLIPImageVariationPipeline(**parts, feature_extractor=extractor, image_encoder=nets.image_encoder(rng))
    )


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class Reference:
    """What a pipeline computed, in the dtype that it ran in."""

    text: Tensor  # text_embeds, rows [without text; with]: 2b d
    embedding: Tensor  # the image embedding that the decoder is told: b d
    small: Tensor  # the decoder's picture, clamped: b 3 16 16
    image: Tensor  # the last picture in -1 … 1, not clamped: b 3 64 64
    pictures: np.ndarray  # what the pipeline returns: b 64 64 3, float32 in 0 … 1


def reference_run(
    pipeline: UnCLIPPipeline,
    prompts: Sequence[str],
    generators: Generators,
    steps: tuple[int, int, int] = (25, 25, 7),
    guidance: tuple[float, float] = (4.0, 8.0),
    dtype: torch.dtype = torch.float32,
    **latents: Tensor,
) -> Reference:
    """Call the text pipeline. `latents`: prior_latents, decoder_latents, super_res_latents, in `dtype`.

    In float64 the pipeline draws its noise in float64 (other numbers than in float32) and its scheduler tables stay
    float32. It has its former dtype afterwards.
    """
    counts = dict(zip(("prior", "decoder", "super_res"), steps, strict=True))
    settings: dict[str, Any] = {f"{part}_num_inference_steps": count for part, count in counts.items()}
    settings |= {"prior_guidance_scale": guidance[0], "decoder_guidance_scale": guidance[1]}
    return _run(pipeline, dtype, prompt=list(prompts), generator=generators, **settings, **latents)


def variation_run(
    pipeline: UnCLIPImageVariationPipeline,
    images: Sequence[Image.Image] | Tensor,
    generators: Generators,
    steps: tuple[int, int] = (25, 7),
    guidance: float = 8.0,
    dtype: torch.dtype = torch.float32,
    **latents: Tensor,
) -> Reference:
    """Call the image pipeline with pictures, or with their embeddings; the rest as in `reference_run`."""
    given = {"image_embeddings": images.to(dtype)} if isinstance(images, Tensor) else {"image": list(images)}
    settings: dict[str, Any] = {"decoder_num_inference_steps": steps[0], "super_res_num_inference_steps": steps[1]}
    settings["decoder_guidance_scale"] = guidance
    return _run(pipeline, dtype, generator=generators, **given, **settings, **latents)


def _run(pipeline: Any, dtype: torch.dtype, **call: Any) -> Reference:
    former, told = pipeline.decoder.dtype, []
    keep = pipeline.text_proj.register_forward_pre_hook(lambda _, args, named: told.append(named), with_kwargs=True)
    try:
        pipeline.to(dtype)
        with _last_sample(pipeline.decoder_scheduler) as small, _last_sample(pipeline.super_res_scheduler) as image:
            pictures = pipeline(output_type="np", **call).images
    finally:
        keep.remove()
        pipeline.to(former)
    text, embedding = told[0]["prompt_embeds"], told[0]["image_embeddings"]
    return Reference(text, embedding, small[-1].clamp(-1, 1), image[-1], pictures)


@contextmanager
def _last_sample(scheduler: Any) -> Any:
    """The samples that the scheduler's `step` gives, as a list that fills."""
    samples, step = [], scheduler.step

    def watched(*args: Any, **named: Any) -> Any:
        samples.append((output := step(*args, **named)).prev_sample)
        return output

    scheduler.step = watched
    try:
        yield samples
    finally:
        del scheduler.step


logging.set_verbosity_error()  # the pipelines are deprecated there, which is known
