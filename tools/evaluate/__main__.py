"""Measures a system on the demo world and writes one report: JSON, Markdown with confidence intervals, picture sheets.

python -m tools.evaluate demo --out runs/evaluation
"""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from rich.progress import Progress

from tools.evaluate import measures
from tools.evaluate.prompts import prompts
from tools.evaluate.report import how_drawn
from tools.reader import open_reader
from unclip.checkpoint import read_header
from unclip.cli.shell import listed, run
from unclip.errors import UnclipError
from unclip.places import located
from unclip.system import UnCLIP

Parts = Annotated[tuple[str, ...], Parameter(consume_multiple=True, converter=listed)]
app = App(help=__doc__, help_format="plaintext", help_formatter="plain")
PARTS = ("alignment", "composition", "baselines", "prior", "upsamplers", "sweep")


LEAST = 8  # prompts, for distances and intervals to be defined


@app.default
def evaluate(
    system: str = "demo",
    *,
    reader: Path = Path("unclip/demo/reader.safetensors"),
    out: Path = Path("runs/evaluation"),
    count: PositiveInt = 1000,
    smaller: PositiveInt = 300,
    training: PositiveInt = 10_000,
    parts: Parts = PARTS,
    keep: Path | None = None,
    device: str = "auto",
) -> None:
    """Measure a SYSTEM.

    Parameters
    ----------
    system
        A folder with system.toml, or the name of a shipped one.
    reader
        The attribute reader's checkpoint (python -m tools.reader).
    out
        Folder of the report; parts of it that were measured before, of the same system, stay.
    count
        Prompts of the main figures, for each split.
    smaller
        Prompts of each baseline, upsampler and point of the sweep.
    training
        Training pictures rendered again, for retrieval and memorisation.
    parts
        Which parts to measure, one or several, such as alignment,prior: of alignment (i.i.d. prompts), composition (held-out
        combinations), baselines, prior, upsamplers, sweep.
    keep
        Folder where the small pictures of prompts are kept as they are drawn (1.6 MB for each at best of 32). A run that was
        stopped goes on there, and another reader, or another way to choose, judges them without drawing again (into another
        --out). Empty it after changes of the code that draws.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    _check(parts, count, smaller)
    opened, ruler = UnCLIP.from_pretrained(system, device), open_reader(reader, "cpu")
    began = time.time()
    with Progress() as bars:
        told = prompts("test", count), prompts("composition", count)
        work = measures.Work(located(system), opened, ruler, *told, out, bars, keep)
        work.resume(_made(opened, reader), f"# {opened.identity['name']}, measured\n")
        parts_of_it = {
            "alignment": lambda: measures.alignment(work, "i.i.d. prompts", work.iid),
            "composition": lambda: measures.alignment(work, "composition split", work.apart),
            "baselines": lambda: measures.baselines(work, smaller, training),
            "prior": lambda: measures.prior(work),
            "upsamplers": lambda: measures.enlargement(work, smaller),
            "sweep": lambda: measures.settings(work, smaller),
        }
        for part in parts:
            parts_of_it[part]()
    print(f"measured in {(time.time() - began) / 60:.0f} minutes")
    print(f"the report is {work.out / 'report.md'}")


def _check(parts: tuple[str, ...], count: int, smaller: int) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise UnclipError(f"--parts {','.join(unknown[:1])}: expected some of {', '.join(PARTS)}")
    if smaller < LEAST:
        raise UnclipError(f"--smaller {smaller}: expected at least {LEAST}; fewer tell nothing")
    if count < smaller:
        raise UnclipError(f"--count {count} --smaller {smaller}: expected at most as many in the smaller sets")


def _made(system: UnCLIP, reader: Path) -> dict[str, Any]:
    """What a report is made by."""
    made = {"system": system.identity, "drawn": how_drawn(system), "reader": read_header(reader).fingerprint[:16]}
    return made | {"torch": torch.__version__, "device": str(system.decoder.device)}


if __name__ == "__main__":
    run(app)
