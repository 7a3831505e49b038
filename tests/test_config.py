"""Configs: what they accept, and the one line they answer everything else with."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from unclip.config import Natural, Positive, Share, build, config, differences, load, override, to_dict
from unclip.errors import UnclipError


@config
class Inner:
    width: Positive
    kind: Literal["small", "large"] = "small"
    drop: Share = 0.0

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"width = {self.width} is odd")


@config
class Outer:
    name: str
    inner: Inner
    more: tuple[Inner, ...] = ()
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)
    limits: tuple[Share, Share] | None = None
    count: Natural = 3
    on: bool = False
    depth: Positive | tuple[Positive, ...] = 1


GOOD = {"name": "x", "inner": {"width": 4}}

TOML = """
name = "net"
limits = [0.1, 1]
[inner]
width = 4
drop = 1e-2
[[more]]
width = 6
[named.a]
width = 8
"""


def test_a_file_and_overrides_become_one_frozen_object(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(TOML)
    made = load(Outer, path, ["inner.kind=large", "count=7", "named.b.width=2", "name=from the command line"])
    assert made == Outer(
        name="from the command line",
        inner=Inner(width=4, drop=0.01, kind="large"),
        more=(Inner(width=6),),
        named={"a": Inner(width=8), "b": Inner(width=2)},
        limits=(0.1, 1.0),
        count=7,
    )
    assert build(Outer, to_dict(made), "again") == made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.count = 1  # type: ignore[misc]


@dataclasses.dataclass(frozen=True)
class Plain:
    """A dataclass of the standard library's, as the user's settings are."""

    steps: int = 3


def test_a_plain_dataclass_is_checked_alike():
    assert build(Plain, {"steps": 4}, "x") == Plain(4)
    for values, told in (
        ({"stepz": 4}, "x: unknown key 'stepz'; did you mean 'steps'?"),
        ({"steps": "4"}, "x: steps = '4'"),
    ):
        with pytest.raises(UnclipError) as caught:
            build(Plain, values, "x")
        assert str(caught.value).startswith(told)


def test_none_is_left_out_of_tables():
    assert "limits" not in to_dict(build(Outer, GOOD, "c"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nane": "y"}, "unknown key 'nane'; did you mean 'name'?"),
        ({"inner": {"width": 4, "knd": "small"}}, "unknown key 'inner.knd'; did you mean 'kind'?"),
        ({"inner": {"widht": 4}}, "unknown key 'inner.widht'; did you mean 'width'?"),
        ({"inner": {"width": 4, "zzz": 1}}, "unknown key 'inner.zzz'; expected one of width, kind, drop"),
        ({"more": [{"width": 2}, {"width": 2, "dorp": 1}]}, "unknown key 'more.1.dorp'; did you mean 'drop'?"),
        ({"named": {"a": {"width": 2, "dorp": 1}}}, "unknown key 'named.a.dorp'; did you mean 'drop'?"),
        ({"inner": {}}, "key 'inner.width' is missing"),
        ({"inner": {"width": 3}}, "inner: width = 3 is odd"),
        ({"inner": {"width": 0}}, "inner.width = 0: input should be greater than 0"),
        ({"inner": {"width": "4"}}, "inner.width = '4': input should be a valid integer"),
        ({"inner": {"width": 4.5}}, "inner.width = 4.5: input should be a valid integer"),
        ({"inner": {"width": 4, "kind": "big"}}, "inner.kind = 'big': input should be 'small' or 'large'"),
        ({"inner": {"width": 4, "drop": float("nan")}}, "inner.drop = nan:"),
        ({"inner": {"width": 4, "drop": True}}, "inner.drop = True: input should be a valid number"),
        ({"count": True}, "count = True: input should be a valid integer"),
        ({"on": 1}, "on = 1: input should be a valid boolean"),
        ({"limits": [0.5]}, "key 'limits.1' is missing"),
        ({"inner": 5}, "inner = 5:"),
        ({"depth": 0}, "depth = 0: input should be greater than 0"),
        ({"depth": [1, 0]}, "depth.1 = 0: input should be greater than 0"),
        ({"depth": 0, "count": -1}, "count = -1: input should be greater than or equal to 0 (and 1 more)"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(changes, told):
    with pytest.raises(UnclipError) as caught:
        build(Outer, GOOD | changes, "c.toml")
    message = str(caught.value)
    assert message.startswith(f"c.toml: {told}")
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'name = "a"\nname = "b"', "not valid TOML"),  # the last of two equal keys must not win in silence
        (b"name = ", "not valid TOML"),
        (b'name = "\xff"', "not valid TOML"),
        (
            b'name = "a"\ncount = 2024-01-01\n[inner]\nwidth = 2',
            "count = '2024-01-01': input should be a valid integer",
        ),
    ],
)
def test_a_file_that_is_no_config_is_one_line(tmp_path, text, told):
    path = tmp_path / "c.toml"
    path.write_bytes(text)
    with pytest.raises(UnclipError, match=told) as caught:
        load(Outer, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["missing.toml", "."])
def test_no_file_is_one_line(tmp_path, path):
    with pytest.raises(UnclipError, match=r"no such file|cannot be read"):
        load(Outer, Path(tmp_path, path))


def test_overrides_are_toml_values_or_else_strings_and_leave_the_table_alone():
    values = {"a": {"b": 1}}
    made = override(values, ["a.b=1e-4", "a.c=[1, 2]", "d.e.f=true", "g=runs/x=y", "h="])
    assert made == {"a": {"b": 1e-4, "c": [1, 2]}, "d": {"e": {"f": True}}, "g": "runs/x=y", "h": ""}
    assert values == {"a": {"b": 1}}


@pytest.mark.parametrize("text", ["a.b", "=3", "a.b.c=3"])
def test_an_override_that_fits_nowhere_is_refused(text):
    with pytest.raises(UnclipError, match="override"):
        override({"a": {"b": 1}}, [text])


def test_differences_are_dotted_keys():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 3}) == ["a.c", "d", "e"]
