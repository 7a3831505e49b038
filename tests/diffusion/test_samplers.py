"""Samplers against Gaussian data, whose reverse process and probability-flow ODE are solved."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from unclip.diffusion.guidance import clipped
from unclip.diffusion.process import Denoised
from unclip.diffusion.samplers import SAMPLERS, Step, ddim, ddim_invert, ddpm, dpmpp_2m, sample
from unclip.diffusion.schedule import Schedule, cosine, linear, zero_terminal_snr
from unclip.errors import UnclipError


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stream(*shape: int, seed: int = 7) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(*shape, dtype=torch.float64, generator=generator)


def silence() -> Tensor:
    raise AssertionError("no noise was to be drawn")


def final(steps: Iterator[Step]) -> Tensor:
    return list(steps)[-1].x


def curved(x: Tensor, t: int) -> Denoised:
    """Some nonlinear estimate, so that nothing agrees by linearity."""
    return Denoised((1.5 * x + t / 1000).tanh())


@pytest.mark.parametrize("schedule", [linear(), cosine(), cosine(max_beta=None)], ids=["linear", "cosine", "zero"])
@pytest.mark.parametrize("steps", [1000, 50, 7, [1000, 999, 400, 30, 1, 0]])
def test_ddim_at_eta_1_is_ddpm(schedule: Schedule, steps: int | Sequence[int]):
    times, x = schedule.times(steps), draw(2, 3)
    ancestral = ddpm(curved, x, times, schedule, stream(2, 3))
    implicit = ddim(curved, x, times, schedule, stream(2, 3), eta=1.0)
    for a, b in zip(ancestral, implicit, strict=True):
        assert (a.t, a.s) == (b.t, b.s)
        assert a.x.dtype == torch.float64
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-12)


def test_ddim_noise_has_variance_eta_squared_beta_tilde():
    schedule, x, eta = linear(), torch.zeros(1, 1, dtype=torch.float64), 0.5
    step = next(ddim(lambda x, t: Denoised(x), x, [600, 400, 0], schedule, lambda: torch.ones(1, 1), eta))
    expected = eta * schedule.transition(600, 400).variance.sqrt()  # sigma^2 = eta beta-tilde is a misprint
    torch.testing.assert_close(step.x.squeeze(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [linear(), cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["linspace", "logsnr"])
@pytest.mark.parametrize(("sampler", "low", "high"), [(ddim, 0.9, 1.1), (dpmpp_2m, 1.8, 2.3)])
def test_order_of_convergence_to_the_solved_ode(gaussian, schedule, spacing, sampler, low, high):
    z = torch.tensor([[1.3, -0.4, 0.8], [-0.6, 1.7, 0.1]], dtype=torch.float64)
    start, expected = gaussian.marginal(schedule, 1000, z), gaussian.marginal(schedule, 1, z)
    errors = []
    for n in (40, 80, 160):
        steps = list(sampler(gaussian.denoiser(schedule), start, schedule.times(n, spacing), schedule))
        assert steps[-2].s == 1
        errors.append((steps[-2].x - expected).norm().item())
    for coarse, fine in pairwise(errors):
        assert low < math.log2(coarse / fine) < high


@pytest.mark.parametrize("steps", [5, 40])
def test_ancestral_steps_of_analytic_variance_reproduce_the_law_exactly(gaussian, steps):
    # sampling is linear here, so row k, which hears only the k-th noise, holds that noise's weight in the sample
    schedule = cosine()
    times = schedule.times(steps)
    impulses = torch.eye(steps + 1, dtype=torch.float64)[:, :, None].expand(-1, -1, 3)
    alpha_bar = schedule.at(1000)
    spread = (alpha_bar * gaussian.variance + 1 - alpha_bar).sqrt()
    start = alpha_bar.sqrt() * gaussian.mean + spread * impulses[:, 0]
    noises = (impulses[:, k] for k in range(1, steps))
    for step in ddpm(gaussian.denoiser(schedule), start, times, schedule, lambda: next(noises)):
        if step.s > 0:
            weights = step.x[:-1] - step.x[-1]  # the last row hears nothing: the mean
            at = schedule.at(step.s)
            torch.testing.assert_close(step.x[-1], at.sqrt() * gaussian.mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(weights.square().sum(0), at * gaussian.variance + 1 - at, rtol=1e-9, atol=0)


def test_variance_of_an_ancestral_step():
    schedule, x = linear(), torch.zeros(1, 1, dtype=torch.float64)
    step, half = schedule.transition(600, 400), torch.full_like(x, 0.5)
    cases: list[tuple[Denoised, Any, Tensor]] = [
        (Denoised(x), "small", step.variance),
        (Denoised(x), "large", step.beta),
        (Denoised(x, var_frac=half), "large", (step.beta * step.variance).sqrt()),
        (Denoised(x, x0_var=half), "large", step.variance + step.x0**2 / 2),
    ]
    for estimate, variance, expected in cases:
        steps = ddpm(lambda x, t, e=estimate: e, x, [600, 400, 0], schedule, lambda: torch.ones(1, 1), variance)
        first = next(steps)
        torch.testing.assert_close(first.x.squeeze() ** 2, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_visit_the_times_and_end_on_the_last_estimate(name):
    schedule, seen, drawn = cosine(), [], []

    def denoise(x: Tensor, t: int) -> Denoised:
        seen.append(t)
        return curved(x, t)

    def noise() -> Tensor:
        drawn.append(1)
        return draw(2, 3, seed=len(drawn))

    times = schedule.times(9, "quadratic")
    steps = list(sample(name, denoise, draw(2, 3), times, schedule, noise, eta=0.3))
    assert seen == [s.t for s in steps] == times[:-1]
    assert [s.s for s in steps] == times[1:]
    assert len(drawn) == {"ddpm": 8, "ddim": 8, "dpmpp_2m": 0}[name]  # the last step adds none
    torch.testing.assert_close(steps[-1].x, steps[-1].x0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_no_signal_at_the_start_is_no_special_case(gaussian, name, steps):
    for schedule in (zero_terminal_snr(linear()), cosine(max_beta=None)):
        x = sample(name, gaussian.denoiser(schedule), draw(4, 3), schedule.times(steps), schedule, stream(4, 3))
        assert bool(final(x).isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_is_kept_and_inputs_are_not_changed(name):
    schedule, x = cosine(), draw(2, 3).float()
    before, times = x.clone(), [1000, 600, 20, 0]
    steps = list(sample(name, curved, x, times, schedule, stream(2, 3), eta=0.5))
    double = list(sample(name, curved, x.double(), times, schedule, stream(2, 3), eta=0.5))
    assert torch.equal(x, before)
    assert times == [1000, 600, 20, 0]
    assert all(step.x.dtype == torch.float32 for step in steps)
    assert len({step.x.data_ptr() for step in steps}) == 3
    torch.testing.assert_close(steps[-1].x.double(), double[-1].x, rtol=0, atol=1e-6)


def test_thresholding_the_data_estimate_corrects_the_noise_estimate_with_it():
    schedule, x = linear(), torch.full((1, 1), 3.0, dtype=torch.float64)
    step = next(ddim(clipped(lambda x, t: Denoised(2 * x)), x, [600, 400, 0], schedule))
    one = torch.ones_like(x)
    expected = schedule.noised(one, schedule.eps(one, x, 600), 400)
    torch.testing.assert_close(step.x, expected, rtol=1e-14, atol=0)


def test_inversion_error_falls_with_the_steps(gaussian):
    schedule, x0 = cosine(), draw(8, 3) / 2
    denoise, errors = gaussian.denoiser(schedule), []
    for n in (10, 40, 160, 1000):
        times = schedule.times(n)
        inverted = list(ddim_invert(denoise, x0, times, schedule))
        assert inverted[0].t == 1
        assert inverted[-1].s == 1000
        back = final(ddim(denoise, inverted[-1].x, times, schedule))
        errors.append((back - x0).square().mean().sqrt().item())
    assert all(fine < 0.6 * coarse for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 0.02


def test_inversion_finds_the_noise_of_the_solved_ode(gaussian):
    schedule, z = cosine(), draw(8, 3)
    x1 = gaussian.marginal(schedule, 1, z)
    noise = final(ddim_invert(gaussian.denoiser(schedule), x1, schedule.times(1000), schedule))
    torch.testing.assert_close(noise, gaussian.marginal(schedule, 1000, z), rtol=0, atol=0.05)


def test_inversion_walks_the_times_of_sampling_upwards():
    schedule = linear()
    for times in ([1000, 500, 20, 0], [1000, 500, 20, 1, 0]):
        steps = list(ddim_invert(curved, draw(2, 3), times, schedule))
        assert [(step.t, step.s) for step in steps] == [(1, 20), (20, 500), (500, 1000)]


def test_impossible_requests_are_refused():
    schedule, x = linear(), draw(2, 3)
    with pytest.raises(UnclipError, match="eta = 1"):
        next(ddim(curved, x, [1000, 0], schedule, silence, 1.5))
    with pytest.raises(UnclipError, match="needs noise"):
        next(ddim(curved, x, [1000, 0], schedule, None, 0.5))
    with pytest.raises(UnclipError, match="expected one of ddpm, ddim, dpmpp_2m"):
        sample("euler", curved, x, [1000, 0], schedule, silence)
    final(ddim(curved, x, [1000, 500, 0], schedule, silence, 0.0))
