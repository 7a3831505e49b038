"""Trains an upsampler: python -m stages.upsampler CONFIG [key.path=value …] [--init WEIGHTS]

Both upsamplers are trained by this one program, under two configs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.data import Batch, DataConfig
from stages.degrade import DegradeConfig, low_res, random_crop
from stages.export import export
from stages.fit import Preview, Watch, fit, held_out, stream
from stages.run import OptimConfig, Run, RunConfig, command, with_defaults
from stages.state import begin
from unclip.config import Positive, PositiveFloat, build, config, to_dict
from unclip.diffusion.losses import random_times, simple
from unclip.diffusion.process import Process, ProcessConfig
from unclip.errors import UnclipError
from unclip.images import grid, resize, to_pil
from unclip.models.upsampler import Upsampler, UpsamplerCond, UpsamplerConfig, restore, standardise
from unclip.noise import generator, normal
from unclip.noise import stream as noise_stream
from unclip.priors import finish
from unclip.stage import Sampling, Stage, check_shrink

PROCESS = ProcessConfig(predicts="eps")
SAMPLING = Sampling(sampler="ddim", steps=27)


@config
class ObjectiveConfig:
    """`crop`: side of the square that training sees of the target (the paper: a quarter). `min_snr`: gamma."""

    crop: Positive
    min_snr: PositiveFloat | None = None


@config
class UpsamplerRun:
    """The config file of an upsampler; [data] holds pictures of the target size, or crops of them, `crop` or wider."""

    model: UpsamplerConfig
    process: ProcessConfig = PROCESS
    sampling: Sampling = SAMPLING
    data: DataConfig
    degrade: DegradeConfig = DegradeConfig()
    objective: ObjectiveConfig
    optim: OptimConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if self.process.variance == "learned" or self.model.learned_variance:
            raise ValueError("upsamplers are trained with a fixed variance; leave learned_variance out")
        if self.model.residual and self.sampling.threshold != "none":
            raise ValueError('model.residual: what is diffused is no picture; set sampling.threshold = "none"')
        check_shrink(self.sampling, self.model)
        if self.model.level != (self.degrade.noise_level > 0):
            raise ValueError("model.level = true and degrade.noise_level > 0 go together: the net is told the level")
        if self.objective.crop % self.model.scale:
            raise ValueError(f"objective.crop = {self.objective.crop} is no multiple of scale = {self.model.scale}")


@dataclass(frozen=True)
class Objective:
    """The loss of a crop's noise beside its corrupted low-resolution picture (arXiv 2204.06125, section 2.1)."""

    settings: UpsamplerRun
    process: Process

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Per-sample losses."""
        image, cond = self.pair(batch, rng)
        x0 = standardise(self.settings.model, image, cond.low_res)
        t = random_times(len(x0), self.process.schedule.timesteps, rng)
        eps = normal(x0.shape, rng, x0.device)
        out = net(self.process.schedule.noised(x0, eps, t), self.process.net_time(t, len(t), x0.device), cond)
        return {"loss": simple(self.process, out, x0, eps, t, self.settings.objective.min_snr)}

    def pair(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, UpsamplerCond]:
        """Crops of the target, and the corrupted small pictures of them."""
        assert batch.images is not None
        scale = self.settings.model.scale
        image = random_crop(batch.images, self.settings.objective.crop, rng, align=scale)
        low, level = low_res(image, scale, self.settings.degrade, rng)
        return image, UpsamplerCond(low_res=low, level=level)


def train(values: dict[str, Any], init: str | None) -> None:
    """Trains an upsampler from the tables of its config file."""
    settings = build(UpsamplerRun, with_defaults(values, process=PROCESS, sampling=SAMPLING), "upsampler config")
    if not settings.data.images:
        raise UnclipError("upsampler config: data.images = false; an upsampler is trained on pictures")
    run = Run(settings.run, settings.optim, to_dict(settings) | {"init": init or ""})
    if run.finished:
        run.say("finished before; nothing to do")
        return
    torch.manual_seed(settings.run.seed)
    state = begin(Upsampler(settings.model), run, init)
    objective = Objective(settings, Process(settings.process))
    validation = held_out(settings.data, run)
    watch = Watch(
        validation,
        lambda net: preview(net, objective, validation),
        lambda state: export(state, run, settings.model, {}, settings.process, settings.sampling),
    )
    fit(state, objective, stream(settings.data, state, run), run, watch)


def preview(net: nn.Module, objective: Objective, validation: Sequence[Batch]) -> Preview:
    """Columns of three: the small picture enlarged bicubically, what the net draws, the truth; and their PSNR in dB."""
    settings = objective.settings
    stage = Stage("upsampler", net, objective.process, settings.sampling)
    truth, cond = objective.pair(validation[0].to(stage.device), generator("preview"))
    noise = noise_stream(stage.name, range(len(truth)), truth.shape[1:], stage.device)
    drawn = restore(settings.model, finish(stage, stage.run(cond, noise)), cond.low_res)
    bicubic = resize(cond.low_res, settings.objective.crop).clamp(-1, 1)
    numbers = {"psnr": psnr(drawn, truth), "psnr_bicubic": psnr(bicubic, truth)}
    count = min(settings.run.previews, len(truth), 8)
    rows = [to_pil(x) for row in (bicubic, drawn, truth) for x in row[:count]]
    return Preview(sheet=grid(rows, columns=count), numbers=numbers)


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    error = (a - b).square().flatten(1).mean(dim=1).clamp(min=1e-10)
    return float((10 * torch.log10(4 / error)).mean())


if __name__ == "__main__":
    command(train)
