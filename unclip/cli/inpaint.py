"""`unclip inpaint`."""

from pathlib import Path

from cyclopts.types import NonNegativeInt, PositiveInt

from unclip.cli.drawing import Names, draw, first_seed
from unclip.cli.manipulate import Chosen, Common, Number, Shared
from unclip.cli.output import slug
from unclip.settings import Settings


def inpaint(
    image: Path,
    prompt: str,
    *,
    mask: Path,
    number: Number = 4,
    seed: NonNegativeInt | None = None,
    rounds: PositiveInt = 5,
    common: Shared = Common(),
    settings: Chosen = Settings(),
) -> None:
    """Draw part of a picture anew; all other pixels stay exactly as they are.

    Parameters
    ----------
    image
        The picture; its centre square is used.
    prompt
        What the whole picture should show.
    mask
        A picture of the same size, white (or transparent) where to draw.
    number
        How many pictures.
    seed
        Picture k gets seed + k. Default: a random one.
    rounds
        How often each step is taken; more makes old and new fit better.
    """
    first = first_seed(seed)
    draw(
        common,
        settings,
        lambda system, drawing: system.inpaint(
            image, mask, prompt, seeds=range(first, first + number), rounds=rounds, **drawing
        ),
        Names(f"{slug(image.stem)}-{slug(prompt)}"[:60]),
    )
