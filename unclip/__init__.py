"""Open unCLIP: text → CLIP image embedding → pictures, and what only that latent allows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unclip.errors import UnclipError, UnclipWarning
    from unclip.system import Picture, UnCLIP

__all__ = ["Picture", "UnCLIP", "UnclipError", "UnclipWarning"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, so `unclip --help` and shell completion must not (PEP 562)
    if name not in __all__:
        raise AttributeError(f"module 'unclip' has no attribute {name!r}")
    from unclip import errors, system

    return getattr(errors if name.startswith("Unclip") else system, name)
