"""Trains the decoder: python -m stages.decoder CONFIG [key.path=value …] [--init WEIGHTS]"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.data import Batch, DataConfig, validation_batches
from stages.embeddings import ClipSource, completed, image_emb, open_clip, prompts
from stages.export import export
from stages.fit import Preview, Watch, fit, held_out, stream
from stages.run import OptimConfig, Run, RunConfig, command, with_defaults
from stages.state import begin
from unclip.clip import Clip
from unclip.conditioning import decoder_cond
from unclip.config import NonNegativeFloat, PositiveFloat, Share, build, config, to_dict
from unclip.diffusion.losses import hybrid, random_times, simple
from unclip.diffusion.process import Process, ProcessConfig
from unclip.errors import UnclipError
from unclip.images import grid, square, to_pil
from unclip.models.decoder import Decoder, DecoderConfig
from unclip.noise import normal
from unclip.noise import stream as noise_stream
from unclip.priors import finish
from unclip.stage import Sampling, Stage, check_shrink

PROCESS = ProcessConfig(predicts="eps", variance="learned")
SAMPLING = Sampling(sampler="ddpm", steps=250)


@config
class ObjectiveConfig:
    """Shares of samples trained without the image embedding and, independently, without text (arXiv 2204.06125, 2.1).

    `min_snr`: gamma of min-SNR weights. `vlb`: weight of the variational bound where the variance is learned.
    `shift`: above 1 draws more of the noisy times, `logit_std`: fewer at both ends (`random_times`); all losses, the
    validation's too, are means over those drawn, so they compare only under the same two.
    """

    image_drop: Share = 0.1
    text_drop: Share = 0.5
    min_snr: PositiveFloat | None = None
    vlb: NonNegativeFloat = 0.001
    shift: PositiveFloat | None = None
    logit_std: PositiveFloat | None = None


@config
class DecoderRun:
    """The config file of a decoder."""

    model: DecoderConfig
    process: ProcessConfig = PROCESS
    sampling: Sampling = SAMPLING
    clip: ClipSource
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if self.model.learned_variance != (self.process.variance == "learned"):
            raise ValueError('model.learned_variance = true and process.variance = "learned" go together')
        check_shrink(self.sampling, self.model)
        if self.data.image_size is not None and self.data.image_size < self.model.size:
            raise ValueError(f"data.image_size = {self.data.image_size} is below model.size = {self.model.size}")


@dataclass(frozen=True)
class Objective:
    """The loss of a picture's noise under its image embedding and caption, each dropped at random, per sample."""

    settings: DecoderRun
    process: Process
    core: Decoder
    clip: Clip

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Per-sample losses."""
        assert batch.images is not None
        how, count, device = self.settings.objective, len(batch.images), batch.images.device
        x0 = square(batch.images, self.settings.model.size)
        t = random_times(count, self.process.schedule.timesteps, rng, how.shift, how.logit_std)
        eps = normal(x0.shape, rng, device)
        keep_image = torch.rand(count, generator=rng).to(device) >= how.image_drop
        keep_text = torch.rand(count, generator=rng).to(device) >= how.text_drop
        words = prompts(self.clip, self.settings.clip, batch, self.core)
        emb = image_emb(self.clip, self.settings.clip, batch)
        cond = decoder_cond(self.core, self.clip, words, emb, keep_image, keep_text & words.keep)
        xt = self.process.schedule.noised(x0, eps, t)
        out = net(xt, self.process.net_time(t, count, device), cond)
        if self.process.config.variance == "learned":
            return {"loss": hybrid(self.process, out, x0, eps, t, how.vlb, how.min_snr)}
        return {"loss": simple(self.process, out, x0, eps, t, how.min_snr)}


def train(values: dict[str, Any], init: str | None) -> None:
    """Trains a decoder from the tables of its config file."""
    settings = build(DecoderRun, with_defaults(completed(values), process=PROCESS, sampling=SAMPLING), "decoder config")
    if not settings.data.images:
        raise UnclipError("decoder config: data.images = false; a decoder is trained on pictures")
    run = Run(settings.run, settings.optim, to_dict(settings) | {"init": init or ""})
    if run.finished:
        run.say("finished before; nothing to do")
        return
    torch.manual_seed(settings.run.seed)
    core = Decoder(settings.model)
    state = begin(core, run, init)
    clip = open_clip(settings.clip, settings.data, state.accelerator.device)
    objective = Objective(settings, Process(settings.process), core, clip)
    validation = held_out(settings.data, run)
    parents, shown = {"clip": clip.fingerprint}, settings.run.previews
    watch = Watch(
        validation,
        lambda net: preview(net, objective, validation_batches(settings.data, shown, shown)[0]),
        lambda state: export(state, run, settings.model, parents, settings.process, settings.sampling),
    )
    fit(state, objective, stream(settings.data, state, run), run, watch)


def preview(net: nn.Module, objective: Objective, batch: Batch) -> Preview:
    """Pairs of rows: pictures of the validation data, and what the net draws of their embeddings and captions."""
    settings, clip = objective.settings, objective.clip
    stage = Stage("decoder", net, objective.process, settings.sampling)
    size, batch = settings.model.size, batch.to(stage.device)
    words = prompts(clip, settings.clip, batch, objective.core)
    emb = image_emb(clip, settings.clip, batch)
    cond = decoder_cond(objective.core, clip, words, emb)
    none = torch.zeros_like(words.keep)
    uncond = decoder_cond(objective.core, clip, words, emb, none, none)
    noise = noise_stream(stage.name, range(len(emb)), (3, size, size), stage.device)
    drawn = finish(stage, stage.run(cond, noise, uncond))
    assert batch.images is not None
    truth = square(batch.images, size)
    rows = []
    for start in range(0, len(emb), 8):
        part = slice(start, start + 8)
        rows += [to_pil(x) for x in truth[part]] + [to_pil(x) for x in drawn[part]]
    return Preview(sheet=grid(rows, columns=min(8, len(emb))))


if __name__ == "__main__":
    command(train)
