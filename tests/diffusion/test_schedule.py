"""Tables, times and the posterior."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from unclip.diffusion.schedule import Schedule, cosine, linear, zero_terminal_snr
from unclip.errors import UnclipError

SCHEDULES = {
    "linear": linear(),
    "cosine": cosine(),
    "linear-zero": zero_terminal_snr(linear()),
    "cosine-zero": cosine(max_beta=None),
    "cosine-short": cosine(50),
}
SPACINGS = ("linspace", "trailing", "quadratic", "logsnr")
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_terminal_values_are_the_published_ones():
    assert linear().at(1000).item() == pytest.approx(4.036e-5, rel=2e-4)
    assert cosine().at(1000).item() == pytest.approx(2.429e-9, rel=2e-4)
    assert (linear().alpha_bar > 0.5).sum() - 1 == pytest.approx(259, abs=1)
    assert (cosine().alpha_bar > 0.5).sum() - 1 == pytest.approx(496, abs=1)
    betas = 1 - cosine().alpha_bar[1:] / cosine().alpha_bar[:-1]
    assert (betas > 0.999 - 1e-9).sum() == 1


def test_zero_terminal_snr_is_zero_and_keeps_the_start():
    for schedule in (zero_terminal_snr(linear()), cosine(max_beta=None)):
        assert schedule.at(1000) == 0
        assert schedule.at(0) == 1
    torch.testing.assert_close(zero_terminal_snr(linear()).at(1), linear().at(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(cosine(max_beta=None).alpha_bar[:1000], cosine().alpha_bar[:1000], rtol=1e-9, atol=0)


def test_the_linear_schedule_ends_as_noisy_at_any_length():
    assert linear(250).at(250).item() == pytest.approx(linear().at(1000).item(), rel=0.2)
    with pytest.raises(UnclipError, match="timesteps = 20"):
        linear(20)


def test_noising_preserves_unit_variance():
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t in (1, 300, 999):  # not (1 - alpha_bar) eps, a misprint
        power = cosine().noised(one, zero, t) ** 2 + cosine().noised(zero, one, t) ** 2
        torch.testing.assert_close(power, one, rtol=1e-14, atol=0)


@each_schedule
def test_posterior_is_bayes_rule(schedule: Schedule):
    last = schedule.timesteps
    x0, xt = draw(4, 3), draw(4, 3, seed=1)
    for t, s in ((2, 1), (last // 2, last // 3), (last - 1, 1), (last, last - 1), (last, 3)):
        # q(x_s | x_0) q(x_t | x_s), both normal in x_s: precisions add
        gain = schedule.at(t) / schedule.at(s)
        near, far = 1 / (1 - schedule.at(s)), gain / (1 - gain)
        mean = schedule.at(s).sqrt() * x0 * near + xt * gain.sqrt() / (1 - gain)
        posterior = schedule.posterior(x0, xt, t, s)
        torch.testing.assert_close(posterior.variance, 1 / (near + far), rtol=1e-12, atol=0)
        torch.testing.assert_close(posterior.mean, mean / (near + far), rtol=1e-12, atol=1e-12)


@each_schedule
def test_posterior_at_zero_is_the_data(schedule: Schedule):
    x0, xt = draw(4, 3), draw(4, 3, seed=1)
    posterior = schedule.posterior(x0, xt, 7, 0)
    torch.testing.assert_close(posterior.mean, x0, rtol=1e-15, atol=0)
    assert posterior.variance == 0


def test_one_time_per_sample_is_the_same_as_one_at_a_time():
    schedule, t, s = cosine(), torch.tensor([1, 500, 1000]), torch.tensor([0, 20, 999])
    x0, xt = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    together = schedule.posterior(x0, xt, t, s)
    for k in range(3):
        alone = schedule.posterior(x0[k : k + 1], xt[k : k + 1], int(t[k]), int(s[k]))
        assert torch.equal(together.mean[k], alone.mean[0])
        assert torch.equal(together.variance[k].squeeze(), alone.variance)
        assert torch.equal(schedule.noised(x0, xt, t)[k], schedule.noised(x0, xt, int(t[k]))[k])


def test_eps_and_x0_are_inverse():
    x0, eps = draw(4, 3), draw(4, 3, seed=1)
    for t in (1, 500, 999):
        xt = linear().noised(x0, eps, t)
        torch.testing.assert_close(linear().eps(x0, xt, t), eps, rtol=0, atol=1e-12)
        torch.testing.assert_close(linear().x0(eps, xt, t), x0, rtol=0, atol=1e-12)
    with pytest.raises(AssertionError, match="0 / 0"):
        linear().eps(x0, x0, 0)


def test_a_time_outside_the_table_is_not_an_index_from_its_end():
    for t in (-1, 1001, torch.tensor([5, -1])):
        with pytest.raises(AssertionError, match="outside"):
            linear().at(t)


@each_schedule
@pytest.mark.parametrize("spacing", SPACINGS)
def test_times_fall_from_noise_to_data_with_one_evaluation_per_step(schedule: Schedule, spacing):
    for steps in (1, 2, 3, 7, 27, 49, 50, schedule.timesteps):
        times = schedule.times(steps, spacing)
        assert len(times) == steps + 1
        assert times[0] == schedule.timesteps
        assert times[-1] == 0
        assert all(t > s for t, s in pairwise(times))


def test_spacings():
    schedule = cosine()
    assert schedule.times(4, "trailing") == [1000, 750, 500, 250, 0]
    assert schedule.times(4, "linspace") == [1000, 667, 334, 1, 0]
    even = linear().times(10, "logsnr")[:-1]  # the table is fine enough here to hold the grid
    steps = torch.stack([linear().log_snr(t) for t in even]).diff()
    assert steps.min() > 0.9 * steps.max()
    quadratic = torch.tensor(schedule.times(20, "quadratic"), dtype=torch.float64)[:-1].sqrt().diff()
    assert quadratic.std() < 0.05 * quadratic.mean().abs()


def test_a_list_of_times_is_taken_or_refused():
    assert cosine(50).times([50, 20, 5, 0]) == [50, 20, 5, 0]
    refused: list[Any] = [[49, 20, 0], [50, 20, 1], [50, 20, 20, 0], [50, 20.5, 0], [50], []]
    for wrong in refused:
        with pytest.raises(UnclipError, match="fall strictly from 50 to 0"):
            cosine(50).times(wrong)
    for steps in (0, 51):
        with pytest.raises(UnclipError, match=f"steps = {steps}: expected 1 to 50"):
            cosine(50).times(steps)
