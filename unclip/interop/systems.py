"""Systems by name or folder: ours as they are, released ones read as if they were ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from unclip.checkpoint import Weights
from unclip.errors import UnclipError
from unclip.folder import Box, boxed
from unclip.interop.clips import open_clip_weights, transformers_weights
from unclip.interop.diffusers_schedulers import CLIP_RANGE
from unclip.interop.hub import fetched, picture_tower, without_configs
from unclip.interop.released import INDEX, diffusers_box, native_box
from unclip.places import FILE, SHIPPED

Arithmetic = Literal["own", "diffusers", "native"]
"""How released weights are drawn with: as diffusers does it (float32 tables, the prior's estimates within ±5, "!" read
as padding, one thread of noise per picture), as native Karlo does (±10, and noise that nobody uses), or as we do: float64
tables, ±10, every character read, and noise by stage and seed. Each has its own way to make a picture CLIP's square."""

FITS = {"own": "square", "diffusers": "shortest", "native": "squash"}  # a picture into CLIP's square
LIMIT = 10.0  # of the prior's estimates, in native Karlo
CLIP_CONFIG = "open_clip_config.json"


def found(name: str | Path, arithmetic: Arithmetic = "own", weights: bool = True) -> Box:
    """The system of that name or in that folder, released ones under some arithmetic; see `Arithmetic`.

    "karlo", or another model's id on the hub, is downloaded unless it is in the hub's cache ("karlo" with CLIP's picture
    tower, which lies in another repository); without `weights` only its configs, and then nothing of the box can be read.
    Raises UnclipError.
    """
    if str(name) in SHIPPED or (Path(name) / FILE).is_file():
        return _ours(boxed(name), arithmetic)
    if Path(name).is_dir() and not _released(Path(name)):
        raise UnclipError(
            f"{name}: no system there; expected a folder with {FILE}, {INDEX} or native Karlo's .ckpt files"
        )
    folder = fetched(str(name), weights=weights)
    if not weights and not _released(folder):
        raise without_configs(str(name))
    box = diffusers_box(folder, picture_tower(str(name), weights)) if (folder / INDEX).is_file() else native_box(folder)
    return under(replace(box, config=replace(box.config, name=Path(str(name)).name)), arithmetic)


def found_clip(name: str) -> Weights | None:
    """A CLIP, if this is one alone: MODEL:TAG, MODEL:FILE, or the folder or hub id of an OpenCLIP or a CLIPModel.

    Raises UnclipError for one that cannot be had or read.
    """
    if ":" in name and not Path(name).exists():
        return open_clip_weights(name)
    if name in SHIPPED or (Path(name).is_dir() and (Path(name) / FILE).is_file()):
        return None
    folder = fetched(name)
    if (folder / CLIP_CONFIG).is_file():
        return open_clip_weights(str(folder))
    if _released(folder) or not (folder / "config.json").is_file():
        return None
    return transformers_weights(folder)


def under(box: Box, arithmetic: Arithmetic) -> Box:
    """The same weights, told to be drawn with under that arithmetic."""
    tables = {"tables": "float32" if arithmetic == "diffusers" else "float64"}
    reading = {"padding_text": "!" if arithmetic == "diffusers" else None, "fit": FITS[arithmetic]}
    theirs = CLIP_RANGE if box.prior is None else box.prior.header.provenance.get("clip_sample_range", CLIP_RANGE)
    limit = {"limit": theirs if arithmetic == "diffusers" else LIMIT}
    return replace(
        box,
        config=replace(box.config, noise="streams" if arithmetic == "own" else arithmetic),
        clip=_changed(box.clip, model=reading),
        prior=box.prior and _changed(box.prior, process=tables, sampling=limit),
        decoder=box.decoder and _changed(box.decoder, process=tables),
        upsamplers=tuple(_changed(one, process=tables) for one in box.upsamplers),
    )


def _ours(box: Box, arithmetic: Arithmetic) -> Box:
    if arithmetic == "own":
        return box
    if any(one is not None and one.header.process.get("time_offset") != 1 for one in (box.prior, box.decoder)):
        raise UnclipError(f"arithmetic = {arithmetic!r} is of released weights; {box.where} was trained here")
    return under(box, arithmetic)


def _released(folder: Path) -> bool:
    return (folder / INDEX).is_file() or any(folder.glob("*.ckpt"))


def _changed(weights: Weights, **tables: dict[str, Any]) -> Weights:
    header = weights.header
    new = {name: getattr(header, name) | changes for name, changes in tables.items()}
    return replace(weights, header=replace(header, **new))
