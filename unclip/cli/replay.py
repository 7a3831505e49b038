"""`unclip replay` and `unclip info`: the recipe inside a picture, carried out again or shown."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unclip.cli.drawing import Choices, Common, Names, draw


def replay(
    image: Path,
    *,
    source: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    common: Annotated[Common, Parameter(name="*")] = Common(),
) -> None:
    """Draw a picture again from the recipe that it holds; on the same machine it is the same to the pixel.

    Parameters
    ----------
    image
        A PNG that unclip wrote.
    source
        The files it was made from, where they are no longer where they were.
    """
    from unclip.images import read_recipe

    recipe = read_recipe(image)
    draw(
        Choices(common=common),
        lambda system, how: system.replay(recipe, source, batch=how["batch"], on_step=how["on_step"]),
        Names(image.stem, [f"{image.stem}-replay"]),
    )


def info(image: Path) -> None:
    """Show the recipe inside a picture, as JSON.

    Parameters
    ----------
    image
        A PNG that unclip wrote.
    """
    import json

    from unclip.images import read_recipe

    print(json.dumps(read_recipe(image), indent=2, ensure_ascii=False))
