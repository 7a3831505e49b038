"""Packing a system to travel: half precision, the same net, and the words it knows."""

import shutil

import pytest
import torch

from tools import ship
from unclip.checkpoint import read_header, read_tensors
from unclip.config import load
from unclip.errors import UnclipError
from unclip.folder import SystemConfig, strangers
from unclip.places import FILE
from unclip.system import UnCLIP

SAMPLED = 'name = "random"\nupsamplers = ["upsampler-64.safetensors"]\n\n# why\n[sampling]\ndecoder = {steps = 2}\n'


@pytest.fixture
def source(folder, tmp_path):
    (copy := shutil.copytree(folder, tmp_path / "source")).joinpath(FILE).write_text(SAMPLED, encoding="utf-8")
    return copy


def test_what_is_shipped_is_the_same_system_at_half_the_size(source, tmp_path):
    ship.ship(source, tmp_path / "out")
    ship.ship(tmp_path / "out", tmp_path / "again")  # what is shipped can be shipped
    for name in ("clip", "prior", "decoder", "upsampler-64"):
        before, after = source / f"{name}.safetensors", tmp_path / "again" / f"{name}.safetensors"
        assert read_header(before).fingerprint == read_header(after).fingerprint
        assert after.stat().st_size < 0.75 * before.stat().st_size
        for key, tensor in read_tensors(before).items():
            torch.testing.assert_close(read_tensors(after)[key], tensor, atol=1e-3, rtol=1e-3)
    made = load(SystemConfig, tmp_path / "again" / FILE)
    assert "\n\n# why\n[sampling]\n" in (tmp_path / "again" / FILE).read_text(encoding="utf-8")
    assert made.sampling.decoder == {"steps": 2}
    assert not strangers(made, ["A small red cube on top of two striped cylinders!"])
    assert strangers(made, ["a corgi on the beach"]) == ["corgi", "beach"]
    assert not strangers(made, ['a sign that says "dog"', "a cone with the word “stop” on it"])
    assert strangers(made, ["a photo of a dog 🐕"]) == ["dog", "🐕"], "it is only ever printed"
    assert UnCLIP.from_pretrained(tmp_path / "again", "cpu").decoder.sampling.steps == 2


def test_a_file_too_large_to_travel_is_refused(source, tmp_path, monkeypatch):
    ship.ship(source, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    sizes = sorted(path.stat().st_size for path in before if path.suffix == ".safetensors")
    monkeypatch.setattr(ship, "LIMIT", sizes[-1] - 1)
    with pytest.raises(UnclipError, match=r"safetensors: .* MB, more than .* make the net smaller"):
        ship.ship(source, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_is_missing_or_damaged_is_one_line(source, tmp_path):
    (source / "decoder.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnclipError, match=r"decoder\.safetensors: "):
        ship.ship(source, tmp_path / "out")
    (source / "decoder.safetensors").unlink()
    with pytest.raises(UnclipError, match=r"decoder\.safetensors: no such file"):
        ship.ship(source, tmp_path / "out")
