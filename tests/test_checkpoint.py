"""Checkpoints: they describe themselves, load strictly, and are written whole or not at all."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unclip import checkpoint
from unclip.checkpoint import Header, fingerprint, load, read_header, read_tensors, save, stored
from unclip.config import to_dict
from unclip.errors import UnclipError
from unclip.models.prior import Prior, PriorConfig
from unclip.models.upsampler import Upsampler

from .systems import file_limit, shaken

CONFIG = PriorConfig(image_emb=8, width=16, depth=1, heads=2, text="own", context=5, vocabulary=30)
HEADER = Header(net="prior", model=to_dict(CONFIG), parents={"clip": "abc"}, provenance={"step": 7})


def make_prior():
    torch.manual_seed(0)
    return shaken(Prior(CONFIG))


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "prior.safetensors", make_prior().state_dict(), HEADER)
    return tmp_path / "prior.safetensors"


def test_a_net_comes_back_as_it_was_and_frozen(path):
    net, header = load(path, Prior)
    wanted = make_prior()
    wanted.shift.add_(0)  # a buffer, which travels too
    assert net.config == CONFIG
    assert net.state_dict().keys() == wanted.state_dict().keys()
    assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])
    assert header == dataclasses.replace(HEADER, fingerprint=fingerprint(wanted.state_dict()))
    assert header == read_header(path)


def test_a_half_precision_copy_has_the_same_fingerprint(path, tmp_path):
    half = tmp_path / "half.safetensors"
    save(half, read_tensors(path), HEADER, torch.float16)
    again = tmp_path / "again.safetensors"
    save(again, read_tensors(half), HEADER)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    assert read_header(path).fingerprint == read_header(half).fingerprint == read_header(again).fingerprint


def test_what_was_read_and_cast_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "REOPENED", 1 << 20)
    path = tmp_path / "large.safetensors"
    save_file({str(k): torch.ones(256, 1024) for k in range(16)}, str(path))
    tensors = stored(path)
    read = {name: tensors[name].half() for name in tensors}
    assert all(bool((tensor == 1).all()) for tensor in read.values())
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8").split("VmFlags")
    mine = [part for part in maps if str(path) in part]
    kept = sum(int(line.split()[1]) for part in mine for line in part.splitlines() if line.startswith("Rss:"))
    assert kept < 4 << 10, f"{kept} KiB of 16 MiB"


@pytest.mark.parametrize("change", [lambda path, other: other.replace(path), lambda path, other: path.unlink()])
def test_a_file_replaced_or_removed_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    monkeypatch.setattr(checkpoint, "REOPENED", 0)
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, str(path))
    save_file({"a": torch.ones(4), "b": torch.ones(4)}, str(other))
    tensors = stored(path)
    assert not tensors["a"].any()
    change(path, other)
    with pytest.raises(UnclipError, match="was replaced or removed while it was being read"):
        tensors["b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors | {"a": tensors["a"] + 0.01},
        lambda tensors: {"aa": tensors["a"], "b": tensors["b"]},
        lambda tensors: tensors | {"a": tensors["a"].reshape(3, 2)},
        lambda tensors: {"a": tensors["a"]},
    ],
)
def test_other_tensors_have_another_fingerprint(change):
    tensors = {"a": torch.ones(2, 3), "b": torch.arange(4)}
    assert fingerprint(change(tensors)) != fingerprint(tensors)
    assert fingerprint(dict(reversed(tensors.items()))) == fingerprint(tensors), "order says nothing"


def broken(path, name):
    """A file that is no checkpoint of ours, in a way that `name` tells."""
    whole, other = path.read_bytes(), path.with_name(f"{name}.safetensors")
    ours = {"unclip": json.dumps(to_dict(HEADER))}
    made = {
        "cut": lambda: other.write_bytes(whole[: len(whole) // 2]),
        "headless": lambda: other.write_bytes(whole[:50]),
        "empty": lambda: other.write_bytes(b""),
        "junk": lambda: other.write_bytes(b"no checkpoint at all, but long enough to look like one"),
        "pickle": lambda: torch.save({"a": Trap(path.parent / "sprung")}, other),
        "foreign": lambda: save_file({"a": torch.zeros(2)}, str(other)),
        "garbled": lambda: save_file({"a": torch.zeros(2)}, str(other), metadata={"unclip": "{nope"}),
        "list": lambda: save_file({"a": torch.zeros(2)}, str(other), metadata={"unclip": "[1]"}),
        "future": lambda: save_file({"a": torch.zeros(2)}, str(other), metadata={"unclip": '{"format": 9}'}),
        "unknown": lambda: save_file({}, str(other), metadata={"unclip": json.dumps(to_dict(HEADER) | {"nett": 1})}),
        "lacking": lambda: save_file({"query": torch.zeros(16)}, str(other), metadata=ours),
        "more": lambda: save(other, read_tensors(path) | {"more": torch.zeros(1)}, HEADER),
        "misshapen": lambda: save(other, read_tensors(path) | {"query": torch.zeros(17)}, HEADER),
        "misconfigured": lambda: save(
            other, read_tensors(path), dataclasses.replace(HEADER, model=HEADER.model | {"depht": 2})
        ),
        "folder": other.mkdir,
        "missing": lambda: None,
    }
    made[name]()
    return other


@dataclasses.dataclass
class Trap:
    """What a pickle can do when it is loaded."""

    path: object

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cut", "damaged, cut short"),
        ("headless", "damaged, cut short"),
        ("empty", "damaged, cut short"),
        ("junk", "damaged, cut short"),
        ("pickle", "damaged, cut short"),
        ("foreign", "some other program"),
        ("garbled", "its header is damaged"),
        ("list", "its header is damaged"),
        ("future", "checkpoint format 9; this version of unclip reads 1"),
        ("unknown", "header: unknown key 'nett'; did you mean 'net'?"),
        ("lacking", "missing tensor\\(s\\) for this net, the first is 'image_emb.bias'"),
        ("more", "1 extra tensor\\(s\\) for this net, the first is 'more'"),
        ("misshapen", "'query' is \\[17\\]; the net wants \\[16\\]"),
        ("misconfigured", "header: model: unknown key 'depht'; did you mean 'depth'?"),
        ("folder", "damaged, cut short or no safetensors file"),
        ("missing", "no such file"),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_one_line(path, name, told):
    other = broken(path, name)
    with pytest.raises(UnclipError, match=told) as caught:
        load(other, Prior)
    assert str(caught.value).startswith(f"{other}: ")
    assert "\n" not in str(caught.value)
    assert not (path.parent / "sprung").exists(), "a pickle was loaded"


def test_another_net_is_refused(path):
    with pytest.raises(UnclipError, match=r"holds a prior; expected an? upsampler"):
        load(path, Upsampler)


def test_a_full_disk_leaves_what_was_there(path):
    before = path.read_bytes()
    with file_limit(5000), pytest.raises(UnclipError, match="could not be written") as caught:
        save(path, {"a": torch.zeros(5000)}, HEADER)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_saving_replaces_the_old_and_leaves_nothing_beside_it(path):
    save(path, {"a": torch.zeros(3)}, HEADER)
    assert read_tensors(path).keys() == {"a"}
    assert list(path.parent.iterdir()) == [path]
