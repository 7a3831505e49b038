"""`unclip generate`."""

from pathlib import Path

from unclip.cli.drawing import Choices, Chosen, Many, Names, Several, draw
from unclip.cli.output import slug


def generate(
    *prompts: str,
    init: Path | None = None,
    several: Many = Several(),
    choices: Chosen = Choices(),
) -> None:
    """Draw pictures of prompts: a PNG for each, which holds its recipe, and a grid of several. Nothing is overwritten.

    Parameters
    ----------
    prompts
        What to draw. An empty prompt draws unconditionally.
    init
        A latent (.safetensors) or picture whose embedding and noise stand in place of what would be drawn for the prompt.
    """
    from unclip.errors import UnclipError

    if not prompts:
        raise UnclipError('no prompt given; expected one, as in: unclip generate "a red cube"')
    own = several.seeds(1)
    words = [prompt for prompt in prompts for _ in own]
    seeds = [seed for _ in prompts for seed in own]
    names = [f"{slug(word)}-{seed}" for word, seed in zip(words, seeds, strict=True)]
    columns = len(own) if len(prompts) > 1 and len(own) > 1 else None
    draw(
        choices,
        lambda system, drawing: system.generate(words, seeds, init=init, **drawing),
        Names(slug(words[0]), names, columns),
        [] if init is None else [init],
    )
