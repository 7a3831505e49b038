"""The order of a config folder's trainings, and where each finds what it needs. The chain itself runs in test_whole."""

import itertools
from pathlib import Path

from tools.reproduce import Plan, assemble, steps
from unclip.config import load, override, read_toml
from unclip.folder import SystemConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def commands(folder: Path, root: Path, last: str = "train decoder") -> dict[str, tuple[str, ...]]:
    """The steps up to one of them."""
    plan = load(Plan, folder / "reproduce.toml")
    found = {}
    for step in steps(plan, folder, root, 1.0):
        found[step.name] = step.words
        if step.name == last:
            return found
    raise AssertionError(f"there is no {last}")


def test_a_draft_is_trained_before_the_decoder_that_begins_with_it(tmp_path: Path) -> None:
    folder = CONFIGS / "demo"
    found = commands(folder, tmp_path)
    trained = [name for name in found if name.startswith("train ")]
    assert trained == ["train clip", "train prior", "train draft", "train decoder"]
    assert found["train draft"][:2] == ("-m", "stages.draft")
    tables = {
        name: override(read_toml(folder / f"{name}.toml"), found[f"train {name}"][3:])
        for name in ("prior", "draft", "decoder")
    }
    weights = str(tmp_path / "runs" / "draft" / "weights.safetensors")
    assert tables["decoder"]["run"]["pretrained"] == {"draft": weights}
    assert f"{tables['draft']['run']['out']}/weights.safetensors" == weights
    for table in tables.values():
        assert table["clip"]["path"] == str(tmp_path / "runs" / "clip" / "weights.safetensors")
        assert table["data"]["shards"] == str(
            tmp_path / "data" / "embedded" / "{train,crowded,stacked,twins}" / "*.tar"
        )
    for split in ("crowded", "stacked", "twins"):
        pictures = str(tmp_path / "data" / "pictures" / split)
        assert found[f"render pictures/{split}"][2] == found[f"embed {split}"][2] == pictures
        assert found[f"embed {split}"][3] == str(tmp_path / "data" / "embedded" / split)
    assert tables["prior"]["objective"]["pca"] == found["embed train"][-1]
    assert tables["decoder"]["model"]["draft"] == tables["draft"]["model"]["width"]
    assert tables["decoder"]["model"]["pooled_text"] == tables["draft"]["model"]["text_emb"]


def test_a_matcher_is_trained_on_pictures_and_gathered_with_the_rest(tmp_path: Path) -> None:
    folder = CONFIGS / "demo"
    plan = load(Plan, folder / "reproduce.toml")
    words = commands(folder, tmp_path / "none", "train matcher")["train matcher"]
    assert words[:2] == ("-m", "stages.matcher")
    table = override(read_toml(folder / "matcher.toml"), words[3:])
    assert table["clip"] == {"path": str(tmp_path / "none" / "runs" / "clip" / "weights.safetensors")}
    shards = tmp_path / "none" / "data" / "pictures" / "{train,crowded,stacked,twins}" / "*.tar"
    assert table["data"]["shards"] == str(shards)
    for made in (["matcher"], []):
        runs = tmp_path / f"runs{len(made)}"
        for name in ("clip", "prior", "decoder", *plan.upsamplers, *made):
            (runs / name).mkdir(parents=True)
            (runs / name / "weights.safetensors").write_text(name)
        (runs / "pca.safetensors").write_text("pca")
        system = tmp_path / f"system{len(made)}"
        assemble(plan, runs, system, made)
        assert load(SystemConfig, system / "system.toml").matcher == (f"{made[0]}.safetensors" if made else None)
        assert sorted(path.stem for path in system.glob("m*")) == made


def test_without_a_config_of_a_draft_none_is_trained(tmp_path: Path) -> None:
    found = commands(CONFIGS / "tiny", tmp_path)
    assert "train draft" not in found
    assert f"data.shards={tmp_path / 'data' / 'embedded' / 'train'}" in found["train prior"]
    assert not any("pretrained" in word for word in itertools.chain(*found.values()))
