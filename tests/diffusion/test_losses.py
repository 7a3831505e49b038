"""Losses against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unclip.diffusion.losses import hybrid, random_times, simple, variance_bound, vlb_prior, vlb_term
from unclip.diffusion.process import Process, ProcessConfig

FRACTION = 0.4
SPREAD, MEAN = 0.3, 0.2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def estimate(process: Process, t: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Gain and offset of an estimate of x0 linear in x_t; the exact one at sharpness 1."""
    alpha_bar = process.schedule.at(t)
    gain = sharpness * alpha_bar.sqrt() * SPREAD / (alpha_bar * SPREAD + 1 - alpha_bar)
    return gain, MEAN - gain * alpha_bar.sqrt() * MEAN


def sum_of_terms(process: Process, sharpness: float) -> float:
    """E over x0 and x_t of every term, by a quadrature that is exact for the squares in them."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    weight = torch.outer(weights, weights).flatten() / (2 * math.pi)
    x0 = (MEAN + math.sqrt(SPREAD) * nodes).repeat_interleave(3)[:, None]
    eps = nodes.repeat(3)[:, None]
    total = vlb_prior(process.schedule, x0)
    for t in range(1, process.schedule.timesteps + 1):
        times = torch.full((9,), t)
        xt = process.schedule.noised(x0, eps, times)
        gain, offset = estimate(process, t, sharpness)
        out = process.target(gain * xt + offset, process.schedule.eps(gain * xt + offset, xt, times), times)
        if process.config.variance == "learned":
            out = torch.cat([out, torch.full_like(out, 2 * FRACTION - 1)], dim=1)
        total = total + vlb_term(process, out, x0, xt, times)
    return (weight * total).sum().item()


def whole_bound(process: Process, sharpness: float) -> float:
    """E_q[log q(x_1..T | x_0) - log p(x_0..T)] in bits, from the two Markov chains and without any KL divergence."""
    schedule = process.schedule
    power = schedule.alpha_bar * SPREAD + 1 - schedule.alpha_bar
    betas = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    log_q = -0.5 * (2 * math.pi * math.e * betas).log().sum()
    last = power[-1] + schedule.alpha_bar[-1] * MEAN**2
    log_p = -0.5 * (math.log(2 * math.pi) + last)
    for t in range(1, schedule.timesteps + 1):
        step, before = schedule.transition(t, t - 1), schedule.transition(max(t, 2), max(t, 2) - 1)
        variance = step.beta**FRACTION * before.variance ** (1 - FRACTION)
        gain, offset = estimate(process, t, sharpness)
        slope = step.x0 * gain + step.xt  # p(x_{t-1} | x_t) = N(slope x_t + step.x0 offset, variance)
        at, under = schedule.at(t), schedule.at(t - 1)
        off = under.sqrt() * MEAN - slope * at.sqrt() * MEAN - step.x0 * offset
        cross = (at / under).sqrt() * power[t - 1]
        square = power[t - 1] - 2 * slope * cross + slope**2 * power[t] + off**2
        log_p = log_p - 0.5 * ((2 * math.pi * variance).log() + square / variance)
    return ((log_q - log_p) / math.log(2)).item()


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("sharpness", [1.0, 0.8])
def test_the_terms_sum_to_the_whole_bound(predicts, sharpness):
    process = Process(ProcessConfig(timesteps=40, predicts=predicts, variance="learned"))
    assert sum_of_terms(process, sharpness) == pytest.approx(whole_bound(process, sharpness), rel=1e-9)


def test_with_the_exact_net_and_variance_the_bound_is_the_entropy_of_the_data():
    schedule = Process(ProcessConfig(timesteps=40)).schedule
    noise = 1 - schedule.alpha_bar[1:]
    power = noise / (schedule.alpha_bar[1:] * SPREAD + noise)
    analytic = Process(ProcessConfig(timesteps=40, predicts="x0", variance="analytic", eps_power=tuple(power.tolist())))
    last = schedule.at(40)
    total = last * SPREAD + 1 - last
    left = 0.5 * (total + last * MEAN**2 - 1 - total.log()) / math.log(2)  # KL of x_T from the standard normal
    entropy = 0.5 * math.log2(2 * math.pi * math.e * SPREAD)
    assert sum_of_terms(analytic, 1.0) == pytest.approx(entropy + left.item(), rel=1e-8)
    small = Process(ProcessConfig(timesteps=40, predicts="x0"))
    assert sum_of_terms(small, 1.0) > entropy + 0.01


def test_learned_variance_end_points_in_the_bound():
    x0, eps, t = draw(3, 2), draw(3, 2, seed=1), torch.tensor([1, 20, 40])
    learned = Process(ProcessConfig(timesteps=40, variance="learned"))
    xt = learned.schedule.noised(x0, eps, t)
    prediction = eps + 0.1
    small, large = (ProcessConfig(timesteps=40), ProcessConfig(timesteps=40, variance="large"))
    for v, fixed in ((-1.0, Process(small)), (1.0, Process(large))):
        out = torch.cat([prediction, torch.full_like(prediction, v)], dim=1)
        expected = vlb_term(fixed, prediction, x0, xt, t)
        torch.testing.assert_close(vlb_term(learned, out, x0, xt, t), expected, rtol=1e-12, atol=0)
    perfect = vlb_term(Process(ProcessConfig(timesteps=40)), eps, x0, xt, t)
    torch.testing.assert_close(perfect[1:], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_grey_levels_have_probabilities_that_sum_to_one():
    process = Process(ProcessConfig(variance="learned"))
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    x0, t = levels[:, None], torch.ones(256, dtype=torch.long)
    for centre in (0.1, 0.997):
        xt = process.schedule.noised(torch.full_like(x0, centre), torch.zeros_like(x0), t)
        out = torch.cat([torch.zeros_like(x0), torch.ones_like(x0)], dim=1)
        bits = vlb_term(process, out, x0, xt, t, pixels=True)
        # each of the ~250 levels out of reach counts for the floor of 1e-12
        assert (2**-bits).sum().item() == pytest.approx(1, abs=1e-9)
        assert levels[bits.argmin()].item() == pytest.approx(centre, abs=1 / 255)


@pytest.mark.parametrize("gamma", [None, 5.0, 0.5])
def test_losses_are_the_same_error_in_each_parametrisation(gamma):
    x0, eps, t = draw(4, 2, 3), draw(4, 2, 3, seed=1), torch.tensor([1, 200, 600, 1000])
    guess = draw(4, 2, 3, seed=2)
    losses = {}
    for predicts in ("x0", "eps", "v"):
        process = Process(ProcessConfig(schedule="linear", predicts=predicts))
        xt = process.schedule.noised(x0, eps, t)
        out = process.target(guess, process.schedule.eps(guess, xt, t), t)
        losses[predicts] = simple(process, out, x0, eps, t, min_snr=gamma)
        snr = process.schedule.snr(t)
        plainly = (guess - x0).square().mean((1, 2))
        expected = {"x0": plainly, "eps": snr * plainly, "v": (snr + 1) * plainly}[predicts]
        if gamma is not None:
            expected = snr.clamp(max=gamma) * plainly
        torch.testing.assert_close(losses[predicts], expected, rtol=1e-9, atol=0)


def test_min_snr_weighs_one_where_there_is_no_signal():
    process = Process(ProcessConfig(zero_terminal_snr=True, predicts="v"))
    x0, eps, out, t = draw(1, 2), draw(1, 2, seed=1), draw(1, 2, seed=2), torch.tensor([1000])
    torch.testing.assert_close(simple(process, out, x0, eps, t, min_snr=5.0), (out + x0).square().mean(1))


def test_hybrid_is_the_sum_and_its_bound_teaches_the_variance_only():
    process = Process(ProcessConfig(variance="learned"))
    x0, eps, t = draw(4, 2, 3).clamp(-1, 1), draw(4, 2, 3, seed=1), torch.tensor([1, 2, 500, 1000])
    out = draw(4, 4, 3, seed=2).requires_grad_()
    prediction, variance = out.chunk(2, dim=1)
    bound = variance_bound(process, out, x0, eps, t)
    (gradient,) = torch.autograd.grad(bound.sum(), out)
    assert bool((gradient[:, :2] == 0).all())
    assert bool((gradient[:, 2:] != 0).flatten(1).any(1).all())
    assert bool(gradient.isfinite().all())
    frozen = vlb_term(process, out, x0, process.schedule.noised(x0, eps, t), t, pixels=True)
    squares = (prediction - eps).square().mean((1, 2))
    torch.testing.assert_close(hybrid(process, out, x0, eps, t), squares + 0.001 * 1000 * frozen, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(simple(process, out, x0, eps, t).sum(), out)
    assert bool((gradient[:, 2:] == 0).all())
    assert bool((gradient[:, :2] != 0).any())
    assert variance.shape == (4, 2, 3)


@pytest.mark.parametrize("loss", [simple, hybrid, variance_bound])
def test_losses_leave_their_inputs_alone_and_stay_in_single_precision(loss):
    process = Process(ProcessConfig(variance="learned"))
    x0, eps, out = draw(4, 2).float(), draw(4, 2, seed=1).float(), draw(4, 4, seed=2).bfloat16()
    t = torch.tensor([1, 2, 500, 1000])
    copies = [a.clone() for a in (out, x0, eps, t)]
    result = loss(process, out, x0, eps, t)
    assert result.shape == (4,)
    assert result.dtype == torch.float32
    assert bool(result.isfinite().all())
    assert all(torch.equal(a, b) for a, b in zip((out, x0, eps, t), copies, strict=True))
    double = loss(process, out.double(), x0.double(), eps.double(), t)
    assert double.dtype == torch.float64
    torch.testing.assert_close(result.double(), double, rtol=2e-4, atol=0)


@pytest.mark.parametrize(("shift", "median"), [(1.0, 500), (3.0, 750), (0.5, 333)])
def test_shifted_times_have_the_quantiles_of_the_shifted_law(shift, median):
    times = random_times(40_000, 1000, torch.Generator().manual_seed(0), shift)
    assert times.dtype == torch.int64
    assert 1 <= times.min() <= times.max() <= 1000
    assert times.double().median().item() == pytest.approx(median, abs=6)
    late = 0.93 / (shift - (shift - 1) * 0.93)  # u whose time is 0.93 T
    assert (times > 930).double().mean().item() == pytest.approx(1 - late, abs=0.006)


def test_logit_normal_times_are_normal_in_the_shifted_logit():
    times = random_times(40_000, 10_000, torch.Generator().manual_seed(0), 2.0, 0.8)
    logits = (times.double() - 0.5).div(10_000).logit()
    assert logits.mean().item() == pytest.approx(math.log(2), abs=0.015)
    assert logits.std().item() == pytest.approx(0.8, abs=0.015)
    assert (logits < math.log(2) - 0.8).double().mean().item() == pytest.approx(0.1587, abs=0.006)


def test_no_time_is_left_out():
    assert len(random_times(20_000, 100, torch.Generator().manual_seed(0), 3.0).unique()) == 100
