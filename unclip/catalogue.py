"""All manipulations by name, and what is asked of each before any is drawn."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unclip.errors import UnclipError, UnclipWarning
from unclip.latents import Pca
from unclip.manipulations import (
    Blend,
    Generation,
    Inpainting,
    Interpolation,
    Manipulation,
    Reconstruction,
    TextDifference,
    Variation,
)
from unclip.settings import Settings
from unclip.sources import Source

FAITHFUL: dict[str, Any] = {"sampler": "ddim", "steps": 250, "guidance": 1.0, "threshold": "none"}
"""How a latent pair is decoded so that its picture comes back: guidance and clipping lead away from DDIM's path."""


def faithful(settings: Settings) -> Settings:
    """The settings, FAITHFUL where they are open. Raises UnclipError for a sampler that cannot be."""
    if settings.sampler == "ddpm":
        raise UnclipError(
            "sampler = ddpm: its noise leads away from a picture's own x_T; leave the sampler out (eta adds noise)"
        )
    return settings.over(FAITHFUL)


def asked(
    one: Manipulation, sources: Sequence[Source], settings: Settings, variations: Settings = Settings()
) -> Settings:
    """The settings a manipulation is drawn under: those given, and its usual ones in place of others.

    `variations` are the system's own for pictures' variations from fresh noise.
    """
    if one.inverts(sources):
        settings = faithful(settings)
    usual: dict[str, Any] = {}
    if isinstance(one, Variation) and not one.inverts(sources):
        usual = variations.named
    if isinstance(one, Inpainting):
        if settings.sampler not in (None, "ddim"):
            raise UnclipError(f"sampler = {settings.sampler}: pixels are kept under ddim's steps alone; leave it out")
        # ancestral steps, of which few are too few; they take so long that nobody would wait for several pictures
        usual = {"sampler": "ddim", "eta": 1.0, "steps": 50, "best_of": 1}
    if chooses(one, sources):
        return settings.over(usual)
    if (settings.best_of or 1) > 1:
        warnings.warn("best_of has no effect where noise is not the seed's to choose", UnclipWarning, stacklevel=4)
    return replace(settings, best_of=1).over(usual)


def chooses(one: Manipulation, sources: Sequence[Source]) -> bool:
    """Whether its noise is any that a seed gives, so that the best of several pictures may be kept.

    Pictures along a path, or from fewer and fewer components, are to have the same.
    """
    return not (one.inverts(sources) or isinstance(one, Interpolation | Reconstruction))


def warn_of_copies(made: Sequence[tuple[Manipulation, int]], sources: Sequence[Source], eta: float | None) -> None:
    """Warns of seeds that make no difference: where the picture's own noise is kept and none is added."""
    (one, _), *others = made
    own = bool(one.inverts(sources)) and not eta and not (isinstance(one, Variation) and one.strength > 0)
    if own and any(other == one for other, _ in others):
        warnings.warn(
            "with the picture's own noise and eta 0 all of these are one picture, but for the upsamplers' noise; give --eta"
            " above 0 for others, or -n 1",
            UnclipWarning,
            stacklevel=4,
        )


def texts(one: Manipulation, sources: Sequence[Source]) -> list[str]:
    """All that a manipulation says in words."""
    said = [one.prompt, *(source.text for source in sources if source.text is not None)]
    return [*said, one.target, one.source] if isinstance(one, TextDifference) else said


def check_sources(name: str, sources: Sequence[Source]) -> None:
    """Raises UnclipError for more or fewer sources than the manipulation called `name` takes."""
    least, most = TAKES[name]
    if not least <= len(sources) <= most:
        raise UnclipError(
            f"{name}: {len(sources)} sources given, expected {least if least == most else f'{least} to {most}'}"
        )


def check_options(made: Sequence[Manipulation], sources: Sequence[Source], pca: Pca | None) -> None:
    """Raises UnclipError for what could only fail: a mask of another size or of nothing, two texts that are one, principal
    components that the system does not have."""
    for one in made:
        if isinstance(one, Inpainting):
            one.painted(sources)
        if isinstance(one, TextDifference) and one.target.casefold().split() == one.source.casefold().split():
            raise UnclipError(f"the two texts are one, {one.target!r}, and there is no difference to apply; change one")
    for count in [one.components for one in made if isinstance(one, Reconstruction) and one.components is not None]:
        if pca is None:
            raise UnclipError("this system has no PCA; name one in system.toml (pca = …), as tools.embed writes it")
        pca.check(count)


def draws(one: Manipulation, sources: Sequence[Source]) -> list[Source | None]:
    """What the prior draws an embedding for: texts among the sources, or (None) the prompt."""
    if isinstance(one, Inpainting) or (isinstance(one, Generation) and not sources):
        return [None]
    return [source for source in sources if source.text is not None]


MANIPULATIONS: Mapping[str, type[Any]] = {
    "generate": Generation,
    "vary": Variation,
    "interpolate": Interpolation,
    "blend": Blend,
    "edit": TextDifference,
    "reconstruct": Reconstruction,
    "inpaint": Inpainting,
}


TAKES = {
    "generate": (0, 1),
    "vary": (1, 1),
    "interpolate": (2, 2),
    "blend": (1, 1000),
    "edit": (1, 1),
    "reconstruct": (1, 1),
    "inpaint": (2, 2),
}
"""How many sources each takes, at least and at most."""
