"""Samples kept in memory: the same batches' contract as streams have, from shards that are read once."""

import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.data import DataConfig, batches
from unclip.errors import UnclipError

from .test_data import (  # folder is a fixture
    CAPTIONS,
    damage,
    folder,  # noqa: F401
    keys,
    picture,
    plain,
    same,
    sample,
    take,
    write,
)


def kept(folder: Path, **options: Any) -> DataConfig:  # noqa: F811
    return plain(folder, in_memory=True, **options)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_epochs_are_complete_disjoint_and_each_in_its_order(folder: Path) -> None:  # noqa: F811
    ranks = [take(8, kept(folder), rank=rank, world=2) for rank in range(2)]
    everything = [f"{n:03d}" for n in range(24)]
    for epoch in (slice(0, 4), slice(4, 8)):
        assert sorted(keys(list(itertools.chain(*(found[epoch] for found in ranks))))) == everything
    assert keys(ranks[0][:4]) != keys(ranks[0][4:])
    whole = take(8, kept(folder))
    streamed = {key: batch for batch in take(8, plain(folder), batch=3) for key in batch.keys}
    assert sorted(keys(whole)) == everything
    for batch in whole:
        assert batch.images is not None
        for key, image in zip(batch.keys, batch.images, strict=True):
            other = streamed[key]
            assert other.images is not None
            assert image.equal(other.images[other.keys.index(key)])
    assert keys(take(8, kept(folder), seed=1)) != keys(whole)


def test_what_belongs_together_comes_together(folder: Path) -> None:  # noqa: F811
    """Neighbours in a shard, in every batch of every epoch, and each epoch once."""
    beside = {frozenset((f"{n:03d}", f"{n + 1:03d}")) for n in range(0, 24, 2)}
    epochs = [take(12, kept(folder, together=2), batch=4)[start : start + 6] for start in (0, 6)]
    for epoch in epochs:
        pairs = [frozenset(batch.keys[k : k + 2]) for batch in epoch for k in (0, 2)]
        assert set(pairs) == beside
    assert keys(epochs[0]) != keys(epochs[1])
    with pytest.raises(UnclipError, match=r"data\.together = 2 does not divide run\.batch = 3"):
        take(1, kept(folder, together=2), batch=3)
    with pytest.raises(ValueError, match=r"data\.together = 2 needs data\.in_memory = true"):
        plain(folder, together=2)


def test_every_epoch_draws_a_caption_with_all_that_belongs_to_it(folder: Path) -> None:  # noqa: F811
    """The arrays and negatives of a sample are told apart by its caption's number."""
    numbers = np.arange(3, dtype=np.float16)
    for shard in range(4):
        told = {"captions": CAPTIONS, "negatives": [[f"not {caption}"] for caption in CAPTIONS]}
        texts = {"json": json.dumps(told).encode(), "text_emb.npy": npy(numbers[:, None].repeat(2, axis=1))}
        files = {
            f"{n:03d}": sample(n) | texts | {"image_emb.npy": npy(np.full(2, n, np.float16))}
            for n in range(shard * 6, shard * 6 + 6)
        }
        write(folder / f"{shard:05d}.tar", files)
    met: dict[str, set[str]] = {}
    for batch in take(80, kept(folder), batch=12):
        assert batch.image_emb is not None
        assert batch.text_emb is not None
        assert batch.image_emb[:, 0].tolist() == [float(key) for key in batch.keys]
        assert batch.text_emb[:, 0].tolist() == [CAPTIONS.index(caption) for caption in batch.captions]
        assert batch.negatives == [[f"not {caption}"] for caption in batch.captions]
        for key, caption in zip(batch.keys, batch.captions, strict=True):
            met.setdefault(key, set()).add(caption)
    assert set(map(len, met.values())) == {3}
    first = take(8, kept(folder, caption="first"))
    assert {caption for batch in first for caption in batch.captions} == {CAPTIONS[0]}


def test_other_processes_read_the_same(folder: Path) -> None:  # noqa: F811
    damage(folder)
    here, there = (take(7, kept(folder, workers=workers)) for workers in (0, 2))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert here[0].skipped == there[0].skipped == 3


@pytest.mark.parametrize("stop", [1, 4, 8, 11])
def test_resuming_continues_bitwise(folder: Path, stop: int) -> None:  # noqa: F811
    damage(folder)
    whole = take(20, kept(folder), batch=4)
    assert whole[0].skipped == 3  # two samples, and a shard that ends early
    assert whole[0].reason is not None
    position = json.loads(json.dumps(whole[stop - 1].position))
    again = take(20 - stop, kept(folder), batch=4, position=position)
    assert all(same(a, b) for a, b in zip(whole[stop:], again, strict=True))


def test_pictures_of_two_sizes_are_one_line(folder: Path) -> None:  # noqa: F811
    for others in ({}, {"001": sample(1)}):
        write(folder / "00000.tar", {"000": sample(0, png=picture(0, size=8))} | others)
        with pytest.raises(UnclipError, match=r"pictures differ in size.*; set data\.image_size"):
            take(1, kept(folder))
        assert len(keys(take(6, kept(folder, image_size=4)))) == 18


def test_shards_are_read_once(folder: Path) -> None:  # noqa: F811
    stream = batches(kept(folder), 3, 0, 0, 1)
    first = next(stream)
    shutil.rmtree(folder)
    assert len([first, *itertools.islice(stream, 20)]) == 21


def test_less_than_a_batch_is_one_line(folder: Path) -> None:  # noqa: F811
    with pytest.raises(
        UnclipError, match=r"data\.in_memory: this rank has 24 good samples .*less than run\.batch = 25"
    ):
        take(1, kept(folder), batch=25)
