"""The matcher: it can learn what CLIP's one vector does not say, and reads nothing but its own picture and its own text."""

import pytest
import torch
from torch.nn import functional

from tests.systems import shaken
from unclip.config import build
from unclip.errors import UnclipError
from unclip.models.matcher import Matcher, MatcherConfig

SHAPE = {
    "layer": 1,
    "cells": 3,
    "side": 4,
    "text_hidden": 5,
    "channels": 8,
    "blocks": 1,
    "width": 16,
    "depth": 2,
    "heads": 2,
}


def net(**changes: int) -> Matcher:
    torch.manual_seed(0)
    return shaken(Matcher(MatcherConfig(**SHAPE | changes)))


def given(pictures: int, texts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    mask = torch.arange(6) < torch.randint(2, 7, (texts, 1), generator=rng)
    return torch.randn(pictures, 3, 4, 4, generator=rng), torch.randn(texts, 6, 5, generator=rng), mask


def test_it_learns_which_of_two_things_is_on_the_left():
    """Two marks in two cells, and two words in one of two orders: neither picture nor text alone tells whether it is true."""
    torch.manual_seed(0)
    matcher, rng, rows = (
        Matcher(MatcherConfig(**SHAPE | {"blocks": 0})),
        torch.Generator().manual_seed(0),
        torch.arange(64),
    )
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=3e-3)
    right = []
    for _ in range(260):
        left, told = torch.randint(0, 2, (2, 64), generator=rng)
        cells, words = torch.zeros(64, 3, 4, 4), torch.zeros(64, 3, 5)
        cells[rows, left, 1, 0] = cells[rows, 1 - left, 1, 3] = 1.0
        words[rows, 0, told] = words[rows, 2, 1 - told] = 1.0
        words[..., 3] = torch.tensor([0.0, 1.0, 2.0])  # places, which CLIP's states tell
        logits, true = matcher(cells, words, torch.ones(64, 3, dtype=torch.bool)), (told == left).float()
        loss = functional.binary_cross_entropy_with_logits(logits, true)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append(((logits > 0) == (true > 0)).float().mean())
    assert torch.stack(right[-20:]).mean() > 0.98


def test_padding_and_neighbours_change_nothing():
    matcher = net()
    cells, hidden, mask = given(2, 6)
    logits = matcher(cells, hidden, mask)
    assert logits.std() > 1e-3
    assert torch.allclose(matcher(cells, hidden.masked_fill(~mask[..., None], 9.0), mask), logits, atol=1e-5)
    alone = [matcher(cells[i % 2 : i % 2 + 1], hidden[i : i + 1], mask[i : i + 1]) for i in range(6)]
    assert torch.allclose(torch.cat(alone), logits, atol=1e-5)


def test_where_things_are_and_which_tokens_are_read_count():
    matcher = net()
    cells, hidden, mask = given(1, 1)
    said = matcher(cells, hidden, mask)
    assert (matcher(cells.flip(-1), hidden, mask) - said).abs() > 1e-4
    assert (matcher(cells, hidden, torch.ones_like(mask)) - said).abs() > 1e-4


def test_a_width_that_the_heads_do_not_share_is_refused():
    with pytest.raises(UnclipError, match="matcher: heads = 3 does not divide width = 16"):
        build(MatcherConfig, SHAPE | {"heads": 3}, "matcher")
