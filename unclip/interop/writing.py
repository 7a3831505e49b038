"""Systems written as folders: in our own layout, as diffusers saves its pipelines, or as native Karlo's files."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from unclip.checkpoint import Weights, read_header, save, weights
from unclip.config import to_dict
from unclip.errors import UnclipError
from unclip.folder import Box
from unclip.interop.writing_diffusers import write_diffusers
from unclip.interop.writing_native import write_native
from unclip.places import FILE, check_new

Layout = Literal["unclip", "diffusers", "native"]
PCA, MATCHER = "pca.safetensors", "matcher.safetensors"


def convert(box: Box, folder: str | Path, layout: Layout = "unclip", dtype: torch.dtype | None = None) -> None:
    """Writes a system's weights as a new folder, whole or not at all, in a layout and a precision (None: as they are).

    A system that the layout cannot hold is refused before anything is written. Raises UnclipError.
    """
    with new_folder(Path(folder)) as partial:
        WRITERS[layout](box, partial, dtype)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all went well and is deleted otherwise.

    Raises UnclipError where there is something by that name already, and one line for what a full disk is to libraries.
    """
    check_new(folder)
    with _beside(folder) as partial, _told(folder):
        yield partial


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Makes one line of what a full disk is to the libraries."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise UnclipError(f"{folder}: could not be written: {' '.join(str(error).split())[:200]}") from None


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder beside the one wanted, which gets its name when all went well and is deleted otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # empty
        for file in partial.rglob("*.safetensors"):
            file.chmod(0o644)  # the library makes files that only their owner may read
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ours(box: Box, folder: Path, dtype: torch.dtype | None) -> None:
    clip = folder / "clip.safetensors"
    save(clip, box.clip.read(), box.clip.header, dtype)
    # of a half-precision copy it is another: what names the old one must name this
    parents = {"clip": read_header(clip).fingerprint}

    def write(name: str, net: Weights, dtype: torch.dtype | None) -> None:
        mine = net.header.parents.get("clip") == box.clip.header.fingerprint
        save(folder / name, net.read(), replace(net.header, parents=parents if mine else net.header.parents), dtype)

    upsamplers = [f"upsampler-{one.header.model['size']}.safetensors" for one in box.upsamplers]
    names = ("prior.safetensors", "decoder.safetensors", *upsamplers)
    for name, net in zip(names, (box.prior, box.decoder, *box.upsamplers), strict=True):
        if net is not None:
            write(name, net, dtype)
    if box.decoder is None:
        return  # no system, but parts of one
    told = to_dict(box.config) | {"clip": clip.name, "decoder": names[1], "upsamplers": upsamplers}
    told |= {"prior": names[0] if box.prior is not None else "", "pca": PCA if box.pca is not None else None}
    told |= {"matcher": MATCHER if box.matcher is not None else None}
    if box.matcher is not None:
        write(MATCHER, box.matcher, dtype)
    if box.pca is not None:
        write(PCA, weights(box.pca), None)
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in told.items() if value is not None)
    (folder / FILE).write_text(text, encoding="utf-8")


def _toml(value: Any) -> str:
    """A value as TOML; a table is written in line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


WRITERS: dict[str, Callable[[Box, Path, torch.dtype | None], None]] = {
    "unclip": _ours,
    "diffusers": write_diffusers,
    "native": write_native,
}
