"""`unclip vary`, `interpolate`, `blend`, `edit`, `reconstruct`: what only the latent pair allows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from unclip.cli.drawing import Choices, Chosen, Many, Names, Several, draw
from unclip.cli.output import check_folder, progress, slug
from unclip.cli.shell import listed
from unclip.places import named_files

if TYPE_CHECKING:
    from unclip.drawing import Pictures
    from unclip.system import UnCLIP


Floats = Annotated[tuple[float, ...], Parameter(consume_multiple=True, converter=listed)]
Counts = Annotated[tuple[int, ...], Parameter(consume_multiple=True, converter=listed)]


def vary(
    image: Path,
    *,
    strength: float | None = None,
    prompt: str = "",
    several: Many = Several(),
    choices: Chosen = Choices(),
) -> None:
    """Draw variations of a picture: what CLIP kept of it stays, the rest is drawn anew.

    Parameters
    ----------
    image
        The picture; its centre square is used.
    strength
        0 is the picture again, 1 (the default, unless --eta is given) only what CLIP kept.
    prompt
        What the decoder is told beside the picture.
    """
    draw(
        choices,
        lambda system, drawing: system.vary(image, seeds=several.seeds(), strength=strength, prompt=prompt, **drawing),
        Names(f"{slug(image.stem)}-variation"),
        [image],
    )


def interpolate(
    a: str,
    b: str,
    *,
    frames: PositiveInt = 8,
    noise: Literal["inverted", "fixed"] = "inverted",
    seed: NonNegativeInt = 0,
    gif: bool = False,
    choices: Chosen = Choices(),
) -> None:
    """Draw the way from one picture or text to another.

    Parameters
    ----------
    a
        A picture (a file name that ends like one), or a text.
    b
        The other end.
    frames
        Pictures on the way, both ends included.
    noise
        inverted: the noise goes from one picture's to the other's, and the ends are the pictures; fixed: the seed's.
    seed
        Of the noise that is fixed, and of texts.
    gif
        Also write an animation, of two pictures or more.
    """
    stem = f"{slug(Path(a).stem)[:28]}-to-{slug(Path(b).stem)[:28]}"
    draw(
        choices,
        lambda system, drawing: system.interpolate(a, b, frames, noise, seed, **drawing),
        Names(stem, [f"{stem}-{k:02d}" for k in range(frames)], frames, gif),
        named_files((a, b)),
    )


def blend(
    *things: str,
    weights: Floats = (),
    several: Many = Several(),
    choices: Chosen = Choices(),
) -> None:
    """Draw pictures of the mean of several pictures and texts.

    Parameters
    ----------
    things
        Pictures (file names that end like one) and texts.
    weights
        A weight for each. Default: all the same.
    """
    draw(
        choices,
        lambda system, drawing: system.blend(things, weights or [1.0] * len(things), seeds=several.seeds(), **drawing),
        Names("-".join(slug(Path(thing).stem)[:20] for thing in things)[:60] or "blend"),
        named_files(things),
    )


def edit(
    image: Path,
    *,
    to: str,
    source: Annotated[str | None, Parameter(name="--from")] = None,
    theta: Floats = (),
    seed: NonNegativeInt = 0,
    gif: bool = False,
    choices: Chosen = Choices(),
) -> None:
    """Change in a picture what differs between two texts, keeping the rest.

    Parameters
    ----------
    image
        The picture; its centre square is used.
    to
        What it should be.
    source
        What it is; may be left out.
    theta
        How far to go, from 0 to 1; one or several, such as 0.2,0.4. Beyond 0.5 little of the picture is left.
    seed
        Of the noise that --eta adds, and of the upsamplers'.
    gif
        Also write an animation, of two pictures or more.
    """
    thetas = theta or (0.15, 0.25, 0.35, 0.5)
    stem = f"{slug(image.stem)}-{slug(to)}"[:60]
    told = {} if source is None else {"source_text": source}
    draw(
        choices,
        lambda system, drawing: system.text_diff(image, to=to, theta=thetas, seed=seed, **told, **drawing),
        Names(stem, [f"{stem}-{theta:g}" for theta in thetas], len(thetas), gif),
        [image],
    )


def reconstruct(
    image: Path,
    *,
    components: Counts = (),
    seed: NonNegativeInt = 0,
    prompt: str = "",
    latent: Path | None = None,
    gif: bool = False,
    choices: Chosen = Choices(),
) -> None:
    """Draw a picture again from its latent pair, or from some principal components of its embedding.

    Parameters
    ----------
    image
        The picture, or a latent that was saved.
    components
        Numbers of components, such as 20,40,80; a picture for each, all from the same seed.
    seed
        Of the noise under --components.
    prompt
        What the decoder is told beside the picture.
    latent
        Also save the latent pair to this file (.safetensors), for `unclip generate --init`.
    gif
        Also write an animation, of two pictures or more.
    """
    from unclip.bench import INVERSION
    from unclip.errors import UnclipError

    if latent is not None and (latent.exists() or latent.suffix != ".safetensors" or components):
        raise UnclipError(f"--latent {latent}: expected a new file NAME.safetensors, and no --components beside it")
    if latent is not None:
        check_folder(latent.parent, "--latent")
    stem = f"{slug(image.stem)}-reconstruction"

    def make(system: "UnCLIP", drawing: dict[str, Any]) -> "Pictures":
        found = system.reconstruct(image, components or None, prompt, seed, **drawing)
        if latent is None or choices.common.dry_run:
            return found
        # what makes no sense was refused by now, before anything is written; the picture is then the saved pair's
        steps = {"steps": drawing["steps"]} if "steps" in drawing else {}
        with progress({INVERSION: found.plan.get(INVERSION, 0)}) as on_step:
            system.invert(image, prompt, on_step, **steps).save(latent)
        return system.reconstruct(latent, None, prompt, seed, **drawing)

    one = [f"{stem}-{count}" for count in components] if components else [stem]
    draw(choices, make, Names(stem, one, len(one), gif), [image])
