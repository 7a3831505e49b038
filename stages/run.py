"""A training command: its command line, its run folder, its log."""

import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from PIL import Image
from pydantic import Field

from unclip.checkpoint import read_header
from unclip.cli.shell import run as run_app
from unclip.config import (
    Natural,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    config,
    differences,
    override,
    read_toml,
    to_dict,
)
from unclip.errors import UnclipError
from unclip.places import write_text
from unclip.version import VERSION


@config
class OptimConfig:
    """AdamW with decoupled weight decay (none on vectors), warm-up over `warmup` steps, then constant or cosine to 0.

    `clip` bounds the gradient's norm, 0 leaves it. `ema` is the decay of the weights' moving average, approached as
    1 - (1 + step) ** -ema_power so that early weights are forgotten.
    """

    lr: PositiveFloat
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    warmup: Natural = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip: NonNegativeFloat = 1.0
    ema: Share = 0.9999
    ema_power: PositiveFloat = 0.75


@config
class RunConfig:
    """The run itself. `batch` is per process and micro-step; `accumulate` of them make one optimizer step.

    `precision` "auto" is bf16 on CUDA and fp32 elsewhere: few CPUs have bf16 arithmetic, others emulate it 20 times
    slower. `channels_last` lays pictures out with channels innermost, which some convolutions are faster in. Every
    number called `*_every` counts optimizer steps; `keep` is how many states to resume from are kept.
    `validation` is how many samples are validated on, `previews` how many of them a sheet shows, with seeds 0, 1, …
    `fresh` names the net's modules (or tensors) that start anew under --init, such as a text encoder that was exchanged.
    `pretrained` maps modules to checkpoints of their own that they start from, such as a decoder's draft.
    """

    out: str
    steps: Positive
    batch: Positive
    accumulate: Positive = 1
    seed: Natural = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = False
    log_every: Positive = 50
    save_every: Positive = 1000
    keep: Positive = 2
    fresh: tuple[str, ...] = ()
    pretrained: dict[str, str] = Field(default_factory=dict)
    validate_every: Positive = 1000
    validation: Natural = 256
    preview_every: Positive = 1000
    previews: Natural = 16
    tensorboard: bool = False


class Run:
    """A run folder: `config.json`, `log.jsonl`, `samples/`, `states/` to resume from, and `weights.safetensors`."""

    def __init__(self, settings: RunConfig, optim: OptimConfig, config: Mapping[str, Any]) -> None:
        """The run of this config; nothing is written before `open`. Raises UnclipError when the folder is another's."""
        self.settings, self.optim, self.config = settings, optim, config
        self.folder = Path(settings.out)
        self.main = int(os.environ.get("RANK", "0")) == 0
        self._board: Any = None
        if self.main:
            self._check(json.loads(json.dumps(config)))

    @property
    def states(self) -> Path:
        """Where what resumes is kept."""
        return self.folder / "states"

    @property
    def weights(self) -> Path:
        """The trained net, as the product loads it."""
        return self.folder / "weights.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the weights of the last step are there, so that nothing is left to do."""
        return self.weights.is_file() and read_header(self.weights).provenance.get("step") == self.settings.steps

    def open(self, step: int) -> None:
        """Makes the folder; or goes on at `step`, and what a killed run logged after it is forgotten."""
        if not self.main:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UnclipError(f"run.out = {self.folder}: a file is in the way; give another folder") from None
        write_text(self.folder / "config.json", json.dumps(self.config, indent=2) + "\n")
        log = self.folder / "log.jsonl"
        if log.is_file():
            rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(log, "".join(row for row in rows if step and _step_of(row) <= step))
        self._board = _tensorboard(self.folder, step) if self.settings.tensorboard else None

    def log(self, step: int, **values: float) -> None:
        """Adds a row to `log.jsonl` and, if it is on, to TensorBoard; what is not finite becomes null."""
        if not self.main:
            return
        row = {"step": step, "time": round(time.time(), 1), **{key: _plain(value) for key, value in values.items()}}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def say(self, text: str) -> None:
        """One line for a person, from the main rank."""
        if self.main:
            print(f"{self.folder}: {text}", file=sys.stderr, flush=True)

    def sheet(self, step: int, image: Image.Image) -> None:
        """Keeps a sheet of samples."""
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{step:07d}.png"
        partial = path.with_suffix(".part")
        try:
            image.save(partial, format="PNG")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _check(self, config: dict[str, Any]) -> None:
        if self.settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UnclipError(
                "run.tensorboard = true, but tensorboard is not installed; pip install 'unclip[tensorboard]'"
            )
        path = self.folder / "config.json"
        if path.is_file():
            try:
                old = json.loads(path.read_bytes())
            except ValueError:
                raise UnclipError(f"{path}: no JSON; mend it, or give run.out another folder") from None
            changed = differences(old, config)
            if changed and (self.weights.is_file() or any(self.states.glob("step-*.pt"))):  # else nothing would be lost
                raise UnclipError(
                    f"{self.folder} holds a run of another config, which differs in {', '.join(changed)};"
                    " give run.out another folder, or the config it had"
                )
        elif self.folder.is_dir() and any(entry.suffix != ".part" for entry in self.folder.iterdir()):
            raise UnclipError(f"{self.folder} is not empty and holds no run; give run.out another folder")


def with_defaults(values: Mapping[str, Any], **tables: Any) -> dict[str, Any]:
    """A run's config in which a table that is only begun, such as [sampling], is completed from the stage's own default."""
    return {
        **values,
        **{
            name: to_dict(table) | given
            for name, table in tables.items()
            if isinstance(given := values.get(name, {}), dict)
        },
    }


def command(train: Callable[[dict[str, Any], str | None], None]) -> None:
    """Runs `train` on a config file with overrides from the command line; the main of every `python -m stages.NAME`."""
    about = sys.modules[train.__module__].__doc__
    app = App(help=about, help_format="plaintext", help_formatter="plain", version=VERSION)

    @app.default
    def main(config: Path, *overrides: str, init: Annotated[Path | None, Parameter(name="--init")] = None) -> None:
        """Train. The same command, run again, goes on where it stopped.

        Parameters
        ----------
        config
            A TOML file.
        overrides
            key.path=value, such as optim.lr=1e-4.
        init
            A checkpoint whose weights to start from, without optimizer state.
        """
        values = override(read_toml(config), overrides)
        train(values, None if init is None else str(init))

    run_app(app)


def _tensorboard(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)


def _step_of(row: str) -> float:
    """The step of a row of the log; infinite for one that was cut short."""
    try:
        return json.loads(row)["step"]
    except ValueError:
        return math.inf


def _plain(value: float) -> float | None:
    """The value with six digits, for JSON, which knows no nan."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
