"""`unclip convert`."""

from pathlib import Path
from typing import Literal


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
        CLIP: MODEL:TAG or MODEL:FILE, such as ViT-L-14-quickgelu:ViT-L-14.pt, or the id or folder of an OpenCLIP model.
    target
        The folder to be made; for a CLIP, the file (.safetensors).
    to
        The layout of the folder.
    dtype
        The precision of the weights that are written. Default: as they are.
    """
    from unclip.devices import DTYPES
    from unclip.errors import UnclipError
    from unclip.interop.clips import import_open_clip
    from unclip.interop.systems import clip_source, found
    from unclip.interop.writing import convert as write

    clip = clip_source(source)
    if clip is not None:
        if target.suffix != ".safetensors":
            raise UnclipError(f"{target}: a CLIP becomes one file; give a name that ends in .safetensors")
        if target.exists():
            raise UnclipError(f"{target}: exists already; give another name")
        import_open_clip(clip, target)
    else:
        write(found(source), target, to, DTYPES[dtype] if dtype else None)
    print(target)
