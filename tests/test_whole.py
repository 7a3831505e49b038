"""The whole chain on real data, small: every training, the system folder, pictures; and again, from what is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip.images import read_recipe

ROOT = Path(__file__).parents[1]
STAGES = ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024")


def reproduce(out: Path) -> str:
    words = [sys.executable, "-m", "tools.reproduce", "configs/tiny", "--out", str(out), "--scale", "0.06"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def losses(out: Path, stage: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "runs" / stage / "log.jsonl").read_text().splitlines()]
    return [row["val_loss"] for row in rows if "val_loss" in row]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_reproduce_tiny(tmp_path: Path) -> None:
    reproduce(tmp_path)
    for stage in STAGES:
        before, *_, after = losses(tmp_path, stage)
        assert after < before, stage
    pictures = sorted((tmp_path / "sheet").glob("*.png"))
    assert len(pictures) == 4 * 2 + 1  # four prompts, two seeds, one grid
    first = read_recipe(tmp_path / "sheet" / "a-red-cube-on-top-of-a-blue-cube-0.png")
    assert first["prompt"] == "a red cube on top of a blue cube"
    assert first["settings"]["size"] == 1024
    with Image.open(pictures[0]) as image:
        assert image.size == (1024, 1024)
        assert len(image.getcolors(1 << 21) or [()] * 100) > 10, "a flat picture"
    again = reproduce(tmp_path)
    assert again.count("finished before; nothing to do") == len(STAGES)
    assert sorted((tmp_path / "sheet").glob("*.png")) == pictures
