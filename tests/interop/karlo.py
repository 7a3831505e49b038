"""Karlo's released names and configs, and nets of the same structure that are small."""

import csv
import gzip
import json
from pathlib import Path

import torch
from torch import Tensor

from unclip.clip import ClipConfig
from unclip.models.decoder import DecoderConfig
from unclip.models.prior import PriorConfig
from unclip.models.unet import UNetConfig
from unclip.models.upsampler import UpsamplerConfig

KEYS = Path(__file__).parent / "keys"
FOUR = {"channels": 8, "multipliers": (1, 2, 3, 4), "depth": 3, "groups": 4}
HIDDEN = {"text": "hidden", "text_hidden": 6, "image_emb": 6, "context": 7}
PRIOR = PriorConfig(width=16, depth=20, heads=2, null="empty", scale=1.0, **HIDDEN)
DECODER = DecoderConfig(
    unet=UNetConfig(attention=(1, 2, 3), head_channels=8, **FOUR),
    text_width=12,
    size=16,
    image_scale=1.0,
    pooled_text=True,
    null_text="empty",
    **HIDDEN,
)
UPSAMPLER = UpsamplerConfig(unet=UNetConfig(scale_shift=False, **FOUR), size=32, scale=2, last_until=0)
CLIP = ClipConfig(
    embed_dim=6,
    quick_gelu=True,
    vision={"layers": 2, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 8},
    text={"layers": 3, "width": 24, "heads": 2, "context_length": 7, "mlp_ratio": 2.0},
    merges=("t h", "th e</w>"),
    normalize=False,
)


def config(name: str) -> dict:
    """A config of the released diffusers folder."""
    return json.loads((KEYS / f"diffusers.{name}.config.json").read_text())


def rows(name: str) -> list[tuple[str, str, str, str]]:
    """Native name and shape, operation, diffusers names and shapes of a part's tensors."""
    lines = gzip.decompress((KEYS / f"{name}.tsv.gz").read_bytes()).decode().splitlines()
    return [tuple(row) for row in csv.reader(lines[1:], delimiter="\t")]


def shape(text: str) -> tuple[int, ...]:
    """(3, 4) of "(3, 4)"."""
    return tuple(int(one) for one in text.strip("()").split(",") if one.strip())


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Small seeded tensors of these shapes."""
    rng = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(size, generator=rng) for name, size in shapes.items()}
