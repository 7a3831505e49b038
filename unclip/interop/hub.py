"""Folders of released weights: on this disk already, or from the Hugging Face hub when asked for by name."""

import errno
import glob
import json
import re
import threading
import urllib.request
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from unclip.errors import UnclipError, UnclipWarning
from unclip.interop.weight_names import PICKLES, chosen
from unclip.places import SHIPPED

T = TypeVar("T")

KNOWN = {
    "karlo": "kakaobrain/karlo-v1-alpha",
    "karlo-image-variations": "kakaobrain/karlo-v1-alpha-image-variations",
}
PICTURES = {KNOWN["karlo"]: KNOWN["karlo-image-variations"]}  # where CLIP's picture tower lies that a system lacks
PATIENCE = 3.5  # seconds for the hub's list of files
CLIP_STEMS = ("open_clip_model", "open_clip_pytorch_model")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def fetched(name: str, parts: Collection[str] | None = None, weights: bool = True) -> Path:
    """Where a model's or a system's folder is on this disk: `name` itself if it is a folder, else of the hub's model
    called so ("kakaobrain/karlo-v1-alpha", or "karlo" for short), downloaded if it is not in the hub's cache yet.

    Of the hub's files only those are got that are read here, with `parts` only of these subfolders, and without `weights`
    only configs and texts. What is in the cache is used as it is, without asking the hub for something newer. Raises
    UnclipError.
    """
    if name and Path(name).is_dir():
        return Path(name)
    repo = KNOWN.get(name, name)
    if name and Path(name).exists():
        raise UnclipError(f"{name}: a file; expected a folder or a model of the hub (a CLIP's file: MODEL:FILE)")
    if not HUB_ID.fullmatch(repo) or "--" in repo or ".." in repo:
        raise UnclipError(
            f"{name!r}: neither a folder nor a hub id; give a folder, ORG/NAME as the hub has it, or {' or '.join(KNOWN)}"
        )
    found = _cached(repo, parts, weights)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download

    listed = _listed(repo)
    if not any(map(_holds_weights, needed(listed, parts))):
        raise UnclipError(f"{repo}: the hub has no weights there that are read here; expected .safetensors or .bin")
    wanted = needed(listed, parts, weights)
    if not weights and not any(path.endswith(".json") for path in wanted):
        raise without_configs(repo)
    try:
        return Path(snapshot_download(repo, allow_patterns=[glob.escape(path) for path in wanted]))
    except Exception as error:  # noqa: BLE001 (the library lets through those of its transports)
        raise _told(repo, error) from None


def ahead(name: str, weights: bool = True) -> None:
    """Downloads a model of the hub's that `fetched` is to find later, and does nothing for what lies on this disk.

    For commands, before they import what takes seconds: so that a hub that is not to be reached is told of at once. Raises
    UnclipError.
    """
    if name not in SHIPPED and not Path(name).exists():
        fetched(name, weights=weights)
        picture_tower(name, weights)


def picture_tower(name: str, weights: bool = True) -> Path | None:
    """Where CLIP's `image_encoder` lies for a model of the hub's that holds only CLIP's text tower; None for all others.

    Where it cannot be had, None too, with a warning: texts can be drawn without it.
    """
    repo = None if Path(name).is_dir() else PICTURES.get(KNOWN.get(name, name))
    if repo is None:
        return None
    try:
        return fetched(repo, ["image_encoder", "feature_extractor"], weights)
    except UnclipError as error:
        warnings.warn(f"CLIP reads texts only here, no pictures ({error})", UnclipWarning, stacklevel=2)
        return None


def without_configs(name: str) -> UnclipError:
    """What to raise where configs alone are asked for, and there are none."""
    return UnclipError(
        f"{name}: no model_index.json there; native weights hold no configs, so that a plan needs them whole: draw once"
        " without --dry-run, or give a folder"
    )


def needed(files: Collection[str], parts: Collection[str] | None = None, weights: bool = True) -> list[str]:
    """Those of a repository's files that are read here: .json and .txt, and with `weights` one set of each folder's, by
    the same rule as files.folder_tensors. With `parts`, only these subfolders and what lies beside them."""
    folders: dict[str, list[str]] = {}
    for path in sorted(files):
        folder, _, base = path.rpartition("/")
        if not folder or parts is None or folder.split("/")[0] in parts:
            folders.setdefault(folder, []).append(base)
    wanted = []
    for folder, names in folders.items():
        told = [name for name in names if name.endswith((".json", ".txt"))]
        # beside the folders of a whole pipeline lie the same weights once more, in other programs' formats
        whole = not folder and "model_index.json" in names
        # such a repository may hold the same weights for transformers too
        clips = chosen(names, CLIP_STEMS) if "open_clip_config.json" in names else []
        held = [] if whole or not weights else clips or chosen(names) or _any(names)
        wanted += [f"{folder}/{name}".lstrip("/") for name in sorted({*told, *held})]
    return wanted


def _holds_weights(path: str) -> bool:
    return path.endswith((".safetensors", *PICKLES))


def _any(names: Collection[str]) -> list[str]:
    """All weights under names of their own, in the safest of the formats that there are."""
    for suffixes in ((".safetensors",), (".bin",), PICKLES):
        found = [name for name in names if name.endswith(suffixes)]
        if found:
            return found
    return []


def _cached(repo: str, parts: Collection[str] | None, weights: bool) -> Path | None:
    """The folder in the hub's cache if all that is needed lies there; this asks no network."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        wanted = needed([file.path for file in get_cached_repo_tree(repo)], parts, weights)
        patterns = [glob.escape(path) for path in wanted]
    except CachedRepoTreeNotFoundError:  # downloaded by an older version of the library
        patterns = None
    try:
        folder = Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:  # or, a kind of it, an incomplete snapshot
        return None
    return folder if patterns is not None or _looks_whole(folder, parts, weights) else None


def _looks_whole(folder: Path, parts: Collection[str] | None, weights: bool) -> bool:
    """Whether every part has some file there, and weights if it has a config; the most that can be said without a list."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if parts is None and "model_index.json" in files:
        try:
            told = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            parts = [name for name, value in told.items() if isinstance(value, list) and value and value[0]]
        except (OSError, ValueError, AttributeError):
            return False
    held = {path.rpartition("/")[0] for path in files if _holds_weights(path)}
    if parts is None:
        return bool(held) or not weights
    lacking = {part for part in parts if weights and f"{part}/config.json" in files} - held
    return not lacking and set(parts) <= {path.split("/")[0] for path in files}


def await_answer(url: str) -> None:
    """Returns when there is an answer from an address that a library will download from without a limit of time.

    Raises UnclipError when none comes.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        _patiently(lambda: urllib.request.urlopen(request, timeout=PATIENCE).close())
    except Exception as error:  # noqa: BLE001 (each transport has its own)
        raise UnclipError(f"{url}: is not to be reached ({error}); check the network, or give a file") from None


def _listed(repo: str) -> list[str]:
    """The hub's list of a model's files."""
    from huggingface_hub import HfApi

    try:
        told = _patiently(lambda: HfApi().model_info(repo, timeout=PATIENCE))
    except Exception as error:  # noqa: BLE001 (told in one line)
        raise _told(repo, error) from None
    return [file.rfilename for file in told.siblings or []]


def _patiently(ask: Callable[[], T]) -> T:
    """What `ask` gives, or raises; TimeoutError after PATIENCE seconds.

    A library's timeout begins anew with every address that a name has, and does not bound the look-up of the name.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(ask())
        except Exception as error:  # noqa: BLE001 (raised again by the caller's thread)
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {PATIENCE:g} s")
    return found[0]


def _told(repo: str, error: Exception) -> UnclipError:
    """A failure of the hub's library, in one line that says what to do."""
    from huggingface_hub import constants, errors

    text = " ".join(str(error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return UnclipError(
            f"{repo}: not wholly in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids downloads;"
            " unset it, or give a folder"
        )
    if isinstance(error, errors.GatedRepoError):
        return UnclipError(
            f"{repo}: gated; accept its terms at {constants.ENDPOINT}/{repo}, then log in: `hf auth login`, or HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnclipError(
            f"{repo}: no folder here, and no model of the hub that you may see; check the name, or log in for a private one"
        )
    if getattr(error, "errno", None) == errno.ENOSPC or "no space left" in text.lower():
        return UnclipError(
            f"{repo}: the disk is full ({constants.HF_HUB_CACHE}); make room or set HF_HOME to another disk, and run again"
        )
    if status is not None:
        return UnclipError(f"{repo}: the hub answered with status {status}; try again later, or give a folder")
    if isinstance(error, PermissionError):
        return UnclipError(f"{repo}: {error.filename}: may not be written to; set HF_HOME to a folder of yours")
    reason = text[:120] or type(error).__name__
    return UnclipError(
        f"{repo}: not wholly in the cache, and {constants.ENDPOINT} is not to be reached ({reason}); check the network and run"
        " again, or give a folder"
    )
