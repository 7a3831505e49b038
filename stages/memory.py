"""Samples of a small data set, read once and kept in memory: batches of a net that is faster than reading shards."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from stages.shards import Faults, order, read
from stages.streams import Position, Source, collate, decoded
from unclip.errors import UnclipError
from unclip.noise import generator

CHUNK = 1000  # samples


def kept(source: Source, start: Position) -> Iterator[tuple[dict[str, Any], Position, Faults]]:
    """A rank's batches without end: their columns, where the next one stands, and what could not be read.

    Each sample keeps the caption that was drawn for it in the first epoch. Every epoch has an order of its own, by (seed, rank,
    epoch), and what is left over when batches are full is in no batch of it. Raises UnclipError when there are too few samples.
    """
    faults, epoch, used = Faults(), start["epoch"], start["used"]
    columns = _columns(source, faults)
    count = len(columns["keys"])
    each = count // source.batch_size
    if each == 0:
        raise UnclipError(
            f"data.in_memory: this rank has {count} good samples ({faults.reason or 'no fault'}), less than run.batch ="
            f" {source.batch_size}; lower it"
        )
    while True:
        rng = generator("memory", source.seed, source.rank, epoch)
        rows = torch.randperm(count, generator=rng)[: each * source.batch_size].split(source.batch_size)
        for number, batch in enumerate(islice(rows, used, None), used):
            yield _picked(columns, batch), {"epoch": epoch, "used": number + 1}, faults
        epoch, used = epoch + 1, 0


def _columns(source: Source, faults: Faults) -> dict[str, Any]:
    """The good samples of this rank's share of the shards, as columns."""
    mine = order(len(source.shards.paths), source.seed, 0)[source.rank :: source.world]
    raws = read(source.shards, mine, source.decoding.suffixes, faults)
    good = (sample for raw in raws if (sample := decoded(raw, source.decoding, 0, faults)) is not None)
    parts = []
    while samples := list(islice(good, CHUNK)):  # a hundred thousand small tensors would take several times the memory
        parts.append(collate(samples))
    if len({x.shape[1:] for part in parts if (x := part.get("images")) is not None}) > 1:
        raise UnclipError("pictures differ in size; set data.image_size")
    return {name: _joined([part[name] for part in parts]) for name in parts[0]} if parts else {"keys": []}


def _joined(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else [value for part in parts for value in part]


def _picked(columns: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Some rows of all columns."""
    return {
        name: column[rows] if isinstance(column, torch.Tensor) else [column[k] for k in rows.tolist()]
        for name, column in columns.items()
    }
