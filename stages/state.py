"""What resumes: net, optimizer, moving average, step, and where each rank stands in the data."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from ema_pytorch import EMA
from torch import Tensor, nn

from stages.run import OptimConfig, Run
from unclip.checkpoint import load_strictly, read_header, read_tensors
from unclip.errors import UnclipError

NAME = re.compile(r"step-\d{8}\.pt")


@dataclass(eq=False)
class State:
    """A training in progress. `net` is wrapped for training, `core` the bare module inside; `samples`: seen so far."""

    accelerator: Accelerator
    core: nn.Module
    net: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    step: int = 0
    samples: int = 0
    positions: list[Any] = field(default_factory=list)

    @property
    def position(self) -> Any:
        """Where this rank stands in the data; None at the beginning."""
        return self.positions[self.accelerator.process_index] if self.positions else None

    @property
    def average(self) -> nn.Module:
        """The net with averaged weights, in evaluation mode: what is validated, previewed and exported."""
        return cast(nn.Module, self.ema.ema_model).eval()


def begin(core: nn.Module, run: Run, init: str | None = None) -> State:
    """A training of `core` at its start, or where the run folder's newest state stands.

    `init` names a checkpoint to take weights from at the start. Raises UnclipError when it does not fit.
    """
    settings, optim = run.settings, run.optim
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and torch.cuda.is_available())
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unless told, torchrun's processes would not find each other there
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=settings.accumulate,
    )
    newest = _saved(run.states)[-1:]
    if not newest:
        if init is not None:
            _start_from(core, init, (*settings.fresh, *settings.pretrained))
        for module, weights in settings.pretrained.items():
            _start_module(core, module, weights)
    core.to(accelerator.device)
    if settings.channels_last:
        core.to(memory_format=torch.channels_last)
    # the average is built from the bare net: of a wrapped one no name would match, and it would never move
    ema = EMA(
        core,
        beta=optim.ema,
        update_every=1,  # the library's default of 10 does not rescale beta
        update_after_step=0,
        power=optim.ema_power,
        include_online_model=False,
        use_foreach=True,
        # buffers are copied: a mask of -inf has no average
        param_or_buffer_names_no_ema={name for name, _ in core.named_buffers()},
    )
    net, optimizer = accelerator.prepare(core, _adamw(core, optim))
    state = State(accelerator, core, net, optimizer, cast(EMA, ema.to(accelerator.device)))
    if newest:
        _restore(state, newest[0])
    return state


def save(state: State, run: Run, position: Any) -> None:
    """Writes the state, whole or not at all, and deletes all but the newest `run.keep`. Every rank calls it."""
    state.positions = gather_object([position])
    if run.main:
        run.states.mkdir(exist_ok=True)
        path = run.states / f"step-{state.step:08d}.pt"
        partial = path.with_suffix(".part")
        try:
            torch.save(_contents(state), partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # the latter is torch's word for a full disk
            raise UnclipError(f"{path}: could not be written: {str(error).splitlines()[0]}") from None
        finally:
            partial.unlink(missing_ok=True)
        for old in _saved(run.states)[: -run.settings.keep]:
            old.unlink()
    state.accelerator.wait_for_everyone()


def _start_from(core: nn.Module, init: str, fresh: Sequence[str]) -> None:
    """Gives `core` the weights in a checkpoint, but for the modules called `fresh`: they keep their own, or are left out.

    Raises UnclipError when the checkpoint is of another net, or neither of the two has such a module.
    """
    header, expected = read_header(init), type(core).__name__.lower()
    if header.net != expected:
        raise UnclipError(f"{init}: holds a {header.net}; expected a {expected}")
    own, given = core.state_dict(), read_tensors(init)
    for module in fresh:
        if not any(_within(name, [module]) for name in own | given):
            modules = ", ".join(sorted({name.split(".")[0] for name in own}))
            raise UnclipError(f"run.fresh: this {expected} has no {module!r}; its modules are {modules}")
    new = {name: x for name, x in own.items() if _within(name, fresh)}
    load_strictly(core, new | {name: x for name, x in given.items() if not _within(name, fresh)}, init)
    core.requires_grad_(True)


def _start_module(core: nn.Module, module: str, weights: str) -> None:
    """Gives one module of `core` the weights of a checkpoint of its own. Raises UnclipError when there is none such."""
    part = dict(core.named_modules()).get(module)
    if part is None:
        modules = ", ".join(name for name, _ in core.named_children())
        raise UnclipError(f"run.pretrained: this net has no {module!r}; its modules are {modules}")
    _start_from(part, weights, ())


def _within(name: str, modules: Sequence[str]) -> bool:
    """Whether the tensor is one of these modules', or is named itself."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _contents(state: State) -> dict[str, Any]:
    return {
        "net": state.core.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "ema": state.ema.state_dict(),
        "step": state.step,
        "samples": state.samples,
        "positions": state.positions,
    }


def _restore(state: State, path: Path) -> None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)  # what follows copies to where things are
        state.core.load_state_dict(saved["net"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.ema.load_state_dict(saved["ema"])
        state.step, state.samples, state.positions = saved["step"], saved["samples"], saved["positions"]
    except Exception as error:  # noqa: BLE001 (a damaged file can fail in any way)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UnclipError(f"{path}: cannot be resumed from; delete it to use the one before ({reason})") from None
    ranks = state.accelerator.num_processes
    if len(state.positions) != ranks:
        wrote = len(state.positions)
        raise UnclipError(f"{path}: written by {wrote} processes, this run has {ranks}; resume with as many")


def _saved(folder: Path) -> list[Path]:
    """The states in a folder, oldest first; whatever else lies there is left alone."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if NAME.fullmatch(path.name))


def _adamw(core: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    decayed, plain = _split([parameter for parameter in core.parameters() if parameter.requires_grad])
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _split(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices, and what is no matrix: gains, biases, scales."""
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
