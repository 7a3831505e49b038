"""What all tests share: one thread, shapes that are checked while they run, and a system of tiny random nets."""

import signal
import sys

import numpy as np
import torch
from jaxtyping import install_import_hook
from PIL import Image

torch.set_num_threads(1)
# before a test imports any part of unclip that has shapes; other processes do without
install_import_hook("unclip", "beartype.beartype")

import pytest  # noqa: E402

from .systems import CAPTIONS, SIZES, write_system  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A system on disk; not to be written to."""
    return write_system(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="session")
def system(folder):
    """The system, opened; whoever changes a part puts it back."""
    from unclip.system import UnCLIP

    return UnCLIP.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="session")
def pictures(system):
    """Two pictures that the system itself drew, which its random decoder can therefore draw."""
    return [one.image for one in system.generate(CAPTIONS[0], [1, 2], size=SIZES[0], guidance=1.0)]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command line in this process; gives its exit code, stdout and stderr."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words):
        from unclip.cli import app
        from unclip.cli.shell import run

        monkeypatch.setattr(sys, "argv", ["unclip", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run(app)
        out, err = capsys.readouterr()
        code = caught.value.code
        if isinstance(code, str):  # as the interpreter does
            code, err = 1, f"{err}{code}\n"
        return code or 0, out, err

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def generate(cli, folder, tmp_path):
    """`unclip generate` with the tiny system, into tmp_path/out, unless told otherwise."""

    def call(*words, model=folder, out=tmp_path / "out"):
        return cli("generate", *words, "--model", model, "--out", out, "--device", "cpu")

    return call


@pytest.fixture
def call(cli, folder, tmp_path):
    """Runs a command with the tiny system, into tmp_path/out."""

    def run(command, *words):
        return cli(command, *words, "--model", folder, "--out", tmp_path / "out", "--device", "cpu")

    return run


@pytest.fixture
def image(tmp_path):
    """The file of a picture, 50 wide and 40 high."""
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path
