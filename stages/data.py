"""webdataset shards → batches: per rank and worker, shuffled by (seed, epoch), resumable; damage skipped, counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from webdataset.pipeline import DataPipeline

from stages.memory import kept
from stages.samples import ARRAYS, Decoding, decode, layout
from stages.shards import Faults, Shards, find, read
from stages.streams import START, Position, Source, collate, decoded, stream
from unclip.config import Natural, Positive, config
from unclip.errors import UnclipError

PROBED = 16  # samples of a shard that are searched for embeddings


@config
class DataConfig:
    """Where the samples come from and how they are read.

    shards, validation: a folder of *.tar, one tar, or a brace or glob pattern, in img2dataset's layout.
    image_size: pictures are resized to it (shorter side, bicubic, antialiased) and cropped to the centre.
    images: False leaves pictures undecoded. workers: reading processes per rank; 0 reads in the training process.
    shuffle: buffer in samples per worker. caption: which of a sample's captions training sees.
    in_memory: shards are read once, by the workers, and decoded samples kept where the net is, pictures in 256 grey levels; for
    what is small, and trains faster than shards can be read. together: so many samples that lie beside each other in memory
    stay beside each other in batches, such as twins, each of which shows what the other does not.
    """

    shards: str
    validation: str | None = None
    image_size: Positive | None = None
    images: bool = True
    workers: Natural = 0
    shuffle: Natural = 2000
    caption: Literal["random", "first"] = "random"
    in_memory: bool = False
    together: Positive = 1

    def __post_init__(self) -> None:
        if self.together > 1 and not self.in_memory:
            raise ValueError(f"data.together = {self.together} needs data.in_memory = true")


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Samples of one step; what the shards do not hold is None.

    `position` says, in plain JSON-able values, where the stream stands after this batch; give it back to `batches` to
    go on from there. `negatives` are, for each caption, some that are nearly it and false. `skipped` counts what could not
    be used since the run began, `reason` says why the last was not.
    """

    keys: list[str]
    captions: list[str]
    negatives: list[list[str]] = field(default_factory=list)
    images: Float[Tensor, "b 3 h w"] | None = None
    image_emb: Float[Tensor, "b d"] | None = None
    text_emb: Float[Tensor, "b d"] | None = None
    text_hidden: Float[Tensor, "b l w"] | None = None
    text_mask: Bool[Tensor, "b l"] | None = None
    position: Position
    skipped: int = 0
    reason: str | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with its tensors on `device`; copies from pinned memory do not block."""
        tensors = {name: getattr(self, name) for name in ("images", *ARRAYS)}
        moved = {name: None if x is None else x.to(device, non_blocking=True) for name, x in tensors.items()}
        return replace(self, **moved)


def batches(
    config: DataConfig,
    batch_size: int,
    seed: int,
    rank: int,
    world: int,
    position: Position | None = None,
    split: Literal["train", "validation"] = "train",
) -> Iterator[Batch]:
    """Batches without end for training, or one pass over the validation shards (see `validation_batches`).

    Within an epoch no sample comes twice, over all `world` ranks and their workers. With the `position` of an earlier
    batch of this rank, what follows is bitwise what followed then. Raises UnclipError at once for shards that are
    missing or too few, and for a position of another run; while iterating, when every sample of all shards is damaged.
    """
    if split == "validation":
        return _one_pass(config, batch_size, rank, world, None)
    shards = find(config.shards, "data.shards")
    chosen_by = seed if config.caption == "random" else None
    decoding = _decoding(shards, config, chosen_by)
    workers = 0 if config.in_memory else config.workers
    source = Source(shards, decoding, batch_size, seed, config.shuffle, rank, world, workers, config.together)
    parts = world * source.streams
    if len(shards.paths) < parts:
        raise UnclipError(
            f"data.shards = {config.shards!r} holds {len(shards.paths)} shards, but {world} ranks x {source.streams} "
            f"workers need at least {parts}; lower data.workers or write more, smaller shards"
        )
    start = position or {**source.origin(), "next": 0, "reason": None, "streams": [START] * source.streams}
    for name, now in source.origin().items():
        if start.get(name) != now:
            raise UnclipError(
                f"the saved position in the data has {name} = {start.get(name)}, this run has {now}; "
                f"resume with {start.get(name)}, or begin a new run"
            )
    return _from_memory(source, start, config.workers) if config.in_memory else _endless(source, start)


def validation_batches(config: DataConfig, batch_size: int, count: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """The first `count` samples of the validation shards, in order, each with its first caption; always the same.

    Ranks take samples in turn, so their lists may differ in length by one batch, and the last batch may be smaller;
    `position` is empty. Raises UnclipError when data.validation is unset or holds no good sample.
    """
    return list(_one_pass(config, batch_size, rank, world, count))


def _decoding(shards: Shards, config: DataConfig, seed: int | None) -> Decoding:
    """How to decode these shards; which embeddings they hold, and in what shape, their first good samples say."""
    how = Decoding(config.images, config.image_size, seed)
    suffixes = [f"{name}.npy" for name in ARRAYS]
    for index in range(len(shards.paths)):
        raws = list(islice(read(shards, [index], (*suffixes, "txt", "json"), Faults()), PROBED))
        # the fullest: a damaged sample may lack some
        for raw in sorted(raws, key=lambda raw: -sum(suffix in raw for suffix in suffixes)):
            try:
                return replace(how, layout=layout(raw))
            except Exception:  # noqa: BLE001 - whatever damage provokes; the stream will count and report it
                continue
    return how


def _one_pass(config: DataConfig, batch_size: int, rank: int, world: int, count: int | None) -> Iterator[Batch]:
    if config.validation is None:
        raise UnclipError("data.validation is not set; give a folder or pattern of validation shards")
    shards = find(config.validation, "data.validation")
    how, faults = _decoding(shards, config, None), Faults()
    raws = islice(read(shards, range(len(shards.paths)), how.suffixes, faults), rank, count, world)
    good = (sample for raw in raws if (sample := decoded(raw, faults, partial(decode, how=how, epoch=0))) is not None)
    empty = True
    while samples := list(islice(good, batch_size)):
        empty = False
        yield Batch(**collate(samples), position={}, skipped=faults.count, reason=faults.reason)
    if empty and faults.count:
        raise UnclipError(f"data.validation = {config.validation!r}: no good sample ({faults.reason})")


def _from_memory(source: Source, start: Position, workers: int) -> Iterator[Batch]:
    """Batches of samples that are kept; the one stream of `start` is they."""
    for columns, state, faults in kept(source, start["streams"][0], workers):
        position = {**source.origin(), "next": 0, "reason": faults.reason, "streams": [state]}
        yield Batch(**columns, position=position, skipped=faults.count, reason=faults.reason)


def _endless(source: Source, start: Position) -> Iterator[Batch]:
    """Batches of the streams in turn, each with the position of all of them."""
    streams, turn, reason = list(start["streams"]), start["next"], start["reason"]
    pipeline = DataPipeline(partial(stream, source, turn, streams))
    loader = DataLoader(
        cast(IterableDataset[Any], pipeline),
        batch_size=None,
        num_workers=source.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader would draw from the global one
    )
    for columns in loader:
        if isinstance(columns, str):
            raise UnclipError(columns)
        state = columns.pop("state")
        reason = state["reason"] if state["skipped"] > streams[turn]["skipped"] else reason
        streams = [*streams[:turn], state, *streams[turn + 1 :]]
        turn = (turn + 1) % source.streams
        position = {**source.origin(), "next": turn, "reason": reason, "streams": streams}
        yield Batch(**columns, position=position, skipped=sum(s["skipped"] for s in streams), reason=reason)
