"""What a training leaves for the product: the averaged weights as a checkpoint that describes itself."""

import contextlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stages.run import Run
from stages.state import State
from unclip import checkpoint
from unclip.config import to_dict
from unclip.diffusion.process import ProcessConfig
from unclip.stage import Sampling
from unclip.version import VERSION


def export(
    state: State,
    run: Run,
    model: Any,
    parents: Mapping[str, str],
    process: ProcessConfig | None = None,
    sampling: Sampling | None = None,
) -> None:
    """Writes the averaged net of a stage to `run.weights`; `parents`: fingerprints of what taught it.

    A net that diffuses nothing has no process and no sampling.
    """
    header = checkpoint.Header(
        net=type(state.core).__name__.lower(),
        model=to_dict(model),
        process=to_dict(process) if process else {},
        sampling=to_dict(sampling) if sampling else {},
        parents=dict(parents),
        provenance=provenance(state, run),
    )
    checkpoint.save(run.weights, state.average.state_dict(), header)


def provenance(state: State, run: Run) -> dict[str, Any]:
    """Where weights come from."""
    return {
        "step": state.step,
        "samples": state.samples,
        "data": run.config.get("data", {}),
        "degrade": run.config.get("degrade", {}),
        "init": run.config.get("init", ""),
        "torch": torch.__version__,
        "unclip": VERSION,
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the source tree, or nothing where there is none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        here = Path(__file__).parent
        words = ["git", "rev-parse", "HEAD"]
        return subprocess.run(words, cwd=here, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return ""
