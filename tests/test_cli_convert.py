"""`unclip convert` and `--dry-run`: what a person types, and what is refused in one line."""

import json
import shutil
import tomllib

import pytest
from PIL import Image

from unclip.places import located

from .command_line import failure, names, one_line


@pytest.fixture
def offline(monkeypatch):
    """No network is asked for anything."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_system_of_ours_keeps_all_it_has(cli, tmp_path):
    code, out, _ = cli("convert", "demo", tmp_path / "copy", "--dtype", "float16")
    assert (code, out.strip()) == (0, str(tmp_path / "copy"))
    told = tomllib.loads((tmp_path / "copy" / "system.toml").read_text(encoding="utf-8"))
    given = tomllib.loads((located("demo") / "system.toml").read_text(encoding="utf-8"))
    assert told["sampling"]["decoder"].items() >= given["sampling"]["decoder"].items()
    assert told["best_of"] == given["best_of"] > 1
    assert "cube" in told["words"]
    code, out, _ = cli("inspect", tmp_path / "copy")
    assert code == 0
    _, other, _ = cli("inspect", "demo")
    assert out.splitlines()[1:] == other.splitlines()[1:]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing", "new"], "'nothing': neither a folder nor a hub id; give a folder, ORG/NAME"),
        (["nobody/nothing", "new"], "nobody/nothing: not wholly in the cache"),
        (["demo", "new", "--to", "diffusers"], "2 upsamplers and a decoder; this layout holds"),
        (["demo", "full"], "full: exists already; give another name"),
        (["ViT-L-14:nothing.pt", "new.safetensors"], "CLIP 'ViT-L-14:nothing.pt': "),
        (["ViT-L-14:nothing.pt", "new"], "new: a CLIP becomes one file; give a name that ends in .safetensors"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(cli, tmp_path, monkeypatch, offline, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    code, out, err = cli("convert", *words)
    assert (code, out) == (1, "")
    assert one_line(err), err
    assert told in err
    assert names(tmp_path) == ["full", "mine.txt"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vary", "nothing.png", "--model", "karlo"], "nothing.png: no such file"),
        (["edit", "nothing.png", "--to", "a cat", "--model", "karlo"], "nothing.png: no such file"),
        (["reconstruct", "nothing.png", "--model", "karlo"], "nothing.png: no such file"),
        (["generate", "a cat", "--init", "nothing.png", "--model", "karlo"], "nothing.png: no such file"),
        (["inpaint", "nothing.png", "--mask", "m.png", "a cat", "--model", "karlo"], "nothing.png: no such file"),
        (["convert", "karlo", "full"], "full: exists already; give another name"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_download(cli, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    monkeypatch.setattr("unclip.interop.hub.fetched", lambda *given, **named: pytest.fail("it asked the hub"))
    code, out, err = cli(*words)
    assert (code, out) == (1, "")
    assert one_line(err), err
    assert told in err


def test_dry_run_plans_and_draws_nothing(cli, folder, tmp_path):
    code, out, err = cli("generate", "a red cube", "--model", folder, "-n", 4, "--out", tmp_path / "out", "--dry-run")
    assert (code, err) == (0, "")
    rows = [line.split()[0] for line in out.splitlines()]
    assert rows == ["clip", "prior", "decoder", "upsampler-64", "upsampler-256", "weights", "pictures"]
    assert out.splitlines()[1].endswith("6 steps")  # three for each of two candidates; four pictures are one batch
    assert not (tmp_path / "out").exists()


def test_how_the_best_is_chosen_is_kept_and_told_to_recipes(cli, folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    file = own / "system.toml"
    file.write_text("best_of = 2\ntext_weight = 2.0\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert cli("convert", own, tmp_path / "copy")[0] == 0
    told = tomllib.loads((tmp_path / "copy" / "system.toml").read_text(encoding="utf-8"))
    assert (told["best_of"], told["text_weight"]) == (2, 2.0)
    words = ["generate", "a red cube", "-n", 1, "--size", 16, "--model", own, "--out", tmp_path / "out"]
    for more, weight in ([], 2.0), (["--text-weight", 0], 0.0):
        code, out, _ = cli(*words, *more)
        assert code == 0
        settings = json.loads(cli("info", out.split()[-1])[1])["settings"]
        assert (settings["best_of"], settings["text_weight"]) == (2, weight)


def test_low_memory_draws_the_same(cli, folder, tmp_path):
    how = ["-n", "1", "--seed", "3", "--size", "64", "--best-of", "2"]
    words = ["generate", "a red cube", *how, "--model", folder, "--out", tmp_path]
    assert cli(*words, "--low-memory")[0] == cli(*words)[0] == 0
    one, other = (Image.open(path) for path in sorted(tmp_path.glob("*.png")))
    assert one.tobytes() == other.tobytes()


def test_arithmetic_of_released_weights_is_refused_for_ours(cli, folder):
    code, _, err = cli("generate", "a red cube", "--model", folder, "--arithmetic", "native")
    assert code == 1
    assert "arithmetic = 'native' is of released weights" in failure(err)
