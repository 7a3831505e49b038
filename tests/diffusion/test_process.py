"""What a net's output is read as."""

import pytest
import torch

from unclip.config import build
from unclip.diffusion.process import Process, ProcessConfig, power_times, reverse_log_variance
from unclip.errors import UnclipError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("predicts", ["x0", "eps", "v"])
def test_reading_the_target_gives_the_data_back(predicts, zero, variance):
    if zero and predicts == "eps":
        return
    process = Process(ProcessConfig(schedule="linear", zero_terminal_snr=zero, predicts=predicts, variance=variance))
    x0, eps, t = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1), torch.tensor([1, 400, 1000])
    xt = process.schedule.noised(x0, eps, t)
    target = process.target(x0, eps, t)
    out = torch.cat([target, torch.full_like(target, 0.5)], dim=1) if variance == "learned" else target
    assert out.shape[1] == process.channels(2)
    estimate = process.read(out, xt, t)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-12)
    if variance == "small":
        assert estimate.var_frac is None
    else:
        assert estimate.var_frac is not None
        assert estimate.var_frac.shape == x0.shape
        assert bool((estimate.var_frac == {"large": 1, "learned": 0.75}[variance]).all())


def test_v_is_minus_the_data_where_no_signal_is_left():
    process = Process(ProcessConfig(zero_terminal_snr=True, predicts="v"))
    x0 = draw(2, 3)
    assert torch.equal(process.target(x0, draw(2, 3, seed=1), 1000), -x0)  # the paper prints v_T = x_0


def test_learned_variance_runs_from_beta_tilde_to_beta_of_the_kept_step():
    process = Process(ProcessConfig(variance="learned"))
    xt = draw(2, 3)
    for t, s in ((700, 699), (700, 650), (2, 1)):
        step = process.schedule.transition(t, s)
        for v, expected in ((-1.0, step.variance), (1.0, step.beta), (0.0, (step.variance * step.beta).sqrt())):
            out = torch.cat([xt, torch.full_like(xt, v)], dim=1)
            variance = reverse_log_variance(process.read(out, xt, t), step).exp()
            torch.testing.assert_close(variance, expected.expand(2, 3), rtol=1e-12, atol=0)


def test_analytic_variance_is_the_exact_posterior_variance_of_gaussian_data():
    spread, timesteps = 0.6, 60
    schedule = Process(ProcessConfig(timesteps=timesteps)).schedule
    alpha_bar = schedule.alpha_bar[1:]
    power = (1 - alpha_bar) / (alpha_bar * spread + 1 - alpha_bar)  # of the noise estimate of an exact net
    process = Process(ProcessConfig(timesteps=timesteps, variance="analytic", eps_power=tuple(power.tolist())))
    xt = draw(2, 3)
    for t, s in ((60, 59), (60, 20), (30, 29), (30, 2), (2, 1), (5, 0)):
        at_t, at_s = schedule.at(t), schedule.at(s)
        total = at_t * spread + 1 - at_t
        estimate = process.read(xt, xt, t)
        assert estimate.x0_var is not None
        torch.testing.assert_close(
            estimate.x0_var, spread * (1 - at_t) / total, rtol=1e-6 if t == 60 else 1e-10, atol=0
        )
        total_s = at_s * spread + 1 - at_s
        exact = total_s - at_t / at_s * total_s**2 / total  # Var[x_s | x_t] of the joint normal law
        variance = reverse_log_variance(estimate, schedule.transition(t, s)).exp()
        torch.testing.assert_close(variance, exact, rtol=1e-9, atol=0)


def test_analytic_variance_is_bounded_by_the_data_and_interpolated():
    process = Process(ProcessConfig(variance="analytic", eps_power=(0.5, 0.7, 0.9), data_variance=0.29))
    assert power_times(1000, 3) == [1, 501, 1000]
    assert power_times(7, 7) == list(range(1, 8))
    assert process.x0_var(1000) == 0.29
    assert process.x0_var(1000, bound=2.0) == 2
    at = process.schedule.at(251)
    torch.testing.assert_close(process.x0_var(251), (1 - at) / at * 0.4, rtol=1e-12, atol=0)
    both = process.x0_var(torch.tensor([251, 1000]))
    assert both.tolist() == [process.x0_var(251).item(), 0.29]
    above = Process(ProcessConfig(variance="analytic", eps_power=(1.2, 1.2)))
    assert above.x0_var(500) == 0
    unmeasured = Process(ProcessConfig(variance="analytic"))
    assert unmeasured.read(draw(2, 3), draw(2, 3), 5).x0_var is None
    with pytest.raises(UnclipError, match="eps_power"):
        unmeasured.x0_var(5)


def test_foreign_nets_count_from_zero():
    process = Process(ProcessConfig(time_offset=1))
    assert process.net_time(1000, 3, "cpu").tolist() == [999] * 3
    assert process.net_time(torch.tensor([1, 7]), 2, "cpu").tolist() == [0, 6]


def test_half_precision_output_is_read_in_single():
    process = Process(ProcessConfig())
    x = draw(2, 3).float()
    assert process.read(x.bfloat16(), x, 9).x0.dtype == torch.float32
    assert process.read(x.bfloat16(), x.bfloat16(), 9).x0.dtype == torch.float32
    assert process.read(x, x.double(), 9).x0.dtype == torch.float64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_terminal_snr": True}, "eps says nothing"),
        ({"schedule": "linear", "timesteps": 20}, "at least 21"),
        ({"timesteps": 1}, "at least 2"),
        ({"eps_power": [0.5]}, "eps_power"),
        ({"schedule": "sigmoid"}, "schedule"),
    ],
)
def test_impossible_processes_are_refused_in_one_line(values, message):
    with pytest.raises(UnclipError, match=message) as error:
        build(ProcessConfig, values, "x.toml")
    assert "\n" not in str(error.value)
