"""A system by name or folder, opened: its files found, its nets on a shelf, its parts as `UnCLIP` takes them."""

from pathlib import Path
from typing import Any

from unclip.devices import pick_device, pick_dtype
from unclip.errors import UnclipError
from unclip.folder import assembled
from unclip.interop.systems import Arithmetic, found
from unclip.loading import Shelf
from unclip.priors import DiffusionPrior, NoPrior


def opened(
    name: str | Path, device: str, dtype: str, low_memory: bool, arithmetic: Arithmetic, weights: bool = True
) -> dict[str, Any]:
    """The fields of `UnCLIP`. Raises UnclipError for whatever is missing or unfit.

    Without `weights`, but with `low_memory`, such a system can be planned with and not drawn with: nothing is downloaded
    but configs.
    """
    if not isinstance(name, str | Path):
        raise UnclipError(f"{name!r} is no system: expected a folder or a name, such as demo or karlo")
    where = pick_device(device)
    parts = assembled(found(name, arithmetic, weights), Shelf(where, pick_dtype(dtype, where), low_memory))
    fingerprints = {role: header.fingerprint[:16] for role, header in parts.headers.items()}
    return {
        "clip": parts.clip,
        "prior": NoPrior() if parts.prior is None else DiffusionPrior(parts.prior, parts.clip, parts.config.candidates),
        "decoder": parts.decoder,
        "upsamplers": parts.upsamplers,
        "identity": {"name": parts.config.name, "weights": fingerprints},
        "config": parts.config,
        "pca": parts.pca,
        "matching": parts.matching,
    }
