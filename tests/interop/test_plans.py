"""`--dry-run` of released weights: the plan needs their configs and nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from unclip.errors import UnclipError, UnclipWarning
from unclip.interop.systems import found
from unclip.opening import opened

from .fake_hub import stored

WEIGHTS = ("*.safetensors", "*.bin")

ROWS = ["clip", "prior", "decoder", "upsampler-64", "weights", "pictures"]


def bare(folder: Path, target: Path) -> Path:
    """A copy without weights."""
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*WEIGHTS))
    return target


@pytest.fixture
def plan(cli: Callable[..., Any], tmp_path: Path) -> Callable[[str | Path], str]:
    """What the command line plans with a model."""

    def call(model: str | Path) -> str:
        words = ["generate", "a cat", "--model", model, "--device", "cpu", "--out", tmp_path / "out", "--dry-run"]
        code, out, err = cli(*words)
        assert (code, err) == (0, "")
        assert not (tmp_path / "out").exists()
        return out

    return call


def test_a_folder_without_weights_gives_its_plan(karlo: Path, tmp_path: Path, plan: Callable[[Path], str]) -> None:
    told = plan(bare(karlo, tmp_path / "karlo"))
    assert told == plan(karlo)
    rows = {line.split()[0]: line for line in told.splitlines()}
    assert list(rows) == ROWS
    assert rows["prior"].endswith("25 steps")
    with pytest.raises(UnclipError, match="no weights in this folder") as refused:
        opened(tmp_path / "karlo", "cpu", "auto", low_memory=False, arithmetic="own")
    assert "\n" not in str(refused.value)


def test_inspect_tells_what_a_released_folder_holds(karlo: Path, cli: Callable[..., Any]) -> None:
    code, out, err = cli("inspect", karlo)
    assert (code, err) == (0, "")
    assert f"the system {karlo.name!r}, all parts fit together" in out
    assert [line.split(":")[0].strip() for line in out.splitlines()[1:-1]] == [
        "clip",
        "prior",
        "decoder",
        "upsampler-64",
    ]
    assert "predicts eps; ddpm, 25 steps, guidance 8" in out


def files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_a_model_of_the_hub_whose_configs_alone_are_here_gives_its_plan(
    karlo: Path, variations: Path, hub: Path, plan: Callable[[str], str]
) -> None:
    """With the picture tower, which lies in another repository."""
    bare(karlo, stored(hub, "kakaobrain/karlo-v1-alpha", [], files(karlo)))
    with pytest.warns(
        UnclipWarning, match="texts only here, no pictures .*karlo-v1-alpha-image-variations: not wholly"
    ):
        alone = found("karlo", weights=False)
    assert "vision" not in alone.clip.header.model
    bare(variations, stored(hub, "kakaobrain/karlo-v1-alpha-image-variations", [], files(variations)))
    told = plan("karlo")
    assert plan("kakaobrain/karlo-v1-alpha") == told
    assert [line.split()[0] for line in told.splitlines()] == ROWS
    assert found("karlo", weights=False).clip.header.model["vision"]["image_size"] == 28
    with pytest.raises(UnclipError, match="karlo-v1-alpha: not wholly in the cache"):
        found("karlo")


def test_native_weights_on_the_hub_hold_no_configs(hub: Path, cli: Callable[..., Any]) -> None:
    config = "text_encoder/config.json"
    stored(hub, "ai/native", [config], ["prior_fp16.ckpt", "ViT-L-14_stats.th", config])
    code, out, err = cli("generate", "a cat", "--model", "ai/native", "--dry-run")
    assert (code, out) == (1, "")
    assert "ai/native: no model_index.json there; native weights hold no configs" in err
    assert err.count("\n") == 1
