"""Whole processes: help without torch, and drawing until Ctrl-C where stages cannot be imported."""

import os
import pty
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unclip.images import open_image

ROOT = Path(__file__).parents[1]
LIGHT = """
import contextlib, io, os, sys
sys.argv = ["unclip", *{words!r}]
from unclip.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    try:
        main()
    except SystemExit as end:
        print(end.code)
print(out.getvalue())
print("WAITS", os.environ["OMP_WAIT_POLICY"])
print("HEAVY", sorted({{"torch", "numpy", "pydantic", "PIL", "open_clip", "stages"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"]])
def test_help_is_light(words):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout
    assert "WAITS PASSIVE" in done.stdout  # set before torch could read it
    assert ("--negative" in done.stdout) == (len(words) == 2)
    assert "generate" in done.stdout


@pytest.mark.parametrize("words", [["generate", "a cat", "--model", "org/name"], ["convert", "org/name", "nowhere"]])
def test_a_hub_that_is_not_to_be_reached_is_told_of_before_torch_is_imported(words, tmp_path):
    """The imports take seconds, and the hub's own patience nearly all of the five that a person is to wait at most."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)],
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "torch" not in done.stdout.partition("HEAVY")[2]
    assert "org/name: not wholly in the cache, and http://127.0.0.1:9 is not to be reached" in done.stdout


MISTAKEN = """
import sys, numpy as np
from PIL import Image
from unclip import UnCLIP
from unclip.errors import UnclipError

s, x = UnCLIP.from_pretrained(sys.argv[1], device="cpu"), Image.new("RGB", (20, 20))
for call in (
    lambda: s.inpaint(x, np.ones((4, 4)), "a cube"),
    lambda: s.vary(np.ones((4, 4, 3))),
    lambda: s.vary(None),
    lambda: s.vary(x, n="two"),
    lambda: s.generate("a cube", ["x"]),
    lambda: s.generate(None, [0]),
    lambda: s.generate([1, 2], [0, 1]),
    lambda: s.generate("a cube", [0], batch="3"),
    lambda: s.text_diff(x, to="a cube", theta="0.3"),
    lambda: s.interpolate(x, x, frames=2.5),
    lambda: s.reconstruct(x, components=[2.5]),
    lambda: s.blend([x, x], weights=["a", 1]),
    lambda: s.blend(5, [1]),
    lambda: s.vary(x, n=[0, 1]),
    lambda: s.text_diff(x, to="a cube", theta=10**400),
    lambda: s.reconstruct(x, seed="x"),
    lambda: s.invert(x, prompt=5),
    lambda: UnCLIP.from_pretrained(5),
):
    try:
        call()
    except UnclipError as error:
        print(str(error))
print([one.seed for one in s.generate("a cube", np.array(5), np.int64(2), size=16, steps=2)])
"""


def test_values_of_a_wrong_type_are_one_line(folder):
    """In a process without the tests' type checker, which would be faster with its answer."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MISTAKEN, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *told, drawn = done.stdout.splitlines()
    assert len(told) == 18
    assert all("expected" in line for line in told), told
    assert drawn == "[5]"


WITHOUT_STAGES = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("stages", "tools", "tests", "beartype", "accelerate", "webdataset", "ema_pytorch"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Wall())
from unclip.cli import main
main()
"""


def test_a_process_without_stages_draws_until_ctrl_c(folder, tmp_path):
    """Three things that only a process of its own shows: it costs ten seconds of imports, so they share one.

    Sampling needs nothing that training needs; a bar on a terminal does not swallow what a pipe waits for; a real SIGINT
    ends with what is finished.
    """
    words = ["generate", "a red cube", "--model", folder, "--out", tmp_path / "out", "--seed", 0, "--device", "cpu"]
    more = ["-n", 10_000, "--batch", 2, "--size", 16]
    bars, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_STAGES, *map(str, [*words, *more])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        env=os.environ | {"TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's "&" leaves it ignored
    )
    os.close(terminal)
    told = bytearray()
    reader = threading.Thread(target=drain, args=(bars, told))
    reader.start()
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 100)
        assert ready, f"nothing on stdout: {told.decode()}"
        first = process.stdout.readline()
        assert first.strip() == str(tmp_path / "out" / "a-red-cube-0.png"), told.decode()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        reader.join()
    assert process.returncode == 130, told.decode()
    assert "stopped; what was finished is kept" in told.decode()
    assert "Traceback" not in told.decode()
    files, told_of = {str(path) for path in (tmp_path / "out").iterdir()}, {first.strip(), *rest.split()}
    assert told_of <= files
    assert len(files - told_of) <= 1, "the signal may fall between a picture and its line"
    assert {open_image(path).size for path in (tmp_path / "out").iterdir()} == {(16, 16)}


def drain(terminal, into):
    """Reads a terminal until it closes; unread, it would stop its writer."""
    try:
        while chunk := os.read(terminal, 4096):
            into += chunk
    except OSError:  # how Linux says that the other side is gone
        pass
    finally:
        os.close(terminal)
