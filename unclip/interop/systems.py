"""Systems by name or folder: ours as they are, released ones read as if they were ours."""

from pathlib import Path
from typing import Literal

from unclip.folder import Box, boxed

Arithmetic = Literal["own", "diffusers", "native"]


def found(name: str | Path, arithmetic: Arithmetic = "own") -> Box:
    """The system of that name or in that folder."""
    return boxed(name)
