"""The `unclip` command. Nothing here imports torch before a command runs, so that `--help` answers at once."""

import os

from cyclopts import App

from unclip.cli.convert import convert
from unclip.cli.generate import generate
from unclip.cli.inpaint import inpaint
from unclip.cli.inspect import inspect
from unclip.cli.manipulate import blend, edit, interpolate, reconstruct, vary
from unclip.cli.replay import info, replay
from unclip.cli.shell import run
from unclip.version import VERSION

app = App(
    name="unclip",
    help="Open unCLIP: draws pictures from text through CLIP's image embeddings.",
    version=VERSION,
    help_format="plaintext",
    help_formatter="plain",
)
for command in (generate, vary, interpolate, blend, edit, reconstruct, inpaint, replay, info, inspect, convert):
    app.command(command)


def main() -> None:
    """The entry point of the `unclip` script."""
    # threads that wait for one another shall sleep: with another process on a core, spinning took twice as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by OpenMP when torch is imported
    run(app)
