"""What a caller asks for, checked: prompts with their seeds, and the recipes that replay a picture."""

import operator
import secrets
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import torch

from unclip.config import build, differences, to_dict
from unclip.errors import UnclipError, UnclipWarning
from unclip.settings import Settings
from unclip.sources import Given, Source, check_source, check_text, mask_source, restored, source
from unclip.stage import Sampling
from unclip.version import VERSION

Seeds = SupportsIndex | Iterable[SupportsIndex]
Number = TypeVar("Number", int, float)


def numbers(count: int, seeds: Seeds | None) -> list[int]:
    """The given seeds as numbers, or `count` random ones. Raises UnclipError for none, or what are none."""
    if seeds is None:
        found = [secrets.randbelow(2**32) for _ in range(whole("n", count))]
    else:
        found = wholes("seeds", seeds)
    if not found:
        raise UnclipError("nothing to draw: expected at least one seed")
    return found


def several(name: str, values: Any, kind: Callable[[Any], Number] = float) -> list[Number]:
    """One number or some, each made by `kind`, as a list. Raises UnclipError for what is neither."""
    # a tensor without axes is iterable in name only
    single = not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0
    try:
        if isinstance(values, str):
            raise TypeError
        return [kind(one) for one in ([values] if single else values)]
    except (TypeError, ValueError, OverflowError):
        raise UnclipError(f"{name} = {values!r}: expected a number or a list of numbers") from None


def wholes(name: str, values: Any) -> list[int]:
    """The same of whole numbers: 2.0 is none."""
    return several(name, values, operator.index)


def listed(name: str, values: Any) -> list[Any]:
    """Several things as a list. Raises UnclipError for a single one."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UnclipError(f"{name} = {values!r}: expected a list")
    return list(values)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """One whole number. Raises UnclipError for what is none, or less than the `least` there may be."""
    try:
        found = operator.index(value)
    except TypeError:
        raise UnclipError(f"{name} = {value!r}: expected a whole number") from None
    if least is not None and found < least:
        raise UnclipError(f"{name} = {found}: expected at least {least}")
    return found


def pairs(prompts: str | Sequence[str], seeds: Seeds | None) -> list[tuple[str, int]]:
    """One (prompt, seed) per picture. Raises UnclipError when their numbers do not match."""
    words = [prompts] if isinstance(prompts, str) else listed("prompts", prompts)
    if not words:
        raise UnclipError("nothing to generate: expected at least one prompt and one seed")
    found = numbers(len(words), seeds)
    if len(words) == 1:
        words = words * len(found)
    if len(words) != len(found):
        raise UnclipError(f"{len(words)} prompts and {len(found)} seeds: expected one seed per prompt")
    for word in words:
        check_text(word)
    if not all(word.strip() for word in words):
        warnings.warn("an empty prompt is drawn unconditionally", UnclipWarning, stacklevel=4)
    return list(zip(words, found, strict=True))


def shares(frames: int) -> list[float]:
    """How far along a path each of its frames is. Raises UnclipError for less than its two ends."""
    frames = whole("frames", frames, least=2)
    return [k / (frames - 1) for k in range(frames)]


def check_work(pictures: int, batch: int) -> None:
    """Raises UnclipError when nothing is to be drawn, or nothing at once."""
    if not pictures:
        raise UnclipError("nothing to draw: expected at least one picture to be asked for")
    whole("batch", batch, least=1)


def recipe_sources(recipe: Mapping[str, Any], given: Sequence[Given] | None) -> list[Source]:
    """The sources that a recipe names, from where they were or from `given`. Raises UnclipError when they are others."""
    told = recipe.get("sources", [])
    files = [one for one in told if "text" not in one and "image_emb" not in one]
    if given is not None and len(given) != len(files):
        raise UnclipError(f"{len(given)} sources given; this picture was made from {len(files)}")
    fresh = iter(given or ())
    found = []
    for one in told:
        if one not in files:
            found.append(restored(one))
            continue
        if given is None and "file" not in one:
            raise UnclipError("this picture's recipe does not say which file it was made from; give it (--source FILE)")
        opener = mask_source if recipe["command"] == "inpaint" and found else source  # the second is the mask
        if given is None and not Path(one["file"]).exists():
            raise UnclipError(f"{one['file']}, which this picture was made from, is not there; give it (--source FILE)")
        opened = opener(next(fresh) if given is not None else one["file"])
        check_source(opened, one)
        found.append(opened)
    return found


FIELDS = {
    "command": str,
    "seed": int,
    "settings": dict,
    "options": dict,
    "sources": list,
    "sampling": dict,
    "system": dict,
}


def check_recipe(recipe: Any, commands: Collection[str]) -> None:
    """Raises UnclipError when a recipe is damaged, or none of this version's."""
    if not isinstance(recipe, Mapping):
        raise UnclipError("the recipe is damaged: expected a table")
    missing = [key for key in FIELDS if key not in recipe]
    if missing:
        raise UnclipError(f"the recipe has no {missing[0]!r}; it was written by another version of unclip")
    wrong = [key for key, kind in FIELDS.items() if not isinstance(recipe[key], kind)]
    if wrong or not all(isinstance(one, dict) for one in recipe["sources"]):
        raise UnclipError(f"the recipe is damaged: {(wrong or ['sources'])[0]!r} is of the wrong kind")
    if recipe["command"] not in commands:
        raise UnclipError(f"the recipe's command is {recipe['command']!r}; this version knows {', '.join(commands)}")


def recipe_settings(recipe: Mapping[str, Any]) -> Settings:
    """The settings of a recipe; as its version drew, where it did not have one yet. Raises UnclipError for unknown ones."""
    then = {"best_of": 1, "text_weight": 0.0, "match_weight": 0.0}
    return build(Settings, then | recipe["settings"], "the recipe's settings")


def check_maker(recipe: Mapping[str, Any], weights: Mapping[str, str], made_by: Mapping[str, Any]) -> None:
    """Raises UnclipError when a recipe needs other weights; warns where another machine or version made the picture."""
    matched = recipe_settings(recipe).matched
    theirs = recipe.get("system", {}).get("weights", {})
    for role, mark in theirs.items():
        if weights.get(role) != mark and (matched or role != "matcher"):
            name = recipe["system"].get("name", "another")
            raise UnclipError(
                f"the picture was made by the system {name!r} with another {role} ({mark}); give that system (--model FOLDER)"
            )
    before = recipe.get("made_by", {})
    other = [key for key, value in made_by.items() if before.get(key, value) != value]
    if other:
        told = ", ".join(f"{key} {before[key]}, here {made_by[key]}" for key in other)
        warnings.warn(f"made under {told}: expect small differences", UnclipWarning, stacklevel=4)


def check_sampling(recipe: Mapping[str, Any], sampling: Mapping[str, Any], noise: str) -> None:
    """Raises UnclipError when a system draws otherwise than a recipe says.

    Settings that the recipe's version did not have yet stood where they stand by default.
    """
    usual = to_dict(Sampling())
    then = {name: usual | table if isinstance(table, Mapping) else table for name, table in recipe["sampling"].items()}
    then |= {"noise": recipe.get("noise")}
    if changed := differences(then, {**sampling, "noise": noise}):
        raise UnclipError(
            f"this system samples otherwise ({', '.join(changed)}); give the picture's own system.toml or --arithmetic"
        )


def made_by(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What pictures are made by, for their recipes."""
    precision = str(dtype).removeprefix("torch.")
    return {"version": VERSION, "torch": torch.__version__, "device": device.type, "dtype": precision}
