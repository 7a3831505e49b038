"""Packs a trained system into the folder that travels inside the package: half precision, and the words it knows.

python -m tools.ship runs/demo/system unclip/demo
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cyclopts import App

from tools.world import captions, sample
from unclip import checkpoint
from unclip.cli.shell import run
from unclip.config import load
from unclip.errors import UnclipError
from unclip.folder import SystemConfig, spoken
from unclip.places import FILE, write_text

app = App(help=__doc__, help_format="plaintext", help_formatter="plain")
SUBJECT = "the demo world (one to three coloured solids on a floor)"
SCENES = 1500  # whose captions use every word of the world
LIMIT = 15e6


@app.default
def ship(system: Path, out: Path) -> None:
    """Pack a SYSTEM folder into OUT.

    Parameters
    ----------
    system
        A folder with system.toml.
    out
        The folder to write; files of the same name are replaced.
    """
    made = load(SystemConfig, system / FILE)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out) as folder:  # nothing is replaced before all of it is fit to be
        packed = [_packed(system, name, Path(folder)) for name in _files(made)]
        for path in packed:
            print(f"{out / path.name}: {path.stat().st_size / 1e6:.1f} MB")
            path.replace(out / path.name)
    lines = [f'subject = "{SUBJECT}"', "words = ["]
    lines += [f"    '{word}'," if '"' in word else f'    "{word}",' for word in words()] + ["]"]
    text = (system / FILE).read_text(encoding="utf-8")
    write_text(out / FILE, _before_tables(text, "\n".join(lines)))


def _files(system: SystemConfig) -> list[str]:
    """The names of all its files."""
    return [
        name
        for name in (system.clip, system.prior, system.decoder, *system.upsamplers, system.pca, system.matcher)
        if name
    ]


def _packed(system: Path, name: str, folder: Path) -> Path:
    """A file at half precision. Raises UnclipError when it is missing, damaged or too large to travel."""
    header, tensors = checkpoint.read_header(system / name), checkpoint.read_tensors(system / name)
    checkpoint.save(folder / name, tensors, header, torch.float16)
    size = (folder / name).stat().st_size
    if size > LIMIT:
        raise UnclipError(f"{system / name}: {size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}; make the net smaller")
    return folder / name


def words() -> list[str]:
    """Every word of the world's captions, sorted, those to print in quotes."""
    told = (caption for index in range(SCENES) for caption in captions(sample(0, index, "train")))
    return sorted({word for caption in told for word in spoken(caption)})


def _before_tables(text: str, more: str) -> str:
    """A TOML text with more keys of its first table, in place of those it had; comments stay above what they stand above."""
    kept = re.sub(r"^(subject = .*\n|words = \[[^\]]*\]\n)", "", text, flags=re.MULTILINE)
    first = re.search(r"^(#.*\n)*\[", kept, flags=re.MULTILINE)
    cut = first.start() if first else len(kept)
    return f"{kept[:cut].rstrip()}\n{more}\n\n{kept[cut:]}"


if __name__ == "__main__":
    run(app)
