"""Where systems of ours lie. Nothing here imports torch."""

from pathlib import Path

FILE = "system.toml"
DEMO = "demo"
SHIPPED = {DEMO: Path(__file__).parent / "demo"}  # systems that travel inside the package, by name


def located(name: str | Path) -> Path:
    """The folder of a system: the shipped one of that name ("demo"), else the path itself ("./demo" is a path)."""
    return SHIPPED.get(str(name), Path(name))
