"""The prior: order of its sequence, causality, what padding, neighbours and dropped text may change."""

import dataclasses

import pytest
import torch

from unclip.errors import UnclipError
from unclip.models.prior import Prior, PriorCond, PriorConfig
from unclip.nn.attention import key_mask

from .conftest import B, D, draw, same_but_padding, text, trimmed

T = torch.tensor([1000, 400, 3])
ROWS = torch.tensor([True, False, True])


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance


def whole(prior, x, t, cond):
    """All tokens in one causal pass, and the mask's real tokens."""
    tokens, real = prior.prefix(cond)
    tokens = torch.cat([tokens, prior.suffix(x, t)], dim=1)
    return tokens, torch.cat([real, real.new_ones(len(x), 3)], dim=1)


@torch.no_grad()
def test_cached_prefix_is_one_causal_pass(prior, prior_cond):
    x = draw(B, D)
    tokens, real = whole(prior, x, T, prior_cond)
    states = prior.transformer(tokens, key_mask(real, causal=True))
    assert close(prior(x, T, prior_cond), prior.out(states[:, -1]))


@torch.no_grad()
def test_later_tokens_change_nothing_earlier(prior, prior_cond):
    tokens, real = whole(prior, draw(B, D), T, prior_cond)
    mask = key_mask(real, causal=True)
    before = prior.transformer(tokens, mask)
    for k in range(1, tokens.shape[1]):
        other = torch.cat([tokens[:, :k], draw(*tokens[:, k:].shape, seed=k)], dim=1)
        after = prior.transformer(other, mask)
        assert torch.equal(after[:, :k], before[:, :k])
        assert not close(after[0, k:], before[0, k:], 1e-2)


@torch.no_grad()
def test_sequence_is_text_then_text_emb_time_image_query(prior, prior_cond):
    x = draw(B, D)
    tokens, _ = whole(prior, x, T, prior_cond)
    tokens = tokens - prior.positions
    words = getattr(prior_cond, "tokens" if prior.config.text == "own" else "text_hidden")
    assert close(tokens[:, :6], prior.text(words))
    assert close(tokens[:, 6], prior.text_emb(prior_cond.text_emb * prior.text_scale))
    assert close(tokens[:, 7], prior.time(T))
    assert close(tokens[:, 8], prior.image_emb(x))
    assert close(tokens[:, 9], prior.query.expand(B, -1))


@torch.no_grad()
def test_padding_changes_nothing(prior, prior_cond):
    x = draw(B, D)
    out = prior(x, T, prior_cond)
    assert torch.equal(prior(x, T, same_but_padding(prior_cond)), out)
    assert close(prior(x[1:2], T[1:2], trimmed(prior_cond, slice(1, 2), 3)), out[1:2])
    unmasked = dataclasses.replace(prior_cond, text_mask=None)
    assert not close(prior(x, T, unmasked)[1], out[1], 1e-3), "the padding would have changed something"


@torch.no_grad()
def test_neighbours_and_repetition_change_nothing(prior, prior_cond):
    x = draw(B, D)
    out = prior(x, T, prior_cond)
    assert torch.equal(prior(x, T, prior_cond), out)
    for k in range(B):
        assert close(prior(x[k : k + 1], T[k : k + 1], trimmed(prior_cond, slice(k, k + 1), 6)), out[k : k + 1])


@torch.no_grad()
def test_dropped_text_is_forgotten_per_sample_and_xt_is_not(prior, prior_cond):
    x = draw(B, D)
    other = PriorCond(**{**text(seed=5), "text_mask": torch.ones(B, 6, dtype=torch.bool)})
    kept = prior(x, T, prior_cond)
    a = prior(x, T, dataclasses.replace(prior_cond, keep=ROWS))
    b = prior(x, T, dataclasses.replace(other, keep=ROWS))
    assert torch.equal(a[1], b[1])
    assert torch.equal(a[ROWS], kept[ROWS])
    assert not close(a[1], kept[1], 1e-2)
    assert not close(a[0], b[0], 1e-2)
    none = dataclasses.replace(prior_cond, keep=torch.zeros(B, dtype=torch.bool))
    assert not close(prior(x, T, none), prior(-x, T, none), 1e-2), "x_t must matter in the null branch"
    assert not close(prior(x, T, none), prior(x, T - 2, none), 1e-3)


@torch.no_grad()
def test_prepared_once_serves_every_step(prior, prior_cond):
    cond = dataclasses.replace(prior_cond, keep=ROWS)
    ready = prior.prepare(cond)
    for t in (T, T - 1):
        assert torch.equal(prior(draw(B, D), t, ready), prior(draw(B, D), t, cond))


def test_inputs_are_never_mutated(prior, prior_cond):
    cond = dataclasses.replace(prior_cond, keep=ROWS)
    before = {k: v.clone() for k, v in vars(cond).items()}
    x = draw(B, D)
    prior(x, T, cond)
    assert torch.equal(x, draw(B, D))
    assert all(torch.equal(v, before[k]) for k, v in vars(cond).items())


def test_every_parameter_learns(prior, prior_cond):
    prior(draw(B, D), T, dataclasses.replace(prior_cond, keep=ROWS)).square().mean().backward()
    assert not [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.any()]


def test_standardise_and_restore():
    prior = Prior(PriorConfig(image_emb=1024, width=8, depth=1, heads=1, text="own", vocabulary=4))
    assert torch.allclose(prior.std, torch.tensor(1 / 17.2))
    assert not prior.shift.any()
    z = torch.nn.functional.normalize(draw(5, 1024))
    assert prior.standardise(z).std() == pytest.approx(0.5375, rel=0.02)
    prior.shift += 0.3
    prior.std *= torch.linspace(0.5, 2, 1024)
    assert torch.allclose(prior.restore(prior.standardise(z)), z, atol=1e-6)
    assert {"shift", "std"} <= prior.state_dict().keys()


def test_user_mistakes(prior, prior_cond):
    ids, hidden = torch.zeros(B, 7, dtype=torch.long), torch.zeros(B, 7, 10)
    with pytest.raises(UnclipError, match="at most 6"):
        prior.prepare(PriorCond(text_emb=prior_cond.text_emb, tokens=ids, text_hidden=hidden))
    with pytest.raises(UnclipError, match="not given"):
        prior.prepare(PriorCond(text_emb=prior_cond.text_emb))
    for wrong in ({"text": "own"}, {"text": "hidden"}, {"text": "own", "vocabulary": 9, "heads": 3}):
        with pytest.raises(ValueError, match=r"missing|multiple"):
            PriorConfig(**{"image_emb": D, "width": 16, "depth": 1, "heads": 2, **wrong})
    empty = Prior(PriorConfig(image_emb=D, width=8, depth=1, heads=1, text="hidden", text_hidden=10, null="empty"))
    with pytest.raises(UnclipError, match="empty caption"):
        empty.prepare(dataclasses.replace(prior_cond, keep=ROWS))
