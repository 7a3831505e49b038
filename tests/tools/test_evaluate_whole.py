"""A whole report on the shipped weights, with few prompts: everything is measured, written and in its range."""

import json
import re
import shutil
from typing import Any, cast

import pytest

from tools.evaluate import sweep
from tools.evaluate.__main__ import evaluate
from tools.evaluate.draw import TITLES
from tools.evaluate.measures import Work
from tools.evaluate.stats import share
from unclip.errors import UnclipError
from unclip.folder import boxed
from unclip.places import located


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_report(tmp_path, monkeypatch):
    """Of two tries and not 32, which would take a quarter of an hour."""
    out, system = tmp_path / "report", tmp_path / "system"
    shutil.copytree(located("demo"), system)
    told = (system / "system.toml").read_text()
    (system / "system.toml").write_text(re.sub(r"^best_of = \d+", "best_of = 2", told, count=1, flags=re.MULTILINE))
    monkeypatch.setattr(sweep, "NUMBERS", (1, 4))
    evaluate(str(system), out=out, count=8, smaller=8, training=50, device="cpu")
    found = json.loads((out / "report.json").read_text())
    for split in ("i.i.d. prompts", "composition split"):
        caption = found[split]["caption"]
        assert caption["right"]["n"] == 8
        assert 0 <= caption["right"]["low"] <= caption["right"]["value"] <= caption["right"]["high"] <= 1
    assert set(found["baselines"]) == set(found["fidelity"]) == set(TITLES.values())
    right = {title: tags["caption"]["value"] for title, tags in found["baselines"].items()}
    assert right[TITLES["real"]] > right[TITLES["unconditional"]]
    assert set(found["best of"]) == {"best of 1", "best of 2", "best of 4", "best of 8"}
    sizes = {"64 px", "256 px", "256 px, bicubic", "1024 px", "1024 px, bicubic"}
    assert set(found["upsampled"]) == sizes
    assert found["upsampler-256"]["clean"]["PSNR, bicubic"]["value"] > 25
    shrunk = [found["upsampler-256 shrunk"][key]["PSNR gain, clean"]["value"] for key in ("0", "0.2")]
    assert shrunk[0] < shrunk[1]
    assert len(found["sweep"]["points"]) == 30
    assert found["sweep"]["best"] in found["sweep"]["points"]
    # the same prompts and seeds: what the system draws is that best of so many
    config = boxed(system).config
    assert set(found["best of several"]) == {"best of 1", "best of 2", "best of 4"}
    drawn = found["best of several"]["best of 2"]
    assert set(found["text weight"]) >= {"weight 0", f"weight {config.text_weight:g}"}
    assert drawn["caption"] == found["i.i.d. prompts"]["caption"]["right"]
    text = (out / "report.md").read_text()
    assert all(f"## {title}" in text for title in ("The prior", "Decoder settings", "Beside its baselines"))
    assert {path.suffix for path in out.iterdir()} == {".json", ".md", ".png", ".txt"}


def test_parts_of_a_report_stay(tmp_path):
    made = {"system": {"name": "demo"}}

    def work() -> Work:
        return Work(tmp_path, cast(Any, None), cast(Any, None), [], [], tmp_path, cast(Any, None))

    for key in ("first", "second", "first"):
        one = work()
        one.resume(made, "# demo\n")
        one.say(key, {"right": share([True])}, f"## {key}\n")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["first"]["right"]["value"] == found["second"]["right"]["value"] == 1
    assert (tmp_path / "report.md").read_text() == "# demo\n\n## first\n\n## second\n"
    with pytest.raises(UnclipError, match=r"report\.json: measures another system"):
        work().resume({"system": {"name": "other"}}, "# other\n")
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(UnclipError, match=r"report\.json: not a report"):
        work().resume(made, "# demo\n")


def test_mistakes_are_one_line(tmp_path):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"parts": ("nose",)}, "--parts nose: expected some of"),
        ({"parts": ()}, "--parts : expected some of"),
        ({"count": 15, "smaller": 20}, "--count 15 --smaller"),
        ({"count": 5, "smaller": 5}, "--smaller 5: expected at least 8"),
    ]
    for words, told in cases:
        with pytest.raises(UnclipError, match=told):
            evaluate(str(tmp_path), **words)
