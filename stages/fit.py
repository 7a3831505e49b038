"""The training loop, one for all stages."""

import math
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor, nn

from stages.data import Batch, DataConfig, batches, validation_batches
from stages.report import Report
from stages.run import OptimConfig, Run
from stages.state import State, save
from unclip.errors import UnclipError, UnclipWarning
from unclip.noise import generator

PATIENCE = 20  # steps in a row without a finite gradient, after which a run ends


class Objective(Protocol):
    """What a stage is, to the loop: per-sample losses of a batch, by term; "loss" is the one that is minimised."""

    def __call__(self, net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Preview:
    """What the averaged net can do by now: a sheet of samples, and numbers for the log."""

    sheet: Image.Image | None = None
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Watch:
    """How a run is watched and what it leaves: validation batches, a preview of the averaged net, its export."""

    validation: Sequence[Batch]
    preview: Callable[[nn.Module], Preview]
    export: Callable[[State], None]


def fit(state: State, objective: Objective, samples: Iterator[Batch], run: Run, watch: Watch) -> None:
    """Trains to `run.steps`, resuming from where `state` stands; the trained net is at `run.weights` in the end.

    Raises UnclipError when gradients stay non-finite; KeyboardInterrupt after a signal, once the state is saved.
    """
    settings, report, bad = run.settings, Report(state, run), 0
    run.open(state.step)
    with _Signals() as stop, warnings.catch_warnings(), report:
        warnings.simplefilter("ignore", UnclipWarning)  # captions too long for a net are no news in training data
        if state.step == 0:
            _look(state, objective, run, watch, report)
        while state.step < settings.steps:
            losses, norm, batch = _optimise(state, objective, samples, run, report)
            bad = 0 if math.isfinite(norm) else bad + 1
            if bad >= PATIENCE:
                broken = next((name for name, value in losses.items() if not math.isfinite(value)), "the gradient")
                raise UnclipError(f"{broken} was not finite for {PATIENCE} steps; lower optim.lr or use fp32")
            report.step(losses, norm, skipped=batch.skipped, reason=batch.reason)
            last, stopping = state.step == settings.steps, stop.asked(state)
            if last or state.step % settings.validate_every == 0 or state.step % settings.preview_every == 0:
                _look(state, objective, run, watch, report)
            if last or stopping or state.step % settings.save_every == 0:
                _keep(state, run, watch, report, batch.position)
            if stopping and not last:
                raise KeyboardInterrupt
        if run.main and not run.finished:  # it was stopped after the last step's state, before its export
            watch.export(state)
    state.accelerator.end_training()  # ranks that exit with their process group alive now and then abort


def stream(data: DataConfig, state: State, run: Run) -> Iterator[Batch]:
    """This rank's training batches, from where the state stands."""
    rank, world = state.accelerator.process_index, state.accelerator.num_processes
    return batches(data, run.settings.batch, run.settings.seed, rank, world, state.position)


def held_out(data: DataConfig, run: Run) -> list[Batch]:
    """The validation batches, where the main rank needs them; none when `run.validation` is 0."""
    settings = run.settings
    return validation_batches(data, settings.batch, settings.validation) if run.main and settings.validation else []


def lr_at(step: int, optim: OptimConfig, steps: int) -> float:
    """The learning rate of a step, counted from 0."""
    warm = min(1.0, (step + 1) / (optim.warmup + 1))
    if optim.schedule == "constant" or step < optim.warmup:
        return optim.lr * warm
    done = (step - optim.warmup) / max(1, steps - optim.warmup)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


def _optimise(
    state: State, objective: Objective, samples: Iterator[Batch], run: Run, report: Report
) -> tuple[dict[str, float], float, Batch]:
    """One optimizer step: the mean of each loss, the gradient's norm, and the last batch."""
    settings, accelerator = run.settings, state.accelerator
    for group in state.optimizer.param_groups:
        group["lr"] = lr_at(state.step, run.optim, settings.steps)
    state.net.train()
    sums: dict[str, Tensor] = {}
    norm, batch = math.nan, None
    for micro in range(settings.accumulate):
        with report.waiting():
            batch = next(samples).to(accelerator.device)
        key = (settings.seed, accelerator.process_index, state.step, micro)
        torch.manual_seed(generator("dropout", *key).initial_seed())
        with accelerator.accumulate(state.net):
            terms = objective(state.net, batch, generator("step", *key))
            losses = {name: value.mean() for name, value in terms.items()}
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients:
                norm = float(
                    cast(Tensor, accelerator.clip_grad_norm_(state.net.parameters(), run.optim.clip or math.inf))
                )
                if math.isfinite(norm):  # the same on every rank, since gradients are averaged first
                    state.optimizer.step()
                state.optimizer.zero_grad(set_to_none=True)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
    assert batch is not None
    if math.isfinite(norm):
        state.ema.update()
    state.step += 1
    state.samples += settings.batch * settings.accumulate * accelerator.num_processes
    return {name: float(value) / settings.accumulate for name, value in sums.items()}, norm, batch


def _look(state: State, objective: Objective, run: Run, watch: Watch, report: Report) -> None:
    """Validation loss on fixed noise, and the preview; on the main rank while the others wait."""
    settings, last = run.settings, state.step == run.settings.steps
    with report.paused():
        if run.main and watch.validation:
            if last or state.step % settings.validate_every == 0:
                report.validated(validate(state.average, objective, watch.validation, state.accelerator.device))
            if settings.previews and (last or state.step % settings.preview_every == 0):
                preview = watch.preview(state.average)
                if preview.sheet is not None:
                    run.sheet(state.step, preview.sheet)
                if preview.numbers:
                    run.log(state.step, **preview.numbers)
        state.accelerator.wait_for_everyone()


def _keep(state: State, run: Run, watch: Watch, report: Report, position: Any) -> None:
    """Leaves what resumes, and the weights so far."""
    with report.paused():
        save(state, run, position)
        if run.main:
            watch.export(state)


def validate(net: nn.Module, objective: Objective, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """The mean of each loss over fixed batches with fixed noise, which makes it comparable from step to step."""
    sums: dict[str, float] = {}
    count = 0
    for index, batch in enumerate(batches):
        with torch.no_grad():
            losses = objective(net, batch.to(device), generator("validation", index))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.sum())
        count += len(batch.keys)
    return {f"val_{name}": value / count for name, value in sums.items()}


class _Signals:
    """Turns Ctrl-C and SIGTERM, inside the block, into a wish to stop after the step; a second one stops at once."""

    def __enter__(self) -> "_Signals":
        self.wished = False
        self.usual = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.usual.items():
            signal.signal(number, handler)

    def _note(self, *_: Any) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True

    def asked(self, state: State) -> bool:
        """Whether any rank was signalled; ranks must agree, or one would wait for the others for ever."""
        if state.accelerator.num_processes == 1:
            return self.wished
        flag = torch.tensor([int(self.wished)], device=state.accelerator.device)
        return bool(cast(Tensor, state.accelerator.reduce(flag, "sum")).item())
