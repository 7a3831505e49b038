"""Round trips: released weights in, out, and in again, in all three layouts; bit-equal, whole or not at all."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unclip.checkpoint import read_header
from unclip.errors import UnclipError
from unclip.folder import Box, boxed
from unclip.interop.native_configs import NativeShape
from unclip.interop.released import diffusers_box, native_box
from unclip.interop.systems import found
from unclip.interop.writing import convert, new_folder
from unclip.interop.writing_native import write_native
from unclip.system import UnCLIP

from . import pipelines

SHAPE = NativeShape(head_channels=8, clip_head_channels=8, size=16, upsampled=64)


def tensors(box: Box) -> dict[str, dict[str, torch.Tensor]]:
    nets = [box.clip, box.prior, box.decoder, *box.upsamplers]
    return {net.header.net: dict(net.read()) for net in nets if net is not None}


def same(one: Box, other: Box, pictures: bool = True) -> bool:
    """Whether all nets have the same tensors, to the last bit (`pictures`: also CLIP's picture tower)."""
    mine, theirs = tensors(one), tensors(other)
    for net in mine | theirs:
        a, b = ({k: x for k, x in t[net].items() if pictures or not k.startswith("visual.")} for t in (mine, theirs))
        if a.keys() != b.keys() or not all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a):
            return False
    return True


def test_ours_and_back(karlo: Path, tmp_path: Path) -> None:
    convert(found(karlo), tmp_path / "ours")
    assert same(boxed(tmp_path / "ours"), diffusers_box(karlo))
    convert(boxed(tmp_path / "ours"), tmp_path / "theirs", "diffusers")
    assert same(diffusers_box(tmp_path / "theirs"), diffusers_box(karlo))
    for file in sorted(karlo.rglob("*.safetensors")):
        was, now = load_file(file), load_file(tmp_path / "theirs" / file.relative_to(karlo))
        kept = {name for name in was if not name.endswith("position_ids")}
        assert now.keys() == kept
        assert all(torch.equal(now[name], was[name]) for name in kept)
    for name in ("vocab.json", "merges.txt"):
        texts = [(root / "tokenizer" / name).read_text(encoding="utf-8") for root in (karlo, tmp_path / "theirs")]
        assert (
            texts[0].split() == texts[1].split()
            if name == "merges.txt"
            else json.loads(texts[0]) == json.loads(texts[1])
        )


def native(box: Box, folder: Path) -> Path:
    """The system as native files, which are read by SHAPE."""
    with new_folder(folder) as made:
        write_native(box, made, None, SHAPE)
    return folder


def test_native_files_hold_the_same(text_pipeline: Any, karlo: Path, tmp_path: Path) -> None:
    native(found(karlo), tmp_path / "native")
    written = native_box(tmp_path / "native", SHAPE)
    box = diffusers_box(karlo)
    assert same(written, box, pictures=False)
    (tmp_path / "theirs").mkdir()
    pipelines.native(text_pipeline, tmp_path / "theirs")
    assert_same_files(tmp_path / "theirs", tmp_path / "native")


def assert_same_files(one: Path, other: Path) -> None:
    """That all pickles of a folder hold what those of the other do."""
    for file in sorted(one.glob("*.[ct][kh]*")):
        mine, theirs = (torch.load(root / file.name, weights_only=True) for root in (one, other))
        if isinstance(mine, tuple):
            assert all(torch.equal(a.reshape(-1), b.reshape(-1)) for a, b in zip(mine, theirs, strict=True))
        else:
            assert mine["state_dict"].keys() == theirs["state_dict"].keys()
            assert all(torch.equal(x, theirs["state_dict"][name]) for name, x in mine["state_dict"].items())


def test_native_and_back(karlo: Path, variations: Path, tmp_path: Path) -> None:
    """With CLIP's picture tower, which native Karlo's folder holds too."""
    native(diffusers_box(karlo, variations), tmp_path / "native")
    convert(native_box(tmp_path / "native", SHAPE), tmp_path / "ours")
    assert same(boxed(tmp_path / "ours"), native_box(tmp_path / "native", SHAPE))
    assert "visual.proj" in boxed(tmp_path / "ours").clip.read()
    native(boxed(tmp_path / "ours"), tmp_path / "again")
    assert_same_files(tmp_path / "native", tmp_path / "again")
    clips = [load_file(tmp_path / name / "ViT-L-14.safetensors") for name in ("native", "again")]
    assert clips[0].keys() == clips[1].keys()
    assert all(torch.equal(x, clips[1][name]) for name, x in clips[0].items())


def changed(box: Box, role: str, table: str, **values: Any) -> Box:
    net = getattr(box, role)
    header = replace(net.header, **{table: getattr(net.header, table) | values})
    return replace(box, **{role: replace(net, header=header)})


@pytest.mark.parametrize(
    ("role", "table", "values", "told"),
    [
        ("clip", "model", {"quick_gelu": False}, "clip: quick_gelu = False; expected True"),
        ("clip", "model", {"normalize": True}, "clip: normalize = True; expected False"),
        ("prior", "model", {"heads": 2}, "prior: heads = 2; expected 6"),
        ("prior", "model", {"scale": 2.0}, "prior: scale = 2.0; expected 1.0"),
        ("decoder", "model", {"image_scale": 3.0}, "decoder: image_scale = 3.0; expected 1.0"),
        ("decoder", "model", {"size": 32}, "decoder: size = 32; expected 16"),
        ("decoder", "process", {"predicts": "v"}, "decoder: predicts = 'v'; expected 'eps'"),
    ],
)
def test_what_native_files_cannot_say_is_refused(
    karlo: Path, tmp_path: Path, role: str, table: str, values: dict[str, Any], told: str
) -> None:
    with pytest.raises(UnclipError, match=re.escape(told)):
        native(changed(found(karlo), role, table, **values), tmp_path / "native")
    assert not list(tmp_path.iterdir())


def test_how_a_net_was_trained_does_not_matter_to_its_native_files(karlo: Path, tmp_path: Path) -> None:
    """`configs/karlo` recomputes layers and drops channels, and the header says so."""
    box = found(karlo)
    unet = box.decoder.header.model["unet"] | {"checkpointing": True, "dropout": 0.1}
    box = changed(box, "decoder", "model", unet=unet)
    native(box, tmp_path / "tuned")
    native(found(karlo), tmp_path / "plain")
    assert_same_files(tmp_path / "plain", tmp_path / "tuned")


@pytest.mark.parametrize("arithmetic", ["own", "diffusers", "native"])
def test_how_a_system_is_drawn_with_does_not_matter_to_its_files(karlo: Path, tmp_path: Path, arithmetic: Any) -> None:
    native(found(karlo, arithmetic), tmp_path / "native")
    assert same(native_box(tmp_path / "native", SHAPE), diffusers_box(karlo))


def test_heads_of_another_width_are_refused(karlo: Path, tmp_path: Path) -> None:
    """No tensor of a native file tells them: whoever read it would take 64 channels for a head."""
    with pytest.raises(UnclipError, match="heads = 4; expected"):
        convert(found(karlo), tmp_path / "native", "native")


def test_variations_keep_their_picture_tower(variations: Path, tmp_path: Path) -> None:
    convert(found(variations), tmp_path / "ours")
    convert(boxed(tmp_path / "ours"), tmp_path / "theirs", "diffusers")
    assert same(diffusers_box(tmp_path / "theirs"), diffusers_box(variations))
    index = json.loads((tmp_path / "theirs" / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "UnCLIPImageVariationPipeline"
    assert index["text_proj"] == ["unclip", "UnCLIPTextProjModel"]


def test_what_was_converted_draws_the_same(karlo: Path, tmp_path: Path) -> None:
    convert(found(karlo), tmp_path / "ours")
    one, other = (UnCLIP.from_pretrained(where, "cpu", "float64") for where in (karlo, tmp_path / "ours"))
    settings: dict[str, Any] = {"prior_steps": 2, "steps": 2, "upsampler_steps": 2}
    pictures = [np.asarray(next(system.generate("a dog", [0], **settings)).image, int) for system in (one, other)]
    assert (
        abs(pictures[0] - pictures[1]).max() <= 1
    )  # tensors lie elsewhere in memory, which moves the last bit of a sum
    replayed = next(one.replay(next(one.generate("a dog", [0], **settings)).recipe)).image
    assert abs(np.asarray(replayed, int) - pictures[0]).max() <= 1


def test_half_precision_is_half_the_size(karlo: Path, tmp_path: Path) -> None:
    convert(found(karlo), tmp_path / "half", dtype=torch.float16)
    sizes = [sum(file.stat().st_size for file in root.rglob("*.safetensors")) for root in (karlo, tmp_path / "half")]
    assert sizes[1] < 0.55 * sizes[0]
    assert UnCLIP.from_pretrained(tmp_path / "half", "cpu").sizes == (16, 64)


def test_a_system_of_ours_is_whole_after_any_precision(tmp_path: Path) -> None:
    """A copy in half precision has another CLIP once it is copied: what names the old one must name the new."""
    convert(found("demo"), tmp_path / "half", dtype=torch.bfloat16)
    convert(found(tmp_path / "half"), tmp_path / "whole", dtype=torch.float32)
    headers = [read_header(root / "clip.safetensors") for root in (tmp_path / "half", tmp_path / "whole")]
    assert headers[0].fingerprint != headers[1].fingerprint
    system = UnCLIP.from_pretrained(tmp_path / "whole", "cpu")
    assert system.pca is not None
    for name in ("prior", "decoder", "pca"):
        assert read_header(tmp_path / "whole" / f"{name}.safetensors").parents["clip"] == headers[1].fingerprint
    first, last = (load_file(root / "pca.safetensors") for root in (Path(found("demo").where), tmp_path / "whole"))
    assert first.keys() == last.keys()
    assert all(last[name].dtype == x.dtype and torch.equal(last[name], x) for name, x in first.items())
    assert next(system.generate("a red cube", [0], size=64, steps=2, prior_steps=2)).image.size == (64, 64)


def test_parts_of_another_clip_keep_saying_so(tmp_path: Path) -> None:
    """A system that mixes CLIPs is still one after a conversion, and is refused or let through as before."""
    box = found("demo")
    assert box.decoder is not None
    foreign = replace(box.decoder, header=replace(box.decoder.header, parents={"clip": "of another"}))
    convert(replace(box, decoder=foreign), tmp_path / "mixed")
    assert read_header(tmp_path / "mixed" / "decoder.safetensors").parents == {"clip": "of another"}
    with pytest.raises(UnclipError, match="the decoder was trained on CLIP of another"):
        UnCLIP.from_pretrained(tmp_path / "mixed", "cpu")


def test_our_own_systems_are_refused_by_name(tmp_path: Path) -> None:
    for layout in ("diffusers", "native"):
        with pytest.raises(UnclipError, match="demo: 2 upsamplers and a decoder; this layout holds"):
            convert(found("demo"), tmp_path / "no", layout)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(karlo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise UnclipError("the disk is full")

    monkeypatch.setattr("unclip.interop.writing_diffusers.tokenizer_files", full)
    with pytest.raises(UnclipError, match="the disk is full"):
        convert(found(karlo), tmp_path / "new", "diffusers")
    assert not list(tmp_path.iterdir())
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("kept")
    with pytest.raises(UnclipError, match="exists already"):
        convert(found(karlo), tmp_path / "new")
    assert (tmp_path / "new" / "mine.txt").read_text() == "kept"
