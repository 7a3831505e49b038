"""Drawing as native Karlo does: its tables, its clamps and its draws, against a loop written from the facts alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.conditioning import Prompts, read
from unclip.diffusion.process import Process, ProcessConfig
from unclip.interop.systems import found
from unclip.system import UnCLIP

from . import pipelines
from .test_parity import relative, theirs_decoder

PROMPT, SEED = "the cat!", 5


@pytest.mark.parametrize("steps", [2, 5, 7, 10, 25, 50, 100, 250, 1000])
def test_tables(steps: int) -> None:
    schedule = Process(ProcessConfig(time_offset=1)).schedule
    times, theirs = schedule.times(steps, "linspace"), pipelines.native_schedule(steps)
    assert [t - 1 for t in times[:-1]] == theirs["timesteps"][::-1].astype(int).tolist()
    for k, (t, s) in enumerate(zip(times[-2::-1], times[:0:-1], strict=True)):
        step = schedule.transition(t, s)
        assert float(step.x0) == pytest.approx(theirs["posterior_mean_coef1"][k], rel=1e-9)
        assert float(step.xt) == pytest.approx(theirs["posterior_mean_coef2"][k], rel=1e-9, abs=1e-15)
        assert float(step.beta) == pytest.approx(np.exp(theirs["log_betas"][k]), rel=1e-9)
        if s > 0:
            assert float(step.variance.log()) == pytest.approx(theirs["posterior_log_variance_clipped"][k], rel=1e-9)


Estimate = Callable[[Tensor, int], tuple[Tensor, Tensor | None]]  # (x, t) -> clamped x0, share of the log-variance


def walk(x: Tensor, steps: int, estimate: Estimate, draw: Callable[[], Tensor]) -> Tensor:
    """The ancestral loop over native tables; noise is drawn at every step, also at t = 0, where it is not used."""
    table = pipelines.native_schedule(steps)
    for k in reversed(range(steps)):
        x0, share = estimate(x, int(table["timesteps"][k]))
        low, high = table["posterior_log_variance_clipped"][k], table["log_betas"][k]
        log_variance = low if share is None else share * high + (1 - share) * low
        noise = draw()
        x = table["posterior_mean_coef1"][k] * x0 + table["posterior_mean_coef2"][k] * x
        if k > 0:
            x = x + torch.exp(0.5 * torch.as_tensor(log_variance)) * noise
    return x


def native_run(
    pipeline: Any, told: Prompts, empty: Prompts, steps: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """One picture: two rows are drawn under guidance, of which the first counts."""
    rng = torch.Generator().manual_seed(SEED)
    alpha = np.cumprod(1 - pipelines.native_schedule(1000)["betas"])

    def draws(rows: int, *shape: int) -> Callable[[], Tensor]:
        return lambda: torch.randn(rows, *shape, generator=rng, dtype=torch.float64)[:1]

    def x0(x: Tensor, eps: Tensor, t: int) -> Tensor:
        return ((x - np.sqrt(1 - alpha[t]) * eps) / np.sqrt(alpha[t])).clamp(-1, 1)

    def prior(x: Tensor, t: int) -> tuple[Tensor, None]:
        cond, uncond = (
            pipeline.prior(x, t, one.text.emb, one.text.hidden, one.text.mask).predicted_image_embedding
            for one in (told, empty)
        )
        return (uncond + 4 * (cond - uncond)).clamp(-10, 10), None

    def decoder(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        cond = theirs_decoder(pipeline, x, t, emb, told, keep=True)
        uncond = theirs_decoder(pipeline, x, t, emb, empty, keep=False)[:, :3]
        return x0(x, uncond + 8 * (cond[:, :3] - uncond), t), (cond[:, 3:] + 1) / 2

    def upsampler(x: Tensor, t: int) -> tuple[Tensor, None]:
        net = pipeline.super_res_last if t == 0 else pipeline.super_res_first
        return x0(x, net(torch.cat([x, large], dim=1), t).sample, t), None

    draw = draws(2, 32)
    emb = pipeline.prior.post_process_latents(walk(draw(), steps[0], prior, draw))
    draw = draws(2, 3, 16, 16)
    small = walk(draw(), steps[1], decoder, draw).clamp(-1, 1)
    large = F.interpolate(small, size=(64, 64), mode="bicubic", align_corners=False, antialias=True)
    draw = draws(1, 3, 64, 64)
    return emb, small, walk(draw(), steps[2], upsampler, draw)


@pytest.mark.parametrize("steps", [(2, 2, 2), (25, 25, 7)])
@torch.no_grad()
def test_whole_runs_in_float64(text_pipeline: Any, karlo: Path, steps: tuple[int, int, int]) -> None:
    system = UnCLIP.from_pretrained(karlo, "cpu", "float64", arithmetic="native")
    text_pipeline.to(torch.float64)
    try:
        theirs = native_run(text_pipeline, read(system.clip, [PROMPT]), read(system.clip, [""]), steps)
    finally:
        text_pipeline.to(torch.float32)
    last: dict[str, Tensor] = {}
    settings = dict(zip(("prior_steps", "steps", "upsampler_steps"), steps, strict=True))
    found = next(
        system.generate(PROMPT, [SEED], on_step=lambda stage, step: last.update({stage: step.x}), **settings)  # type: ignore[arg-type]
    )
    mine = found.image_emb[None], last["decoder"].clamp(-1, 1), last["upsampler-64"]
    for one, other in zip(mine, theirs, strict=True):
        assert relative(one, other) <= 1e-5
    ids, mask = system.clip.tokenizer([PROMPT], 77)
    *words, padding, end = text_pipeline.tokenizer(PROMPT).input_ids
    assert padding == 0  # transformers takes "!" for the padding, whose id is 0
    assert ids[0, : len(words) + 2].tolist() == [*words, 256, end]  # and here it is read, as "!</w>"
    assert mask[0].sum() == len(words) + 2


@pytest.mark.parametrize(
    ("arithmetic", "tables", "limit", "padding", "noise", "fit"),
    [
        ("own", "float64", 10.0, None, "streams", "square"),
        ("native", "float64", 10.0, None, "native", "squash"),
        ("diffusers", "float32", 5.0, "!", "diffusers", "shortest"),
    ],
)
def test_each_arithmetic_is_what_the_documentation_says(
    karlo: Path, arithmetic: Any, tables: str, limit: float, padding: str | None, noise: str, fit: str
) -> None:
    box = found(karlo, arithmetic)
    assert box.config.noise == noise
    assert (box.clip.header.model["padding_text"], box.clip.header.model["fit"]) == (padding, fit)
    for stage in (box.prior, box.decoder, *box.upsamplers):
        assert stage is not None
        assert stage.header.process["tables"] == tables
    assert box.prior is not None
    assert box.prior.header.sampling["limit"] == limit
    opened = UnCLIP.from_pretrained(karlo, "cpu", arithmetic=arithmetic)
    assert opened.decoder.process.schedule.alpha_bar.dtype == getattr(torch, tables)
