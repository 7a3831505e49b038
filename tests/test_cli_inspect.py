"""`unclip inspect`: what it tells of checkpoints, systems, pictures and junk."""

from pathlib import Path

import pytest
from PIL import Image

from unclip.folder import boxed

from .command_line import one_line

ROOT = Path(__file__).parents[1]


def test_inspect_tells_what_a_checkpoint_holds(cli, folder):
    code, out, err = cli("inspect", folder / "prior.safetensors", folder / "clip.safetensors")
    assert (code, err) == (0, "")
    assert "prior.safetensors: a prior, 47," in out
    assert '"predicts": "x0"' in out
    assert '"parents"' in out
    assert "a clip, " in out
    assert " merges" in out
    assert "r e" not in out, "merges are counted, not listed"


def test_inspect_tells_how_a_system_draws_variations(cli):
    own = boxed("demo").config.variations.named
    assert set(own) == {"guidance", "best_of"}
    told = f"  variations from fresh noise: guidance {own['guidance']}, best_of {own['best_of']}"
    code, out, _ = cli("inspect", "demo")
    assert (code, out.splitlines()[-1]) == (0, told)


def test_inspect_tells_how_much_residuals_are_shrunk(cli, folder):
    shrinks = [table["shrink"] for table in boxed("demo").config.sampling.upsamplers]
    lines = cli("inspect", "demo")[1].splitlines()
    ends = [line.rpartition(", ")[2] for line in lines if "upsampler-" in line]
    assert ends == [f"shrink {by:g}" for by in shrinks] != []
    assert "shrink" not in cli("inspect", folder)[1]


def test_inspect_tells_what_a_system_holds(cli, folder):
    code, out, err = cli("inspect", folder)
    assert (code, err) == (0, "")
    assert "the system 'random', all parts fit together" in out
    *lines, last = out.splitlines()
    assert last == "  one picture is the best of 1 small ones; no principal components"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "clip",
        "prior",
        "decoder",
        "upsampler-64",
        "upsampler-256",
    ]
    assert "ddim, 4 steps, guidance 2" in out


def test_inspect_tells_how_a_picture_was_made(cli, generate):
    _, out, _ = generate("a red cube", "-n", 1, "--size", 16, "--seed", 77)
    code, out, err = cli("inspect", out.strip())
    assert (code, err) == (0, "")
    assert '"prompt": "a red cube"' in out
    assert '"seed": 77' in out


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.png", "plain.png", "a.jpg", "missing", "empty", None])
def test_inspect_answers_junk_in_one_line(cli, tmp_path, name):
    if name and name.startswith("junk"):
        (tmp_path / name).write_bytes(b"junk, and a lot of it, so that it looks like something")
    elif name == "empty":
        (tmp_path / name).mkdir()
    elif name and "." in name:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    code, out, err = cli("inspect", *([tmp_path / name] if name else []))
    assert code == 1
    assert one_line(err), err
    assert not out
    assert name is None or str(tmp_path / name) in err
