"""Samples of a small data set, read once and kept where the net is: batches of one that is faster than reading shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stages.samples import PER_CAPTION, Sample, decode_all
from stages.shards import Faults, order, read
from stages.streams import Position, Source, decoded
from unclip.errors import UnclipError
from unclip.images import grey_levels, of_grey_levels
from unclip.noise import generator


@dataclass(frozen=True, eq=False)
class Held:
    """Samples as columns: of each its key, its picture in 256 grey levels, its image embedding and how many captions it has; of
    each caption, one sample's after another's, the text, its negatives and its arrays.
    """

    keys: list[str]
    counts: list[int]
    captions: list[str]
    negatives: list[list[str]]
    pictures: dict[str, Tensor]
    texts: dict[str, Tensor]


def kept(source: Source, start: Position, workers: int) -> Iterator[tuple[dict[str, Any], Position, Faults]]:
    """A rank's batches without end: their columns, where the next one stands, and what could not be read.

    Every epoch has an order of its own and for each sample a caption, by (seed, rank, epoch); what is left over when batches
    are full is in no batch of it. `workers` processes read. Raises UnclipError when there are too few samples.
    """
    faults, epoch, used = Faults(), start["epoch"], start["used"]
    held = _held(source, workers, faults)
    count = len(held.keys)
    each = count // source.batch_size
    if source.batch_size % source.together:
        raise UnclipError(f"data.together = {source.together} does not divide run.batch = {source.batch_size}")
    if each == 0:
        raise UnclipError(
            f"data.in_memory: this rank has {count} good samples ({faults.reason or 'no fault'}), less than run.batch ="
            f" {source.batch_size}; lower it"
        )
    counts = torch.tensor(held.counts)
    first = counts.cumsum(0) - counts
    while True:
        rng = generator("memory", source.seed, source.rank, epoch)
        groups = torch.randperm(count // source.together, generator=rng) * source.together
        rows = (groups[:, None] + torch.arange(source.together)).flatten()[: each * source.batch_size]
        told = first + (torch.rand(count, generator=rng, dtype=torch.float64) * counts).long()
        for number, batch in enumerate(islice(rows.split(source.batch_size), used, None), used):
            yield _picked(held, batch, told[batch]), {"epoch": epoch, "used": number + 1}, faults
        epoch, used = epoch + 1, 0


def _held(source: Source, workers: int, faults: Faults) -> Held:
    """The good samples of this rank's share of the shards."""
    mine = order(len(source.shards.paths), source.seed, 0)[source.rank :: source.world]
    loader = DataLoader(
        cast(Dataset[int], mine),
        batch_size=None,
        collate_fn=cast(Any, partial(_read_shard, source)),  # without batches it is called with what the data set holds
        num_workers=workers,
        generator=torch.Generator(),  # the loader would draw from the global one
    )
    parts: list[Held] = []
    for part, found in loader:
        if found.count:
            faults.add(found.reason or "", found.count)
        if part is not None:
            parts.append(part)
    if len({x.shape[1:] for part in parts if (x := part.pictures.get("images")) is not None}) > 1:
        raise UnclipError("pictures differ in size; set data.image_size")
    return _joined(parts)


def _read_shard(source: Source, number: int) -> tuple[Held | None, Faults]:
    """The good samples of one shard; None when there is none. Raises UnclipError for pictures of different sizes."""
    faults, samples = Faults(), list[list[Sample]]()
    how = source.decoding
    for raw in read(source.shards, [number], how.suffixes, faults):
        if (sample := decoded(raw, faults, partial(decode_all, how=how))) is not None:
            samples.append(sample)
    return (_columns(samples) if samples else None), faults


def _columns(samples: Sequence[Sequence[Sample]]) -> Held:
    """Samples, each once per caption, as columns."""
    ones, told = [captions[0] for captions in samples], [one for captions in samples for one in captions]
    images = [one.image for one in ones if one.image is not None]
    if len({image.shape for image in images}) > 1:
        raise UnclipError("pictures differ in size; set data.image_size")
    pictures = {"images": grey_levels(torch.stack(images))} if images else {}
    names = set(ones[0].arrays)
    pictures |= {name: torch.stack([one.arrays[name] for one in ones]) for name in names - PER_CAPTION}
    texts = {name: torch.stack([one.arrays[name] for one in told]) for name in names & PER_CAPTION}
    counts = [len(captions) for captions in samples]
    captions, negatives = [one.caption for one in told], [one.negatives for one in told]
    return Held([one.key for one in ones], counts, captions, negatives, pictures, texts)


def _joined(parts: Sequence[Held]) -> Held:
    """All parts as one, its tensors on the accelerator, if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None

    def whole(columns: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([column[name] for column in columns]).to(device) for name in (columns or [{}])[0]}

    return Held(
        keys=[key for part in parts for key in part.keys],
        counts=[count for part in parts for count in part.counts],
        captions=[caption for part in parts for caption in part.captions],
        negatives=[texts for part in parts for texts in part.negatives],
        pictures=whole([part.pictures for part in parts]),
        texts=whole([part.texts for part in parts]),
    )


def _picked(held: Held, rows: Int[Tensor, " b"], told: Int[Tensor, " b"]) -> dict[str, Any]:
    """The columns of a batch: these samples, each with the caption that lies there."""
    columns: dict[str, Any] = {name: column[rows.to(column.device)] for name, column in held.pictures.items()}
    columns |= {name: column[told.to(column.device)] for name, column in held.texts.items()}
    if "images" in columns:
        columns["images"] = of_grey_levels(columns["images"])
    captions, negatives = ([column[k] for k in told.tolist()] for column in (held.captions, held.negatives))
    return columns | {
        "keys": [held.keys[k] for k in rows.tolist()],
        "captions": captions,
        "negatives": negatives,
    }
