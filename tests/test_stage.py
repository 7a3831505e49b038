"""A stage: what it calls, how often, and what its settings change."""

import dataclasses
import math

import pytest
import torch

from unclip.checkpoint import weights
from unclip.diffusion.process import Process, ProcessConfig
from unclip.errors import UnclipError
from unclip.loading import Shelf
from unclip.models.decoder import Decoder, DecoderCond
from unclip.noise import stream
from unclip.priors import finish
from unclip.stage import Sampling, Stage, open_stage

from .systems import CONTEXT, SIZES, D

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def stage(folder):
    return open_stage("decoder", weights(folder / "decoder.safetensors"), Decoder, Shelf(torch.device("cpu")))


@pytest.fixture
def calls(stage, monkeypatch):
    """How often the net was prepared, and the times it was called at."""
    seen = {"prepared": 0, "times": []}
    prepare = stage.net.prepare

    def counting(cond):
        seen["prepared"] += 1
        return prepare(cond)

    monkeypatch.setattr(stage.net, "prepare", counting)
    hook = stage.net.register_forward_hook(lambda net, given, out: seen["times"].append(int(given[1][0])))
    yield seen
    hook.remove()


def cond(keep):
    tokens = torch.ones(2, CONTEXT, dtype=torch.long)
    return DecoderCond(
        image_emb=torch.nn.functional.normalize(torch.ones(2, D), dim=-1),
        tokens=tokens,
        text_mask=tokens.bool(),
        keep_image=torch.tensor([keep, keep]),
        keep_text=torch.tensor([keep, keep]),
    )


def noise():
    return stream("decoder", SEEDS, (3, SIZES[0], SIZES[0]))


def run(stage, **changes):
    return finish(stage, stage.at(**changes).run(cond(True), noise(), cond(False)))


def test_sampling_is_what_the_file_recommends(stage):
    assert stage.sampling == Sampling(steps=4, guidance=2.0)
    assert stage.device == torch.device("cpu")


def test_steps_lead_from_noise_to_data_under_the_callers_gradient_mode(stage, calls):
    steps = []
    stage.net.requires_grad_(True)  # as during training
    for step in stage.at(guidance=1.0).run(cond(True), noise()):
        assert torch.is_grad_enabled(), "a no_grad of the stage leaked over a yield"
        assert not step.x.requires_grad
        steps.append(step)
    stage.net.requires_grad_(False)
    assert [step.t for step in steps] == [1000, 750, 500, 250] == calls["times"]
    assert [step.s for step in steps] == [750, 500, 250, 0]
    assert calls["prepared"] == 1, "all that ignores x and t is made once"


@pytest.mark.parametrize(("guidance", "evaluations", "prepared"), [(1.0, 4, 1), (2.0, 8, 2), (0.0, 4, 2)])
def test_guidance_costs_what_it_must(stage, calls, guidance, evaluations, prepared):
    run(stage, guidance=guidance)
    assert len(calls["times"]) == evaluations
    assert calls["prepared"] == prepared


def test_an_interval_limits_guidance(stage, calls):
    run(stage, guidance=2.0, interval=(0.3, 0.8))
    assert calls["times"] == [1000, 750, 750, 500, 500, 250]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guidance_leads_from_the_null_to_the_condition_and_beyond(stage, dtype):
    stage = dataclasses.replace(stage, dtype=dtype)  # which is the net's alone: guidance itself stays exact
    at = {scale: run(stage, guidance=scale, threshold="none", steps=1) for scale in (0.0, 1.0, 3.0)}
    assert (at[1.0] - at[0.0]).abs().max() > 1e-2
    assert torch.allclose(at[3.0], at[0.0] + 3 * (at[1.0] - at[0.0]), atol=1e-5 * at[3.0].abs().max().item())


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholds_keep_estimates_inside_their_limit(stage, threshold):
    free, kept = (
        one.denoiser(cond(True), cond(False))(noise()(), 1000)
        for one in (stage.at(threshold="none"), stage.at(threshold=threshold, limit=0.5))
    )
    assert free.x0.abs().max() > 1
    assert 0.49 < kept.x0.abs().max() <= 0.5 + 1e-6
    assert torch.equal(kept.x0.sign(), free.x0.sign())
    clips = torch.allclose(kept.x0, free.x0.clamp(-0.5, 0.5))
    assert clips == (threshold == "static")


def test_shrunk_estimates_are_those_nearer_to_zero_and_an_inversion_knows_none(stage):
    free, nearer = (
        one.denoiser(cond(True), cond(False))(noise()(), 1000)
        for one in (stage.at(threshold="none"), stage.at(threshold="none", shrink=0.3))
    )
    assert torch.allclose(nearer.x0, torch.nn.functional.softshrink(free.x0, 0.3))
    x0 = free.x0.clamp(-1, 1).float()
    ends = [list(one.invert(cond(True), x0))[-1].x for one in (stage.at(steps=2), stage.at(steps=2, shrink=0.3))]
    assert torch.equal(*ends)


class Erring(torch.nn.Module):
    """The exact noise of pictures of variance 0.25, a hundredth of it wrong."""

    def __init__(self, process):
        super().__init__()
        self.process, self.weight = process, torch.nn.Parameter(torch.zeros(()))

    def prepare(self, cond):
        return cond

    def forward(self, x, t, cond):
        alpha_bar = self.process.schedule.at(int(t[0]))
        eps = x * (1 - alpha_bar).sqrt() / (0.25 * alpha_bar + 1 - alpha_bar)
        return eps + 0.01 * (9.0 * x + int(t[0])).sin()


@pytest.mark.parametrize("steps", [25, 100, 250])
def test_a_net_that_predicts_noise_can_be_inverted(steps):
    """Where there is no signal its errors would be multiplied: at t = T of this schedule by 20,000."""
    process = Process(ProcessConfig(schedule="cosine", predicts="eps"))
    stage = Stage("decoder", Erring(process), process, Sampling(steps=steps, threshold="none"))
    x0 = 0.5 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x_T = finish(stage, stage.invert(None, x0))
    again = finish(stage, stage.run(None, lambda: x_T))
    error = float((again - x0).square().mean())
    assert 10 * math.log10(4 / error) > {25: 25, 100: 35, 250: 40}[steps]
    whole = stage.at(threshold="static").times
    assert (whole[0], len(whole)) == (1000, steps + 1)
    assert process.schedule.at(959) >= 4e-3 > process.schedule.at(960)
    assert stage.times == [959, *(t for t in whole if t < 959)]
    kept = Stage("decoder", stage.net, Process(ProcessConfig(predicts="v")), stage.sampling)
    assert kept.times == whole
    assert stage.at(steps=1).times == [959, 0]


def test_settings_change_a_copy_and_only_what_is_given(stage):
    other = stage.at(steps=7, sampler=None, eta=0.5)
    assert other.sampling == dataclasses.replace(stage.sampling, steps=7, eta=0.5)
    assert stage.sampling.steps == 4
    assert other.net is stage.net


def test_more_steps_than_there_are_is_refused_before_any_work(stage):
    assert stage.at(steps=1000).sampling.steps == 1000
    with pytest.raises(UnclipError, match="decoder: steps = 1001: expected 1 to 1000"):
        stage.at(steps=1001)


def test_samplers_and_eta_differ_and_repeat(stage):
    made = [run(stage, **how) for how in ({}, {"eta": 1.0}, {"sampler": "ddpm"}, {"sampler": "dpmpp_2m"}, {"steps": 3})]
    for k, one in enumerate(made):
        assert all((one - other).abs().max() > 1e-3 for other in made[:k])
    assert torch.equal(run(stage, sampler="ddpm"), made[2])


def test_reduced_precision_stays_inside_the_net(stage):
    half = dataclasses.replace(stage, dtype=torch.bfloat16)
    seen = []
    hook = stage.net.image.register_forward_hook(lambda net, given, out: seen.append(out.dtype))
    steps = list(half.at(steps=2).run(cond(True), noise(), cond(False)))
    hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert {step.x.dtype for step in steps} == {torch.float32}
    exact = list(stage.at(steps=2).run(cond(True), noise(), cond(False)))
    assert 0 < (steps[0].x0 - exact[0].x0).abs().mean() < 0.1
    assert not torch.is_autocast_enabled("cpu")
