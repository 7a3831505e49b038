"""How a picture becomes CLIP's square: each arithmetic has its own way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from unclip.clip import ClipConfig, normalise
from unclip.images import to_tensor
from unclip.system import UnCLIP

SHAPES = [(40, 30), (33, 57), (500, 300)]  # width, height
STD = (0.26862954, 0.26130258, 0.27577711)
CONFIG: dict[str, Any] = {"embed_dim": 8, "quick_gelu": True, "text": {}}


def picture(width: int, height: int) -> Image.Image:
    """Noise, which overshoots black and white wherever it is enlarged."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ours(image: Image.Image, side: int, fit: Any) -> torch.Tensor:
    return normalise(to_tensor(image)[None], ClipConfig(vision={"image_size": side}, fit=fit, **CONFIG))


def theirs(kind: Any, image: Image.Image, side: int) -> torch.Tensor:
    made = kind(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return torch.as_tensor(np.asarray(made(image, return_tensors="pt")["pixel_values"]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "side"), [(CLIPImageProcessor, 28), (CLIPImageProcessorPil, 28), (CLIPImageProcessorPil, 224)]
)
def test_shortest_is_transformers(kind: Any, side: int, shape: tuple[int, int]) -> None:
    """To one grey level, and nearly everywhere exactly; Pillow's fixed point rounds a few values the other way."""
    image = picture(*shape)
    levels = (ours(image, side, "shortest") - theirs(kind, image, side)).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert levels.max() <= 1.01
    assert (levels > 0.01).float().mean() < 0.01
    for other in ("square", "squash"):
        apart = (ours(image, side, other) - theirs(kind, image, side)).abs() * 255 * min(STD)
        assert apart.max() > 2.5, "the picture tells the ways apart"


def test_squash_keeps_the_whole_picture_and_the_others_its_centre() -> None:
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (0, 0, 30, 30))  # the left third
    white, black = ours(Image.new("RGB", (1, 1), "white"), 28, "squash"), ours(Image.new("RGB", (1, 1)), 28, "squash")
    squashed = ours(image, 28, "squash")
    assert squashed.shape == (1, 3, 28, 28)
    assert torch.allclose(squashed[..., :7], white[..., :7], atol=1e-4)
    assert torch.allclose(squashed[..., 12:], black[..., 12:], atol=1e-4)
    for fit in ("square", "shortest"):
        centre = ours(image, 28, fit)
        assert centre.shape == (1, 3, 28, 28)
        assert torch.allclose(centre[..., 2:], black[..., 2:], atol=0.2)


@pytest.mark.parametrize(("arithmetic", "fit"), [("own", "square"), ("diffusers", "shortest"), ("native", "squash")])
def test_each_arithmetic_has_its_way(variations: Path, variation_pipeline: Any, arithmetic: Any, fit: str) -> None:
    clip = UnCLIP.from_pretrained(variations, "cpu", arithmetic=arithmetic).clip
    assert clip.config.fit == fit
    image = picture(40, 30)
    with torch.no_grad():
        pixels = variation_pipeline.feature_extractor(image, return_tensors="pt").pixel_values
        wanted = variation_pipeline.image_encoder(pixels).image_embeds
    apart = (clip.image_emb(to_tensor(image)[None]) - wanted).norm() / wanted.norm()
    assert (apart < 1e-2) == (arithmetic == "diffusers")
