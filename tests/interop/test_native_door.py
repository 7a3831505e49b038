"""Native Karlo's files at the released layout, opened as a person does: by the name of their folder."""

from pathlib import Path
from typing import Any

import pytest

from tools.karlo import scaled
from unclip.images import open_image
from unclip.interop.writing import convert

FEW = ["--steps", 2, "--prior-steps", 2, "--upsampler-steps", 2]


@pytest.mark.slow
def test_a_folder_of_native_files_draws_256_px(cli: Any, tmp_path: Path) -> None:
    """All of Karlo's layers, narrow ones: depths, token counts, heads of 64 and sides of 64 and 256 as released."""
    convert(scaled(0.04), tmp_path / "karlo", "native")
    names = {path.name for path in (tmp_path / "karlo").iterdir()}
    assert {"ViT-L-14_stats.th", "ViT-L-14.safetensors"} < names
    assert sum(name.endswith(".ckpt") for name in names) == 3
    words = [
        "generate",
        "a corgi",
        "--model",
        tmp_path / "karlo",
        "-n",
        1,
        "--seed",
        0,
        "--out",
        tmp_path / "out",
        *FEW,
    ]
    for arithmetic in ("own", "native"):
        code, _, err = cli(*words, "--arithmetic", arithmetic)
        assert code == 0, err
    first, second = (open_image(path) for path in sorted((tmp_path / "out").glob("*.png")))
    assert first.size == second.size == (256, 256)
    assert first.tobytes() != second.tobytes()
