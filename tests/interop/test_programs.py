"""Files that are programs, and CLIPs in untrusted files: opened when OpenAI published them, else refused in one line."""

import hashlib
import warnings

import pytest
import torch

from unclip.errors import UnclipError
from unclip.interop import openai
from unclip.interop.clips import open_clip_weights
from unclip.interop.files import open_tensors
from unclip.interop.openai import open_openai, openai_digests

from .test_files import TENSORS, Write, refused, same


def test_a_program_is_opened_only_if_openai_published_it(program, tmp_path, monkeypatch):
    def never(*given, **named):
        raise AssertionError("opened")

    refused("TorchScript archive, a program: of those only OpenAI's published CLIPs", open_tensors, program)
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", never)
        refused("none that OpenAI published", open_openai, program)
    published = hashlib.sha256(program.read_bytes()).hexdigest()
    monkeypatch.setattr(openai, "openai_digests", lambda: {published})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(open_openai(program), {"weight": torch.ones(3)})
    program.write_bytes(program.read_bytes() + b"\0")
    refused("(none that OpenAI published|cut short)", open_openai, program)


def test_openais_digests_are_those_in_open_clips_table():
    found = openai_digests()
    assert len(found) == 9
    assert "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836" in found, "ViT-L-14.pt"


@pytest.mark.parametrize("name", ["w.pt", "w.bin"])
def test_a_clip_with_code_in_it_never_runs_it(tmp_path, marker, name):
    torch.save({"state_dict": TENSORS, "x": Write(marker)}, tmp_path / name)
    refused_clip("its pickle asks for", f"RN50-quickgelu:{tmp_path / name}")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    torch.save(Write(marker), folder / "open_clip_pytorch_model.bin")
    refused_clip("its pickle asks for", str(folder))


def test_a_clip_that_is_a_program_is_refused_or_needs_its_activation(program, tmp_path):
    refused_clip("none that OpenAI published", f"ViT-B-32-quickgelu:{program}")
    refused_clip("OpenAI's weights use QuickGELU; write ViT-B-32-quickgelu:FILE", f"ViT-B-32+gelu:{program}")


def refused_clip(told, source):
    with pytest.raises(UnclipError, match=told) as caught:
        open_clip_weights(source)
    assert "\n" not in str(caught.value)
