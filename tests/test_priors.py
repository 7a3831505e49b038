"""The prior as the orchestrator sees it: the best of several embeddings, and none of the text where there is none."""

import dataclasses

import pytest
import torch

from unclip import conditioning
from unclip.conditioning import read
from unclip.models.prior import Prior
from unclip.settings import Settings

from .systems import D

SEEDS = tuple(range(8))


@pytest.fixture(scope="module")
def prior(system):
    return system.prior


def draw(prior, words, seeds=SEEDS, candidates=1, **settings):
    given = words if isinstance(words, list) else [words] * len(seeds)
    return prior.at(Settings(candidates=candidates, **settings)).draw(read(prior.clip, given), seeds)


def test_the_best_candidate_by_dot_product_is_kept(prior):
    text = read(prior.clip, ["a red cube"]).text.emb[0]
    best = draw(prior, "a red cube")
    chosen = 0
    for candidates in range(2, 6):
        now = draw(prior, "a red cube", candidates=candidates)
        better = (now @ text) > (best @ text)
        assert torch.equal(now[~better], best[~better]), "one more candidate may only replace a worse one"
        chosen, best = chosen + int(better.sum()), now
    assert 0 < chosen < 4 * len(SEEDS)


def test_embeddings_have_the_norm_of_clips(prior, system):
    emb = draw(prior, "a red cube")
    assert emb.shape == (len(SEEDS), D)
    assert torch.allclose(emb.norm(dim=-1), torch.ones(len(SEEDS)), atol=1e-5)
    raw = dataclasses.replace(prior.clip.config, normalize=False)
    free = dataclasses.replace(prior, clip=_with_config(prior.clip, raw))
    assert (draw(free, "a red cube").norm(dim=-1) - 1).abs().min() > 1e-3


def _with_config(clip, config):
    other = type(clip)(clip.weights)
    other.config = config
    return other


def test_embeddings_are_restored_by_the_buffers(prior):
    before = draw(prior, "a red cube")
    net, shift = prior.stage.net, 3 * torch.nn.functional.one_hot(torch.tensor(0), D)
    net.shift += shift
    try:
        assert (draw(prior, "a red cube")[:, 0] > before[:, 0]).all()
    finally:
        net.shift -= shift


def test_an_empty_prompt_is_drawn_without_text(prior):
    empty = draw(prior, "")
    assert torch.equal(draw(prior, "  "), empty), "white space is no text"
    assert torch.equal(draw(prior, "", candidates=3), empty), "there is nothing to rank by"
    null = prior.at(Settings(candidates=1, prior_guidance=0.0))
    assert torch.allclose(null.draw(read(prior.clip, ["a red cube"] * 8), SEEDS), empty, atol=1e-5)
    assert (draw(prior, "a red cube") - empty).abs().max() > 1e-2


def test_an_embedding_is_the_same_alone_or_in_any_batch(prior):
    words = ["a red cube", "", "a large green sphere"]
    together = draw(prior, words, (3, 1, 4), candidates=2)
    for k, (word, seed) in enumerate(zip(words, (3, 1, 4), strict=True)):
        alone = draw(prior, [word], (seed,), candidates=2)
        assert torch.allclose(alone[0], together[k], atol=1e-5)
    assert (draw(prior, "a red cube", (0, 1))[0] - draw(prior, "a red cube", (0, 1))[1]).abs().max() > 1e-2


def test_text_ids_are_padded_and_masked_by_the_tokenizer(prior):
    cond = conditioning.prior_cond(prior.stage.net, prior.clip, read(prior.clip, ["a red cube", ""]))
    assert cond.text_mask is not None
    assert cond.text_mask.sum(dim=1).tolist() == [5, 2]
    assert cond.keep is not None
    assert cond.keep.tolist() == [True, False]


def test_settings_reach_the_prior_and_come_back(prior):
    mine = Settings(prior_guidance=2.0, prior_steps=2, candidates=3)
    assert prior.at(mine).steps == {"prior": 6}
    assert prior.at(mine).resolve(Settings()) == mine
    assert prior.resolve(Settings()) == Settings(prior_guidance=1.0, prior_steps=3, candidates=2)
    guided = draw(prior, "a red cube", prior_guidance=3.0)
    assert (guided - draw(prior, "a red cube")).abs().max() > 1e-2


def test_every_step_is_reported(prior):
    seen = []
    prior.draw(read(prior.clip, ["a red cube"]), (0,), lambda name, step: seen.append((name, step.s)))
    assert seen == [("prior", s) for s in (667, 333, 0)] * 2


def test_where_no_null_was_learned_the_empty_prompt_stands_for_it(prior):
    stage = prior.stage
    empty = dataclasses.replace(stage.net.config, null="empty")
    net = Prior(empty)
    net.load_state_dict({k: v for k, v in stage.net.state_dict().items() if not k.startswith("null")})
    other = dataclasses.replace(prior, stage=dataclasses.replace(stage, net=net.eval()))
    words = ["a red cube", "a large green sphere"]
    cond = conditioning.prior_cond(net, prior.clip, read(prior.clip, words), keep=torch.tensor([True, False]))
    wanted = conditioning.prior_cond(net, prior.clip, read(prior.clip, [words[0], ""]))
    assert cond.keep is None
    for name in ("text_emb", "tokens", "text_mask"):
        assert torch.allclose(getattr(cond, name).float(), getattr(wanted, name).float(), atol=1e-6), name
    assert torch.allclose(draw(other, words, (0, 1), prior_guidance=0.0), draw(other, ["", ""], (0, 1)), atol=1e-5), (
        "guidance leads away from the empty caption"
    )
