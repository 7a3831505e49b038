"""What figures leave: a sheet and a JSON each, and one page that shows all of them with what they bear out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.evaluate.report import numbers, plain
from tools.figures.studio import Figure
from unclip.errors import UnclipError
from unclip.images import grid, to_pil
from unclip.places import write_text

INTRODUCTION = """# The paper's figures, remade

Each figure of 2204.06125, from scenes or prompts of the demo world's test split, with what it shows measured by the
attribute reader; shares, means and differences come with 95 % confidence intervals. A claim is the paper's, or a bar of
this project's: **fails** means that this small system does not show the effect, **undecided** that so few scenes cannot
tell; a bar is held against the value itself, whatever its interval. Each names the decoder that drew it; `unclip inspect
unclip/demo/decoder.safetensors` tells the fingerprint of the shipped one, and a figure of another is older. Remake one
with `python -m tools.figures NAME`, all with `python -m tools.figures`.
"""


def save(out: Path, name: str, figure: Figure, made: Mapping[str, Any]) -> None:
    """Writes the figure's sheet and numbers into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    grid([to_pil(image) for image in figure.rows], columns=figure.columns).save(out / f"{name}.png")
    claims = [{"text": claim.text, "verdict": claim.verdict} for claim in figure.claims]
    tables = {"title": figure.title, "caption": figure.caption, "made": dict(made), "claims": claims}
    text = numbers("", figure.numbers).split("\n\n", 1)[1]
    write_text(
        out / f"{name}.json", json.dumps(tables | {"numbers": plain(figure.numbers), "table": text}, indent=1) + "\n"
    )


def page(out: Path, order: Mapping[str, Any]) -> Path:
    """Writes OUT.md beside the folder, with every figure that lies there, in this order; returns where."""
    found = {name: _found(path) for name in order if (path := out / f"{name}.json").is_file()}
    parts = [INTRODUCTION]
    for name, one in found.items():
        parts.append(f"## {one['title']}\n")
        parts.append(f"![{one['title']}]({out.name}/{name}.png)\n")
        told = one["made"] | {"decoder": one["made"]["weights"].get("decoder", "?")[:8]}
        made = "System `{system}`, decoder `{decoder}`, --count {count}.".format(**told)
        parts.append(f"{one['caption']} {made}\n".lstrip())
        verdicts = [f"- **{claim['verdict']}**: {claim['text']}" for claim in one["claims"]]
        parts.append("\n".join(verdicts) + "\n")
        parts.append(one["table"])
    path = out.with_suffix(".md")
    write_text(path, "\n".join(parts))
    return path


def _found(path: Path) -> dict[str, Any]:
    """The figure in a file. Raises UnclipError for a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UnclipError(f"{path}: damaged; remake it with python -m tools.figures {path.stem}") from None
