"""Files of weights that others made, opened as named tensors; no code in them is ever run."""

import contextlib
import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unclip.checkpoint import Lazy, stored
from unclip.errors import UnclipError
from unclip.interop.weight_names import PICKLES, STEMS, chosen

MIB = 1 << 20
KINDS = {
    "empty": "an empty file",
    "pickle": "a pickle of torch.save",
    "safetensors": "a safetensors file",
    "script": "a TorchScript archive, a program: of those only OpenAI's published CLIPs are opened",
    "zip": "a zip file that is cut short or none of torch.save",
    "unknown": "nothing known",
}


def open_tensors(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, on the CPU: of a .safetensors one at a time as asked for, else of a pickle, as
    torch.load(weights_only=True) reads it. A state dict may be the "state_dict" entry of a larger dict.

    None and integers in a state dict, which some programs leave there, are left out. Raises UnclipError for a file that
    is something else than its name says, is damaged, asks for anything but plain values, or has an entry that is no
    dense tensor.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        expect(path, "safetensors")
        return _safetensors(path)
    return _plain(path, _unpickled(path))


def open_stats(path: str | Path) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The mean and the standard deviation of embeddings, from a pickled pair such as Karlo's ViT-L-14_stats.th.

    Raises UnclipError for any other file.
    """
    path = Path(path)
    pair = _unpickled(path)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UnclipError(f"{path}: holds a {type(pair).__name__}; expected a pair (mean [d], std [d])")
    mean, std = (_dense(f"{path}: entry {k}", value).float() for k, value in enumerate(pair))
    if mean.ndim != 1 or mean.shape != std.shape or not bool((std > 0).all() and mean.isfinite().all()):
        raise UnclipError(
            f"{path}: expected a mean [d] and a std [d] above 0; got {list(mean.shape)}, {list(std.shape)}"
        )
    return mean, std


def folder_tensors(folder: str | Path, stems: Sequence[str] = STEMS) -> Mapping[str, Tensor]:
    """The tensors of a folder as diffusers and transformers write it, in one file or in shards with an index.

    Raises UnclipError where there are none, or a shard is missing or refused.
    """
    folder = Path(folder)
    with _refusing(folder):
        files = chosen([path.name for path in folder.iterdir()], stems)
    if not files:
        looked = f"{', '.join(stems)} with .safetensors or .bin, also as .fp16 or in shards with an index"
        raise UnclipError(f"{folder}: no weights in this folder; looked for {looked}")
    if not files[0].endswith(".json"):
        return open_tensors(folder / files[0])
    index = folder / files[0]
    try:
        owners = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # by their bare names: an index leads nowhere outside its folder
        shards = {name: open_tensors(folder / name) for name in sorted(set(owners.values())) if name in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UnclipError(f"{index}: damaged, or no index of shards; get the folder again") from None
    for name, shard in owners.items():
        if shard not in shards or name not in shards[shard]:
            raise UnclipError(f"{index}: {name!r} should be in {shard!r} and is not; get the folder again")
    return Lazy({name: shards[shard].__getitem__ for name, shard in owners.items()})


def digest(paths: Iterable[str | Path]) -> str:
    """A quick name for the contents of huge files, in the order given: SHA-256 over each file's size, its first and last
    MiB, and 64 KiB at each of 64 evenly spaced offsets.

    It tells files apart that came from different trainings. It proves nothing: what lies between can be changed.
    """
    found = hashlib.sha256()
    for path in map(Path, paths):
        with _refusing(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            found.update(size.to_bytes(8, "little"))
            for start, count in [(0, MIB), (max(0, size - MIB), MIB), *((size * k // 64, 65536) for k in range(64))]:
                file.seek(start)
                found.update(file.read(count))
    return found.hexdigest()


def kind(path: Path) -> str:
    """What a file is by content, a key of KINDS: "script" for TorchScript. Raises UnclipError for what is no file."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
            names = {name.rpartition("/")[2] for name in (entry.filename for entry in entries)}
            # torch maps a file into memory and reads where the entries lie, so they are what it stores: uncompressed
            whole = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            return "script" if "constants.pkl" in names else "pickle" if "data.pkl" in names and whole else "zip"
    except OSError as error:
        raise UnclipError(f"{path}: {error.strerror or error}") from None
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
    ):  # the last is zipfile's word for a newer zip's version
        return "zip"
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000:  # the format's bound
        return "safetensors"
    return "pickle" if start[:1] == b"\x80" else "unknown" if start else "empty"


def expect(path: Path, wanted: str) -> None:
    """Raises UnclipError for a file that is of another kind."""
    found = kind(path)
    if found != wanted:
        raise _damaged(path, f"expected {KINDS[wanted]}, found {KINDS[found]}")


def _damaged(path: Path, how: object) -> UnclipError:
    text = "".join(letter for letter in " ".join(str(how).split()) if letter.isprintable())[:200]
    return UnclipError(f"{path}: damaged, or no plain state dict: {text or type(how).__name__}; get the file again")


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Makes one line of whatever a library raises at a file."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (a foreign file can fail in any way)
        if isinstance(error, OSError) and error.strerror:
            raise UnclipError(f"{path}: {error.strerror}") from None
        asked = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", str(error))
        if asked is None:
            raise _damaged(path, error) from None
        told = f"its pickle asks for {asked[1]}, which is no plain value and could run code"
        raise UnclipError(f"{path}: refused: {told}; get the weights as .safetensors") from None


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    """As `stored` opens ours."""

    def read(name: str) -> Tensor:
        with _refusing(path):
            return tensors[name]

    with _refusing(path):
        tensors = stored(path)
        return Lazy(dict.fromkeys(tensors, read))


def _unpickled(path: Path) -> Any:
    """What a pickle of torch.save holds, plain values only."""
    if path.suffix.lower() not in PICKLES:
        raise UnclipError(f"{path}: expected a name that ends in one of .safetensors, {', '.join(PICKLES)}")
    expect(path, "pickle")
    with _refusing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rare pickles, which are read or refused all the same
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _plain(path: Path, values: Any) -> dict[str, Tensor]:
    """The tensors of an unpickled state dict."""
    values = values.get("state_dict", values) if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise UnclipError(f"{path}: holds a {type(values).__name__}; expected tensors by name")
    kept = {name: value for name, value in values.items() if not (value is None or isinstance(value, int))}
    return {name: _dense(f"{path}: {name!r}", value) for name, value in kept.items()}


def _dense(where: str, value: Any) -> Tensor:
    """The value, without gradient, once it is known for a dense tensor with its numbers there."""
    dense = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and value.device.type == "cpu"
    if not dense or value.is_quantized or value.is_nested:
        raise UnclipError(f"{where}: a {type(value).__name__}; expected a tensor: dense, not quantised, with numbers")
    return value.detach()
