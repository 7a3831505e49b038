"""Which files of a folder hold its weights, in one file or in shards; and a quick name for their contents."""

import json

import pytest
import torch
from safetensors.torch import save_file

from unclip.errors import UnclipError
from unclip.interop.files import digest, folder_tensors
from unclip.interop.weight_names import chosen

from .test_files import TENSORS, refused, same

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["model.safetensors", "model.bin", "config.json"], ["model.safetensors"]),
        (["model.fp16.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["diffusion_pytorch_model.fp16.safetensors", "x.bin"], ["diffusion_pytorch_model.fp16.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        ([*SHARDS, "model.safetensors.index.json"], ["model.safetensors.index.json", *SHARDS]),
        (
            ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
            ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
        ),
        ([*SHARDS], []),
        (["modelXsafetensors"], []),
        (["model-1-of-1Xsafetensors", "model.safetensors.index.json"], []),
    ],
)
def test_of_a_folder_one_set_of_weights_is_read(names, wanted):
    assert chosen(names) == wanted


def test_a_folder_is_read_whole_or_in_shards(tmp_path):
    torch.save({"wrong": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.bin")
    save_file(TENSORS, str(tmp_path / "diffusion_pytorch_model.fp16.safetensors"))
    same(folder_tensors(tmp_path))
    for name, tensors in zip(SHARDS, ({"a.weight": TENSORS["a.weight"]}, {"b": TENSORS["b"]}), strict=True):
        save_file(tensors, str(tmp_path / name))
    index = tmp_path / "model.safetensors.index.json"
    owners = {"a.weight": SHARDS[0], "b": SHARDS[1]}
    index.write_text(json.dumps({"weight_map": owners}))
    same(folder_tensors(tmp_path, ["model"]))
    for wrong, told in (
        (owners | {"c": SHARDS[1]}, f"'c' should be in '{SHARDS[1]}' and is not"),
        (owners | {"b": "../model-00002-of-00002.safetensors"}, "'b' should be in '../model"),
        ({"a": 3}, "'a' should be in 3"),
        ({"a": ["x"]}, "no index of shards"),
        (["a"], "no index of shards"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        refused(told, folder_tensors, tmp_path, ["model"])
    index.write_text("{")
    refused("no index of shards", folder_tensors, tmp_path, ["model"])


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    refused("looked for diffusion_pytorch_model, model, pytorch_model with .safetensors", folder_tensors, tmp_path)
    refused("No such file or directory", folder_tensors, tmp_path / "nowhere")


def test_a_digest_tells_contents_apart(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    content = bytearray(8 << 20)
    one.write_bytes(content)
    two.write_bytes(content)
    assert digest([one]) == digest([str(two)])
    assert digest([one, two]) != digest([one])
    for place in (0, (1 << 20) - 1, len(content) - 1, len(content) // 64 * 40 + 1000):
        content[place] = 1
        two.write_bytes(content)
        assert digest([one]) != digest([two]), place
        content[place] = 0
    two.write_bytes(content[:-1])
    assert digest([one]) != digest([two])
    with pytest.raises(UnclipError, match="nowhere: No such file"):
        digest([tmp_path / "nowhere"])
