"""The report: one JSON file, the same as Markdown tables, and picture sheets beside them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tools.evaluate.alignment import Aligned, Drawn
from tools.evaluate.prompts import Prompt
from tools.evaluate.stats import Estimate
from tools.evaluate.sweep import Point
from unclip.errors import UnclipError
from unclip.images import grid, to_pil
from unclip.places import write_text
from unclip.system import UnCLIP

SHEET = 40
TEXT = "text"  # the key of report.json that holds the text of each finding


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def alignment(title: str, found: Mapping[str, Aligned]) -> str:
    """One table of a prompt set: right with its interval, swapped, unreadable, and of how many, by tag."""
    rows = [
        [tag, one.right.percent(), f"{one.swapped:.1%}", f"{one.unreadable:.1%}", str(one.right.n)]
        for tag, one in found.items()
    ]
    return f"## {title}\n\n" + table(("tag", "right (95 %)", "swapped", "unreadable", "prompts"), rows)


def numbers(title: str, columns: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with a row per measure and a column per thing measured."""
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    rows = [[name, *(_shown(values.get(name)) for values in columns.values())] for name in names]
    return f"## {title}\n\n" + table(("", *columns), rows)


def sweep(points: Sequence[Point], best: Point) -> str:
    """The sweep's table; the best point is bold."""
    rows = []
    for point in points:
        row = [point.sampler, str(point.steps), f"{point.guidance:g}", point.right.percent(), f"{point.frechet:.3f}"]
        row += [str(point.evaluations), f"{point.seconds:.2f}"]
        rows.append([f"**{cell}**" for cell in row] if point == best else row)
    head = ("sampler", "steps", "guidance", "captions right (95 %)", "Fréchet", "evaluations", "CPU s per picture")
    return "## Decoder settings\n\n" + table(head, rows)


def how_drawn(system: UnCLIP) -> dict[str, Any]:
    """How a system draws, which its weights do not say."""
    told = {
        name: getattr(system.config, name) for name in ("candidates", "best_of", "text_weight", "match_weight", "noise")
    }
    return system.sampling | told | {"variations": system.config.variations.named}


def write(out: Path, found: Mapping[str, Any], text: Mapping[str, str]) -> None:
    """report.json, with the text of each finding for `read`, and report.md in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    told = json.dumps({**plain(found), TEXT: dict(text)}, indent=1)
    write_text(out / "report.json", told + "\n")
    write_text(out / "report.md", "\n".join(text.values()))


def read(out: Path, made: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The findings and their texts that lie in `out`, made by the same; none where there are none.

    Raises UnclipError for a report that others made.
    """
    path = out / "report.json"
    if not path.exists():
        return {}, {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        text = found.pop(TEXT)
        same = found["made by"] == plain(made)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnclipError(f"{path}: not a report of this program; give another --out") from None
    if not same:
        raise UnclipError(f"{path}: measures another system, or was made elsewhere; give another --out")
    return found, text


def sheet(path: Path, drawn: Drawn, prompts: Sequence[Prompt]) -> None:
    """The first pictures of a set, unpicked, in rows of 8, and their captions as a text file beside them."""
    pictures(path, drawn.images[:SHEET], columns=8)
    told = [
        f"{prompt.text}  [{verdicts['caption']}]"
        for prompt, verdicts in zip(prompts[:SHEET], drawn.verdicts, strict=False)
    ]
    path.with_suffix(".txt").write_text("\n".join(told) + "\n", encoding="utf-8")


def pictures(path: Path, images: Float[Tensor, "n 3 h w"], columns: int) -> None:
    """Pictures in [-1, 1] as one PNG, in rows of `columns`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid([to_pil(image) for image in images], columns=columns).save(path)


def _shown(value: Any) -> str:
    if isinstance(value, Estimate):
        return value.percent() if value.proportion else value.plain()
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
