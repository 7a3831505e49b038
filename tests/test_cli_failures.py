"""What a command says when a device, a model, a folder or a disk fails: one line, and nothing half written."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from unclip.images import open_image

from .command_line import failure, names, one_line
from .systems import file_limit

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("device", ["fpga", "nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(cli, folder, tmp_path, device):
    code, _, err = cli("generate", "a cube", "--model", folder, "--out", tmp_path / "out", "--device", device)
    assert code == 1
    assert one_line(err), err
    assert device in err
    assert not names(tmp_path)


def test_a_command_that_is_not_there_is_one_line(cli):
    code, _, err = cli("generat")
    assert code == 1
    assert one_line(err), err
    assert 'Did you mean "generate"?' in err


@pytest.mark.parametrize("spoil", ["missing", "truncated", "foreign", "empty", "no folder", "file"])
def test_a_model_that_cannot_be_used_is_one_line(generate, folder, tmp_path, spoil):
    model = shutil.copytree(folder, tmp_path / "model")
    decoder = model / "decoder.safetensors"
    if spoil == "missing":
        decoder.unlink()
    elif spoil == "truncated":
        decoder.write_bytes(decoder.read_bytes()[:-1])
    elif spoil == "foreign":
        decoder.write_bytes(b"PK\x03\x04 some other program's file, long enough")
    elif spoil == "empty":
        (model / "system.toml").unlink()
    given = {"no folder": tmp_path / "nowhere", "file": decoder}.get(spoil, model)
    code, out, err = generate("a cube", model=given)
    assert code == 1
    assert one_line(err), err
    assert str(given) in err
    assert not out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_is_no_folder_is_refused_before_work(generate, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    code, _, err = generate("a cube", model=tmp_path / "never opened", out=tmp_path / place)
    assert code == 1
    assert one_line(err), err
    assert "is a file; expected a folder" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_one_may_not_write_to_is_refused_before_work(generate, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may
    code, _, err = generate("a cube", model=tmp_path / "never opened")
    assert code == 1
    assert one_line(err), err
    assert "you may not write to" in err


def test_a_full_disk_keeps_what_is_finished_and_nothing_half_written(generate, tmp_path):
    with file_limit(3000):  # enough for each picture, too little for their grid
        code, out, err = generate("a cube", "-n", 9, "--size", 16, "--seed", 0)
    assert code == 1
    assert failure(err) == "error: a file could not be written: File too large"
    assert names(tmp_path / "out") == [f"a-cube-{seed}.png" for seed in range(9)]
    assert len(out.splitlines()) == 9
    assert {open_image(path).size for path in (tmp_path / "out").iterdir()} == {(16, 16)}


def test_a_disk_that_fills_up_at_once_leaves_nothing(generate, tmp_path, monkeypatch):
    def full(*words, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    code, out, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert failure(err) == "error: a file could not be written: No space left on device"
    assert not out
    assert not names(tmp_path / "out")


def test_a_folder_that_vanishes_is_one_line(generate, tmp_path, monkeypatch):
    def gone(self, *words, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", gone)
    code, _, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert failure(err) == f"error: {tmp_path / 'out'}: Permission denied"


def test_other_failures_are_not_dressed_up(generate, monkeypatch):
    def broken(self, *words, **named):
        raise RuntimeError("a bug")

    monkeypatch.setattr("unclip.stage.Stage.run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        generate("a cube", "-n", 1, "--size", 16)


def test_a_full_device_is_one_line(generate, monkeypatch):
    def full(self, *words, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB …")

    monkeypatch.setattr("unclip.stage.Stage.run", full)
    code, _, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert "the device is out of memory; lower --batch" in failure(err)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_a_full_memory_is_one_line(generate, monkeypatch, error):
    def full(self, *words, **named):
        raise error

    monkeypatch.setattr("unclip.stage.Stage.run", full)
    code, _, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert "out of memory; lower --batch or --size, or give --low-memory" in failure(err)


def test_ctrl_c_keeps_finished_pictures(generate, tmp_path, monkeypatch):
    from unclip import drawing

    finished = []

    def to_pil(x):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(x)
        return system_to_pil(x)

    system_to_pil = drawing.to_pil
    monkeypatch.setattr(drawing, "to_pil", to_pil)
    code, out, err = generate("a cube", "-n", 4, "--seed", 0, "--size", 16, "--batch", 2)
    assert code == 130
    assert failure(err) == "stopped; what was finished is kept"
    assert names(tmp_path / "out") == ["a-cube-0.png", "a-cube-1.png"]
    assert len(out.splitlines()) == 2
