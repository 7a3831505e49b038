"""A laboratory for trainings: shards of 16 px pictures, a CLIP that knows nothing, nets of a few thousand parameters."""

import importlib
import io
import itertools
import json
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stages.run import OptimConfig, Run, RunConfig
from stages.state import State, begin
from tools.embed import embed
from unclip.clip import ClipConfig, build_net, export
from unclip.config import override
from unclip.tokenizer import used_merges

CAPTIONS = ("a red cube", "a cube", "a cube on top of a small blue sphere")
SIZE = 16
TOY = OptimConfig(lr=0.1, clip=0.0, ema=0.9)
UNET = {"channels": 8, "multipliers": [1, 2], "depth": 1, "head_channels": 8}
CLIP = {
    "embed_dim": 8,
    "quick_gelu": False,
    "vision": {"image_size": SIZE, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}
TABLES: dict[str, dict[str, Any]] = {
    "clip": {"vocabulary": "data", "model": CLIP},
    "prior": {
        "model": {"text": "own", "width": 16, "depth": 1, "heads": 2, "dropout": 0.2},
        "process": {"predicts": "x0", "variance": "analytic", "timesteps": 20},
        "sampling": {"sampler": "ddpm", "steps": 2, "threshold": "none"},
    },
    "draft": {"model": {"width": 8, "text_emb": True}},
    "decoder": {
        "model": {
            "size": SIZE,
            "text": "own",
            "text_width": 16,
            "text_depth": 1,
            "text_heads": 2,
            "image_tokens": 2,
            "unet": UNET | {"attention": [1], "dropout": 0.2},
        },
        "process": {"predicts": "eps", "variance": "learned", "timesteps": 20},
        "sampling": {"sampler": "ddim", "steps": 2, "guidance": 2.0},
    },
    "matcher": {
        "model": {"layer": 0, "channels": 8, "blocks": 1, "width": 16, "depth": 1, "heads": 2},
        "objective": {"negatives": 2},
    },
    "upsampler": {
        "model": {"size": SIZE, "unet": UNET, "level": True},
        "process": {"predicts": "v", "timesteps": 20},
        "sampling": {"sampler": "ddim", "steps": 2},
        "degrade": {"kind": "blur", "noise_level": 0.2},
        "objective": {"crop": 8},
    },
}


def _shard(path: Path, numbers: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            rough = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(rough).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(picture, "PNG")
            meta = json.dumps({"captions": [f"{text} {number}" for text in CAPTIONS]}).encode()
            for suffix, data in {"png": picture.getvalue(), "json": meta}.items():
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@dataclass(frozen=True)
class Lab:
    """Where everything lies, and how to train on it."""

    root: Path

    @property
    def clip(self) -> Path:
        """A CLIP's checkpoint."""
        return self.root / "clip.safetensors"

    def values(self, name: str, out: Path, *overrides: str) -> dict[str, Any]:
        """The tables of a stage's config file: 6 steps of 4 samples, everything written down at every step."""
        data = {"shards": str(self.root / "train"), "validation": str(self.root / "validation"), "shuffle": 8}
        run: dict[str, Any] = {"out": str(out), "steps": 6, "batch": 4, "validation": 6, "previews": 3, "log_every": 1}
        run |= {f"{what}_every": 3 for what in ("save", "validate", "preview")}
        tables = {"data": data, "optim": {"lr": 1e-2, "warmup": 2, "ema": 0.9}, "run": run} | TABLES[name]
        if name in ("prior", "draft", "decoder"):
            tables["clip"] = {"path": str(self.clip), "embeddings": "computed"}
        if name == "matcher":
            tables["clip"] = {"path": str(self.clip)}
        return override(tables, overrides)

    def stored(self) -> tuple[str, ...]:
        """Overrides that make a stage read embeddings."""
        folders = {key: self.root / "embedded" / folder for key, folder in (("shards", "train"), ("validation",) * 2)}
        return ('clip.embeddings="stored"', *(f"data.{key}={path}" for key, path in folders.items()))

    def train(self, name: str, out: Path, *overrides: str, init: Path | None = None) -> Path:
        """Runs a stage's training and returns its folder."""
        module = importlib.import_module(f"stages.{name}")
        module.train(self.values(name, out, *overrides), None if init is None else str(init))
        return out


def write_clip(path: Path, seed: int) -> None:
    """A CLIP with random weights."""
    merges = used_merges(f"{text} {number}" for text in CAPTIONS for number in range(32))
    config = ClipConfig(**CLIP, merges=merges)
    torch.manual_seed(seed)
    export(build_net(config), config, path, {})


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """24 training samples in four shards, 8 validation samples in one, a CLIP, and both folders embedded by it."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    for shard in range(4):
        _shard(lab.root / "train" / f"{shard:05d}.tar", range(shard * 6, shard * 6 + 6))
    _shard(lab.root / "validation" / "00000.tar", range(24, 32))
    write_clip(lab.clip, seed=0)
    for split in ("train", "validation"):
        embed(str(lab.root / split), lab.root / "embedded" / split, clip=lab.clip, states=True, device="cpu")
    return lab


@pytest.fixture(scope="session")
def other_clip(lab: Lab) -> Path:
    """Another CLIP of the same shape."""
    path = lab.root / "other.safetensors"
    write_clip(path, seed=1)
    return path


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Begins a training of a linear map, always the same, in a new folder."""
    numbers = itertools.count()

    def start(optim: OptimConfig = TOY, **settings: Any) -> tuple[State, Run]:
        defaults = {"out": str(tmp_path / str(next(numbers))), "batch": 4, "steps": 3, "log_every": 1, "previews": 0}
        run = Run(RunConfig(**defaults | settings), optim, {})
        torch.manual_seed(1)
        return begin(nn.Sequential(nn.Linear(2, 1)), run), run

    return start


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Signal handlers as they were; a command line changes that of SIGTERM for good."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in usual.items():
        signal.signal(number, handler)
