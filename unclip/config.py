"""TOML in, frozen and validated config objects out.

Validation is pydantic's; this file turns its report into one line that names the file and the key.
"""

import copy
import dataclasses
import difflib
import itertools
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from unclip.errors import UnclipError

T = TypeVar("T")
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # pydantic's words for a key that the class has not

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, Field))
def config(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that refuses unknown keys, wrong types and values outside its constraints.

    Constructing one directly raises pydantic's ValidationError; `build` and `load` raise one-line UnclipErrors.
    """
    return cast(type[T], dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls))


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """The config object of type `cls` that holds `values`; types are strict (no "5" for 5, no true for 1).

    Raises UnclipError, one line that begins with `where` and names the key.
    """
    unknown = [key for key in values if key not in _keys(cls, [])]
    if unknown:
        raise UnclipError(f"{where}: {_unknown(cls, unknown[:1])}")
    try:
        # JSON mode is pydantic's strict mode in which a list may still stand for a tuple
        # (str: TOML's dates have no place in a config, and are told so where a key does not take a string)
        return TypeAdapter(cls).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UnclipError(f"{where}: {_describe(error, cls)}") from None


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """The config object of type `cls` that the TOML file at `path` and `overrides` ("key.path=value") describe.

    Raises UnclipError for a file that is missing or no TOML, and for whatever `build` refuses.
    """
    return build(cls, override(read_toml(path), overrides), str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UnclipError when it is missing or malformed."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnclipError(f"{path}: no such file; expected a TOML config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnclipError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UnclipError(f"{path}: cannot be read: {error.strerror}") from None


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each "key.path=value" set; a value is read as TOML, or else taken as a string."""
    result = copy.deepcopy(dict(values))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UnclipError(f"override {text!r}: expected key.path=value, such as optim.lr=1e-4")
        *tables, last = key.strip().split(".")
        place = result
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UnclipError(f"override {text!r}: {table!r} is a value, not a table")
        try:
            place[last] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            place[last] = value
    return result


def to_dict(value: Any) -> Any:
    """Plain tables and values of a config object, for a file or a checkpoint's header; keys set to None are left out."""
    if dataclasses.is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_dict(item) for name, item in pairs if item is not None}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if isinstance(value, dict):
        return {key: to_dict(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys in which two tables differ."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(prefix + key)
    return found


def _describe(error: ValidationError, cls: type) -> str:
    problems = error.errors()
    # a misspelt key shows up as unknown and as missing: the former says more
    worst = min(problems, key=lambda one: one["type"] not in UNKNOWN)
    # a key that may be of several types has a problem with each: with the one it is nearest to, the problem lies deepest
    problem = max((one for one in problems if _key(one) == _key(worst)), key=lambda one: len(one["loc"]))
    path = [str(part) for part in problem["loc"] if not _branch(part)]
    key, given = ".".join(path), problem.get("input")
    others = len({*map(_key, problems)}) - 1
    more = f" (and {others} more)" if others else ""
    if problem["type"] in UNKNOWN:
        return _unknown(cls, path) + more
    if problem["type"] in ("missing", "missing_argument"):
        return f"key {key!r} is missing{more}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not key or isinstance(given, dict):
        return f"{key}: {message}{more}" if key else f"{message}{more}"
    return f"{key} = {given!r}: {message[0].lower()}{message[1:]}{more}"


def _key(problem: ErrorDetails) -> tuple[int | str, ...]:
    """Where a problem is, up to the first of several types that a key may have."""
    return tuple(itertools.takewhile(lambda part: not _branch(part), problem["loc"]))


def _branch(part: int | str) -> bool:
    """Whether a part of a problem's place is no key but pydantic's name for one of several types."""
    return isinstance(part, str) and part.startswith(("constrained-", "tuple["))


def _unknown(cls: Any, path: Sequence[str]) -> str:
    known = _keys(cls, path[:-1])
    close = difflib.get_close_matches(path[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
    return f"unknown key {'.'.join(path)!r}; {hint}"


def _keys(cls: Any, path: Sequence[str]) -> list[str]:
    """The keys of the config class found by following `path` from `cls`."""
    for name in path:
        if not dataclasses.is_dataclass(cls):
            return []
        hint = next((field.type for field in dataclasses.fields(cls) if field.name == name), cls)
        # (an index or a table's key is no field, and leads to the class that the field before it holds)
        options = [hint, *getattr(hint, "__args__", ())]
        cls = next((option for option in options if dataclasses.is_dataclass(option)), None)
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
