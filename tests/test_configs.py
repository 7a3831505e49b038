"""Every config file is valid, and those of the paper are its Table 3."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import stages.decoder
import stages.prior
import stages.upsampler
from stages.clip import ClipRun
from stages.decoder import DecoderRun
from stages.draft import DraftRun
from stages.matcher import MatcherRun
from stages.prior import PriorRun
from stages.run import with_defaults
from stages.upsampler import UpsamplerRun
from tools.reproduce import Plan
from unclip.clip import build_net
from unclip.config import build, read_toml
from unclip.errors import UnclipError
from unclip.interop import diffusers_configs
from unclip.models.decoder import Decoder
from unclip.models.prior import Prior
from unclip.models.upsampler import Upsampler

KEYS = Path(__file__).parent / "interop" / "keys"
CONFIGS = Path(__file__).parents[1] / "configs"
RUNS: dict[str, type] = {
    "clip": ClipRun,
    "prior": PriorRun,
    "draft": DraftRun,
    "decoder": DecoderRun,
    "matcher": MatcherRun,
    "upsampler": UpsamplerRun,
}
DEFAULTS = {
    module.__name__.rpartition(".")[2]: {"process": module.PROCESS, "sampling": module.SAMPLING}
    for module in (stages.prior, stages.decoder, stages.upsampler)
}
STAGES = sorted(path for path in CONFIGS.rglob("*.toml") if path.stem.partition("-")[0] in RUNS)
# what a run takes from its CLIP where the file leaves it open
FROM_CLIP = {"image_emb": 256, "vocabulary": 900, "context": 48}
SEEN = {"cells": 256, "side": 8, "text_hidden": 128}


def run_of(path: Path) -> Any:
    values, stage = read_toml(path), path.stem.partition("-")[0]
    if stage in DEFAULTS:
        values = with_defaults(values, **DEFAULTS[stage])
    if stage == "draft":
        values["model"] = {"image_emb": FROM_CLIP["image_emb"]} | values["model"]
    if stage == "matcher":
        values["model"] = SEEN | values["model"]
    if stage in ("prior", "decoder"):
        hidden = values["model"].get("text") == "hidden"
        known = {"vocabulary": None, "text_hidden": 128} if hidden else {}
        values["model"] = FROM_CLIP | known | values["model"]
    return build(RUNS[stage], values, str(path))


def count(path: str) -> int:
    settings = run_of(CONFIGS / path)
    net_type = {PriorRun: Prior, DecoderRun: Decoder, UpsamplerRun: Upsampler}[type(settings)]
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in net_type(settings.model).parameters())


def test_every_folder_has_all_five_stages() -> None:
    """The demo's decoder begins with a draft, which is trained by itself; and a matcher helps to choose its pictures."""
    for folder, more in (("tiny", set()), ("demo", {"draft", "matcher"}), ("paper", set())):
        names = {path.stem for path in STAGES if path.parent.name == folder}
        assert names == {"clip", "prior", "decoder", "upsampler-256", "upsampler-1024"} | more


@pytest.mark.parametrize("path", STAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_is_valid(path: Path) -> None:
    settings = run_of(path)
    assert settings.run.out == (
        f"runs/{path.parent.name}/" + ("" if path.parent.name == "paper" else "runs/") + path.stem
    )
    with pytest.raises(UnclipError, match=r"unknown key 'run\.stepz'; did you mean 'steps'"):
        build(type(settings), {**read_toml(path), "run": {"out": "x", "batch": 1, "stepz": 2}}, "x")


@pytest.mark.parametrize("folder", ["tiny", "demo"])
def test_reproduce_names_configs_that_exist(folder: str) -> None:
    plan = build(Plan, read_toml(CONFIGS / folder / "reproduce.toml"), "reproduce.toml")
    for name, renders in plan.upsamplers.items():
        settings = run_of(CONFIGS / folder / f"{name}.toml")
        assert settings.model.size == renders.size
        assert renders.crop is not None
        assert settings.objective.crop <= renders.crop


def test_sizes_of_the_paper() -> None:
    """Table 3 of arXiv 2204.06125 prints 1B, 3.5B, 700M and 300M; 24 blocks of width 2048 are 1.2B by themselves."""
    assert count("paper/decoder.toml") == pytest.approx(3.5e9, rel=0.1)
    assert count("paper/upsampler-256.toml") == pytest.approx(700e6, rel=0.1)
    assert count("paper/upsampler-1024.toml") == pytest.approx(300e6, rel=0.1)
    blocks = 24 * 12 * 2048**2  # attention 4 w², MLP 8 w²
    assert blocks == pytest.approx(1.2e9, rel=0.01)
    tables = (49408 + 260) * 2048  # token embeddings and positions
    assert count("paper/prior.toml") - tables == pytest.approx(blocks, rel=0.02)


def test_sizes_of_karlo() -> None:
    """The released counts, to the last digit: the prior, the decoder with its text_proj, and two upsampling nets."""
    assert count("karlo/prior.toml") == 1_022_028_544
    assert count("karlo/decoder.toml") == 885_439_686 + 7_878_400
    assert count("karlo/upsampler-256.toml") == 2 * 691_579_523


def test_karlos_configs_are_the_released_ones() -> None:
    told = {path.name.split(".")[1]: json.loads(path.read_text()) for path in KEYS.glob("*.config.json")}
    shapes = {
        "prior": diffusers_configs.prior_config(told["prior"]),
        "decoder": diffusers_configs.decoder_config(told["decoder"], told["text_proj"]),
        "upsampler-256": diffusers_configs.upsampler_config(told["super_res_first"], told["super_res_last"]),
    }
    for name, shape in shapes.items():
        settings = run_of(CONFIGS / "karlo" / f"{name}.toml")
        tuned = {"dropout": 0.0, "checkpointing": False}  # these two are of training
        unet = {} if name == "prior" else {"unet": dataclasses.replace(settings.model.unet, **tuned)}
        assert dataclasses.replace(settings.model, **unet) == shape
        assert settings.process.time_offset == 1
        assert (settings.sampling.sampler, settings.sampling.spacing) == ("ddpm", "linspace")


def test_clip_of_the_paper() -> None:
    """ViT-H/16 beside a text transformer of width 1024: appendix C."""
    settings = run_of(CONFIGS / "paper/clip.toml")
    with torch.device("meta"):
        net = build_net(settings.model)
    assert sum(parameter.numel() for parameter in net.visual.parameters()) == pytest.approx(632e6, rel=0.01)
    assert settings.model.embed_dim == 1024


def test_demo_nets_fit_into_the_package() -> None:
    """At most 7.4M parameters each, 15 MB in half precision."""
    for name in ("prior", "decoder", "upsampler-256", "upsampler-1024"):
        assert count(f"demo/{name}.toml") <= 7.4e6
