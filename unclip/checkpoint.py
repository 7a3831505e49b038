"""Safetensors files that describe themselves: what net, its config, the CLIP it belongs to, and where it came from."""

import dataclasses
import hashlib
import json
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.config import Natural, build, config, to_dict
from unclip.errors import UnclipError

N = TypeVar("N", bound=nn.Module)

FORMAT = 1
REOPENED = 64 << 20  # bytes after which a file that is being read is opened anew
KEY = "unclip"  # the entry of the safetensors header that holds ours


@config
class Header:
    """What a file says of itself. `parents` maps a role ("clip") to the fingerprint of the net it was trained against."""

    format: Natural = FORMAT
    net: str
    model: dict[str, Any]
    process: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)
    parents: dict[str, str] = Field(default_factory=dict)
    fingerprint: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Lazy(Mapping[str, Tensor]):
    """Tensors that are read, each time, when they are asked for by name."""

    readers: Mapping[str, Callable[[str], Tensor]]

    def __getitem__(self, name: str) -> Tensor:
        return self.readers[name](name)

    def __contains__(self, name: object) -> bool:
        return name in self.readers

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


@dataclass(frozen=True, eq=False)
class Weights:
    """A net's weights where they lie (`where`, for messages), what is known of them, and how to read them."""

    where: str
    header: Header
    read: Callable[[], Mapping[str, Tensor]]


def weights(path: str | Path) -> Weights:
    """The weights in a checkpoint of ours. Raises UnclipError for whatever is none."""
    return Weights(str(path), read_header(path), lambda: stored(path))


def save(path: str | Path, tensors: Mapping[str, Tensor], header: Header, dtype: torch.dtype | None = None) -> None:
    """Writes a checkpoint, floating-point tensors cast to `dtype` if given; it appears whole under its name or not at all.

    The header's fingerprint is computed here.
    """
    path = Path(path)
    header = dataclasses.replace(header, fingerprint=fingerprint(tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    kept = {name: _cast(tensor.detach().cpu(), dtype).contiguous() for name, tensor in tensors.items()}
    try:
        save_file(kept, str(partial), metadata={KEY: json.dumps(to_dict(header))})
        partial.chmod(0o644)  # the library makes files that only their owner may read
        partial.replace(path)
    except SafetensorError as error:  # the library's word for a full disk, among others
        raise UnclipError(f"{path}: could not be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def read_header(path: str | Path) -> Header:
    """The header of a checkpoint, without its tensors. Raises UnclipError for whatever is no checkpoint of ours."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise UnclipError(f"{path}: no such file; expected an unclip checkpoint (.safetensors)") from None
    except (SafetensorError, OSError) as error:
        raise UnclipError(
            f"{path}: damaged, cut short or no safetensors file ({error}); get or write it again"
        ) from None
    if KEY not in metadata:
        raise UnclipError(f"{path}: a safetensors file of some other program: its header has no {KEY!r} entry")
    try:
        values = dict(json.loads(metadata[KEY]))
    except (TypeError, ValueError):
        raise UnclipError(f"{path}: the {KEY!r} entry of its header is damaged; get or write the file again") from None
    if values.get("format") != FORMAT:
        raise UnclipError(f"{path}: checkpoint format {values.get('format')}; this version of unclip reads {FORMAT}")
    return build(Header, values, f"{path}: header")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, floating-point ones as float32."""
    with safe_open(str(path), framework="pt") as file:
        return {name: _cast(file.get_tensor(name), torch.float32) for name in file.keys()}  # noqa: SIM118 (no mapping)


def stored(path: str | Path) -> Lazy:
    """The tensors of a safetensors file as they are stored, each read when it is asked for.

    What was read of a file stays in memory while it is open, so it is opened anew now and then: of tensors that are cast
    or laid out anew nothing is kept. Raises UnclipError when another file stands there by then, or none.
    """
    file, taken, stood = _opened(path), 0, _stands(path)

    def read(name: str) -> Tensor:
        nonlocal file, taken
        if taken > REOPENED:
            if _stands(path) != stood:
                raise UnclipError(f"{path}: was replaced or removed while it was being read; try again")
            file, taken = _opened(path), 0
        tensor: Tensor = file.get_tensor(name)
        taken += tensor.nbytes
        return tensor

    return Lazy(dict.fromkeys(file.keys(), read))


def hollow(weights: Weights, net_type: type[N]) -> N:
    """The net that weights belong to, on the meta device. Raises UnclipError when they are another net's."""
    expected = net_type.__name__.lower()
    if weights.header.net != expected:
        raise UnclipError(f"{weights.where}: holds a {weights.header.net}; expected a {expected}")
    config_type = typing.get_type_hints(net_type.__init__)["config"]
    with torch.device("meta"):
        net = net_type(build(config_type, weights.header.model, f"{weights.where}: header: model"))
    return net.eval().requires_grad_(False)


def load(path: str | Path, net_type: type[N], device: torch.device | str = "cpu") -> tuple[N, Header]:
    """The net in a checkpoint, in evaluation mode and without gradients, and the file's header.

    The caller names the type; a file that holds another net is refused, and so is any missing, extra or misshapen tensor.
    """
    found = weights(path)
    net = hollow(found, net_type)
    load_strictly(net, read_tensors(path), path)
    return net.to(device).requires_grad_(False), found.header


def load_strictly(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Gives `net` (on the meta device or not) these tensors. Raises UnclipError that names the first that does not fit."""
    wanted = net.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    for problem, names in (("missing", missing), ("extra", extra)):
        if names:
            raise UnclipError(f"{path}: {len(names)} {problem} tensor(s) for this net, the first is {names[0]!r}")
    read = {name: tensors[name] for name in sorted(wanted)}  # each once: they may be read from a file only now
    for name, tensor in read.items():
        if tensor.shape != wanted[name].shape:
            raise UnclipError(f"{path}: {name!r} is {list(tensor.shape)}; the net wants {list(wanted[name].shape)}")
    net.load_state_dict(read, assign=True)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors cast to float16, so that saving them again, in half or full precision, changes nothing."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = _cast(tensors[name].detach().cpu(), torch.float16).contiguous()
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _opened(path: str | Path) -> Any:
    return safe_open(str(path), framework="pt")


def _stands(path: str | Path) -> tuple[int, ...] | None:
    """Which file stands at a path, if any."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
