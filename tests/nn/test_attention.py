"""Masks and joining of keys, against the formula."""

import torch

from unclip.nn.attention import attend, join, key_mask


def test_key_mask_by_hand():
    real = torch.tensor([[True, False, True]])
    assert key_mask(real, causal=True)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert key_mask(real, causal=False)[0, 0].int().tolist() == [[1, 0, 1], [1, 1, 1], [1, 0, 1]]


def test_attend_is_the_formula():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    mask = torch.rand(2, 1, 4, 5) < 0.6
    mask[..., 0] = True
    weights = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    assert torch.allclose(attend(q, k, v, mask), (weights @ v).transpose(1, 2).flatten(2), atol=1e-6)


def test_join_puts_the_past_first():
    k, v, new = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3), torch.full((1, 1, 1, 3), 5.0)
    keys, values = join((k, v), new, new)
    assert keys[0, 0, :, 0].tolist() == [0, 0, 5]
    assert values[0, 0, :, 0].tolist() == [1, 1, 5]
