"""Drawings kept on disk: what was drawn before is read, so that a run goes on where it stopped and others judge the same."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip import checkpoint


def kept(folder: Path, about: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, read from the folder if it was made there before from the same `about`, which is plain data.

    Raises UnclipError where no file can be written, and for a damaged one.
    """
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = folder / f"{name[:32]}.safetensors"
    if not path.exists():
        checkpoint.save(path, make(), checkpoint.Header(net="drawings", model=dict(about)))
    checkpoint.read_header(path)
    return checkpoint.read_tensors(path)
