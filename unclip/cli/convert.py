"""`unclip convert`."""

from pathlib import Path
from typing import Literal

from unclip.errors import UnclipError
from unclip.interop.hub import ahead
from unclip.places import check_new


def convert(
    source: str,
    target: Path,
    to: Literal["unclip", "diffusers", "native"] = "unclip",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
) -> None:
    """Write weights in another layout: released ones as ours, or ours, of that architecture, as released ones.

    Parameters
    ----------
    source
        A folder in any of the layouts, a name ("karlo") or a model's id on the hub (ORG/NAME), which are downloaded; or a
        CLIP: MODEL:TAG or MODEL:FILE, such as ViT-L-14-quickgelu:ViT-L-14.pt, or the id or folder of an OpenCLIP or
        transformers model.
    target
        The folder to be made; for a CLIP, the file (.safetensors).
    to
        The layout of the folder.
    dtype
        The precision of the weights that are written. Default: as they are.
    """
    check_new(target)  # as when it is written, but before a download
    alone = ":" in source and not Path(source).exists()  # a CLIP for certain, and refused before it is downloaded
    if alone:
        _check_file(target, to)
    else:
        ahead(source)
    from unclip.checkpoint import save
    from unclip.devices import DTYPES
    from unclip.interop.systems import found, found_clip
    from unclip.interop.writing import convert as write

    cast = DTYPES[dtype] if dtype else None
    clip = found_clip(source)
    if clip is None:
        write(found(source), target, to, cast)
    else:
        _check_file(target, to)
        save(target, clip.read(), clip.header, cast)
    print(target)


def _check_file(target: Path, to: str) -> None:
    """Raises UnclipError for what a CLIP alone cannot be written as."""
    if target.suffix != ".safetensors":
        raise UnclipError(f"{target}: a CLIP becomes one file; give a name that ends in .safetensors")
    if to != "unclip":
        raise UnclipError(f"--to {to}: of whole systems; a CLIP alone becomes a file of ours")
    if target.exists():  # an empty folder
        raise UnclipError(f"{target}: exists already; give another name")
