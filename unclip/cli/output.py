"""What commands leave behind: progress bars, and pictures under names that were free."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.errors import UnclipError

if TYPE_CHECKING:
    from PIL import Image

    from unclip.priors import OnStep


@contextlib.contextmanager
def progress(plan: Mapping[str, int]) -> Iterator["OnStep"]:
    """A bar per stage of `plan` on stderr; gives the function to call after each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # a bar on a terminal would catch all that is printed: only where that is the same terminal it has to
    redirect = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=redirect) as bars:
        tasks = {name: bars.add_task(name, total=total) for name, total in plan.items()}
        yield lambda stage, step: bars.advance(tasks[stage])


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raises UnclipError, before any work is done, when nothing could be written to `folder`; makes nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UnclipError(f"{option} {folder}: {there} is a file; expected a folder, new or not")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UnclipError(f"{option} {folder}: you may not write to {there}; choose another folder")


def check_files(files: Iterable[Path]) -> None:
    """Raises UnclipError, before a model is opened or downloaded, for files that are not there."""
    for file in files:
        if not file.exists():
            raise UnclipError(f"{file}: no such file; expected a picture or a saved latent")


def save(image: "Image.Image", folder: Path, stem: str, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes a PNG named after `stem` into `folder`, with a number behind it if the name is taken; returns where."""
    from unclip.images import save_png

    return _free(folder, stem, ".png", lambda path: save_png(image, path, recipe))


def save_gif(frames: Sequence["Image.Image"], folder: Path, stem: str) -> Path:
    """Writes an endless animation of the frames, there and back; returns where."""
    from unclip.images import save_gif

    return _free(folder, stem, ".gif", lambda path: save_gif([*frames, *frames[-2:0:-1]], path))


def _free(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Writes under the first name that is not taken."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        try:
            write(path)
            return path
        except FileExistsError:
            number += 1


def slug(prompt: str) -> str:
    """A file name made of a prompt's first words, at most 60 bytes long."""
    words = "-".join(re.findall(r"\w+", prompt.lower())).encode(errors="ignore")[:60].decode(errors="ignore").strip("-")
    return words or ("picture" if prompt.strip() else "unconditional")
