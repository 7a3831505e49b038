"""Where systems of ours lie. Nothing here imports torch."""

from pathlib import Path

from unclip.errors import UnclipError

FILE = "system.toml"
SHIPPED = {"demo": Path(__file__).parent / "demo"}  # systems that travel inside the package, by name


def located(name: str | Path) -> Path:
    """The folder of a system: the shipped one of that name ("demo"), else the path itself ("./demo" is a path)."""
    return SHIPPED.get(str(name), Path(name))


def check_new(path: Path) -> None:
    """Raises UnclipError where there is something by that name already, but for an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UnclipError(f"{path}: exists already; give another name")
