"""Foreign JSON configs, read against what their library assumes of keys that are missing and what our nets can hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from unclip.errors import UnclipError

Json = Mapping[str, Any]


def read(given: Json, where: str, defaults: Json, required: Json) -> dict[str, Any]:
    """The values of all keys in `defaults` (their library's, which also tell the types) and `required`.

    Keys that begin with "_" are ignored. Raises UnclipError, which names file and key, for an unknown key, for a value
    of the wrong type and for one other than `required` has: what the key means otherwise our net cannot do.
    """
    known = {**required, **defaults}
    values = {**known, **{key: value for key, value in given.items() if not key.startswith("_")}}
    for key, value in values.items():
        if key not in known:
            raise UnclipError(f"{where}: {key} = {value!r}: unknown; our net does not have such a part")
        if key in required:
            if value != required[key]:
                refuse(where, key, value, repr(required[key]))
        elif not _alike(value, defaults[key]):
            kind = "an integer or null" if defaults[key] is None else f"a {type(defaults[key]).__name__}"
            refuse(where, key, value, kind)
    return values


def refuse(where: str, key: str, value: object, expected: str) -> NoReturn:
    """Raises the UnclipError that says which value of a key cannot be, and what can."""
    raise UnclipError(f"{where}: {key} = {value!r}; expected {expected}")


def check(where: str, expected: Json, actual: Json) -> None:
    """Raises UnclipError for the first key of `actual` whose value is neither None nor as `expected`."""
    for key, value in expected.items():
        if actual[key] is not None and actual[key] != value:
            refuse(where, key, actual[key], repr(value))


def _alike(value: object, default: object) -> bool:
    """Whether a value has its default's type; JSON may write 1.0 as 1."""
    if default is None:
        return value is None or (isinstance(value, int) and not isinstance(value, bool))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, list):
        return isinstance(value, list | tuple) and all(any(_alike(one, like) for like in default) for one in value)
    return isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UnclipError for a file that is missing, damaged or holds something else."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UnclipError(f"{path}: no such file; expected a folder as diffusers saves it") from None
    except (OSError, ValueError) as error:
        raise UnclipError(f"{path}: no readable JSON ({error}); get the file again") from None
    if not isinstance(values, dict):
        raise UnclipError(f"{path}: expected a JSON object")
    return values
