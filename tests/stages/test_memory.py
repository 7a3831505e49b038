"""Samples kept in memory: the same batches' contract as streams have, from shards that are read once."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import stages.memory
from stages.data import DataConfig, batches
from unclip.errors import UnclipError

from .test_data import damage, folder, keys, picture, plain, same, sample, take, write  # noqa: F401 (folder is a fixture)


def kept(folder: Path, **options: Any) -> DataConfig:  # noqa: F811
    return plain(folder, in_memory=True, **options)


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
        for key, caption, image in zip(batch.keys, batch.captions, batch.images, strict=True):
            other = streamed[key]
            assert other.images is not None
            assert caption == other.captions[other.keys.index(key)]
            assert image.equal(other.images[other.keys.index(key)])
    assert keys(take(8, kept(folder), seed=1)) != keys(whole)


@pytest.mark.parametrize("stop", [1, 4, 8, 11])
def test_resuming_continues_bitwise(folder: Path, stop: int) -> None:  # noqa: F811
    damage(folder)
    whole = take(20, kept(folder), batch=4)
    assert whole[0].skipped == 3  # two samples, and a shard that ends early
    assert whole[0].reason is not None
    position = json.loads(json.dumps(whole[stop - 1].position))
    again = take(20 - stop, kept(folder), batch=4, position=position)
    assert all(same(a, b) for a, b in zip(whole[stop:], again, strict=True))


def test_pictures_of_two_sizes_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    write(folder / "00000.tar", {"000": sample(0, png=picture(0, size=8))})
    for chunk in (1000, 6):
        monkeypatch.setattr(stages.memory, "CHUNK", chunk)
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
