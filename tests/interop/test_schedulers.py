"""Schedulers of diffusers there and back, and what is refused."""

from dataclasses import replace

import diffusers
import pytest

from unclip.diffusion.process import Process
from unclip.errors import UnclipError
from unclip.interop.diffusers_schedulers import scheduler_config, scheduler_json
from unclip.stage import Sampling

from .test_configs import plain

HUB = {
    "_class_name": "UnCLIPScheduler",
    "_diffusers_version": "0.11.0.dev0",
    "clip_sample": True,
    "clip_sample_range": 5.0,
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "variance_type": "fixed_small_log",
}


def test_schedulers_there_and_back():
    process, sampling = scheduler_config(HUB, "prior")
    assert (process.predicts, process.variance, process.time_offset, process.tables) == ("x0", "small", 1, "float32")
    assert sampling == Sampling(
        sampler="ddpm", steps=25, spacing="linspace", guidance=4.0, threshold="static", limit=5.0
    )
    assert plain(scheduler_json(process, sampling)) == plain(HUB)
    learned = HUB | {"variance_type": "learned_range", "prediction_type": "epsilon", "clip_sample_range": 1.0}
    process, sampling = scheduler_config(learned, "decoder")
    assert (process.predicts, process.variance, sampling.guidance, sampling.limit) == ("eps", "learned", 8.0, 1.0)
    assert plain(scheduler_json(process, sampling)) == plain(learned)
    process, sampling = scheduler_config({}, "super_res")
    assert (process.predicts, process.variance, sampling.steps, sampling.guidance) == ("eps", "small", 7, 1.0)
    assert diffusers.UnCLIPScheduler(**plain(scheduler_json(process, sampling))).config.clip_sample_range == 1.0


@pytest.mark.parametrize("steps", [2, 7, 25, 50])
def test_our_times_are_the_schedulers(steps):
    scheduler = diffusers.UnCLIPScheduler()
    scheduler.set_timesteps(steps)
    process, sampling = scheduler_config(HUB, "prior")
    times = Process(process).schedule.times(steps, sampling.spacing)
    assert [t - 1 for t in times if t > 0] == scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type = 'v_prediction'; expected 'epsilon' or 'sample'"),
        ({"beta_schedule": "linear"}, "beta_schedule = 'linear'; expected 'squaredcos_cap_v2'"),
        ({"clip_sample_range": 0}, "clip_sample_range = 0; expected more"),
        ({"clip_sample_range": float("nan")}, "clip_sample_range = nan; expected a finite number"),
        ({"clip_sample_range": float("inf")}, "clip_sample_range = inf; expected a finite number"),
    ],
)
def test_other_schedulers_are_refused(change, message):
    with pytest.raises(UnclipError) as caught:
        scheduler_config(HUB | change, "prior")
    assert str(caught.value) == f"prior_scheduler/scheduler_config.json: {message}"


@pytest.mark.parametrize("changes", [{"threshold": "dynamic"}, {"shrink": 0.1}])
def test_sampling_that_they_do_not_have_is_refused(changes):
    process, sampling = scheduler_config(HUB, "prior")
    ((key, value),) = changes.items()
    with pytest.raises(UnclipError, match=f"^sampling: {key} = {value!r}; expected"):
        scheduler_json(process, replace(sampling, **changes))
