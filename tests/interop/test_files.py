"""Files of others: every format is read as it is, and what is none is refused in one line, with no code run."""

import json
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save, save_file

from unclip.errors import UnclipError
from unclip.interop.files import open_stats, open_tensors
from unclip.interop.openai import open_openai

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


class Write:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def same(found, wanted=TENSORS):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert not found[name].requires_grad


def refused(told, call, *given):
    """The call's one line, which names the file that was given first."""
    with pytest.raises(UnclipError, match=told) as caught:
        call(*given)
    line = str(caught.value)
    assert "\n" not in line
    assert str(given[0]) in line


def test_safetensors_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, str(path))
    found = open_tensors(path)
    same(found)
    assert "c" not in found
    assert len(found) == 2
    assert not isinstance(found, dict)
    assert found["b"] is not found["b"], "read anew, not kept"


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".th"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_plain_values_are_read(tmp_path, suffix, zipped):
    path = tmp_path / f"w{suffix}"
    torch.save(OrderedDict(TENSORS), path, _use_new_zipfile_serialization=zipped)
    same(open_tensors(path))


def test_a_state_dict_inside_a_dict_is_found_and_its_none_and_integers_left_out(tmp_path):
    path = tmp_path / "w.ckpt"
    inside = {**TENSORS, "c": None, "d": 3, "e": torch.nn.Parameter(torch.ones(1))}
    torch.save({"state_dict": inside, "epoch": 3, "told": {"name": "x", "loss": 0.5}}, path)
    same(open_tensors(path), {**TENSORS, "e": torch.ones(1)})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "'x': a str; expected a tensor"),
        (0.5, "'x': a float"),
        ({"y": torch.ones(1)}, "'x': a dict"),
        (torch.eye(3).to_sparse(), "'x': a Tensor; expected a tensor: dense"),
        (None, "'x': a Tensor; expected a tensor: dense, not quantised"),
        (torch.empty(3, device="meta"), "'x': a Tensor; .* with numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_entry_that_is_no_dense_tensor_is_named(tmp_path, value, told):
    path = tmp_path / "w.pt"
    if value is None:  # made here, since it warns
        value = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    torch.save({**TENSORS, "x": value}, path)
    refused(told, open_tensors, path)


@pytest.mark.parametrize("value", [[torch.ones(3)], torch.ones(3), "text", {3: torch.ones(3)}, {"state_dict": 3}])
def test_what_holds_no_tensors_by_name_is_refused(tmp_path, value):
    path = tmp_path / "w.pt"
    torch.save(value, path)
    refused("expected tensors by name", open_tensors, path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("call", [open_tensors, open_stats])
def test_code_in_a_pickle_never_runs(tmp_path, marker, zipped, inside, call):
    path = tmp_path / "w.bin"
    code = Write(marker)
    torch.save({"state_dict": TENSORS, "other": code} if inside else code, path, _use_new_zipfile_serialization=zipped)
    refused(r"w.bin: refused: its pickle asks for \w+\.open, which is no plain value", call, path)


def test_code_in_a_plain_pickle_or_behind_one_never_runs(tmp_path, marker, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # it may not undo what is asked for here
    path = tmp_path / "w.ckpt"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(Write(marker), protocol))
        refused("w.ckpt: (damaged|refused)", open_tensors, path)
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + pickle.dumps(Write(marker)))
    same(open_tensors(path))
    torch.save(Write(marker), path)
    refused("w.ckpt: refused", open_tensors, path)


def zipped(**entries):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in entries.items():
                archive.writestr(f"w/{name}.pkl", text)

    return write


CONTENTS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "web page": lambda path: path.write_text("<html>" * 100),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "zip": zipped(notes="text"),
    "compressed": zipped(data=pickle.dumps({})),
    "short": lambda path: path.write_bytes(b"PK"),
    "one byte": lambda path: path.write_bytes(b"\x80"),
    "broken header": lambda path: path.write_bytes((5).to_bytes(8, "little") + b"{no}}" + bytes(9)),
    "huge header": lambda path: path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".ckpt"])
@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_file_of_weights_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    CONTENTS[content](path)
    refused(f"w{suffix}: damaged, or no plain state dict: .+; get the file again", open_tensors, path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_files_that_are_cut_short_are_refused(tmp_path, share):
    for name, content in whole(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content[: int(len(content) * share)])
        refused(f"{name}: damaged", open_tensors, path)


def whole(tmp_path):
    torch.save(TENSORS, tmp_path / "zip", _use_new_zipfile_serialization=True)
    torch.save(TENSORS, tmp_path / "old", _use_new_zipfile_serialization=False)
    pickles = {"zip.bin": (tmp_path / "zip").read_bytes(), "old.bin": (tmp_path / "old").read_bytes()}
    return {"w.safetensors": save(TENSORS), **pickles}


def test_a_file_of_another_format_than_its_name_says_is_refused(tmp_path):
    for name, content in whole(tmp_path).items():
        path = tmp_path / ("x.bin" if name.endswith("safetensors") else "x.safetensors")
        path.write_bytes(content)
        told = "found a safetensors file" if path.suffix == ".bin" else "found a pickle of torch.save"
        refused(told, open_tensors, path)
        other = tmp_path / "x.npz"
        other.write_bytes(content)
        refused("expected a name that ends in one of .safetensors, .bin", open_tensors, other)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for call in (open_tensors, open_openai, open_stats):
        refused("No such file", call, tmp_path / "nowhere.pt")
    (tmp_path / "w.safetensors").mkdir()
    refused("Is a directory", open_tensors, tmp_path / "w.safetensors")


def test_a_tensor_beyond_its_file_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"x": torch.zeros(1000)}, path)
    content = path.read_bytes()
    size = b"M\xe8\x03"  # 1000, as a pickle has it: said to be 60000 instead
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, b"M\x60\xea"))
    refused("w.pt: damaged", open_tensors, path)


def test_a_pickle_that_was_compressed_again_is_refused(tmp_path):
    """Mapped into memory, its numbers would be the compressed bytes."""
    path, again = tmp_path / "w.pt", tmp_path / "again.pt"
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused("found a zip file that is cut short or none of torch.save", open_tensors, again)


def test_a_files_own_words_are_told_in_printable_letters_of_one_line(tmp_path):
    path = tmp_path / "w.safetensors"
    header = json.dumps({"x": {"dtype": "new\nline\x1b[31m", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1))
    refused(r"w.safetensors: damaged.*`new line\[31m", open_tensors, path)


def test_a_number_format_that_torch_lacks_is_refused_when_read(tmp_path):
    path = tmp_path / "w.safetensors"
    first = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": first, "x": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [4, 7]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(7))
    found = open_tensors(path)
    same({"a": found["a"]}, {"a": torch.zeros(1)})
    refused("w.safetensors: damaged", lambda given: found["x"], path)


def test_statistics_are_a_pair(tmp_path):
    path = tmp_path / "ViT-L-14_stats.th"
    torch.save((torch.zeros(5), torch.ones(5)), path)
    mean, std = open_stats(path)
    assert torch.equal(mean, torch.zeros(5))
    assert torch.equal(std, torch.ones(5))
    one = torch.ones(5)
    for wrong in (
        (one, one, one),
        (one, torch.ones(4)),
        (one, 0 * one),
        (one / 0, one),
        (one[None], one[None]),
        TENSORS,
    ):
        torch.save(wrong, path)
        refused("expected", open_stats, path)
