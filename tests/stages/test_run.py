"""The run folder: whose it is, what a mistake leaves there, what its log holds."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import stages.upsampler
from stages.run import OptimConfig, Run, RunConfig, command
from unclip.checkpoint import read_header
from unclip.errors import UnclipError

OPTIM = OptimConfig(lr=1e-3)


def run(folder: Path, config: dict[str, Any] | None = None, **settings: Any) -> Run:
    return Run(RunConfig(out=str(folder), steps=10, batch=2, **settings), OPTIM, config or {})


def test_a_folder_belongs_to_one_config(tmp_path: Path) -> None:
    old = {"model": {"width": 8, "depth": 2}, "optim": {"betas": (0.9, 0.99)}}
    new = {"model": {"width": 9, "depth": 2}, "optim": {"betas": [0.9, 0.99]}, "run": {"seed": 1}}
    run(tmp_path / "run", old).open(0)
    run(tmp_path / "run", new).open(0)  # nothing was trained yet, and a mistake may be mended
    run(tmp_path / "run", old).open(0)
    (tmp_path / "run" / "states").mkdir()
    (tmp_path / "run" / "states" / "step-00000001.pt").touch()
    run(tmp_path / "run", old).open(1)
    with pytest.raises(UnclipError, match=r"holds a run of another config, which differs in model\.width, run;"):
        run(tmp_path / "run", new)
    (tmp_path / "run" / "config.json").write_text('{"model": ')
    with pytest.raises(UnclipError, match=r"config\.json: no JSON"):
        run(tmp_path / "run", old)


def test_other_folders_are_let_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(UnclipError, match="is not empty and holds no run"):
        run(tmp_path)
    with pytest.raises(UnclipError, match=r"thesis\.tex: a file is in the way"):
        run(tmp_path / "thesis.tex").open(0)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("prior", "data.workers=8", "holds 4 shards, but 1 ranks x 8 workers need at least 8"),
        ("prior", "data.shards=nowhere", "data.shards = 'nowhere': no such folder"),
        ("prior", "optim.warm_up=1", "unknown key 'optim.warm_up'; did you mean 'warmup'"),
        ("decoder", "model.unet.chanels=8", "unknown key 'model.unet.chanels'; did you mean 'channels'"),
        ("upsampler", "objectiv.crop=8", "unknown key 'objectiv'; did you mean 'objective'"),
        ("clip", "run.batch=0", "run.batch = 0: "),
        ("prior", "model.image_emb=9", "model.image_emb = 9, but .*clip.safetensors has 8; leave the key out"),
        ("decoder", "model.vocabulary=9", "model.vocabulary = 9, but .*clip.safetensors has [0-9]+; leave the key out"),
        ("prior", "clip=clip.safetensors", "clip.path is missing; give the checkpoint"),
        ("prior", "clip.path=nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("prior", "data.images=false", "data.images = false, but clip.embeddings"),
        ("clip", "data.images=false", "data.images = false, but a CLIP"),
        ("decoder", "data.images=false", "data.images = false; a decoder"),
        ("upsampler", "data.images=false", "data.images = false; an upsampler"),
        ("clip", "run.accumulate=2", "run.accumulate = 2: a contrastive loss sees one micro-batch only"),
        ("upsampler", "objective.crop=6", "objective.crop = 6 is no multiple of scale = 4"),
        ("upsampler", "degrade.noise_level=0.0", "model.level = true and degrade.noise_level > 0 go together"),
        ("decoder", "model.learned_variance=false", "model.learned_variance = true and process.variance"),
        ("decoder", "data.image_size=8", "data.image_size = 8 is below model.size = 16"),
    ],
)
def test_a_mistake_in_a_config_is_one_line_and_leaves_nothing(
    lab: Any, tmp_path: Path, name: str, override: str, message: str
) -> None:
    with pytest.raises(UnclipError, match=message) as error:
        lab.train(name, tmp_path / "run", override)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_command_says_a_mistake_in_one_line(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[model]\nsize = 16\nsize = 32\n")
    monkeypatch.setattr("sys.argv", ["upsampler", str(path), "run.out=here"])
    with pytest.raises(SystemExit) as ended:
        command(stages.upsampler.train)
    assert ended.value.code == f"error: {path}: not valid TOML: Cannot overwrite a value (at line 3, column 10)"


def test_the_log_forgets_what_comes_after_the_state_it_goes_on_from(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    first.open(0)
    for step in range(4):
        first.log(step, loss=1 / 3 + step)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 4, "lo')  # killed while writing
    run(tmp_path / "run").open(2)
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()] == [0, 1, 2]
    assert json.loads(log.read_text().splitlines()[1])["loss"] == 1.33333
    run(tmp_path / "run").open(0)  # no state at all: it begins anew
    assert log.read_text() == ""


def test_a_finished_run_is_told_by_the_step_of_its_weights(lab: Any, tmp_path: Path) -> None:
    lab.train("upsampler", tmp_path / "run")
    header = read_header(tmp_path / "run" / "weights.safetensors")
    assert header.provenance["step"] == 6
    assert header.provenance["samples"] == 24
    assert header.provenance["data"]["shards"] == str(lab.root / "train")
    assert Run(RunConfig(out=str(tmp_path / "run"), steps=6, batch=4), OPTIM, _config(tmp_path)).finished
    assert not Run(RunConfig(out=str(tmp_path / "run"), steps=7, batch=4), OPTIM, _config(tmp_path)).finished


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "config.json").read_text())


@pytest.mark.parametrize(("name", "size"), [("decoder", (3 * 18 - 2, 2 * 18 - 2)), ("upsampler", (28, 28))])
def test_sheets_are_pictures(lab: Any, tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    lab.train(name, tmp_path / "run")
    sheets = sorted((tmp_path / "run" / "samples").iterdir())
    assert [path.name for path in sheets] == [f"step-{step:07d}.png" for step in (0, 3, 6)]
    pictures = [Image.open(path) for path in sheets]
    assert {(picture.format, picture.size) for picture in pictures} == {("PNG", size)}
    assert pictures[0].tobytes() != pictures[-1].tobytes()  # the net has learned something in between


@pytest.mark.parametrize("name", ["clip", "prior", "decoder", "matcher", "upsampler"])
def test_a_run_may_do_without_validation(lab: Any, tmp_path: Path, name: str) -> None:
    values = lab.values(name, tmp_path / "run", "run.validation=0", "run.steps=1")
    del values["data"]["validation"]
    importlib.import_module(f"stages.{name}").train(values, None)
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert [json.loads(row)["step"] for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [1]


def test_damaged_samples_are_counted_and_said(lab: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for path in (lab.root / "train").iterdir():
        data = path.read_bytes()
        (folder / path.name).write_bytes(data.replace(b"\x89PNG", b"\x00PNG", 1))
    lab.train("upsampler", tmp_path / "run", f"data.shards={folder}", "run.steps=7")
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    skipped = [row["skipped"] for row in rows if "skipped" in row]
    assert skipped == sorted(skipped)
    assert skipped[-1] >= 4
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "samples skipped so far, the last because: 0000" in said[-1]
    assert said[-1].endswith("its picture: not a readable picture: no PNG, JPEG, WEBP file")


def test_what_tensorboard_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.run.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnclipError, match=r"tensorboard is not installed; pip install"):
        run(tmp_path / "run", tensorboard=True)
    monkeypatch.undo()
    got: list[tuple[Any, ...]] = []
    board = type("Board", (), {"add_scalar": lambda self, *row: got.append(row)})
    monkeypatch.setattr("stages.run._tensorboard", lambda folder, step: board())
    monkeypatch.setattr("stages.run.importlib.util.find_spec", lambda name: True)
    watched = run(tmp_path / "run", tensorboard=True)
    watched.open(0)
    watched.log(3, loss=0.5, skipped=1)
    assert got == [("loss", 0.5, 3), ("skipped", 1, 3)]
