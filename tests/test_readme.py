"""The README's commands are real: CI runs the test command as it stands there, and the others are understood."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tools import benchmark, embed, reproduce
from tools.evaluate import __main__ as evaluate
from tools.figures import __main__ as figures
from tools.figures.latent import REACHED
from tools.figures.studio import NUISANCE
from tools.reader import __main__ as reader
from tools.world import __main__ as world
from unclip.cli import app
from unclip.config import override, read_toml
from unclip.images import read_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.removeprefix(".venv/bin/") for block in BLOCKS for line in block.splitlines() if line]


def test_ci_runs_the_readmes_test_command() -> None:
    command = next(line for block in BLOCKS for line in block.splitlines() if line.endswith("pytest"))
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_its_pictures_are_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def told(estimate: dict, scale: int = 1) -> str:
    """An estimate as the README writes it; of a share in percent `scale` is 100."""
    return f"{scale * estimate['value']:.1f} ± {scale * (estimate['high'] - estimate['low']) / 2:.1f}"


def test_its_figures_numbers_are_those_of_the_last_run() -> None:
    found = {path.stem: json.loads(path.read_text())["numbers"] for path in (ROOT / "docs/figures").glob("*.json")}
    names, words = found["variations"]["fresh noise"]["names kept"], " ".join(README.split())
    assert f"in {told(names, scale=100)} %" in words
    varied = [found["variations"]["nuisance, share of what CLIP leaves open"][key]["value"] for key in NUISANCE]
    assert "{:.0f}, {:.0f} and {:.0f} %".format(*(100 * one for one in varied)) in words
    assert f"to {told(found['inversion']['250 steps, guidance 1']['PSNR, dB'])} dB" in words
    ends = "PSNR of both ends with the noises inverted, 4 paths, dB"
    assert f"to {told(found['interpolations']['paths'][ends])};" in words
    changed = [100 * found["differences"][key][REACHED]["value"] for key in ("colour", "material", "shape")]
    assert "{:g} % of those of colour, {:g} % of material and {:g} % of shape".format(*changed) in words
    steady, painted = found["interpolations"]["paths"]["paths on which all do"], found["inpainting"]["inpainting"]
    assert f"{100 * steady['value']:g} % of those measured go steadily" in words
    assert f"as told in {100 * painted['colours and shapes as told']['value']:g} % of those measured" in words


def test_its_shares_are_those_of_the_evaluation() -> None:
    evaluation = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    rows = {
        "one object": "one object, ",
        "two objects": "two objects, ",
        "relation": "relation, between ",
        "count": "count",
    }
    rows |= {"relation and names": "relation, and ", "caption": "the whole caption, "}
    for split in ("i.i.d. prompts", "composition split"):
        table = evaluation.partition(f"## The whole system, {split}\n")[2].partition("\n## ")[0]
        for tag, start in rows.items():
            share = re.search(rf"^\| {tag} \| ([\d.]+)% (\([^)]*\))", table, re.MULTILINE)
            assert share, (split, tag)
            row = next(line for line in README.splitlines() if line.startswith(f"| {start}"))
            assert f"| {share[1]} % {share[2]} |" in row, (split, tag)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_python_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(block, told)  # noqa: S102 (it is ours)
    assert (tmp_path / "cube.safetensors").is_file()
    assert read_recipe(tmp_path / "cube-3.png")["seed"] == 3
    assert [len(told[name]) for name in ("variations", "way", "to_text", "changed", "coarse")] == [4, 5, 5, 3, 3]


@pytest.mark.parametrize("command", [line for line in COMMANDS if not line.startswith("python3 ")])
def test_command_is_understood(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "unclip":
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
        return
    assert words[:2] == ["python", "-m"]
    module, rest = words[2], words[3:]
    if module.startswith("stages."):
        assert module.removeprefix("stages.") in ("clip", "prior", "decoder", "upsampler")
        assert override(read_toml(ROOT / rest[0]), rest[1:])
        return
    programs = {"tools.world": world.app, "tools.embed": embed.app, "tools.reproduce": reproduce.app}
    programs |= {"tools.reader": reader.app, "tools.evaluate": evaluate.app}
    programs |= {"tools.benchmark": benchmark.app, "tools.figures": figures.app}
    programs[module].parse_args(rest, exit_on_error=False, print_error=False)
