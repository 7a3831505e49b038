"""Drawings kept on disk: what was drawn before is read, so that a run goes on where it stopped and others judge the same."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.errors import UnclipError


def kept(folder: Path, about: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, read from the folder if it was made there before from the same `about`, which is plain data.

    A file appears whole under its name or not at all. Raises UnclipError where none can be written, and for a damaged one.
    """
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = folder / f"{name[:32]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, make())
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        raise UnclipError(f"{path}: damaged or cut short; delete it, and it is drawn again") from None


def _write(path: Path, made: Mapping[str, Tensor]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file({key: tensor.cpu().contiguous() for key, tensor in made.items()}, partial)
        partial.chmod(0o644)  # the library makes files that only their owner may read
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        raise UnclipError(f"{path}: could not be written: {str(error).splitlines()[0]}") from None
    finally:
        partial.unlink(missing_ok=True)
