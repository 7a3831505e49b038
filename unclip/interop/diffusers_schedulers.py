"""UnCLIPScheduler's JSON configs, and what we call process and sampling."""

import math
from dataclasses import replace
from typing import Any, Literal

from unclip.diffusion.process import ProcessConfig
from unclip.interop.jsons import Json, read, refuse
from unclip.stage import Sampling

Role = Literal["prior", "decoder", "super_res"]

KEYS = {
    "num_train_timesteps": 1000,
    "variance_type": "fixed_small_log",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
}
CLIP_RANGE = 5.0  # of the prior's estimates, in the released scheduler's config
REQUIRED = {"beta_schedule": "squaredcos_cap_v2"}
PREDICTS = {"epsilon": "eps", "sample": "x0"}
VARIANCES = {"fixed_small_log": "small", "learned_range": "learned"}
BY_PIPELINE = {
    "prior": Sampling(steps=25, guidance=4.0),
    "decoder": Sampling(steps=25, guidance=8.0),
    "super_res": Sampling(steps=7),
}
"""What no scheduler knows, by the pipeline's stage: steps and guidance."""


def scheduler_config(json: Json, role: Role) -> tuple[ProcessConfig, Sampling]:
    """Process and sampling of the stage `role` under an UnCLIPScheduler of this config, with diffusers' float32 tables.

    Raises UnclipError for what we cannot do.
    """
    where = f"{role}_scheduler/scheduler_config.json"
    v = read(json, where, KEYS, REQUIRED)
    for key, known in (("prediction_type", PREDICTS), ("variance_type", VARIANCES)):
        if v[key] not in known:
            refuse(where, key, v[key], " or ".join(map(repr, known)))
    fits = {
        "num_train_timesteps": v["num_train_timesteps"] >= 2,
        "clip_sample_range": 0 < v["clip_sample_range"] < math.inf,
    }
    for key in [key for key, fit in fits.items() if not fit]:
        refuse(where, key, v[key], "more" if v[key] < math.inf else "a finite number")
    process = ProcessConfig(
        timesteps=v["num_train_timesteps"],
        predicts=PREDICTS[v["prediction_type"]],  # type: ignore[arg-type]
        variance=VARIANCES[v["variance_type"]],  # type: ignore[arg-type]
        time_offset=1,
        tables="float32",
    )
    threshold = "static" if v["clip_sample"] else "none"
    limit = float(v["clip_sample_range"])
    return process, replace(BY_PIPELINE[role], sampler="ddpm", spacing="linspace", threshold=threshold, limit=limit)


def scheduler_json(process: ProcessConfig, sampling: Sampling) -> dict[str, Any]:
    """The UnCLIPScheduler config of a process. Steps, guidance and sampler are the pipeline's and not in it.

    Raises UnclipError where there is none.
    """
    fixed = {"schedule": "cosine", "time_offset": 1, "zero_terminal_snr": False}
    for key, value in fixed.items():
        if getattr(process, key) != value:
            refuse("process", key, getattr(process, key), f"{value!r}, which this layout always has")
    predicts = {ours: theirs for theirs, ours in PREDICTS.items()}
    variances = {ours: theirs for theirs, ours in VARIANCES.items()}
    if process.predicts not in predicts:
        refuse("process", "predicts", process.predicts, " or ".join(map(repr, predicts)))
    if process.variance not in variances:
        refuse("process", "variance", process.variance, " or ".join(map(repr, variances)))
    if sampling.threshold == "dynamic":
        refuse("sampling", "threshold", "dynamic", "'static' or 'none'")
    if sampling.shrink:
        refuse("sampling", "shrink", sampling.shrink, "0")
    return {
        "_class_name": "UnCLIPScheduler",
        "num_train_timesteps": process.timesteps,
        "variance_type": variances[process.variance],
        "clip_sample": sampling.threshold == "static",
        "clip_sample_range": sampling.limit,
        "prediction_type": predicts[process.predicts],
    }
