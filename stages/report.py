"""What a run tells while it goes on: a live line on a terminal, plain lines elsewhere, and the log."""

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stages.run import Run
from stages.state import State


class Report:
    """Counts time and samples between two lines; only the main rank speaks."""

    def __init__(self, state: State, run: Run) -> None:
        self.state, self.run = state, run
        self.console = Console(stderr=True)
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        self.live = Progress(*columns, console=self.console, disable=not (run.main and self.console.is_terminal))
        self.task = self.live.add_task("training", total=run.settings.steps, completed=state.step)
        self.skipped = 0
        self._reset()

    def __enter__(self) -> "Report":
        self.live.start()
        self._reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is counted as waiting for data."""
        start = time.perf_counter()
        yield
        self.wait += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is no training time."""
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    def step(self, losses: dict[str, float], norm: float, skipped: int, reason: str | None) -> None:
        """Notes a finished step; every `log_every` of them become a row of the log."""
        settings, state = self.run.settings, self.state
        self.rows.append(losses)
        self.live.update(self.task, completed=state.step)
        if state.step % settings.log_every and state.step != settings.steps:
            return
        if skipped > self.skipped:
            self.skipped = skipped
            self.say(f"warning: {skipped} samples skipped so far, the last because: {reason}")
        seconds = time.perf_counter() - self.start
        count = len(self.rows) * settings.batch * settings.accumulate * state.accelerator.num_processes
        means = {name: sum(row[name] for row in self.rows) / len(self.rows) for name in self.rows[0]}
        speed, wait = count / seconds, self.wait / seconds
        lr = state.optimizer.param_groups[0]["lr"]
        pace = {"images_per_second": speed, "data_wait": wait}
        self.run.log(state.step, **means, grad_norm=norm, lr=lr, **pace, skipped=skipped)
        left = (settings.steps - state.step) * seconds / len(self.rows)
        text = f"loss {means['loss']:.4f}  {speed:.0f} images/s  data wait {wait:.0%}"
        self.live.update(self.task, description=text)
        if not self.console.is_terminal:
            self.say(f"step {state.step}/{settings.steps}  {text}  {left / 60:.1f} min left")
        self._reset()

    def validated(self, losses: dict[str, float]) -> None:
        """Logs and says validation losses."""
        if losses:
            self.run.log(self.state.step, **losses)
            self.say("  ".join([f"step {self.state.step}", *(f"{name} {value:.4f}" for name, value in losses.items())]))

    def say(self, text: str) -> None:
        """One line for a person."""
        if self.run.main and self.console.is_terminal:
            self.live.console.print(text, highlight=False, markup=False)
        elif self.run.main:
            print(text, file=sys.stderr, flush=True)

    def _reset(self) -> None:
        self.start, self.wait, self.rows = time.perf_counter(), 0.0, []
