"""`unclip generate`."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from unclip.cli.drawing import Common, Names, draw, first_seed
from unclip.cli.output import slug
from unclip.settings import Settings


def generate(
    *prompts: str,
    number: Annotated[PositiveInt, Parameter(name=["--number", "-n"])] = 4,
    seed: NonNegativeInt | None = None,
    init: str | None = None,
    common: Annotated[Common, Parameter(name="*")] = Common(),
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
) -> None:
    """Draw pictures of prompts: a PNG for each, which holds its recipe, and a grid of all. Nothing is overwritten.

    Parameters
    ----------
    prompts
        What to draw. An empty prompt draws unconditionally.
    number
        Pictures per prompt.
    seed
        Picture k of a prompt gets seed + k, and is the same alone or in any batch. Default: a random one, which is printed.
    init
        A latent (.safetensors) or picture whose embedding and noise stand in place of what would be drawn for the prompt.
    """
    from unclip.errors import UnclipError

    if not prompts:
        raise UnclipError('no prompt given; expected one, as in: unclip generate "a red cube"')
    first = first_seed(seed)
    words = [prompt for prompt in prompts for _ in range(number)]
    seeds = [first + k for _ in prompts for k in range(number)]
    names = [f"{slug(word)}-{number}" for word, number in zip(words, seeds, strict=True)]
    columns = number if len(prompts) > 1 else None
    draw(
        common,
        settings,
        lambda system, drawing: system.generate(words, seeds, init=init, **drawing),
        Names(slug(words[0]), names, columns),
    )
