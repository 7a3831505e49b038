"""Samples of a small data set, read once and kept in memory: batches of a net that is faster than reading shards."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from stages.samples import Sample
from stages.shards import Faults, order, read
from stages.streams import Position, Source, collate, decoded
from unclip.errors import UnclipError
from unclip.noise import generator


def kept(source: Source, start: Position) -> Iterator[tuple[dict[str, Any], Position, Faults]]:
    """A rank's batches without end: their columns, where the next one stands, and what could not be read.

    Each sample keeps the caption that was drawn for it in the first epoch. Every epoch has an order of its own, by (seed, rank,
    epoch), and what is left over when batches are full is in no batch of it. Raises UnclipError when there are too few samples.
    """
    samples, faults = _all(source)
    each = len(samples) // source.batch_size
    if each == 0:
        raise UnclipError(
            f"data.in_memory: this rank has {len(samples)} good samples ({faults.reason or 'no fault'}), less than run.batch ="
            f" {source.batch_size}; lower it"
        )
    columns, epoch, used = collate(samples), start["epoch"], start["used"]
    while True:
        rng = generator("memory", source.seed, source.rank, epoch)
        rows = torch.randperm(len(samples), generator=rng)[: each * source.batch_size].split(source.batch_size)
        for number, batch in enumerate(islice(rows, used, None), used):
            yield _picked(columns, batch), {"epoch": epoch, "used": number + 1}, faults
        epoch, used = epoch + 1, 0


def _all(source: Source) -> tuple[list[Sample], Faults]:
    """The good samples of this rank's share of the shards."""
    faults = Faults()
    mine = order(len(source.shards.paths), source.seed, 0)[source.rank :: source.world]
    raws = read(source.shards, mine, source.decoding.suffixes, faults)
    return [sample for raw in raws if (sample := decoded(raw, source.decoding, 0, faults)) is not None], faults


def _picked(columns: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Some rows of all columns."""
    return {
        name: column[rows] if isinstance(column, torch.Tensor) else [column[k] for k in rows.tolist()]
        for name, column in columns.items()
    }
