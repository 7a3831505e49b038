"""Packs a split of the world into webdataset shards, on several processes; stopped or extended, it goes on."""

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tools.world import shards
from tools.world.shards import Sample, Settings
from tools.world.splits import check_split
from unclip.errors import UnclipError

INDEX = "index.json"
Submit = Callable[[Sequence[int]], Callable[[], list[Sample]]]


def pack(
    out: Path, settings: Settings, count: int, workers: int, device: str, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Writes `count` samples as shards into `out` and returns the index, which is also out/index.json.

    Finished shards that lie there stay; `progress` is told of every batch of samples done. Raises UnclipError for
    impossible settings, for a folder that holds another world, and for a file system that refuses.
    """
    _check(settings, count, workers)
    _check_device(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
        index = _open_index(out, settings, count)
        with _workers(settings, workers, device) as submit:
            _fill(out, settings, index, submit, progress, ahead=2 * workers + 1)
    except OSError as error:
        raise UnclipError(
            f"{out}: cannot write: {error.strerror}; what is finished is kept, run again to go on"
        ) from None
    except BrokenProcessPool:
        raise UnclipError("a worker process died (out of memory?); run again to go on, with fewer --workers") from None
    return index


def _check(settings: Settings, count: int, workers: int) -> None:
    check_split(settings.split)
    if settings.crop is not None and settings.crop > settings.size:
        raise UnclipError(f"--crop {settings.crop} is larger than --size {settings.size}; give a smaller crop")
    numbers = {
        "count": count,
        "size": settings.size,
        "crop": settings.crop,
        "shard": settings.shard,
        "workers": workers,
    }
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise UnclipError(f"--{name} {value}: expected a positive number")
    if settings.shard > 10_000 or count > 100_000 * settings.shard:
        raise UnclipError(
            f"--shard {settings.shard} with --count {count}: expected at most 10000 per shard, 100000 shards"
        )


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UnclipError(f"unknown device {device!r}; expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnclipError("--device cuda: this machine has no GPU that torch can use; give --device cpu")


def _open_index(out: Path, settings: Settings, count: int) -> dict[str, Any]:
    """The index of what is finished already, under these settings and for this count."""
    fresh = {"count": count, **asdict(settings), "shards": {}, "attributes": {}}
    path = out / INDEX
    if not path.exists():
        if any(out.glob("*.tar")):
            raise UnclipError(f"{out}: holds shards but no {INDEX}; give an empty folder")
        _save(path, fresh)
        return fresh
    try:
        old = json.loads(path.read_text())
        kept = old["shards"]
        other = [f"{k} {old[k]} (asked: {v})" for k, v in asdict(settings).items() if old[k] != v]
    except (ValueError, KeyError, TypeError):
        raise UnclipError(f"{path}: not the index of a demo world; give an empty folder") from None
    if other or old["count"] > count:
        other = other or [f"count {old['count']} (asked: {count})"]
        raise UnclipError(f"{out}: holds another world: {', '.join(other)}; give another folder")
    return fresh | {"shards": {n: s for n, s in kept.items() if _finished(out / n, s, settings, count)}}


def _finished(path: Path, entry: dict[str, Any], settings: Settings, count: int) -> bool:
    """Whether a shard of the index lies there whole, and is as long as it has to be."""
    wanted = min(settings.shard, count - int(path.stem) * settings.shard)
    return entry["count"] == wanted and path.is_file() and path.stat().st_size == entry["bytes"]


def _fill(
    out: Path, settings: Settings, index: dict[str, Any], submit: Submit, progress: Callable[[int], None], ahead: int
) -> None:
    """Makes the missing shards in order, always with `ahead` batches under way, also across shards."""
    missing = [n for n in range(-(-index["count"] // settings.shard)) if f"{n:05d}.tar" not in index["shards"]]
    progress(sum(entry["count"] for entry in index["shards"].values()))
    batches = _batches(settings, missing, index["count"])
    pending = deque((n, last, submit(part)) for _, (n, last, part) in zip(range(ahead), batches, strict=False))
    samples: list[Sample] = []
    while pending:
        n, last, result = pending.popleft()
        made = result()
        pending.extend((m, end, submit(part)) for m, end, part in [b for b in [next(batches, None)] if b])
        samples += made
        if last:
            path = out / f"{n:05d}.tar"
            shards.write(path, samples)
            attributes = shards.count(one.meta for one in samples)
            entry = {"count": len(samples), "bytes": path.stat().st_size, "attributes": attributes}
            index["shards"] = dict(sorted((index["shards"] | {path.name: entry}).items()))
            samples = []
            _save(out / INDEX, index)
        progress(len(made))
    index["attributes"] = _total(entry["attributes"] for entry in index["shards"].values())
    _save(out / INDEX, index)


def _batches(settings: Settings, missing: Sequence[int], count: int) -> Iterator[tuple[int, bool, range]]:
    """(shard, whether its last, scene indices) of all that is to be made."""
    for n in missing:
        end = min((n + 1) * settings.shard, count)
        for start in range(n * settings.shard, end, shards.BATCH):
            stop = min(start + shards.BATCH, end)
            yield n, stop == end, range(start, stop)


@contextmanager
def _workers(settings: Settings, workers: int, device: str) -> Iterator[Submit]:
    """A function that starts a batch and returns what waits for it: in processes, or here and now for one worker."""
    if workers == 1:
        yield lambda part: lambda: shards.make(settings, part, device)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, shards.start_worker) as pool:
        try:

            def submit(part: Sequence[int]) -> Callable[[], list[Sample]]:
                future: Future[list[Sample]] = pool.submit(shards.make, settings, part, device)
                return future.result

            yield submit
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _total(parts: Iterator[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for part in parts:
        for name, values in part.items():
            sums = total.setdefault(name, {})
            for value, number in values.items():
                sums[value] = sums.get(value, 0) + number
    return {name: dict(sorted(values.items())) for name, values in sorted(total.items())}


def _save(path: Path, index: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(index, indent=1))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
