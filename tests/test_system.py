"""The whole system: a picture is a function of prompt, seed and settings, and of nothing else."""

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

import unclip
from unclip.checkpoint import read_header, read_tensors, save
from unclip.errors import UnclipError, UnclipWarning
from unclip.system import UnCLIP
from unclip.tokenizer import used_merges

from .systems import CAPTIONS, SIZES, write_clip, write_upsampler

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
        (2, {"upsampler_steps": 5, "size": 64}),
    ],
)
def test_the_plan_is_what_happens(system, count, settings):
    counted = {}
    for _ in system.generate(
        PROMPT, range(count), on_step=lambda name, step: counted.update({name: counted.get(name, 0) + 1}), **settings
    ):
        pass
    assert counted == system.plan(count, **settings)


def test_each_upsampler_takes_its_own_steps_unless_told(system):
    assert system.plan(1) == {"prior": 6, "decoder": 4, "upsampler-64": 3, "upsampler-256": 2}
    assert system.plan(1, upsampler_steps=7)["upsampler-256"] == 7
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
            "negative": "a cone",
            "prior_guidance": 1.0,
            "prior_steps": 3,
            "candidates": 2,
        }
        assert recipe["system"]["weights"].keys() >= {"clip", "prior", "decoder"}
        again = draw(system, recipe["prompt"], [recipe["seed"]], **recipe["settings"])[0]
        assert apart(pixels([picture])[0], again) <= 1
        assert picture.image_emb.norm().item() == pytest.approx(1, abs=1e-5)


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
        plan = system.plan(1, negative="a cone", guidance=1.0, size=SIZES[0])
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
        ({"seeds": []}, "nothing to generate"),
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


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the system that may be spoilt."""
    return shutil.copytree(folder, tmp_path / "copy")


def add_line(copy, line):
    file = copy / "system.toml"
    file.write_text(f"{line}\n{file.read_text()}")


def refused(copy, told):
    with pytest.raises(UnclipError, match=told) as caught:
        UnCLIP.from_pretrained(copy, "cpu")
    assert str(caught.value).startswith(str(copy))
    assert "\n" not in str(caught.value)


def test_a_system_that_mixes_clips_is_refused_unless_that_is_wanted(copy, system):
    write_clip(copy / "clip.safetensors", seed=1)
    refused(copy, r"the prior was trained on CLIP \w+ but the system's CLIP is \w+; .* allow_mixed_clip = true")
    add_line(copy, "allow_mixed_clip = true")
    assert apart(draw(UnCLIP.from_pretrained(copy, "cpu"))[0], draw(system)[0]) > 8


@pytest.mark.parametrize("name", ["prior", "decoder"])
def test_a_stage_that_does_not_name_its_clip_is_refused_unless_that_is_wanted(copy, name):
    path = copy / f"{name}.safetensors"
    save(path, read_tensors(path), dataclasses.replace(read_header(path), parents={}))
    refused(copy, f"the {name} does not say which CLIP it was trained on; .* allow_mixed_clip = true")
    add_line(copy, "allow_mixed_clip = true")
    UnCLIP.from_pretrained(copy, "cpu")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"embed_dim": 8}, "disagree on the embedding's size"),
        ({"merges": used_merges(["other words altogether"])}, "the prior was made for vocabulary = 552"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused_even_then(copy, changes, told):
    write_clip(copy / "clip.safetensors", **changes)
    add_line(copy, "allow_mixed_clip = true")
    refused(copy, told)


def test_a_resaved_clip_is_the_same_clip(copy, system):
    path = copy / "clip.safetensors"
    save(path, read_tensors(path), read_header(path), torch.float16)
    assert UnCLIP.from_pretrained(copy, "cpu").clip.fingerprint == system.clip.fingerprint


@pytest.mark.parametrize("order", [["256", "64"], ["256"], ["64", "64"]])
def test_upsamplers_that_do_not_follow_each_other_are_refused(copy, order):
    files = ", ".join(f'"upsampler-{size}.safetensors"' for size in order)
    (copy / "system.toml").write_text(f'name = "x"\nupsamplers = [{files}]\n')
    refused(copy, "an upsampler makes 256 px from 64, but gets 16|an upsampler makes 64 px from 16, but gets 64")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sizes = [1]", "unknown key 'sizes'"),
        ("candidates = 0", "candidates = 0: input should be greater than 0"),
        ('prior = "pior.safetensors"', "pior.safetensors: no such file"),
        ('prior = "decoder.safetensors"', "decoder.safetensors: holds a decoder; expected a prior"),
        ("sampling.decoder.stepz = 3", "sampling of decoder: unknown key 'stepz'; did you mean 'steps'?"),
        ("sampling.decoder.eta = 2", "sampling of decoder: eta = 2: input should be less than or equal to 1"),
        (
            "sampling.prior.interval = [0.9, 0.1]",
            "interval = \\[0.9, 0.1\\]: expected two shares of T, the lower one first",
        ),
        ("sampling.upsamplers = [{steps = 1}]", "1 sampling.upsamplers for 2 upsamplers"),
    ],
)
def test_a_system_file_with_a_mistake_is_refused(copy, line, told):
    add_line(copy, line)
    refused(copy, told)


@pytest.mark.parametrize("name", ["clip", "prior", "decoder", "upsampler-256"])
def test_a_part_that_is_cut_short_is_refused(copy, name):
    path = copy / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(copy, "damaged, cut short")


@dataclasses.dataclass
class Conditions:
    """A hook that collects what a net is told."""

    seen: list

    def __call__(self, net, given):
        self.seen.append(given[2])


def test_an_upsampler_trained_under_noise_gets_the_noise_that_its_sampling_names(copy):
    write_upsampler(copy, 64, 3, level=True)
    made = {}
    for level in (0.0, 0.5):
        (copy / "system.toml").write_text(
            f'name = "x"\nupsamplers = ["upsampler-64.safetensors"]\nsampling.upsamplers = [{{level = {level}}}]\n'
        )
        noisy = UnCLIP.from_pretrained(copy, "cpu")
        seen = []
        hook = noisy.upsamplers[0].net.register_forward_pre_hook(Conditions(seen))
        together = draw(noisy, [PROMPT] * 2, (3, 4), size=64)
        hook.remove()
        made[level] = draw(noisy, [PROMPT], (4,), size=64)[0]
        assert apart(made[level], together[1]) <= 1, "its noise, too, is the picture's own"
        assert len({id(one) for one in seen}) == 1, "noised once, and not anew at every step"
    assert apart(made[0.0], made[0.5]) > 8


def test_a_system_file_may_recommend_other_sampling(copy):
    add_line(copy, "sampling = {decoder = {steps = 2}, prior = {steps = 5}, upsamplers = [{}, {steps = 6}]}")
    made = UnCLIP.from_pretrained(copy, "cpu")
    assert made.plan(1) == {"prior": 10, "decoder": 2, "upsampler-64": 3, "upsampler-256": 6}
    assert made.decoder.sampling.guidance == 2.0, "what it does not name stays"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "fpga"}, "this machine has"),
        ({"device": "nonsense"}, "expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "this machine has"),
        ({"dtype": "int8"}, "expected auto, float32, bfloat16, float16"),
    ],
)
def test_a_device_or_precision_that_is_not_there_is_refused(folder, arguments, told):
    with pytest.raises(UnclipError, match=told):
        UnCLIP.from_pretrained(folder, **arguments)


def test_a_folder_without_a_system_is_refused(tmp_path):
    refused(tmp_path, "no system there; expected a folder with system.toml")


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
