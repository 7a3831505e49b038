"""A system on disk: a folder with `system.toml` that names one checkpoint per stage."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from unclip.checkpoint import Header, Weights, weights
from unclip.choosing import Matching
from unclip.clip import Clip
from unclip.config import NonNegativeFloat, Positive, build, config, load
from unclip.errors import UnclipError, UnclipWarning
from unclip.latents import Pca
from unclip.loading import Shelf
from unclip.models.decoder import Decoder
from unclip.models.matcher import Matcher
from unclip.models.prior import Prior
from unclip.models.upsampler import Upsampler
from unclip.noise import Style
from unclip.places import FILE, located
from unclip.settings import Settings
from unclip.stage import Sampling, Stage, check_shrink, open_stage


@config
class SamplingTable:
    """Sampling settings of `system.toml` that replace those a file recommends; one table per stage."""

    prior: dict[str, Any] = Field(default_factory=dict)
    decoder: dict[str, Any] = Field(default_factory=dict)
    upsamplers: tuple[dict[str, Any], ...] = ()


@config
class SystemConfig:
    """The contents of `system.toml`: files beside it, and where wanted other sampling than these recommend.

    `pca` holds principal components of CLIP's embeddings. `candidates` is how many embeddings the prior draws to keep the
    best, `best_of` how many small pictures are drawn to keep the best, in whose choice likeness to the embedding counts 1,
    to the prompt `text_weight`, and what the `matcher` says of prompt and picture `match_weight`; with prior = "" pictures
    are made from pictures only. `noise` is how it is drawn: from a stream of its own for each stage and picture, or from one
    per picture as "diffusers" or "native" Karlo do. `allow_mixed_clip` lets stages through that were trained on the
    embeddings of different CLIPs, but no matcher, which reads the CLIP itself. `subject` says what the system can draw;
    `words` are all that its captions used: a prompt with others is drawn with a warning. `variations` are what `vary` draws
    from fresh noise under, where it is not told otherwise: guidance and the best of several are of use to a text, but narrow
    what varies.
    """

    name: str
    clip: str = "clip.safetensors"
    prior: str = "prior.safetensors"
    decoder: str = "decoder.safetensors"
    upsamplers: tuple[str, ...] = ()
    pca: str | None = None
    matcher: str | None = None
    candidates: Positive = 2
    best_of: Positive = 1
    text_weight: NonNegativeFloat = 0.0
    match_weight: NonNegativeFloat = 0.0
    noise: Style = "streams"
    subject: str = ""
    words: tuple[str, ...] = ()
    allow_mixed_clip: bool = False
    sampling: SamplingTable = SamplingTable()
    variations: Settings = Settings()


@dataclass(frozen=True, eq=False)
class Parts:
    """The opened files of a system, and their headers by role."""

    config: SystemConfig
    clip: Clip
    prior: Stage[Prior] | None
    decoder: Stage[Decoder]
    upsamplers: tuple[Stage[Upsampler], ...]
    headers: dict[str, Header]
    pca: Pca | None = None
    matching: Matching | None = None


def spoken(text: str) -> list[str]:
    """The words of a text, and its signs such as emoji; a word in quotes, which is one to print, with its quotes."""
    words = re.findall(r'"\w+"|\w+', re.sub("[“”]", '"', text.lower()))
    return words + [sign for sign in text if unicodedata.category(sign) == "So"]


def strangers(system: SystemConfig, prompts: Iterable[str]) -> list[str]:
    """What of prompts the system's captions never used, each once; nothing where it names no words."""
    known = set(system.words)
    found = [word for prompt in prompts for word in spoken(prompt) if word not in known]
    return list(dict.fromkeys(found)) if known else []


def warn_of_strangers(system: SystemConfig, prompts: Sequence[str]) -> None:
    """Warns of words that no caption of the trainings used: what is drawn for them is anyone's guess."""
    if unknown := strangers(system, prompts):
        warnings.warn(
            f"the {system.name} weights know only {system.subject}, not {', '.join(map(repr, unknown[:3]))};"
            " for other subjects give other weights (--model FOLDER)",
            UnclipWarning,
            stacklevel=4,
        )


@dataclass(frozen=True, eq=False)
class Box:
    """A system whose files are found but not read; `where` is its folder, for messages."""

    where: str
    config: SystemConfig
    clip: Weights
    prior: Weights | None
    decoder: Weights | None
    upsamplers: tuple[Weights, ...]
    pca: Path | None = None
    matcher: Weights | None = None


def boxed(folder: str | Path) -> Box:
    """The system in a folder of ours. Raises UnclipError for what is missing or no file of ours."""
    folder = located(folder)
    if not (folder / FILE).is_file():
        raise UnclipError(f"{folder}: no system there; expected a folder with {FILE}")
    system = load(SystemConfig, folder / FILE)
    return Box(
        str(folder),
        system,
        weights(folder / system.clip),
        weights(folder / system.prior) if system.prior else None,
        weights(folder / system.decoder),
        tuple(weights(folder / name) for name in system.upsamplers),
        None if system.pca is None else folder / system.pca,
        None if system.matcher is None else weights(folder / system.matcher),
    )


def assembled(box: Box, shelf: Shelf) -> Parts:
    """The system of a box, its nets on the shelf. Raises UnclipError for parts that are unfit, or do not fit together."""
    if box.decoder is None:
        raise UnclipError(
            f"{box.where}: a prior alone; convert it, and name it in the {FILE} of a system with a decoder"
        )
    clip = Clip(box.clip, shelf.device, torch.promote_types(shelf.dtype, torch.float32), shelf)
    headers, changes = {"clip": box.clip.header}, box.config.sampling

    def stage(name: str, found: Weights, net_type: type, change: dict[str, Any]) -> Stage:
        headers[name] = found.header
        return with_sampling(open_stage(name, found, net_type, shelf), change, f"{box.where}: sampling of {name}")

    prior = None if box.prior is None else stage("prior", box.prior, Prior, changes.prior)
    decoder = stage("decoder", box.decoder, Decoder, changes.decoder)
    each = changes.upsamplers or ({},) * len(box.upsamplers)
    if len(each) != len(box.upsamplers):
        raise UnclipError(f"{box.where}: {len(each)} sampling.upsamplers for {len(box.upsamplers)} upsamplers")
    upsamplers = []
    for found, change in zip(box.upsamplers, each, strict=True):
        opened = stage(f"upsampler {Path(found.where).name}", found, Upsampler, change)
        upsamplers.append(replace(opened, name=f"upsampler-{opened.net.config.size}"))
    pca = Pca.load(box.pca) if box.pca else None
    headers |= {"pca": pca[1]} if pca else {}
    headers |= {"matcher": box.matcher.header} if box.matcher else {}
    matching = None if box.matcher is None else Matching(shelf.net(box.matcher, Matcher), shelf)
    parts = Parts(box.config, clip, prior, decoder, tuple(upsamplers), headers, pca and pca[0], matching)
    _check(parts, box.where)
    return parts


def with_sampling(stage: Stage, changes: dict[str, Any], where: str) -> Stage:
    """The stage with some sampling settings replaced, checked as a config is. Raises UnclipError beginning with `where`."""
    kept = {field.name: getattr(stage.sampling, field.name) for field in fields(stage.sampling)}
    return replace(stage, sampling=build(Sampling, kept | changes, where))


def _check(parts: Parts, folder: str) -> None:
    """That all parts were trained on this CLIP, each upsampler starts where the stage before it ends, and none shrinks what is
    no residual."""
    for name, header in parts.headers.items():
        _check_clip(name, header, parts, folder)
    for weight in (parts.config.match_weight, parts.config.variations.match_weight):
        if weight and parts.matching is None:
            raise UnclipError(
                f"{folder}: match_weight = {weight:g}, but {FILE} names no matcher; name one, or leave it out"
            )
    readers = [stage for stage in (parts.prior, parts.decoder) if stage is not None]
    for stage in (*readers, *parts.upsamplers):
        try:
            check_shrink(stage.sampling, stage.net.config)
        except ValueError as error:
            raise UnclipError(f"{folder}: the {stage.name}: {error}") from None
    for stage in readers:
        _check_text(stage, parts.clip, folder)
    dims = {parts.clip.config.embed_dim, *(stage.net.config.image_emb for stage in readers)}
    if len(dims) > 1:
        raise UnclipError(f"{folder}: CLIP, prior and decoder disagree on the embedding's size: {sorted(dims)}")
    size = parts.decoder.net.config.size
    for stage in parts.upsamplers:
        made = stage.net.config
        if size * made.scale != made.size:
            raise UnclipError(
                f"{folder}: an upsampler makes {made.size} px from {made.size // made.scale}, but gets {size}"
            )
        size = made.size


def _check_clip(name: str, header: Header, parts: Parts, folder: str) -> None:
    """That a part which was trained on a CLIP was trained on the system's."""
    parent, matcher = header.parents.get("clip"), name == "matcher"
    if parts.config.allow_mixed_clip and not matcher:
        return
    mend = "use matching files" + ("" if matcher else f", or set allow_mixed_clip = true in {FILE}")
    if name in ("prior", "decoder", "matcher") and parent is None:
        raise UnclipError(f"{folder}: the {name} does not say which CLIP it was trained on; {mend}")
    if parent not in (None, parts.clip.fingerprint):
        raise UnclipError(
            f"{folder}: the {name} was trained on CLIP {parent[:12]} but the system's CLIP is"
            f" {parts.clip.fingerprint[:12]}; {mend}"
        )


def _check_text(stage: Stage, clip: Clip, folder: str) -> None:
    """That a stage can read this CLIP's token ids, or all of its hidden states."""
    made = stage.net.config
    reads = {"own": ("vocabulary", clip.tokenizer.vocabulary), "hidden": ("text_hidden", clip.config.text_width)}
    if made.text in reads:
        key, given = reads[made.text]
        wanted = getattr(made, key)
        if wanted != given:
            raise UnclipError(f"{folder}: the {stage.name} was made for {key} = {wanted}, but this CLIP has {given}")
    if made.text == "hidden" and made.context < clip.config.context:
        most = f"reads at most {made.context} tokens, but this CLIP gives {clip.config.context}"
        raise UnclipError(f"{folder}: the {stage.name} {most}: use the CLIP that it was trained with")
