"""The ancestral and DDIM samplers against the schedulers of diffusers.

Its tables count from 0 (their entry i is our time i + 1) and are float32. Handed our float64 tables, its schedulers
agree with ours to rounding (1e-11). With their own they agree as far as such tables can: 5e-5 with clipped estimates.
Its ancestral step adds noise at any foreign time but 0, so also when the last kept time is later and the step lands on
data; ours never does. The ancestral times compared end at 0 therefore.
"""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
from torch import Tensor

from unclip.diffusion.guidance import Denoiser, clipped, plain
from unclip.diffusion.process import Process, ProcessConfig
from unclip.diffusion.samplers import ddim, ddpm
from unclip.diffusion.schedule import Schedule

NAMES: dict[str, Any] = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTS: dict[str, Any] = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
VARIANCE: dict[str, Any] = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
ETA = 0.4


def net(channels: int):
    def call(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Called with the foreign count of times; near the noise it hears, so that x0 stays of order 1."""
        out = x * 0.9 + (x + t.reshape(-1, 1) / 1000).sin() / 10
        return torch.cat([out, (2 * x).sin()], dim=1)[:, :channels]

    return call


def start() -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, dtype=torch.float64, generator=generator), generator


def theirs(scheduler: Any, channels: int, **options: Any) -> list[Tensor]:
    (x, generator), path = start(), []
    for t in scheduler.timesteps.tolist():
        out = net(channels)(x, torch.full((4,), t), None)
        x = scheduler.step(out, t, x, generator=generator, **options).prev_sample
        path.append(x)
    return path


def ours(name: str, denoise: Denoiser, schedule: Schedule, times: list[int]) -> list[Tensor]:
    x, generator = start()

    def noise() -> Tensor:
        return torch.randn(4, 3, dtype=torch.float64, generator=generator)

    if name == "ddpm":
        return [step.x for step in ddpm(denoise, x, times, schedule, noise)]
    return [step.x for step in ddim(denoise, x, times, schedule, noise, ETA)]


def with_exact_tables(scheduler: Any, schedule: Schedule) -> Any:
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize("steps", [200, 17])
@pytest.mark.parametrize("variance", VARIANCE)
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("schedule", NAMES)
def test_ddpm(schedule: Any, predicts: Any, variance: Any, steps: int):
    process = Process(
        ProcessConfig(schedule=schedule, timesteps=200, predicts=predicts, variance=variance, time_offset=1)
    )
    scheduler = DDPMScheduler(
        200, prediction_type=PREDICTS[predicts], variance_type=VARIANCE[variance], clip_sample=False
    )
    times = process.schedule.times(steps, "linspace")
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])
    channels = process.channels(3)
    reference = theirs(with_exact_tables(scheduler, process.schedule), channels)
    mine = ours("ddpm", plain(net(channels), process, None), process.schedule, times)
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("steps", [200, 20])
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("schedule", NAMES)
def test_ddim(schedule: Any, predicts: Any, steps: int):
    process = Process(ProcessConfig(schedule=schedule, timesteps=200, predicts=predicts, time_offset=1))
    scheduler = DDIMScheduler(200, prediction_type=PREDICTS[predicts], clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    reference = theirs(with_exact_tables(scheduler, process.schedule), 3, eta=ETA)
    times = process.schedule.times(steps, "trailing")
    mine = ours("ddim", plain(net(3), process, None), process.schedule, times)
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_with_their_own_tables_and_clipping(name: str, schedule: Any):
    process = Process(ProcessConfig(schedule=schedule, time_offset=1))
    denoise = clipped(plain(net(3), process, None))
    if name == "ddpm":
        times = process.schedule.times(50, "linspace")
        scheduler: Any = DDPMScheduler(beta_schedule=NAMES[schedule])
        scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])
        reference = theirs(scheduler, 3)
    else:
        times = process.schedule.times(50, "trailing")
        scheduler = DDIMScheduler(beta_schedule=NAMES[schedule], timestep_spacing="trailing")
        scheduler.set_timesteps(50)
        reference = theirs(scheduler, 3, eta=ETA, use_clipped_model_output=True)
    mine = ours(name, denoise, process.schedule, times)
    torch.testing.assert_close(mine[-1], reference[-1], rtol=0, atol=5e-5)


@pytest.mark.parametrize("steps", [2, 7, 25, 27, 1000])
@pytest.mark.parametrize(("predicts", "variance"), [("x0", "small"), ("eps", "learned"), ("eps", "small")])
def test_unclips_scheduler_to_the_last_bit_of_its_tables(predicts: Any, variance: Any, steps: int):
    """With tables = "float32" every coefficient is diffusers' own: what is left is float64 rounding."""
    scheduler = UnCLIPScheduler(
        variance_type="learned_range" if variance == "learned" else "fixed_small_log",
        prediction_type=PREDICTS[predicts],
    )
    scheduler.set_timesteps(steps)
    told, channels = scheduler.timesteps.tolist(), 6 if variance == "learned" else 3
    (x, generator), path = start(), []
    for k, t in enumerate(told):
        later = told[k + 1] if k + 1 < steps else None
        out = net(channels)(x, torch.full((4,), t), None)
        x = scheduler.step(out, t, x, prev_timestep=later, generator=generator).prev_sample
        path.append(x)
    config = ProcessConfig(predicts=predicts, variance=variance, time_offset=1, tables="float32")
    process = Process(config)
    times = process.schedule.times(steps, "linspace")
    assert [t - 1 for t in times[:-1]] == told
    mine = ours("ddpm", clipped(plain(net(channels), process, None)), process.schedule, times)
    for one, other in zip(mine, path, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    exact = Process(ProcessConfig(predicts=predicts, variance=variance, time_offset=1))
    other = ours("ddpm", clipped(plain(net(channels), exact, None)), exact.schedule, times)
    assert 1e-7 < (other[-1] - path[-1]).abs().max() < 1e-2  # float32 tables do differ from ours
