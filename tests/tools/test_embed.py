"""Shards in, shards with embeddings out: right, resumable, undisturbed by damage."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tools.embed
from stages.data import DataConfig, validation_batches
from tools.embed import embed
from unclip.clip import Clip, ClipConfig, build_net, export
from unclip.errors import UnclipError, UnclipWarning
from unclip.images import to_tensor

SHAPE: dict[str, Any] = {
    "embed_dim": 8,
    "quick_gelu": False,
    "vision": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def words(number: int) -> list[str]:
    """Each sample's captions, as many as its number has digits' worth of."""
    return [f"cube {k}" for k in range(number % 3 + 1)]


def write(path: Path, numbers: range, broken: tuple[int, ...] = ()) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            file = io.BytesIO()
            picture(number).save(file, "PNG")
            png = b"nothing" if number in broken else file.getvalue()
            meta = json.dumps({"captions": words(number), "scene": number}).encode()
            for suffix, data in {"png": png, "txt": b"a cube", "json": meta}.items():
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two CLIPs of one shape."""
    config, folder = ClipConfig(**SHAPE, merges=()), tmp_path_factory.mktemp("clips")
    for seed in (0, 1):
        torch.manual_seed(seed)
        export(build_net(config), config, folder / f"{seed}.safetensors", {})
    return sorted(folder.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three shards of four samples."""
    for shard in range(3):
        write(tmp_path / "plain" / f"{shard:05d}.tar", range(shard * 4, shard * 4 + 4))
    return tmp_path / "plain"


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}


def test_samples_keep_what_they_had_and_gain_embeddings_of_every_caption(
    source: Path, clips: list[Path], tmp_path: Path
) -> None:
    out, clip = tmp_path / "out", Clip(clips[0])
    embed(str(source), out, clip=clips[0], states=True, batch=3, device="cpu")
    before, after = contents(source / "00001.tar"), contents(out / "00001.tar")
    assert {name: after[name] for name in before} == before
    assert len(after) == 4 * (3 + 4)
    for number in range(4, 8):
        arrays = {
            name: np.load(io.BytesIO(after[f"{number:03d}.{name}.npy"]), allow_pickle=False)
            for name in ("image_emb", "text_emb", "text_hidden", "text_mask")
        }
        image, text = clip.image_emb(to_tensor(picture(number))[None])[0], clip.text(words(number))
        assert text.hidden is not None
        assert text.mask is not None
        assert {array.dtype.name for array in arrays.values()} == {"float16", "bool"}
        np.testing.assert_allclose(arrays["image_emb"], image, atol=1e-3)
        np.testing.assert_allclose(arrays["text_emb"], text.emb, atol=1e-3)
        np.testing.assert_allclose(arrays["text_hidden"], text.hidden, atol=2e-3)
        assert (arrays["text_mask"] == text.mask.numpy()).all()
    index = json.loads((out / "index.json").read_text())
    assert index["clip"] == clip.fingerprint
    assert index["shards"] == {f"{shard:05d}.tar": 4 for shard in range(3)}


def test_the_trainings_read_them(source: Path, clips: list[Path], tmp_path: Path) -> None:
    embed(str(source), tmp_path / "out", clip=clips[0], device="cpu")
    (batch,) = validation_batches(DataConfig(shards="", validation=str(tmp_path / "out")), 12, 12)
    clip = Clip(clips[0])
    assert batch.images is not None
    assert batch.image_emb is not None
    assert batch.text_emb is not None
    assert batch.text_hidden is None
    torch.testing.assert_close(batch.image_emb, clip.image_emb(batch.images), atol=1e-3, rtol=0)
    torch.testing.assert_close(batch.text_emb, clip.text(batch.captions).emb, atol=1e-3, rtol=0)


def test_it_goes_on_where_it_stopped(
    source: Path, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole, made = tmp_path / "out", tmp_path / "whole", list[str]()
    usual = tools.embed._write

    def write(path: Path, samples: Any) -> None:
        made.append(path.name)
        if len(made) == 2:
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        usual(path, samples)

    monkeypatch.setattr(tools.embed, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        embed(str(source), out, clip=clips[0], device="cpu")
    assert sorted(path.name for path in out.glob("*.tar")) == ["00000.tar"]
    embed(str(source), out, clip=clips[0], device="cpu")
    assert made == ["00000.tar", "00001.tar", "00001.tar", "00002.tar"]
    embed(str(source), out, clip=clips[0], device="cpu")
    assert len(made) == 4
    embed(str(source), whole, clip=clips[0], device="cpu")
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


def test_a_run_killed_before_its_index_goes_on(
    source: Path, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tools.embed._write

    def write(path: Path, samples: Any) -> None:
        usual(path, samples)
        raise KeyboardInterrupt

    monkeypatch.setattr(tools.embed, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        embed(str(source), tmp_path / "out", clip=clips[0], device="cpu")
    monkeypatch.undo()
    embed(str(source), tmp_path / "out", clip=clips[0], device="cpu")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3


def test_damage_is_counted_and_left_out(
    source: Path, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source / "00001.tar", range(4, 8), broken=(5,))
    os.truncate(source / "00002.tar", 700)
    with pytest.warns(UnclipWarning, match=r"2 samples skipped, the last because: 00002\.tar"):
        embed(str(source), tmp_path / "out", clip=clips[0], device="cpu")
    assert "7 samples in 3 shards, 2 skipped" in capsys.readouterr().out
    assert {name[:3] for name in contents(tmp_path / "out" / "00001.tar")} == {"004", "006", "007"}
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert list(index["shards"].values()) == [4, 3, 0]
    batches = validation_batches(DataConfig(shards="", validation=str(tmp_path / "out")), 12, 12)
    assert [(len(batch.keys), batch.skipped) for batch in batches] == [(7, 0)]


def test_other_folders_are_refused_in_one_line(source: Path, clips: list[Path], tmp_path: Path) -> None:
    embed(str(source), tmp_path / "out", clip=clips[0], device="cpu")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for clip, states, out in ((clips[1], False, tmp_path / "out"), (clips[0], True, tmp_path / "out")):
        with pytest.raises(
            UnclipError, match="holds embeddings of another CLIP, or made with another --states"
        ) as error:
            embed(str(source), out, clip=clip, states=states, device="cpu")
        assert "\n" not in str(error.value)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(UnclipError, match=r"holds shards but no index\.json"):
        embed(str(source), source, clip=clips[0], device="cpu")
    (source.parent / "more").mkdir()
    write(source.parent / "more" / "00000.tar", range(4))
    with pytest.raises(UnclipError, match="two of its shards have one name"):
        embed(f"{source.parent}/{{plain,more}}/00000.tar", tmp_path / "both", clip=clips[0], device="cpu")
    assert not (tmp_path / "both").exists()
    with pytest.raises(UnclipError, match="no such file"):
        embed(str(source), tmp_path / "both", clip=tmp_path / "none.safetensors", device="cpu")
