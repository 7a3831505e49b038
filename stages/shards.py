"""Shards on disk: which there are, in which order an epoch reads them, and the undecoded samples inside them."""

import glob
import json
import random
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import braceexpand
from webdataset.filters import shuffle as wds_shuffle
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from unclip.errors import UnclipError

INDEX = "index.json"  # beside the shards: {"shards": {tar name: number of samples, or {"count": …}}}

Raw = dict[str, Any]  # "__key__", "__url__", and the bytes of each file by its suffix


@dataclass
class Faults:
    """A running count of samples (or whole shards) that could not be used, and why the last one could not."""

    count: int = 0
    reason: str | None = None

    def add(self, reason: str, count: int = 1) -> None:
        """Counts `count` more."""
        self.count += count
        self.reason = reason


@dataclass(frozen=True)
class Shards:
    """Tar files in a fixed order, and how many samples an index beside them promises for each (None: not said)."""

    paths: tuple[Path, ...]
    counts: tuple[int | None, ...]


def find(spec: str, key: str) -> Shards:
    """The local tars that `spec` names: a folder that holds *.tar, one tar, or a brace or glob pattern of tars.

    They are sorted by name. Raises UnclipError, which names the config key `key`, when there are none or when a URL is
    given: webdataset would hand a "pipe:" one to a shell.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", spec):
        raise UnclipError(f"{key} = {spec!r}: URLs and pipes are not read; give a local folder, tar or pattern of tars")
    path = Path(spec).expanduser()
    if path.is_dir():
        paths = list(path.glob("*.tar"))
    elif glob.has_magic(spec) or "{" in spec:
        paths = _expand(str(path), key)
    elif path.is_file():
        paths = [path]
    else:
        raise UnclipError(f"{key} = {spec!r}: no such folder or file; expected shards (*.tar) there")
    if not paths:
        raise UnclipError(f"{key} = {spec!r}: no .tar found; write shards there, or correct the path")
    paths = tuple(sorted(set(paths)))
    indexes = {folder: _index(folder / INDEX) for folder in {path.parent for path in paths}}
    return Shards(paths, tuple(indexes[path.parent].get(path.name) for path in paths))


def _expand(pattern: str, key: str) -> list[Path]:
    try:
        names = list(braceexpand.braceexpand(pattern))
    except ValueError:  # braceexpand's UnbalancedBracesError
        raise UnclipError(f"{key} = {pattern!r}: unbalanced braces; expected such as part-{{000..099}}.tar") from None
    paths = [Path(found) for name in names for found in (glob.glob(name) if glob.has_magic(name) else [name])]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UnclipError(f"{key} = {pattern!r}: {len(missing)} of its shards do not exist, the first is {missing[0]}")
    return paths


def _index(path: Path) -> Mapping[str, int]:
    """Samples per shard by tar name, as the index file at `path` says; empty without one."""
    if not path.is_file():
        return {}
    try:
        counts = json.loads(path.read_bytes())["shards"]
        return {name: int(said["count"] if isinstance(said, dict) else said) for name, said in counts.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        wanted = '{"shards": {tar name: sample count}}'
        raise UnclipError(f"{path}: not a shard index; expected {wanted}; mend or remove it") from None


def order(count: int, seed: int, epoch: int) -> list[int]:
    """The order in which epoch number `epoch` visits `count` shards: a permutation keyed by (seed, epoch)."""
    indices = list(range(count))
    random.Random(f"shards {seed} {epoch}").shuffle(indices)
    return indices


def read(shards: Shards, indices: Collection[int], suffixes: Collection[str], faults: Faults) -> Iterator[Raw]:
    """The samples of the shards `indices`, one shard after the other, with their files of `suffixes` as bytes.

    Other files are passed over unread. A shard that is no tar or ends early gives what it can; what it lacks of its
    index (or 1, without an index) is added to `faults`.
    """
    for index in indices:
        yield from _read_shard(shards.paths[index], shards.counts[index], suffixes, faults)


def _read_shard(path: Path, promised: int | None, suffixes: Collection[str], faults: Faults) -> Iterator[Raw]:
    errors: list[str] = []

    def note(error: Exception) -> bool:
        # webdataset appends " @ <stream>" to the message; its own handlers sleep half a second per call
        text = error.strerror if isinstance(error, OSError) and error.strerror else str((*error.args, "")[0])
        errors.append(text.split(" @ ")[0] or type(error).__name__)
        return True

    seen = 0
    try:
        # opened here, since wds.tarfile_to_samples takes a URL and cuts a path at "#" or "?"
        with open(path, "rb") as stream:
            source = [{"url": str(path), "stream": stream}]
            files = tar_file_expander(source, handler=note, select_files=partial(_has_suffix, suffixes))
            # one call per shard: webdataset would join a cut shard's last sample to the next shard's first
            for raw in group_by_keys(files, handler=note):
                seen += 1
                yield raw
    except OSError as error:
        note(error)
    missing = max(0, promised - seen) if promised is not None else int(bool(errors) or seen == 0)
    if missing:
        lack = f"{seen} usable samples" + (f" of {promised} in {INDEX}" if promised is not None else "")
        faults.add(f"{path.name}: {errors[0]}; {lack}" if errors else f"{path.name}: {lack}", missing)


def _has_suffix(suffixes: Collection[str], name: str) -> bool:
    suffix = base_plus_ext(name)[1]
    return suffix is not None and suffix.lower() in suffixes


def shuffled(samples: Iterator[Raw], buffer: int, key: str) -> Iterator[Raw]:
    """`samples` in an order that depends on `key` only, drawn from a buffer of that many; 0 keeps their order."""
    if buffer == 0:
        return samples
    return iter(wds_shuffle(buffer, initial=max(1, buffer // 4), rng=random.Random(key))(samples))
