"""The draft: a small picture of embeddings, of which dropped ones say nothing."""

import pytest
import torch

from unclip.errors import UnclipError
from unclip.models.draft import SIDE, Draft, DraftConfig

from .conftest import B, D, draw


@torch.no_grad()
def test_what_is_dropped_is_not_read():
    torch.manual_seed(0)
    net = Draft(DraftConfig(image_emb=D, width=8, text_emb=True))
    image, text, other = draw(B, D, seed=1), draw(B, D, seed=2), draw(B, D, seed=3)
    keep = torch.arange(B) > 0
    drawn = net(image, text, keep, ~keep)
    assert drawn.shape == (B, 3, SIDE, SIDE)
    changed_image, changed_text = net(other, text, keep, ~keep), net(image, other, keep, ~keep)
    assert [bool((row != before).any()) for row, before in zip(changed_image, drawn, strict=True)] == keep.tolist()
    assert [bool((row != before).any()) for row, before in zip(changed_text, drawn, strict=True)] == (~keep).tolist()
    assert torch.equal(net(image, text), net(image, text, keep | True, keep | True))


@torch.no_grad()
def test_text_is_read_only_by_a_draft_that_was_made_to():
    net = Draft(DraftConfig(image_emb=D, width=8))
    assert torch.equal(net(draw(B, D), draw(B, D, seed=2)), net(draw(B, D)))
    with pytest.raises(UnclipError, match="reads text_emb, which was not given"):
        Draft(DraftConfig(image_emb=D, width=8, text_emb=True))(draw(B, D))
