"""One sample as files, and a shard as a tar of them, laid out as img2dataset does; equal bytes for equal settings."""

import io
import json
import os
import random
import signal
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from tools.world import crops
from tools.world.captions import captions
from tools.world.negatives import negatives
from tools.world.raycast import render
from tools.world.relations import relations
from tools.world.sampling import sample
from tools.world.scene import Scene

BATCH = 25  # pictures that one call renders; fixed, so that bytes cannot depend on the number of workers


@dataclass(frozen=True)
class Settings:
    """All that determines the bytes of a shard."""

    size: int
    crop: int | None
    seed: int
    split: str
    shard: int


@dataclass(frozen=True)
class Sample:
    """One picture and its texts, encoded."""

    png: bytes
    caption: str
    meta: dict[str, Any]


def key(settings: Settings, index: int) -> str:
    """Nine digits: five for the shard, four for the place in it."""
    return f"{index // settings.shard:05d}{index % settings.shard:04d}"


def make(settings: Settings, indices: Sequence[int], device: str) -> list[Sample]:
    """The samples of these scene indices."""
    scenes = [sample(settings.seed, index, settings.split) for index in indices]
    places = None
    if settings.crop:
        places = [
            crops.place(scene, settings.size, settings.crop, _rng(settings, i))
            for scene, i in zip(scenes, indices, strict=True)
        ]
    pictures = rearrange(render(scenes, settings.size, places, device), "b c h w -> b h w c").cpu().numpy()
    made = []
    for n, (scene, index) in enumerate(zip(scenes, indices, strict=True)):
        told = captions(scene)
        caption = _rng(settings, index).choice(told)
        meta = {
            "key": key(settings, index),
            "caption": caption,
            "captions": told,
            "negatives": negatives(scene),
            "index": index,
        }
        meta |= {"width": pictures.shape[2], "height": pictures.shape[1], "size": settings.size}
        meta |= {"crop": places[n]} if places else {}
        buffer = io.BytesIO()
        Image.fromarray(pictures[n]).save(buffer, "PNG", compress_level=4)
        made.append(Sample(buffer.getvalue(), caption, meta | {"scene": graph(scene)}))
    return made


def graph(scene: Scene) -> dict[str, Any]:
    """A scene as plain data, with the relations that its geometry makes true."""
    return asdict(scene) | {"relations": [list(relation) for relation in relations(scene)]}


def count(metas: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each attribute value occurs: per thing, per relation, per scene."""
    counts: dict[str, Counter[str]] = {}
    for scene in (meta["scene"] for meta in metas):
        found = [(k, thing[k]) for thing in scene["things"] for k in ("shape", "colour", "size", "material")]
        found += [("pair", f"{thing['colour']} {thing['shape']}") for thing in scene["things"]]
        found += [("relation", name) for _, name, _ in scene["relations"]]
        found += [("count", str(len(scene["things"]))), ("floor", scene["floor"]), ("style", scene["style"])]
        words = [solid["word"] for solid in (*scene["things"], scene["sign"] or {"word": None})]
        found += [("word", word) for word in words if word]
        for name, value in found:
            counts.setdefault(name, Counter())[value] += 1
    return {name: dict(sorted(values.items())) for name, values in sorted(counts.items())}


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Writes a shard under a temporary name, then moves it into place. Raises OSError, leaving nothing behind."""
    part = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for one in samples:
                text = json.dumps(one.meta, separators=(",", ":")).encode()
                for suffix, data in ((".png", one.png), (".txt", one.caption.encode()), (".json", text)):
                    entry = tarfile.TarInfo(one.meta["key"] + suffix)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def start_worker() -> None:
    """Sets up a worker process: one torch thread, and Ctrl-C left to the parent, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _rng(settings: Settings, index: int) -> random.Random:
    return random.Random(f"shard {settings.split} {settings.seed} {index}")
