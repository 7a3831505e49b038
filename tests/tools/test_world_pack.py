"""Shards of the demo world: img2dataset's layout, equal bytes however they come about, one-line refusals."""

import errno
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.world import captions, render, sample, shards
from tools.world.__main__ import app
from tools.world.negatives import negatives
from tools.world.pack import pack
from tools.world.shards import Settings
from unclip.cli.shell import run

SETTINGS = Settings(size=32, crop=None, seed=3, split="test", shard=30)
COUNT = 70


def _pack(out, settings=SETTINGS, count=COUNT, workers=1, progress=lambda done: None):
    return pack(out, settings, count, workers, "cpu", progress)


def _files(path):
    with tarfile.open(path) as tar:
        return {member.name: handle.read() for member in tar if (handle := tar.extractfile(member))}


def _digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    done = []
    index = _pack(out, progress=done.append)
    assert sum(done) == COUNT
    return out, index


def _run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["world", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        run(app)
    code = stopped.value.code
    if isinstance(code, str):  # the interpreter prints it and exits with 1
        return 1, code
    return code, capsys.readouterr().err.strip().splitlines()[-1]


def test_shards_have_the_layout_of_img2dataset(world):
    out, _ = world
    assert sorted(p.name for p in out.iterdir()) == ["00000.tar", "00001.tar", "00002.tar", "index.json"]
    files = _files(out / "00001.tar")
    assert list(files)[:4] == ["000010000.png", "000010000.txt", "000010000.json", "000010001.png"]
    assert len(files) == 90
    meta = json.loads(files["000010004.json"])
    scene = sample(3, 34, "test")
    assert (meta["key"], meta["index"], meta["width"], meta["height"]) == ("000010004", 34, 32, 32)
    assert meta["captions"] == captions(scene)
    assert meta["negatives"] == negatives(scene)
    assert files["000010004.txt"].decode() == meta["caption"]
    assert meta["caption"] in meta["captions"]
    assert [thing["colour"] for thing in meta["scene"]["things"]] == [thing.colour for thing in scene.things]
    pixels = np.asarray(Image.open(io.BytesIO(files["000010004.png"])))
    assert (pixels == render([scene], 32)[0].permute(1, 2, 0).numpy()).all()


def test_the_index_counts_what_the_shards_hold(world):
    out, index = world
    assert json.loads((out / "index.json").read_text()) == index
    assert [shard["count"] for shard in index["shards"].values()] == [30, 30, 10]
    scenes = [sample(3, i, "test") for i in range(COUNT)]
    assert index["attributes"]["style"]["drawing"] == sum(scene.style == "drawing" for scene in scenes)
    assert index["attributes"]["colour"]["red"] == sum(t.colour == "red" for s in scenes for t in s.things)
    assert sum(index["attributes"]["count"].values()) == COUNT


def test_workers_change_no_byte(world, tmp_path):
    _pack(tmp_path / "two", workers=2)
    assert _digest(tmp_path / "two") == _digest(world[0])


def test_a_stopped_or_extended_run_goes_on_and_ends_the_same(world, tmp_path, monkeypatch):
    out, made, make = tmp_path / "out", [], shards.make

    def stop_in_the_second_shard(settings, indices, device):
        if 30 in indices:
            raise KeyboardInterrupt
        return make(settings, indices, device)

    monkeypatch.setattr(shards, "make", stop_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        _pack(out, count=40)
    assert sorted(p.name for p in out.iterdir()) == ["00000.tar", "index.json"]
    monkeypatch.setattr(shards, "make", lambda s, i, d: made.extend(i) or make(s, i, d))
    _pack(out, count=40)
    assert made == list(range(30, 40))
    (out / "00000.tar").write_bytes(b"damaged")
    _pack(out)  # a damaged shard and one that has grown are made again
    assert made[10:] == list(range(COUNT))
    assert _digest(out) == _digest(world[0])


def test_crops_are_cut_from_the_whole_and_mostly_show_a_thing(tmp_path):
    settings = Settings(size=256, crop=64, seed=1, split="train", shard=40)
    _pack(tmp_path, settings, count=40)
    shown = 0
    files = _files(tmp_path / "00000.tar")
    for i in range(40):
        meta = json.loads(files[f"{i:09d}.json"])
        pixels = np.asarray(Image.open(io.BytesIO(files[f"{i:09d}.png"])))
        assert pixels.shape == (64, 64, 3)
        assert (meta["width"], meta["size"]) == (64, 256)
        if i < 5:
            top, left, height, width = meta["crop"]
            wanted = render([sample(1, i, "train")], 256, [(top, left, height, width)])[0]
            assert (pixels == wanted.permute(1, 2, 0).numpy()).all()
        shown += pixels.std((0, 1)).max() > 12
    assert shown >= 24


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--split", "validation"],
            "error: unknown split 'validation'; expected one of train, test, composition, crowded, stacked, twins",
        ),
        (["--size", 64, "--crop", 65], "error: --crop 65 is larger than --size 64; give a smaller crop"),
        (["--count", 0], "error: --count 0: expected a positive number"),
        (["--device", "tpu"], "error: unknown device 'tpu'; expected cpu or cuda"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, words, message):
    assert _run(monkeypatch, capsys, tmp_path / "out", *words) == (1, message)
    assert not (tmp_path / "out").exists()


def test_another_world_in_the_folder_is_refused(world, monkeypatch, capsys):
    before = _digest(world[0])
    code, line = _run(
        monkeypatch, capsys, world[0], "--count", 70, "--size", 64, "--seed", 3, "--split", "test", "--shard", 30
    )
    assert (code, line.endswith("holds another world: size 32 (asked: 64); give another folder")) == (1, True)
    code, line = _run(
        monkeypatch, capsys, world[0], "--count", 5, "--size", 32, "--seed", 3, "--split", "test", "--shard", 30
    )
    assert (code, line.endswith("holds another world: count 70 (asked: 5); give another folder")) == (1, True)
    assert _digest(world[0]) == before


def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_shard(tmp_path, monkeypatch, capsys):
    def full(self, tarinfo, fileobj=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    code, line = _run(monkeypatch, capsys, tmp_path, "--count", 2, "--workers", 1)
    assert code == 1
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert [path.name for path in Path(tmp_path).iterdir()] == ["index.json"]


def test_ctrl_c_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def stop(settings, indices, device):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "make", stop)
    code, line = _run(monkeypatch, capsys, tmp_path, "--count", 2, "--workers", 1)
    assert (code, line) == (130, "stopped; what was finished is kept")
