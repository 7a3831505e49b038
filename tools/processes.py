"""What a Python process takes, measured from outside."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from unclip.errors import UnclipError


@dataclass(frozen=True)
class Cost:
    """Seconds, seconds of all cores together, the most memory in GB, and what the process said."""

    wall: float
    cpu: float
    memory: float
    told: str


def measured(words: Sequence[str]) -> Cost:
    """What Python takes to run these words. Raises UnclipError when it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here, not by subprocess
        file.seek(0)
        told = file.read().decode(errors="replace").strip()
    if process.returncode:
        last = " ".join(told.splitlines()[-1:])
        raise UnclipError(f"a measured process failed with exit code {process.returncode}: {last}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6, told)
