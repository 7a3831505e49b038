"""`unclip inpaint`."""

from pathlib import Path

from cyclopts.types import PositiveInt

from unclip.cli.drawing import Choices, Chosen, Many, Names, Several, draw
from unclip.cli.output import slug


def inpaint(
    image: Path,
    prompt: str,
    *,
    mask: Path,
    rounds: PositiveInt = 5,
    several: Many = Several(),
    choices: Chosen = Choices(),
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
    rounds
        How often each step is taken; more makes old and new fit better.
    """
    draw(
        choices,
        lambda system, drawing: system.inpaint(image, mask, prompt, seeds=several.seeds(), rounds=rounds, **drawing),
        Names(f"{slug(image.stem)}-{slug(prompt)}"[:60]),
        [image, mask],
    )
