"""Remakes the paper's figures and tables on a system, as pictures, measured numbers and one page.

python -m tools.figures [NAME …]
"""

import time
from pathlib import Path
from typing import Literal, get_args

from cyclopts import App
from cyclopts.types import PositiveInt

from tools.evaluate.report import how_drawn
from tools.figures import binding, guidance, latent, page, reconstruction
from tools.figures.studio import Studio
from tools.reader import open_reader
from unclip.cli.shell import run
from unclip.errors import UnclipError
from unclip.system import UnCLIP

app = App(help=__doc__, help_format="plaintext", help_formatter="plain")
LEAST = 8  # scenes, for intervals to be defined
Name = Literal[
    "inversion", "variations", "interpolations", "differences", "typographic", "components",
    "inpainting", "modes", "guidance", "binding", "sign", "detail", "steps",
]  # fmt: skip
FIGURES = {
    "inversion": reconstruction.inversion,
    "variations": latent.variations,
    "interpolations": latent.interpolations,
    "differences": latent.differences,
    "typographic": binding.typographic,
    "components": reconstruction.components,
    "inpainting": reconstruction.inpainting,
    "modes": guidance.modes,
    "guidance": guidance.guidance,
    "binding": binding.binding,
    "sign": binding.sign,
    "detail": binding.detail,
    "steps": guidance.steps,
}


@app.default
def figures(
    *names: Name,
    system: str = "demo",
    reader: Path = Path("unclip/demo/reader.safetensors"),
    out: Path = Path("docs/figures"),
    count: PositiveInt = 40,
    device: str = "auto",
) -> None:
    """Remake figures.

    Parameters
    ----------
    names
        Which; all unless some are named.
    system
        A folder with system.toml, or the name of a shipped one.
    reader
        The attribute reader's checkpoint (python -m tools.reader).
    out
        Folder of sheets and numbers; the page lies beside it (OUT.md).
    count
        Scenes or prompts of each figure, at most: those that take long have fewer, and say how many.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    if count < LEAST:
        raise UnclipError(f"--count {count}: expected at least {LEAST}; fewer tell nothing")
    opened = UnCLIP.from_pretrained(system, device)
    studio = Studio(opened, open_reader(reader), count)
    made = {
        "system": opened.identity.get("name", system),
        "count": count,
        "weights": opened.identity.get("weights", {}),
        "drawn": how_drawn(opened),
    }
    for name in names or get_args(Name):
        began = time.time()
        figure = FIGURES[name](studio)
        page.save(out, name, figure, made)
        verdicts = ", ".join(claim.verdict for claim in figure.claims)
        print(f"{name}: {verdicts} ({time.time() - began:.0f} s)", flush=True)
    print(page.page(out, FIGURES))


if __name__ == "__main__":
    run(app)
