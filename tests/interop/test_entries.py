"""The operations of a two-way map against what they say, there and back; and what `taken` and `given` refuse."""

import pytest
import torch
from torch import nn

from unclip.errors import UnclipError
from unclip.interop.entries import (
    constant,
    copied,
    fitted,
    given,
    interleaved,
    layer,
    rearranged,
    stacked,
    stacked_layer,
    taken,
    tokens_last,
)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


SOURCES = [
    ([copied("a", "x")], {"x": draw(3, 2)}),
    ([rearranged("a", "x", "1 n w <-> n w")], {"x": draw(1, 4, 3)}),
    ([rearranged("a", "x", "o i 1 <-> o i")], {"x": draw(4, 3, 1)}),
    ([rearranged("a", "x", "o i <-> i o")], {"x": draw(4, 3)}),
    ([stacked("a", ["x", "y", "z"])], {"x": draw(4, 2), "y": draw(4, 2) + 1, "z": draw(4, 2) + 2}),
    (interleaved("a", "x", 3, 4, "i 1 <-> i"), {"x.weight": draw(24, 5, 1), "x.bias": draw(24)}),
    (tokens_last("a", "x", 3), {"x.weight": draw(12, 5), "x.bias": draw(12)}),
    (layer("a", "x"), {"x.weight": draw(12, 5), "x.bias": draw(12)}),
    (
        stacked_layer("a", ["x", "y"]),
        {f"{n}.{k}": draw(4, 3)[:, : 3 if k == "weight" else 1] for n in "xy" for k in ("weight", "bias")},
    ),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("entries", "source"), SOURCES)
def test_there_and_back_changes_no_bit(entries, source, dtype):
    source = {name: tensor.to(dtype) for name, tensor in source.items()}
    ours = taken(entries, source, "file")
    back = given(entries, ours)
    assert back.keys() == source.keys()
    assert all(back[name].dtype == dtype and torch.equal(back[name], source[name]) for name in source)
    assert all(tensor.dtype == dtype for tensor in ours.values())


def test_interleaved_rows_are_sorted_into_thirds():
    """Row (head, part, channel) of theirs is row (part, head, channel) of ours."""
    ours = taken(
        interleaved("a", "x", 3, 4), {"x.weight": torch.arange(24.0)[:, None], "x.bias": torch.arange(24.0)}, ""
    )
    expected = [head * 12 + part * 4 + c for part in range(3) for head in range(2) for c in range(4)]
    assert ours["a.bias"].tolist() == ours["a.weight"][:, 0].tolist() == expected


def test_tokens_last_is_what_the_foreign_reshape_does():
    theirs, x = nn.Linear(5, 12), draw(2, 5)
    ours = taken(tokens_last("a", "x", 3), {"x.weight": theirs.weight, "x.bias": theirs.bias}, "")
    tokens = nn.functional.linear(x, ours["a.weight"], ours["a.bias"]).view(2, 3, 4)
    torch.testing.assert_close(tokens, theirs(x).reshape(2, 4, 3).permute(0, 2, 1))


def test_constant_is_given_to_nobody():
    entries = [constant("a", 2.5)]
    assert taken(entries, {}, "")["a"].item() == 2.5
    assert given(entries, {"a": torch.tensor(7.0)}) == {}


FIT = fitted(stacked_layer("0", ["x", "y"]), nn.Sequential(nn.Linear(3, 4)))
WHOLE = {"x.weight": draw(2, 3), "y.weight": draw(2, 3), "x.bias": draw(2), "y.bias": draw(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y.bias": None}, "file: 1 missing tensor(s) for this net, the first is 'y.bias'"),
        ({"z": draw(1)}, "file: 1 extra tensor(s) for this net, the first is 'z'"),
        ({"x.bias": draw(3)}, "file: 'x.bias' is [3], 'y.bias' is [2]: cannot become our '0.bias' [4]"),
        (
            {"x.weight": draw(2, 5), "y.weight": draw(2, 5)},
            "file: 'x.weight' is [2, 5], 'y.weight' is [2, 5]: would make our '0.weight' [4, 5], which is [4, 3]",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    source = {name: tensor for name, tensor in {**WHOLE, **change}.items() if tensor is not None}
    with pytest.raises(UnclipError) as caught:
        taken(FIT, source, "file")
    assert str(caught.value) == message


def test_a_misshapen_tensor_that_is_only_rearranged_is_named():
    with pytest.raises(UnclipError, match=r"file: 'x' is \[2, 4, 3\]: cannot become our 'a'"):
        taken([rearranged("a", "x", "1 n w <-> n w")], {"x": draw(2, 4, 3)}, "file")


def test_ignored_names_are_patterns():
    assert taken(FIT, WHOLE | {"old.ids": draw(1)}, "file", ignore=("*.ids",)).keys() == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"0.weight": draw(4, 3)}, "'0.bias' is missing"),
        ({"0.weight": draw(4, 3), "0.bias": draw(4), "1": draw(1)}, "'1' has no place in this layout"),
        ({"0.weight": draw(6, 3), "0.bias": draw(4)}, "'0.weight' is [6, 3]; expected [4, 3]"),
    ],
)
def test_given_refuses_what_is_not_the_net(tensors, message):
    with pytest.raises(UnclipError) as caught:
        given(FIT, tensors)
    assert str(caught.value) == message


@pytest.mark.parametrize("entries", [layer("0", "x")[:1], layer("0", "x") + layer("1", "y")])
def test_entries_must_be_all_of_a_net(entries):
    with pytest.raises(UnclipError, match=r"Sequential: '(0\.bias' has no place|1\.bias' is asked for)"):
        fitted(entries, nn.Sequential(nn.Linear(3, 4)))
