"""The whole system: a picture is a function of prompt, seed and settings, and of nothing else."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import unclip
from unclip.errors import UnclipError, UnclipWarning
from unclip.system import UnCLIP

from .systems import CAPTIONS, SIZES

PROMPT = CAPTIONS[0]


def pixels(pictures):
    return [np.array(picture.image).astype(int) for picture in pictures]


def draw(system, prompts: Any = PROMPT, seeds: Any = (0,), **settings):
    return pixels(system.generate(prompts, seeds, **({"size": SIZES[0]} | settings)))


def apart(one, other):
    return np.abs(one - other).max()


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_the_same_alone_or_in_any_batch(system, size):
    prompts, seeds = [PROMPT, CAPTIONS[1], "", PROMPT, CAPTIONS[2]], (7, 3, 7, 0, 2**31)
    first_noise = []
    hook = system.decoder.net.register_forward_pre_hook(
        lambda net, given: first_noise.append(given[0]) if int(given[1][0]) == 1000 else None
    )
    with pytest.warns(UnclipWarning, match="empty"):
        together = draw(system, prompts, seeds, size=size, batch=5)
        pairs = draw(system, prompts, seeds, size=size, batch=2)
        alone = [draw(system, [p], [s], size=size)[0] for p, s in zip(prompts, seeds, strict=True)]
    hook.remove()
    assert len({one.tobytes() for one in together}) == 5
    for one, other, single in zip(together, pairs, alone, strict=True):
        assert one.shape == (size, size, 3)
        assert apart(one, other) <= 1
        assert apart(one, single) <= 1
    whole, *others = first_noise[::2]  # guidance calls twice
    assert torch.equal(whole, torch.cat(others[:3]))
    assert torch.equal(whole, torch.cat(others[3:]))


def test_seeds_and_prompts_and_settings_matter_and_nothing_else_does(system):
    one = draw(system)[0]
    assert apart(draw(system)[0], one) == 0
    for changes in (
        {"seeds": (1,)},
        {"prompts": CAPTIONS[1]},
        {"guidance": 3.0},
        {"steps": 3},
        {"sampler": "dpmpp_2m"},
        {"eta": 0.5},
        {"prior_guidance": 3.0},
        {"prior_steps": 2},
        {"candidates": 8},
    ):
        assert apart(draw(system, **changes)[0], one) > 8, changes


def test_seeds_are_drawn_where_none_are_given(system):
    made = list(system.generate([PROMPT, PROMPT], size=SIZES[0]))
    assert made[0].seed != made[1].seed
    again = draw(system, [PROMPT, PROMPT], [picture.seed for picture in made])
    assert [apart(*pair) for pair in zip(pixels(made), again, strict=True)] == [0, 0]


def test_numpy_seeds_are_numbers(system):
    made = next(system.generate(PROMPT, np.array([5]), size=SIZES[0]))
    assert type(made.recipe["seed"]) is int
    assert apart(pixels([made])[0], draw(system, seeds=(5,))[0]) == 0


def test_a_negative_prompt_leads_away_and_needs_guidance(system):
    plain, away = draw(system)[0], draw(system, negative=CAPTIONS[1])[0]
    assert apart(plain, away) > 8
    assert apart(away, draw(system, negative=CAPTIONS[2])[0]) > 8
    without = draw(system, guidance=1.0)[0]
    with pytest.warns(UnclipWarning, match="negative prompt has no effect at guidance 1"):
        assert apart(draw(system, guidance=1.0, negative=CAPTIONS[1])[0], without) == 0


@pytest.mark.parametrize(("guidance", "evaluations"), [(1.0, 4), (2.0, 8)])
def test_guidance_1_never_evaluates_the_null_branch(system, monkeypatch, guidance, evaluations):
    calls, prepared = [], []
    net = system.decoder.net
    prepare = net.prepare
    monkeypatch.setattr(net, "prepare", lambda cond: prepared.append(cond) or prepare(cond))
    hook = net.register_forward_hook(lambda net, given, out: calls.append(out))
    draw(system, guidance=guidance)
    hook.remove()
    assert len(calls) == evaluations
    assert len(prepared) == evaluations // 4
    assert prepared[0].keep_text.all()


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (1, {}),
        (5, {"batch": 2}),
        (3, {"batch": 8, "size": 16, "steps": 2}),
        (3, {"batch": 2, "negative": "a cone", "candidates": 3}),
        (2, {"guidance": 1.0, "prior_steps": 2}),
        (3, {"batch": 2, "negative": "a cone", "best_of": 2, "size": 16}),
        (2, {"upsampler_steps": 5, "size": 64}),
    ],
)
def test_the_plan_is_what_happens(system, count, settings):
    counted = {}
    for _ in system.generate(
        PROMPT, range(count), on_step=lambda name, step: counted.update({name: counted.get(name, 0) + 1}), **settings
    ):
        pass
    assert counted == system.generate(PROMPT, range(count), **settings).plan


def test_each_upsampler_takes_its_own_steps_unless_told(system):
    assert system.generate(PROMPT, [0]).plan == {"prior": 6, "decoder": 4, "upsampler-64": 3, "upsampler-256": 2}
    assert system.generate(PROMPT, [0], upsampler_steps=7).plan["upsampler-256"] == 7
    recipe = next(system.generate(PROMPT, [0])).recipe
    assert {name: how["steps"] for name, how in recipe["sampling"].items()} == {
        "prior": 3,
        "decoder": 4,
        "upsampler-64": 3,
        "upsampler-256": 2,
    }


def test_a_recipe_is_plain_complete_and_draws_the_picture_again(system):
    made = list(system.generate([PROMPT, CAPTIONS[1]], [4, 5], size=64, guidance=3.0, negative="a cone", eta=0.25))
    for picture in made:
        recipe = json.loads(json.dumps(picture.recipe))
        assert recipe == picture.recipe
        assert recipe["settings"] == {
            "size": 64,
            "guidance": 3.0,
            "steps": 4,
            "sampler": "ddim",
            "eta": 0.25,
            "threshold": "static",
            "negative": "a cone",
            "best_of": 1,
            "text_weight": 0.0,
            "match_weight": 0.0,
            "prior_guidance": 1.0,
            "prior_steps": 3,
            "candidates": 2,
        }
        assert recipe["system"]["weights"].keys() >= {"clip", "prior", "decoder"}
        assert picture.image_emb.norm().item() == pytest.approx(1, abs=1e-5)
    # in one batch again: what a batch may change is another test's
    recipes = [picture.recipe for picture in made]
    words, seeds = [recipe["prompt"] for recipe in recipes], [recipe["seed"] for recipe in recipes]
    again = draw(system, words, seeds, **recipes[0]["settings"])
    assert all(np.array_equal(one, other) for one, other in zip(pixels(made), again, strict=True))


def test_pictures_come_as_soon_as_their_batch_is_done_and_work_can_be_stopped(system):
    seen = []
    pictures = system.generate(PROMPT, range(4), batch=1, size=16, on_step=lambda name, step: seen.append(name))
    next(pictures)
    assert seen == ["prior"] * 6 + ["decoder"] * 4

    def stop(name, step):
        if name == "decoder":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(system.generate(PROMPT, [0], size=16, on_step=stop))


def test_what_is_done_otherwise_than_asked_is_warned_of(system):
    with pytest.warns(UnclipWarning, match="20 tokens and 14 fit: cut off 'cube cube cube cube cube cube'"):
        cut = draw(system, "cube " * 20)[0]
    assert apart(cut, draw(system, "cube " * 14)[0]) == 0
    with pytest.warns(UnclipWarning, match="literal <end_of_text>"):
        ended = draw(system, "<end_of_text>")[0]
    with pytest.warns(UnclipWarning, match="an empty prompt is drawn unconditionally"):
        empty = draw(system, "")[0]
    assert apart(ended, empty) > 8, "the token would have made the prompt an empty one"
    with pytest.warns(UnclipWarning, match="an empty prompt"):
        assert apart(draw(system, " \n")[0], empty) == 0
    with pytest.warns(UnclipWarning, match="eta has no effect on the sampler ddpm"):
        draw(system, sampler="ddpm", eta=0.5)


def test_without_guidance_a_negative_prompt_is_not_drawn_for(system):
    names = []
    with pytest.warns(UnclipWarning, match="no effect"):
        plan = system.generate(PROMPT, [0], negative="a cone", guidance=1.0, size=SIZES[0]).plan
        draw(system, negative="a cone", guidance=1.0, on_step=lambda name, step: names.append(name))
    assert (names.count("prior"), names.count("decoder")) == (6, 4) == (plan["prior"], plan["decoder"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"size": 128}, "size = 128: this system makes 16, 64, 256"),
        ({"steps": -1}, "steps = -1: input should be greater than 0"),
        ({"steps": 1001}, "decoder: steps = 1001: expected 1 to 1000"),
        ({"prior_steps": 1001}, "prior: steps = 1001: expected 1 to 1000"),
        ({"upsampler_steps": 1001}, "upsampler-64: steps = 1001: expected 1 to 1000"),
        ({"eta": 2}, "eta = 2: input should be less than or equal to 1"),
        ({"guidance": -0.5}, "guidance = -0.5: input should be greater than or equal to 0"),
        ({"guidance": float("inf")}, "guidance = inf"),
        ({"guidance": float("nan")}, "guidance = nan"),
        ({"sampler": "dim"}, "sampler = 'dim'"),
        ({"guidence": 3.0}, "unknown key 'guidence'; did you mean 'guidance'?"),
        ({"batch": 0}, "batch = 0"),
        ({"prompts": []}, "nothing to generate"),
        ({"seeds": []}, "nothing to draw"),
        ({"prompts": ["a", "b"], "seeds": [1, 2, 3]}, "2 prompts and 3 seeds"),
        ({"prompts": "a \udcff cube"}, "not valid Unicode"),
        ({"negative": "a \udcff cube"}, "generate: "),
    ],
)
def test_what_makes_no_sense_is_refused_at_once_in_one_line(system, arguments, told):
    with pytest.raises(UnclipError) as caught:  # by the call, before the first picture is asked for
        system.generate(**({"prompts": PROMPT, "seeds": [0]} | arguments))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reduced_precision_draws_nearly_the_same(folder, system):
    half = UnCLIP.from_pretrained(folder, "cpu", "bfloat16")
    made, exact = next(half.generate(PROMPT, [0], size=16, steps=1)), draw(system, steps=1)[0]
    assert made.recipe["made_by"]["dtype"] == "bfloat16"
    assert np.abs(pixels([made])[0] - exact).mean() < 30


def test_the_package_offers_its_names_late():
    assert unclip.UnCLIP is UnCLIP
    assert unclip.UnclipError is UnclipError
    with pytest.raises(AttributeError, match="no attribute 'Unclip'"):
        unclip.Unclip  # noqa: B018
