"""Trains the diffusion prior: python -m stages.prior CONFIG [key.path=value …] [--init WEIGHTS]"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from stages.data import Batch, DataConfig
from stages.embeddings import ClipSource, completed, image_emb, open_clip, prompts
from stages.export import export
from stages.fit import Preview, Watch, fit, held_out, stream
from stages.run import OptimConfig, Run, RunConfig, command, with_defaults
from stages.state import State, begin
from unclip.clip import Clip
from unclip.conditioning import prior_cond
from unclip.config import Positive, PositiveFloat, Share, build, config, to_dict
from unclip.diffusion.losses import random_times, simple
from unclip.diffusion.process import Process, ProcessConfig, power_times
from unclip.errors import UnclipError
from unclip.latents import Pca
from unclip.models.prior import Prior, PriorConfig
from unclip.noise import generator, normal
from unclip.priors import DiffusionPrior
from unclip.stage import Sampling, Stage, check_shrink

PROCESS = ProcessConfig(predicts="x0", variance="analytic")
SAMPLING = Sampling(sampler="ddpm", steps=64, threshold="none")
FLOOR = 0.03  # directions that vary less than this share of the first component hold little but single pictures' noise
POINTS = 64  # times at which the analytic variance's table is measured


@config
class ObjectiveConfig:
    """`text_drop`: share of samples trained without text, for guidance. `min_snr`: gamma of min-SNR weights.

    `draws`: how often each embedding is noised in a step, at times of their own. The text, most of what a step costs, is read
    once for all of them. `shift` spends more of them on noisy times (`random_times`), where the text decides what is where.
    `pca`, a file of principal components, has errors along them balanced (`balance`).
    """

    text_drop: Share = 0.1
    min_snr: PositiveFloat | None = None
    draws: Positive = 1
    shift: PositiveFloat | None = None
    pca: str | None = None


@config
class PriorRun:
    """The config file of a prior."""

    model: PriorConfig
    process: ProcessConfig = PROCESS
    sampling: Sampling = SAMPLING
    clip: ClipSource
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if self.sampling.threshold != "none" and self.sampling.limit <= 1:
            raise ValueError(
                f'sampling.limit = {self.sampling.limit}: embeddings exceed ±1; set sampling.threshold = "none"'
            )
        check_shrink(self.sampling, self.model)
        if self.clip.embeddings == "computed" and not self.data.images:
            raise ValueError('data.images = false, but clip.embeddings = "computed" needs pictures')


@dataclass(frozen=True)
class Objective:
    """Mean squared error of the un-noised image embedding (arXiv 2204.06125, section 2.2), text dropped at random."""

    settings: PriorRun
    process: Process
    core: Prior
    clip: Clip
    metric: Float[Tensor, "d d"] | None = None

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Per-sample losses."""
        how, count = self.settings.objective, len(batch.keys)
        x0, xt, eps, t = self.noised(batch, rng, draws=how.draws)
        words = prompts(self.clip, self.settings.clip, batch, self.core)
        keep = torch.rand(count, generator=rng).to(x0.device) >= how.text_drop
        cond = prior_cond(self.core, self.clip, words, keep & words.keep)
        out = net(xt, self.process.net_time(t, len(t), xt.device), cond)
        if self.metric is not None:  # what is predicted is linear in x0 and eps
            out, x0, eps = (x.to(x0.dtype) @ self.metric for x in (out, x0, eps))
        losses = simple(self.process, out, x0, eps, t, how.min_snr)
        return {"loss": reduce(losses, "(b n) -> b", "mean", b=count)}

    def noised(
        self, batch: Batch, rng: torch.Generator, t: int | None = None, draws: int = 1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x0, xt, eps and t for a batch, each row `draws` times; t is drawn unless given.

        What stays together in batches (`data.together`) has the same noise at the same times: in the difference that its
        texts make, the noise cancels, and so does all that its pictures share.
        """
        x0 = self.core.standardise(image_emb(self.clip, self.settings.clip, batch)).repeat_interleave(draws, dim=0)
        alike = self.settings.data.together if len(batch.keys) % self.settings.data.together == 0 else 1
        count = len(x0) // alike
        times = random_times(count, self.process.schedule.timesteps, rng, self.settings.objective.shift)
        times = times if t is None else torch.full_like(times, t)  # on the CPU, where the schedule's table is
        eps = normal((count, *x0.shape[1:]), rng, x0.device)
        times, eps = (repeat(x, "(g n) ... -> (g k n) ...", n=draws, k=alike) for x in (times, eps))
        return x0, self.process.schedule.noised(x0, eps, times), eps, times


def train(values: dict[str, Any], init: str | None) -> None:
    """Trains a prior from the tables of its config file."""
    settings = build(PriorRun, with_defaults(completed(values), process=PROCESS, sampling=SAMPLING), "prior config")
    run = Run(settings.run, settings.optim, to_dict(settings) | {"init": init or ""})
    if run.finished:
        run.say("finished before; nothing to do")
        return
    torch.manual_seed(settings.run.seed)
    core = Prior(settings.model)
    state = begin(core, run, init)
    clip = open_clip(settings.clip, settings.data, state.accelerator.device)
    how, device = settings.objective, state.accelerator.device
    metric = balance(how.pca, clip.fingerprint, core.std).to(device) if how.pca else None
    objective = Objective(settings, Process(settings.process), core, clip, metric)
    validation = held_out(settings.data, run)
    watch = Watch(
        validation,
        lambda net: preview(net, objective, validation),
        lambda state: finish(state, objective, run, validation),
    )
    fit(state, objective, stream(settings.data, state, run), run, watch)


def balance(path: str, clip: str, std: Float[Tensor, " d"]) -> Float[Tensor, "d d"]:
    """The matrix after which an error's square weighs directions by one over their variance, or over FLOOR of the largest.

    Errors are of embeddings divided by `std`. The least error is reached where it would be without (it is the mean's, in any
    metric), but what tells relations and whose colour is whose lies where embeddings vary little, and is learned sooner.
    Scaled so that the mean embedding's loss stays as it is. Raises UnclipError for components of another CLIP's embeddings.
    """
    pca, header = Pca.load(path)
    if header.parents.get("clip") != clip:
        raise UnclipError(f"objective.pca = {path}: components of another CLIP; write them with tools.embed --pca")
    variances, std = pca.variances, std.cpu()
    floored = variances.clamp(min=FLOOR * variances.max())
    before = (pca.components.square() * variances[:, None] / std.square()).sum()
    return std[:, None] * pca.components.T * (before / (variances / floored).sum() / floored).sqrt()


def preview(net: nn.Module, objective: Objective, validation: Sequence[Batch]) -> Preview:
    """Cosines of embeddings drawn for validation captions to the true one, to another picture's and to the text."""
    assert isinstance(net, Prior)
    settings, clip = objective.settings, objective.clip
    stage = Stage("prior", net, objective.process, settings.sampling)
    batch = validation[0].to(next(net.parameters()).device)
    truth = image_emb(clip, settings.clip, batch)
    words = prompts(clip, settings.clip, batch, objective.core)
    drawn = DiffusionPrior(stage, clip, candidates=1).draw(words, range(len(truth)))
    cosines = F.cosine_similarity(drawn[:, None], truth[None], dim=-1)
    ranks = (cosines >= cosines.diagonal()[:, None]).sum(dim=1)
    numbers = {
        "cos_true": cosines.diagonal().mean(),
        "cos_unrelated": cosines.roll(1, dims=1).diagonal().mean(),
        "cos_text": F.cosine_similarity(drawn, words.text.emb).mean(),
        "recall_at_1": (ranks == 1).float().mean(),
        "norm": net.standardise(drawn).norm(dim=-1).mean(),
    }
    return Preview(numbers={name: float(value) for name, value in numbers.items()})


def eps_power(net: Prior, objective: Objective, validation: Sequence[Batch]) -> tuple[float, ...]:
    """E||eps_theta||² / d at POINTS times: what the analytic variance needs (arXiv 2201.06503, eq. 8)."""
    process, device = objective.process, next(net.parameters()).device
    times = power_times(process.schedule.timesteps, min(POINTS, process.schedule.timesteps))
    sums, count = [0.0] * len(times), 0
    for index, batch in enumerate(validation):
        batch = batch.to(device)
        words = prompts(objective.clip, objective.settings.clip, batch, net)
        with torch.no_grad():
            ready = net.prepare(prior_cond(net, objective.clip, words))  # the text is the same at all times
            for number, t in enumerate(times):
                x0, xt, _, _ = objective.noised(batch, generator("eps_power", number, index), t)
                estimate = process.read(net(xt, process.net_time(t, len(x0), device), ready), xt, t)
                sums[number] += float(process.schedule.eps(estimate.x0, xt, t).square().mean(dim=-1).sum())
        count += len(batch.keys)
    return tuple(round(total / count, 6) for total in sums)


def finish(state: State, objective: Objective, run: Run, validation: Sequence[Batch]) -> None:
    """Exports the averaged net, with what the analytic variance needs if it samples by one."""
    settings, process = objective.settings, objective.settings.process
    if process.variance == "analytic" and sum(len(batch.keys) for batch in validation) > 1:
        device = state.accelerator.device
        data = torch.cat([objective.noised(batch.to(device), generator("variance"), 1)[0] for batch in validation])
        process = dataclasses.replace(
            process,
            eps_power=eps_power(cast(Prior, state.average), objective, validation),
            data_variance=round(float(data.var(dim=0).mean()), 6),
        )
    export(state, run, settings.model, {"clip": objective.clip.fingerprint}, process, settings.sampling)


if __name__ == "__main__":
    command(train)
