"""What a caller's settings make of a system's stages: complete settings, stages under them, and how many steps follow."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from unclip.bench import INVERSION
from unclip.catalogue import draws
from unclip.drawing import Parts, tries_at_once
from unclip.errors import UnclipError, UnclipWarning
from unclip.manipulations import Inpainting, Manipulation
from unclip.priors import EmbeddingPrior, NoPrior
from unclip.settings import Settings
from unclip.sources import Source
from unclip.stage import Stage
from unclip.upsampling import chunk_size


def sizes(parts: Parts) -> tuple[int, ...]:
    """The picture sizes that stages can make, in pixels."""
    return (parts.decoder.net.config.size, *(stage.net.config.size for stage in parts.upsamplers))


def resolved(parts: Parts, settings: Settings) -> Settings:
    """The settings with the system's own values where the user left them open, so that a recipe is complete.

    `upsampler_steps` stays open, since each upsampler has its own; a recipe's `sampling` tells them.
    """
    known = sizes(parts)
    size = settings.size or known[-1]
    if size not in known:
        raise UnclipError(f"size = {size}: this system makes {', '.join(map(str, known))}")
    how = parts.decoder.at(**_decoder_changes(settings)).sampling
    if settings.negative and how.guidance == 1:
        warnings.warn("the negative prompt has no effect at guidance 1", UnclipWarning, stacklevel=4)
    if settings.eta and how.sampler != "ddim":
        warnings.warn(f"eta has no effect on the sampler {how.sampler}; it is ddim's", UnclipWarning, stacklevel=4)
    return dataclasses.replace(
        parts.prior.resolve(settings),
        size=size,
        guidance=how.guidance,
        steps=how.steps,
        sampler=how.sampler,
        eta=how.eta,
        threshold=how.threshold,
        **vars(parts.choice.at(settings)),
    )


def chosen(parts: Parts, settings: Settings) -> dict[str, Any]:
    """The prior, the decoder and as many upsamplers as the settings ask for, under them."""
    largest = settings.size or sizes(parts)[-1]
    upsamplers: list[Stage] = [stage for stage in parts.upsamplers if stage.net.config.size <= largest]
    prior: EmbeddingPrior = parts.prior.at(settings)
    return {
        "prior": prior,
        "decoder": parts.decoder.at(**_decoder_changes(settings)),
        "upsamplers": tuple(stage.at(steps=settings.upsampler_steps) for stage in upsamplers),
    }


def check_parts(parts: Parts, settings: Settings, one: Manipulation, given: Sequence[Source]) -> None:
    """Raises UnclipError, before anything is drawn, for what needs a part that these systems lack: they read texts only, or
    no texts."""
    embedded = [source for source in given if source.levels is not None and not isinstance(one, Inpainting)]
    if parts.clip.config.vision is None and (embedded or parts.choice.best_of > 1):
        what = "a picture's embedding" if embedded else f"the best of {parts.choice.best_of} pictures (best_of)"
        raise UnclipError(
            f"{parts.clip.weights.where}: this CLIP reads texts only, and {what} needs its picture tower; add the image_encoder"
            " folder of the same CLIP, as Karlo's image variations have it"
        )
    if parts.matching is None and settings.matched:
        raise UnclipError(f"match_weight = {settings.match_weight:g}, but this system has no matcher; leave it out")
    if isinstance(parts.prior, NoPrior) and (draws(one, given) or (settings.negative and settings.guidance != 1)):
        parts.prior.refuse()


def plan(
    parts: Parts, settings: Settings, made: Sequence[tuple[Manipulation, int]], given: Sequence[Source], batch: int
) -> dict[str, int]:
    """How often `on_step` will be called, by stage, when these manipulations are drawn by stages that were `chosen`.

    Raises UnclipError where these lack a part that is needed.
    """
    check_parts(parts, settings, made[0][0], given)
    batches = [len(made[start : start + batch]) for start in range(0, len(made), batch)]
    inverted = {id(source) for one, _ in made for source in one.inverts(given) if source.latent is None}
    prompted = any(None in draws(one, given) for one, _ in made)
    texts = {(id(source), seed) for one, seed in made for source in draws(one, given) if source is not None}
    away = bool(settings.negative) and settings.guidance != 1
    runs = sum(len(tries_at_once(parts.choice.best_of, pictures, batch)) for pictures in batches)
    drawn = runs * (prompted + away) + len(texts)
    rounds = made[0][0].rounds if isinstance(made[0][0], Inpainting) else 1
    upwards = parts.decoder.at(threshold="none").times
    steps = {INVERSION: len(inverted) * sum(t > 1 for t in upwards)}
    steps |= {name: drawn * number for name, number in parts.prior.steps.items()}
    steps[parts.decoder.name] = runs * _taken(parts.decoder, rounds)
    for stage in parts.upsamplers:
        chunks = sum(-(-size // chunk_size(batch, stage)) for size in batches)
        steps[stage.name] = chunks * _taken(stage, rounds)
    return {name: number for name, number in steps.items() if number}


def _taken(stage: Stage, rounds: int) -> int:
    """Steps of one run; the last is taken once."""
    return rounds * (len(stage.times) - 2) + 1


def _decoder_changes(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("guidance", "steps", "sampler", "eta", "threshold")}
