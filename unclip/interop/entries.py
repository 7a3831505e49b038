"""The vocabulary of a two-way map between our tensors and a foreign layout's: entries, and what they do to a tensor."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from einops import EinopsError, rearrange
from torch import Tensor, nn

from unclip.checkpoint import Lazy
from unclip.errors import UnclipError

LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and the foreign tensors it is made of; nothing is ever computed, values only move.

    `shape` is that of ours, once it is known (`fitted`).
    """

    ours: str
    theirs: tuple[str, ...]
    take: Callable[[Sequence[Tensor]], Tensor]
    give: Callable[[Tensor], tuple[Tensor, ...]]
    shape: tuple[int, ...] | None = None


def taken(
    entries: Sequence[Entry], source: Mapping[str, Tensor], where: str, ignore: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Our tensors, made of those in `source`, each of which is read once. Raises UnclipError as `taking`, and its Mapping."""
    return dict(taking(entries, source, where, ignore))


def taking(entries: Sequence[Entry], source: Mapping[str, Tensor], where: str, ignore: Sequence[str] = ()) -> Any:
    """Our tensors by name, each made when it is asked for; `ignore` are patterns of names ("*.ids").

    Raises UnclipError that begins with `where` and names the first missing or extra tensor; or, later, a misshapen one.
    """
    wanted = {name for entry in entries for name in entry.theirs}
    missing = [name for entry in entries for name in entry.theirs if name not in source]
    extra = [n for n in source if n not in wanted and not any(fnmatchcase(n, pattern) for pattern in ignore)]
    for problem, names in (("missing", missing), ("extra", extra)):
        if names:
            raise UnclipError(f"{where}: {len(names)} {problem} tensor(s) for this net, the first is {names[0]!r}")
    return Lazy(
        {
            entry.ours: lambda _, entry=entry: _taken(entry, [source[name] for name in entry.theirs], where)
            for entry in entries
        }
    )


def given(entries: Sequence[Entry], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The foreign tensors of ours (parts of a fused tensor are views of it).

    Raises UnclipError for a tensor of ours that is missing, misshapen, or has no entry.
    """
    odd = sorted({entry.ours for entry in entries} ^ tensors.keys())
    if odd:
        problem = "has no place in this layout" if odd[0] in tensors else "is missing"
        raise UnclipError(f"{odd[0]!r} {problem}")
    made: dict[str, Tensor] = {}
    for entry in entries:
        tensor = tensors[entry.ours]
        if entry.shape is not None and tuple(tensor.shape) != entry.shape:
            raise UnclipError(f"{entry.ours!r} is {list(tensor.shape)}; expected {list(entry.shape)}")
        made |= zip(entry.theirs, entry.give(tensor), strict=True)
    return made


def fitted(entries: Iterable[Entry], net: nn.Module) -> tuple[Entry, ...]:
    """The entries with the shapes of `net` (on the meta device). Raises UnclipError where they are not just its tensors."""
    entries, wanted = tuple(entries), net.state_dict()
    odd = sorted({entry.ours for entry in entries} ^ wanted.keys())
    if odd:
        problem = "has no place" if odd[0] in wanted else "is asked for, which this net does not have,"
        raise UnclipError(
            f"{type(net).__name__}: {odd[0]!r} {problem} in this layout; it holds nets shaped like Karlo's"
        )
    return tuple(dataclasses.replace(entry, shape=tuple(wanted[entry.ours].shape)) for entry in entries)


def copied(ours: str, theirs: str) -> Entry:
    """The same tensor under another name."""
    return Entry(ours, (theirs,), lambda tensors: tensors[0], lambda tensor: (tensor,))


def rearranged(ours: str, theirs: str, pattern: str, **sizes: int) -> Entry:
    """A tensor whose axes are ordered otherwise: `pattern` is einops', both ways ("1 n w <-> n w"), theirs first."""
    left, right = pattern.split(" <-> ")
    return Entry(
        ours,
        (theirs,),
        lambda tensors: rearrange(tensors[0], f"{left} -> {right}", **sizes).contiguous(),
        lambda tensor: (rearrange(tensor, f"{right} -> {left}", **sizes).contiguous(),),
    )


def stacked(ours: str, theirs: Sequence[str]) -> Entry:
    """A fused tensor of ours whose rows are those of several of theirs, one after another (queries, keys, values)."""
    return Entry(ours, tuple(theirs), _stack, lambda tensor: tuple(tensor.chunk(len(theirs))))


def constant(ours: str, value: float) -> Entry:
    """A number that they do not keep."""
    return Entry(ours, (), lambda _: torch.tensor(value), lambda _: ())


def layer(ours: str, theirs: str) -> list[Entry]:
    """Weight and bias of a layer, copied."""
    return [copied(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in LEAVES]


def stacked_layer(ours: str, theirs: Sequence[str]) -> list[Entry]:
    """Weight and bias of a fused layer, stacked from those of several."""
    return [stacked(f"{ours}.{leaf}", [f"{one}.{leaf}" for one in theirs]) for leaf in LEAVES]


def rearranged_layer(ours: str, theirs: str, rows: str, columns: str = "i <-> i", **sizes: int) -> list[Entry]:
    """Weight and bias of a layer whose `rows` are ordered otherwise, and the `columns` of its weight too ("i 1 <-> i")."""
    (left, right), (before, after) = rows.split(" <-> "), columns.split(" <-> ")
    return [
        rearranged(f"{ours}.weight", f"{theirs}.weight", f"{left} {before} <-> {right} {after}", **sizes),
        rearranged(f"{ours}.bias", f"{theirs}.bias", rows, **sizes),
    ]


def interleaved(ours: str, theirs: str, parts: int, head: int, columns: str = "i <-> i") -> list[Entry]:
    """A fused layer whose rows go [head][part][channel] in theirs and [part][head][channel] in ours.

    `head` is the number of a head's channels; parts are queries, keys, values.
    """
    return rearranged_layer(ours, theirs, "(h p d) <-> (p h d)", columns, p=parts, d=head)


def tokens_last(ours: str, theirs: str, tokens: int) -> list[Entry]:
    """A layer that makes several tokens: their rows go [channel][token], ours token after token."""
    return rearranged_layer(ours, theirs, "(w n) <-> (n w)", n=tokens)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    shapes = [list(tensor.shape) for tensor in tensors]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"their shapes differ: {shapes}")
    return torch.cat(list(tensors))


def _taken(entry: Entry, tensors: Sequence[Tensor], where: str) -> Tensor:
    told = f"{where}: " + ", ".join(f"{n!r} is {list(x.shape)}" for n, x in zip(entry.theirs, tensors, strict=True))
    try:
        made = entry.take(tensors)
    except (EinopsError, ValueError):
        expected = f" {list(entry.shape)}" if entry.shape is not None else ""
        raise UnclipError(f"{told}: cannot become our {entry.ours!r}{expected}") from None
    if entry.shape is not None and tuple(made.shape) != entry.shape:
        raise UnclipError(f"{told}: would make our {entry.ours!r} {list(made.shape)}, which is {list(entry.shape)}")
    return made
