"""Native files as others may give them: tensors of other shapes, and Kandinsky 2.1's prior alone."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.checkpoint import read_header
from unclip.errors import UnclipError
from unclip.folder import assembled, boxed
from unclip.interop import released
from unclip.interop.native_configs import NativeShape
from unclip.interop.released import native_box
from unclip.interop.systems import found
from unclip.interop.writing import convert
from unclip.interop.writing_native import FILES, write_native
from unclip.loading import Shelf
from unclip.system import UnCLIP

from . import pipelines

SHAPE = NativeShape(head_channels=8, clip_head_channels=8, size=16, upsampled=64)
STATS = "ViT-L-14_stats.th"


@pytest.fixture(scope="module")
def native(karlo: Path, variations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline as native files, CLIP with its picture tower."""
    whole, made = tmp_path_factory.mktemp("whole") / "karlo", tmp_path_factory.mktemp("native")
    shutil.copytree(karlo, whole)
    shutil.copytree(variations / "image_encoder", whole / "image_encoder")
    write_native(found(whole), made, None, SHAPE)
    return made


DAMAGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "missing": lambda x: None,
    "one axis more": lambda x: x[None],
    "one axis": lambda x: x.reshape(-1) if x.ndim > 1 else x[0],
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[..., :0],
    "twice the rows": lambda x: torch.cat([x, x]),
    "one row more": lambda x: torch.cat([x, x[:1]]),
}
TELLING = {
    "clip": [
        "text_projection", "visual.conv1.weight", "visual.positional_embedding", "ln_final.bias",
        "transformer.resblocks.1.attn.in_proj_weight", "token_embedding.weight",
    ],
    "prior": [
        "model.out_proj.weight", "model.text_enc_proj.weight", "model.transformer.resblocks.1.attn.c_qkv.weight",
        "clip_mean",
    ],
    "decoder": [
        "model.text_seq_proj.0.weight", "model.clip_tok_proj.weight", "model.out.2.weight",
        "model.input_blocks.0.0.weight", "model.input_blocks.1.0.out_layers.3.weight",
        "model.input_blocks.1.0.emb_layers.1.weight", "model.input_blocks.4.1.qkv.weight",
    ],
    "upsampler": [
        "model_first_steps.input_blocks.0.0.weight", "model_first_steps.input_blocks.2.0.out_layers.3.weight",
        "model_last_step.out.2.bias",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("role", "name"), [(role, name) for role in TELLING for name in TELLING[role]])
def test_a_tensor_of_another_shape_is_one_line(
    native: Path, monkeypatch: pytest.MonkeyPatch, role: str, name: str
) -> None:
    """Whether its shape tells what the net is like, or has to fit what others tell."""
    files = [native / FILES[role], *([native / STATS] if role == "prior" else [])]
    whole = dict(released._opened(files))
    known = {"merges": pipelines.MERGES} if role == "clip" else {}

    def read(tensors: Mapping[str, Tensor]) -> None:
        monkeypatch.setattr(released, "_opened", lambda _: tensors)
        dict(released._native(role, files, SHAPE, **known).read())

    read(whole)
    for how, damage in DAMAGES.items():
        made = damage(whole[name])
        tensors = {key: value for key, value in (whole | {name: made}).items() if value is not None}
        with pytest.raises(UnclipError) as refused:
            read(tensors)  # type: ignore[arg-type]
        assert str(refused.value).startswith(str(native)), how
        assert "\n" not in str(refused.value), how


def kandinsky(native: Path, folder: Path, scale: float | None = None) -> Path:
    """Kandinsky 2.1's files: the same prior in half precision, and OpenAI's CLIP; its decoder is another."""
    folder.mkdir()
    state = torch.load(native / FILES["prior"], weights_only=True)["state_dict"]
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / "prior_fp16.ckpt")
    torch.save({"x": torch.zeros(1)}, folder / "decoder_fp16.ckpt")
    for name in (STATS, "merges.txt"):
        shutil.copy(native / name, folder / name)
    clip = load_file(native / FILES["clip"])
    save_file(clip | ({} if scale is None else {"logit_scale": torch.tensor(scale)}), str(folder / FILES["clip"]))
    return folder


def test_kandinskys_prior_is_converted_and_serves_karlos_decoder(native: Path, tmp_path: Path) -> None:
    box = native_box(kandinsky(native, tmp_path / "kandinsky", scale=4.6052), SHAPE)
    with pytest.raises(UnclipError, match="a prior alone; convert it"):
        assembled(box, Shelf(torch.device("cpu")))
    convert(box, tmp_path / "prior")
    assert sorted(path.name for path in (tmp_path / "prior").iterdir()) == ["clip.safetensors", "prior.safetensors"]
    header = read_header(tmp_path / "prior" / "prior.safetensors")
    assert header.parents == {"clip": read_header(tmp_path / "prior" / "clip.safetensors").fingerprint}
    assert header.sampling["limit"] == 10
    convert(native_box(native, SHAPE), tmp_path / "karlo")
    mine, theirs = (load_file(tmp_path / name / "prior.safetensors") for name in ("prior", "karlo"))
    stats = {"shift", "std"}
    assert {name: x.dtype for name, x in mine.items()} == {
        name: torch.float32 if name in stats else torch.float16 for name in theirs
    }
    assert all(torch.equal(x, theirs[name].to(x.dtype)) for name, x in mine.items())

    joined = tmp_path / "karlo"
    shutil.copy(tmp_path / "prior" / "prior.safetensors", joined / "prior.safetensors")
    with pytest.raises(UnclipError, match=r"the prior was trained on CLIP .* or set allow_mixed_clip = true"):
        UnCLIP.from_pretrained(joined, "cpu")
    told = (joined / "system.toml").read_text().replace("allow_mixed_clip = false", "allow_mixed_clip = true")
    (joined / "system.toml").write_text(told)
    system = UnCLIP.from_pretrained(joined, "cpu")
    assert next(system.generate("a dog", [0], prior_steps=2, steps=2, upsampler_steps=2)).image.size == (64, 64)


def test_the_same_clip_needs_no_leave(native: Path, tmp_path: Path) -> None:
    convert(native_box(kandinsky(native, tmp_path / "kandinsky"), SHAPE), tmp_path / "prior")
    convert(native_box(native, SHAPE), tmp_path / "karlo")
    shutil.copy(tmp_path / "prior" / "prior.safetensors", tmp_path / "karlo" / "prior.safetensors")
    assert UnCLIP.from_pretrained(tmp_path / "karlo", "cpu", low_memory=True).sizes == (16, 64)
    assert boxed(tmp_path / "karlo").config.allow_mixed_clip is False


def test_heads_that_are_wider_than_the_net_are_one_line(native: Path) -> None:
    """As of released files, whose heads have 64 channels."""
    with pytest.raises(UnclipError, match=r"ViT-L-14\.safetensors: .*heads") as refused:
        native_box(native)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / STATS).unlink(), "0 files called *_stats.th"),
        (lambda root: shutil.copy(root / "prior_fp16.ckpt", root / "prior-2.ckpt"), "2 files called prior[-_]*.ckpt"),
        (lambda root: (root / FILES["clip"]).unlink(), "OpenAI's CLIP is missing; put ViT-L-14.pt"),
        (lambda root: (root / "merges.txt").unlink(), "token_embedding.weight"),
    ],
)
def test_files_that_lack_are_one_line(native: Path, tmp_path: Path, damage: Callable[[Path], Any], told: str) -> None:
    folder = kandinsky(native, tmp_path / "kandinsky")
    damage(folder)
    with pytest.raises(UnclipError) as refused:
        convert(native_box(folder, SHAPE), tmp_path / "new")
    assert told in str(refused.value)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()
