"""What commands leave behind: progress bars, and pictures under names that were free."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from unclip.priors import OnStep


@contextlib.contextmanager
def progress(plan: Mapping[str, int]) -> Iterator["OnStep"]:
    """A bar per stage of `plan` on stderr; gives the function to call after each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {name: bars.add_task(name, total=total) for name, total in plan.items()}
        yield lambda stage, step: bars.advance(tasks[stage])


def save(image: "Image.Image", folder: Path, stem: str, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes a PNG named after `stem` into `folder`, with a number behind it if the name is taken; returns where."""
    from unclip.images import save_png

    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        try:
            save_png(image, path, recipe)
            return path
        except FileExistsError:
            number += 1


def slug(prompt: str) -> str:
    """A file name made of a prompt's first words."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:60].strip("-") or "unconditional"
