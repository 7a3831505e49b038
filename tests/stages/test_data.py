"""Shards in, batches out: complete, disjoint, repeatable, resumable, and undisturbed by damage."""

import io
import itertools
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages.streams
from stages.data import Batch, DataConfig, batches, validation_batches
from stages.samples import decode
from unclip.errors import UnclipError

SIZE = 3 * 1024  # of a sample in a tar: three files of one block and its header each
CAPTIONS = ["a red cube", "a cube", "one red block"]


def picture(number: int, size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def sample(number: int, **changes: bytes) -> dict[str, bytes]:
    """The files of sample `number`, whose red is its number."""
    meta = json.dumps({"caption": CAPTIONS[0], "captions": CAPTIONS}).encode()
    return {"json": meta, "png": picture(number), "txt": CAPTIONS[0].encode()} | changes


def write(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards of six samples each; keys are numbers from 000 to 023."""
    for shard in range(4):
        numbers = range(shard * 6, shard * 6 + 6)
        write(tmp_path / "train" / f"{shard:05d}.tar", {f"{n:03d}": sample(n) for n in numbers})
    return tmp_path / "train"


def damage(folder: Path) -> None:
    """Two bad samples in the first shard, and the last three of the last shard cut off."""
    files = {f"{n:03d}": sample(n) for n in range(6)}
    write(folder / "00000.tar", files | {"002": sample(2, png=b"nothing"), "004": sample(4, json=b"{")})
    path = folder / "00003.tar"
    path.write_bytes(path.read_bytes()[: 3 * SIZE + 540])


def take(count: int, config: DataConfig, batch: int = 3, seed: int = 0, **options: Any) -> list[Batch]:
    stream = batches(config, batch, seed, options.pop("rank", 0), options.pop("world", 1), **options)
    return list(itertools.islice(stream, count))


def keys(found: Sequence[Batch]) -> list[str]:
    return [key for batch in found for key in batch.keys]


def plain(folder: Path, **options: Any) -> DataConfig:
    return replace(DataConfig(shards=str(folder), shuffle=8), **options)


def same(a: Batch, b: Batch) -> bool:
    fields = ("keys", "captions", "position", "skipped", "reason")
    tensors = ("images", "image_emb", "text_emb", "text_hidden", "text_mask")
    pairs = [(getattr(a, name), getattr(b, name)) for name in tensors]
    equal = all(x is y is None or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)
    return equal and all(getattr(a, name) == getattr(b, name) for name in fields)


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (2, 1), (0, 2), (2, 2)])
def test_an_epoch_is_complete_and_disjoint_over_ranks_and_workers(folder: Path, workers: int, world: int) -> None:
    config = plain(folder, workers=workers)
    found = [take(8 // world, config, rank=rank, world=world) for rank in range(world)]
    assert sorted(keys(list(itertools.chain(*found)))) == [f"{n:03d}" for n in range(24)]
    for batch in itertools.chain(*found):
        assert batch.images is not None
        assert batch.images.shape == (3, 3, 4, 4)
        assert batch.skipped == 0
        red = batch.images[:, 0, 0, 0]
        torch.testing.assert_close(red, torch.tensor([float(key) for key in batch.keys]) / 127.5 - 1)


def test_order_depends_on_seed_and_epoch_only(folder: Path) -> None:
    config, state = plain(folder), torch.get_rng_state()
    epochs = take(16, config)
    first, second = keys(epochs[:8]), keys(epochs[8:])
    assert sorted(first) == sorted(second)
    assert first != second != sorted(second)
    assert keys(take(8, config)) == first
    assert keys(take(8, config, seed=1)) != first
    unshuffled = keys(take(16, plain(folder, shuffle=0)))
    assert unshuffled[:24] != unshuffled[24:]  # the shards are shuffled still
    assert unshuffled[:6] == sorted(unshuffled[:6])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 11])
def test_resuming_continues_bitwise(folder: Path, workers: int, stop: int) -> None:
    damage(folder)
    config = plain(folder, workers=workers)
    whole = take(20, config, batch=4)
    assert whole[-1].skipped > whole[stop - 1].skipped > 0
    position = json.loads(json.dumps(whole[stop - 1].position))
    again = take(20 - stop, config, batch=4, position=position)
    assert all(same(a, b) for a, b in zip(whole[stop:], again, strict=True))


def test_resuming_decodes_nothing_that_was_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(folder)
    position = take(4, plain(folder), batch=4)[-1].position
    decoded: list[str] = []
    monkeypatch.setattr(
        stages.streams, "decode", lambda raw, **how: decoded.append(raw["__key__"]) or decode(raw, **how)
    )
    (batch,) = take(1, plain(folder), batch=4, position=position)
    assert position["streams"][0]["used"] > 12
    assert set(decoded) - {"002", "004"} == set(batch.keys)


def test_caption_is_a_function_of_seed_epoch_and_key(folder: Path) -> None:
    def chosen(found: Sequence[Batch]) -> dict[str, str]:
        return {key: caption for batch in found for key, caption in zip(batch.keys, batch.captions, strict=True)}

    config = plain(folder)
    two = take(16, config)
    assert chosen(two[:8]) == chosen(take(8, plain(folder, workers=2, shuffle=0)))
    assert chosen(two[:8]) != chosen(two[8:])
    assert set(chosen(two).values()) == set(CAPTIONS)
    assert set(chosen(take(8, plain(folder, caption="first"))).values()) == {CAPTIONS[0]}


def test_what_the_shards_hold_arrives_and_pictures_may_stay_unread(tmp_path: Path) -> None:
    def embedded(number: int, width: int = 5) -> dict[str, bytes]:
        files = {"image_emb.npy": io.BytesIO(), "text_emb.npy": io.BytesIO()}
        np.save(files["image_emb.npy"], np.full(5, number, np.float32))
        np.save(files["text_emb.npy"], np.full((3, width), number, np.float16))
        return sample(number, png=b"no picture") | {name: file.getvalue() for name, file in files.items()}

    samples = {"001": sample(1)} | {f"{n:03d}": embedded(n) for n in range(10, 20)} | {"020": embedded(20, width=4)}
    write(tmp_path / "0.tar", samples)
    (batch,) = take(1, plain(tmp_path, images=False), batch=10)
    assert batch.images is batch.text_hidden is None
    assert "001" not in batch.keys
    assert take(3, plain(tmp_path, images=False), batch=10)[-1].skipped >= 4
    numbers = torch.tensor([float(key) for key in batch.keys])[:, None].expand(10, 5)
    for rows in (batch.image_emb, batch.to("cpu").text_emb):
        assert rows is not None
        assert rows.dtype == torch.float32
        assert torch.equal(rows, numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_skipped_counted_and_explained(folder: Path, workers: int) -> None:
    damage(folder)
    found = take(40, plain(folder, workers=workers), batch=2)
    assert {"002", "004", "023"}.isdisjoint(keys(found))
    assert len(set(keys(found))) == 24 - 2 - 3
    epochs = min(state["epoch"] for state in found[-1].position["streams"])
    assert 3 * epochs <= found[-1].skipped <= 3 * (epochs + 2)
    reasons = {str(batch.reason) for batch in found}
    assert any(reason.startswith("00000.tar: sample 002: its picture: not a readable picture") for reason in reasons)
    assert any(reason.startswith("00003.tar: unexpected end of data; 3 usable samples") for reason in reasons)
    assert [batch.skipped for batch in found] == sorted(batch.skipped for batch in found)


@pytest.mark.parametrize(
    ("end", "errors"),
    [(2 * SIZE, 0), (2 * SIZE + SIZE // 3, 1), (2 * SIZE + 540, 1), (2 * SIZE + 100, 0)],
    ids=["between samples", "between the files of one", "inside a file", "inside a header"],
)
def test_a_cut_tar_is_noticed_by_its_index(folder: Path, end: int, errors: int) -> None:
    path = folder / "00000.tar"
    path.write_bytes(path.read_bytes()[:end])
    config = DataConfig(shards="unused", validation=str(folder))
    (batch,) = take(9, config, batch=99, split="validation")
    assert batch.keys[:3] == ["000", "001", "006"]
    assert batch.skipped == errors
    (folder / "index.json").write_text(json.dumps({"shards": {f"{n:05d}.tar": 6 for n in range(4)}}))
    (batch,) = take(9, config, batch=99, split="validation")
    assert batch.keys[:3] == ["000", "001", "006"]
    assert batch.skipped == 4
    assert batch.reason is not None
    assert batch.reason.startswith("00000.tar: ")
    assert "of 6 in index.json" in batch.reason


def test_validation_is_fixed_first_captioned_and_split_by_rank(folder: Path) -> None:
    config = DataConfig(shards="unused", validation=str(folder))
    whole = validation_batches(config, 4, 10)
    assert keys(whole) == [f"{n:03d}" for n in range(10)]
    assert [len(batch.keys) for batch in whole] == [4, 4, 2]
    assert {caption for batch in whole for caption in batch.captions} == {CAPTIONS[0]}
    parts = [keys(validation_batches(config, 4, 10, rank, 3)) for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == keys(whole)
    assert [len(part) for part in parts] == [4, 3, 3]
    assert len(keys(take(99, config, split="validation"))) == 24
    with pytest.raises(UnclipError, match=r"data\.validation is not set"):
        validation_batches(plain(folder), 4, 10)
    write(folder / "00000.tar", {"000": sample(0, png=picture(0, size=5)), "001": sample(1)})
    with pytest.raises(UnclipError, match=r"^pictures differ in size .* set data\.image_size$"):
        validation_batches(config, 4, 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_damage_is_an_error_and_no_loop(tmp_path: Path, workers: int) -> None:
    for shard in range(2):
        write(tmp_path / f"{shard}.tar", {"000": sample(0, png=b"bad")})
    with pytest.raises(UnclipError) as error:
        take(1, plain(tmp_path, workers=workers))
    assert "none of the 2 shards holds a good sample" in str(error.value)
    assert "its picture: not a readable picture" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_worker_with_a_bad_shard_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"000": sample(0, png=b"bad")})
    write(tmp_path / "1.tar", {"001": sample(1)})
    (tmp_path / "2.tar").write_bytes(b"no tar at all")
    found = take(12, plain(tmp_path, workers=2), batch=1)
    assert set(keys(found)) == {"001"}
    assert found[-1].skipped >= 2


def test_mistakes_are_one_line(folder: Path) -> None:
    def refused(match: str, workers: int, world: int, **options: Any) -> None:
        with pytest.raises(UnclipError, match=match) as error:
            batches(plain(folder, workers=workers), 2, 0, 0, world, **options)
        assert "\n" not in str(error.value)

    refused(r"holds 4 shards, but 2 ranks x 3 workers need at least 6; lower data\.workers", 3, 2)
    position = take(1, plain(folder, workers=2))[0].position
    refused(r"position in the data has workers = 2, this run has 3; resume with 2", 3, 1, position=position)
    refused(r"position in the data has ranks = 1, this run has 2", 2, 2, position=position)
