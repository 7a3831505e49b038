"""The hub's cache as its library leaves it."""

import json
from collections.abc import Iterable
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def stored(cache: Path, repo: str, files: Iterable[str], tree: Iterable[str] | None) -> Path:
    """The cache after a download of these files (empty objects), with the library's list of all that the repository has,
    unless None; gives the model's folder there."""
    place = cache / f"models--{repo.replace('/', '--')}"
    folder = place / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    if tree is not None:
        (place / "trees").mkdir()
        told = {"format_version": 1, "files": {name: {"size": 2, "blob_id": "0"} for name in tree}}
        (place / "trees" / f"{COMMIT}.json").write_text(json.dumps(told))
    return folder
