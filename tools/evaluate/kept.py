"""Drawings kept on disk: what was drawn before is read, so that a run goes on where it stopped and others judge the same."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def kept(folder: Path | None, about: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, read from the folder if it was made there before from the same `about`, which is plain data.

    Without a folder it is made, and nothing is kept. A file appears whole under its name or not at all.
    """
    if folder is None:
        return make()
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = folder / f"{name[:32]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file({key: tensor.cpu().contiguous() for key, tensor in make().items()}, partial)
        partial.replace(path)
    return load_file(path)
