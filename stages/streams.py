"""Endless streams of decoded samples: what one reading process of one rank plays, and where it stands.

A stream walks its share of an epoch's shards, then of the next epoch's. Where it stands is how many raw samples of
which epoch it has used, so going on from there replays the tars up to that place and decodes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import get_worker_info

from stages.samples import Decoding, Sample, decode
from stages.shards import Faults, Raw, Shards, order, read, shuffled
from unclip.errors import UnclipError

Position = dict[str, Any]  # JSON-able
T = TypeVar("T")
START: Position = {"epoch": 0, "used": 0, "skipped": 0, "reason": None}  # where a stream begins


@dataclass(frozen=True)
class Source:
    """All that the streams of one rank have in common."""

    shards: Shards
    decoding: Decoding
    batch_size: int
    seed: int
    shuffle: int
    rank: int
    world: int
    workers: int
    together: int

    @property
    def streams(self) -> int:
        """Streams per rank; reading in the training process is one stream too."""
        return max(1, self.workers)

    def origin(self) -> Position:
        """What must be the same for a position to mean the same place."""
        here = {"seed": self.seed, "rank": self.rank, "ranks": self.world, "workers": self.streams}
        return here | {"shards": len(self.shards.paths), "shuffle": self.shuffle}

    def share(self, worker: int, epoch: int) -> list[int]:
        """The shards that one worker reads in an epoch; over all ranks and workers, each shard once."""
        part, parts = self.rank * self.streams + worker, self.world * self.streams
        return order(len(self.shards.paths), self.seed, epoch)[part::parts]

    def raw(self, worker: int, epoch: int, faults: Faults) -> Iterator[Raw]:
        """The undecoded samples of one worker's epoch in their final order."""
        samples = read(self.shards, self.share(worker, epoch), self.decoding.suffixes, faults)
        return shuffled(samples, self.shuffle, f"samples {self.seed} {epoch} {self.rank} {worker}")


def stream(source: Source, first: int, states: Sequence[Position]) -> Iterator[dict[str, Any] | str]:
    """Batches of the stream that this process plays; a message instead, at the end, if it cannot go on.

    The loader asks its processes in turn, beginning with number 0; so that one plays stream `first`.
    """
    info = get_worker_info()
    worker = (first + (info.id if info else 0)) % source.streams
    try:
        samples = _good(source, worker, states[worker])
        while taken := list(islice(samples, source.batch_size)):
            yield collate([sample for sample, _ in taken]) | {"state": taken[-1][1]}
    except UnclipError as error:
        # an exception that crosses processes arrives as many lines of traceback
        yield str(error)


def _good(source: Source, worker: int, state: Position) -> Iterator[tuple[Sample, Position]]:
    """Good samples without end, each with the state of the stream after it."""
    epoch, used = state["epoch"], state["used"]
    faults = Faults()
    raws = source.raw(worker, epoch, faults)
    if sum(1 for _ in islice(raws, used)) < used:
        raise UnclipError("the shards hold fewer samples than when the position was saved; begin a new run")
    # the replay has met again only a part of the faults that the state counts
    faults.count, faults.reason = state["skipped"], state["reason"]
    barren: set[int] = set()
    good = used > 0
    while True:
        for raw in raws:
            used += 1
            if (sample := decoded(raw, faults, partial(decode, how=source.decoding, epoch=epoch))) is not None:
                good = True
                yield sample, {"epoch": epoch, "used": used, "skipped": faults.count, "reason": faults.reason}
        barren = set() if good else barren | set(source.share(worker, epoch))
        if len(barren) == len(source.shards.paths):
            raise UnclipError(f"none of the {len(barren)} shards holds a good sample; the last one: {faults.reason}")
        epoch, used, good = epoch + 1, 0, False
        raws = source.raw(worker, epoch, faults)


def decoded(raw: Raw, faults: Faults, decoder: Callable[[Raw], T]) -> T | None:
    """What `decoder` makes of the sample in `raw`, or None, counted in `faults`, when it is damaged."""
    try:
        return decoder(raw)
    except Exception as error:  # noqa: BLE001 - the decoders of damaged bytes raise whatever they like
        message = " ".join(str(error).split()) or type(error).__name__
        faults.add(f"{raw['__url__'].rpartition('/')[2]}: sample {raw['__key__']}: {message}")
        return None


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """The fields of a batch by name. Raises UnclipError for pictures of different sizes."""
    columns: dict[str, Any] = {name: torch.stack([s.arrays[name] for s in samples]) for name in samples[0].arrays}
    images = [sample.image for sample in samples if sample.image is not None]
    sizes = sorted({tuple(image.shape[1:]) for image in images})
    if len(sizes) > 1:
        (h1, w1), (h2, w2) = sizes[:2]
        raise UnclipError(f"pictures differ in size ({h1} x {w1} and {h2} x {w2}); set data.image_size")
    if images:
        columns["images"] = torch.stack(images)
    texts = {"captions": [sample.caption for sample in samples], "negatives": [sample.negatives for sample in samples]}
    return columns | texts | {"keys": [sample.key for sample in samples]}
