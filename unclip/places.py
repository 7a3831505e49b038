"""Where systems of ours lie, and what files are called. Nothing here imports torch."""

from collections.abc import Iterable
from pathlib import Path

from unclip.errors import UnclipError

FILE = "system.toml"
PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jfif",
    ".heic",
    ".avif",
)
LATENTS = (".safetensors",)
SHIPPED = {"demo": Path(__file__).parent / "demo"}  # systems that travel inside the package, by name


def located(name: str | Path) -> Path:
    """The folder of a system: the shipped one of that name ("demo"), else the path itself ("./demo" is a path)."""
    return SHIPPED.get(str(name), Path(name))


def named_files(things: Iterable[str]) -> list[Path]:
    """Those of pictures, latents and texts that end as a file of the first two kinds does: no text, there or not."""
    return [Path(thing) for thing in things if Path(thing).suffix.lower() in (*PICTURES, *LATENTS)]


def check_new(path: Path) -> None:
    """Raises UnclipError where there is something by that name already, but for an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UnclipError(f"{path}: exists already; give another name")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
