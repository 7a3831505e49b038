"""A whole system of tiny nets with random weights: it draws nonsense, but by the very code that draws pictures."""

import contextlib
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from unclip.checkpoint import Header, save
from unclip.clip import Clip, ClipConfig, build_net, export
from unclip.config import to_dict
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.models.matcher import Matcher, MatcherConfig
from unclip.models.prior import Prior, PriorConfig
from unclip.models.unet import UNetConfig
from unclip.models.upsampler import Upsampler, UpsamplerConfig
from unclip.tokenizer import used_merges

N = TypeVar("N", bound=nn.Module)

CAPTIONS = ("a red cube on top of a blue cube", "a large green sphere", "a drawing of a yellow cone")
D, CONTEXT = 16, 16
SIZES = (16, 64, 256)


def clip_config(**changes: Any) -> ClipConfig:
    """A CLIP that knows the words of CAPTIONS."""
    values: dict[str, Any] = {
        "embed_dim": D,
        "quick_gelu": False,
        "vision": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text": {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2},
        "merges": used_merges(CAPTIONS),
    }
    return ClipConfig(**values | changes)


def write_clip(path: Path, seed: int = 0, **changes: Any) -> Clip:
    """A random CLIP, saved and opened."""
    torch.manual_seed(seed)
    config = clip_config(**changes)
    export(build_net(config), config, path, {})
    return Clip(path)


def write_system(folder: Path) -> Path:
    """A folder with CLIP, prior, decoder (16 px) and two upsamplers (64 and 256 px), all of which fit together."""
    clip = write_clip(folder / "clip.safetensors")
    vocabulary = clip.tokenizer.vocabulary
    parents = {"clip": clip.fingerprint}
    text: dict[str, Any] = {"text": "own", "context": CONTEXT, "vocabulary": vocabulary}
    prior = Prior(PriorConfig(image_emb=D, width=32, depth=2, heads=2, **text))
    how: dict[str, Any] = {"sampler": "ddpm", "steps": 3, "threshold": "none"}
    write_stage(folder / "prior.safetensors", prior, {"predicts": "x0"}, how, parents)
    write_stage(
        folder / "decoder.safetensors",
        Decoder(
            DecoderConfig(
                unet=UNetConfig(channels=16, multipliers=(1, 2), depth=1, attention=(1,), head_channels=16, patch=2),
                image_emb=D,
                size=SIZES[0],
                text_width=32,
                text_depth=1,
                text_heads=2,
                **text,
            )
        ),
        {"variance": "learned"},
        {"steps": 4, "guidance": 2.0},
        parents,
    )
    for size, steps in zip(SIZES[1:], (3, 2), strict=True):
        write_upsampler(folder, size, steps)
    (folder / "system.toml").write_text(
        'name = "random"\nupsamplers = ["upsampler-64.safetensors", "upsampler-256.safetensors"]\n', encoding="utf-8"
    )
    return folder


def write_upsampler(folder: Path, size: int, steps: int, **changes: Any) -> None:
    """An upsampler to `size`, in a file named after it."""
    unet = UNetConfig(channels=8, multipliers=(1, 2), depth=1, patch=4)
    net = Upsampler(UpsamplerConfig(unet=unet, size=size, **changes))
    write_stage(folder / f"upsampler-{size}.safetensors", net, {"predicts": "v"}, {"steps": steps}, {})


def write_matcher(folder: Path, clip: Clip) -> None:
    """A matcher that reads this CLIP, and its line in the system's file."""
    reads = {"layer": 0, "cells": 32, "side": 2, "text_hidden": 32}
    net = Matcher(MatcherConfig(**reads, channels=8, blocks=1, width=16, depth=1, heads=2))
    write_stage(folder / "matcher.safetensors", net, {}, {}, {"clip": clip.fingerprint})
    file = folder / "system.toml"
    file.write_text(f'matcher = "matcher.safetensors"\n{file.read_text()}', encoding="utf-8")


def write_stage(
    path: Path, net: nn.Module, process: Mapping[str, Any], sampling: Mapping[str, Any], parents: Mapping[str, str]
) -> None:
    """A net's checkpoint, its weights shaken: fresh U-Nets output nothing."""
    name, model = type(net).__name__.lower(), to_dict(net.config)
    header = Header(net=name, model=model, process=dict(process), sampling=dict(sampling), parents=dict(parents))
    save(path, shaken(net).state_dict(), header)


def shaken(net: N) -> N:
    """The net with its parameters moved by seeded noise."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    return net


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the nearest a test comes to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
