"""Where nets run, and in what precision."""

import torch

from unclip.errors import UnclipError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the machine's accelerator if it has one. Raises UnclipError for one it lacks."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnclipError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type != "cpu" and (found is None or found.type != device.type):
        here = found.type if found else "no accelerator"
        raise UnclipError(f"device {name!r}: this machine has {here}; use --device cpu or auto")
    if device.type != "cpu" and (device.index or 0) >= torch.accelerator.device_count():
        raise UnclipError(f"device {name!r}: this machine has {torch.accelerator.device_count()}, counted from 0")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The nets' precision: "auto" is bfloat16 on CUDA and float32 elsewhere; float64 is for comparisons."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UnclipError(f"dtype {name!r}: expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]
