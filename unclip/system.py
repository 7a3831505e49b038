"""The orchestrator: text → CLIP text embedding → image embedding → 64 px → 256 px → 1024 px."""

import dataclasses
import operator
import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unclip.clip import Clip
from unclip.conditioning import Prompts, decoder_cond, read
from unclip.config import build, to_dict
from unclip.devices import pick_device, pick_dtype
from unclip.errors import UnclipError, UnclipWarning
from unclip.folder import DEMO, SystemConfig, open_parts, strangers
from unclip.images import to_pil
from unclip.models.decoder import Decoder, DecoderCond
from unclip.models.upsampler import Upsampler
from unclip.noise import stream
from unclip.priors import DiffusionPrior, EmbeddingPrior, OnStep, finish, silent
from unclip.settings import Settings
from unclip.stage import Stage
from unclip.upsampling import chunk_size, upsample
from unclip.version import VERSION


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture with everything that made it; `recipe` is plain data, and what its PNG will hold."""

    image: Image.Image
    prompt: str
    seed: int
    image_emb: Float[Tensor, " d"]
    recipe: dict[str, Any]


@dataclass(frozen=True, eq=False)
class UnCLIP:
    """A text-to-image system of separately trained stages (arXiv 2204.06125); `identity` names its weights in recipes."""

    clip: Clip
    prior: EmbeddingPrior
    decoder: Stage[Decoder]
    upsamplers: tuple[Stage[Upsampler], ...] = ()
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: SystemConfig | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path = DEMO, device: str = "auto", dtype: str = "auto") -> "UnCLIP":
        """The system in `folder`, which holds a `system.toml`; "demo" is the one that travels inside the package.

        Raises UnclipError for whatever is missing or unfit.
        """
        where = pick_device(device)
        parts = open_parts(folder, where, pick_dtype(dtype, where))
        prior = DiffusionPrior(parts.prior, parts.clip, parts.config.candidates)
        weights = {role: header.fingerprint[:16] for role, header in parts.headers.items()}
        identity = {"name": parts.config.name, "weights": weights}
        return cls(parts.clip, prior, parts.decoder, parts.upsamplers, identity, parts.config)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The picture sizes it can make, in pixels."""
        return (self.decoder.net.config.size, *(stage.net.config.size for stage in self.upsamplers))

    def generate(
        self,
        prompts: str | Sequence[str],
        seeds: Iterable[SupportsIndex] | None = None,
        batch: int = 4,
        on_step: OnStep = silent,
        **settings: Any,
    ) -> Iterator[Picture]:
        """Pictures of `prompts`, one per seed, each as soon as its batch is finished.

        One prompt goes with any number of seeds, several prompts with as many seeds (default: random ones). A picture is a
        function of prompt, seed and `settings` (the fields of Settings: size, guidance, steps, sampler, negative, …), not
        of the batch it is drawn in. Raises UnclipError at once for what makes no sense.
        """
        chosen = self.resolve(build(Settings, settings, "generate"))
        if batch < 1:
            raise UnclipError(f"batch = {batch}: expected at least 1")
        jobs = _pairs(prompts, seeds)
        self._warn_of_strangers([word for word, _ in jobs])
        return self.at(chosen)._generate(jobs, batch, on_step, chosen)

    def plan(self, count: int, batch: int = 4, **settings: Any) -> dict[str, int]:
        """How often `on_step` will be called, by stage, when `count` pictures are generated with these settings."""
        chosen = self.resolve(build(Settings, settings, "plan"))
        system, batches = self.at(chosen), [min(batch, count - start) for start in range(0, count, batch)]
        draws = len(batches) * (2 if _is_guided_away(chosen) else 1)
        steps = {name: draws * number for name, number in system.prior.steps.items()}
        steps[system.decoder.name] = len(batches) * system.decoder.sampling.steps
        for stage in system.upsamplers:
            chunks = sum(-(-size // chunk_size(batch, stage)) for size in batches)
            steps[stage.name] = chunks * stage.sampling.steps
        return steps

    def resolve(self, settings: Settings) -> Settings:
        """The settings with the system's own values where the user left them open, so that a recipe is complete.

        `upsampler_steps` stays open, since each upsampler has its own; a recipe's `sampling` tells them.
        """
        size = settings.size or self.sizes[-1]
        if size not in self.sizes:
            raise UnclipError(f"size = {size}: this system makes {', '.join(map(str, self.sizes))}")
        how = self.decoder.at(**_decoder_changes(settings)).sampling
        if settings.negative and how.guidance == 1:
            warnings.warn("the negative prompt has no effect at guidance 1", UnclipWarning, stacklevel=3)
        if settings.eta and how.sampler != "ddim":
            warnings.warn(f"eta has no effect on the sampler {how.sampler}; it is ddim's", UnclipWarning, stacklevel=3)
        return dataclasses.replace(
            self.prior.resolve(settings),
            size=size,
            guidance=how.guidance,
            steps=how.steps,
            sampler=how.sampler,
            eta=how.eta,
        )

    def at(self, settings: Settings) -> "UnCLIP":
        """This system with its stages' sampling, and as many upsamplers, as the settings ask for."""
        wanted = [stage for stage in self.upsamplers if stage.net.config.size <= (settings.size or self.sizes[-1])]
        return dataclasses.replace(
            self,
            prior=self.prior.at(settings),
            decoder=self.decoder.at(**_decoder_changes(settings)),
            upsamplers=tuple(stage.at(steps=settings.upsampler_steps) for stage in wanted),
        )

    def _generate(
        self, jobs: list[tuple[str, int]], batch: int, on_step: OnStep, chosen: Settings
    ) -> Iterator[Picture]:
        for start in range(0, len(jobs), batch):
            words, seeds = zip(*jobs[start : start + batch], strict=True)
            prompts = read(self.clip, words)
            image_emb = self.prior.draw(prompts, seeds, on_step)
            x = self.decode(prompts, image_emb, seeds, on_step, chosen.negative)
            for stage in self.upsamplers:
                x = upsample(stage, x, seeds, chunk_size(batch, stage), on_step)
            for k, (word, seed) in enumerate(zip(words, seeds, strict=True)):
                recipe = self._recipe(word, seed, chosen)
                yield Picture(to_pil(x[k]), word, seed, image_emb[k].cpu(), recipe)

    def decode(
        self,
        prompts: Prompts,
        image_emb: Float[Tensor, "b d"],
        seeds: Sequence[int],
        on_step: OnStep = silent,
        negative: str = "",
    ) -> Float[Tensor, "b 3 h w"]:
        """Small pictures, in [-1, 1], of these prompts and image embeddings."""
        net, size = self.decoder.net, self.decoder.net.config.size
        cond = decoder_cond(net, self.clip, prompts, image_emb)
        noise = stream(self.decoder.name, seeds, (3, size, size), self.decoder.device)
        uncond = self._uncond(prompts, image_emb, seeds, on_step, negative)
        return finish(self.decoder, self.decoder.run(cond, noise, uncond), on_step)

    def _uncond(
        self, prompts: Prompts, image_emb: Tensor, seeds: Sequence[int], on_step: OnStep, negative: str
    ) -> DecoderCond | None:
        """What guidance leads away from: the learned nulls, or the negative prompt with an embedding drawn for it."""
        if self.decoder.sampling.guidance == 1:
            return None
        if negative:
            away = read(self.clip, [negative] * len(seeds))
            return decoder_cond(self.decoder.net, self.clip, away, self.prior.draw(away, seeds, on_step))
        none = torch.zeros_like(prompts.keep)
        return decoder_cond(self.decoder.net, self.clip, prompts, image_emb, keep_image=none, keep_text=none)

    def _warn_of_strangers(self, prompts: Sequence[str]) -> None:
        """Warns of words that no caption of the trainings used: what is drawn for them is anyone's guess."""
        if self.config is None:
            return
        if unknown := strangers(self.config, prompts):
            warnings.warn(
                f"the {self.config.name} weights know only {self.config.subject}, not {', '.join(map(repr, unknown[:3]))};"
                " for other subjects give other weights (--model FOLDER)",
                UnclipWarning,
                stacklevel=3,
            )

    def _recipe(self, prompt: str, seed: int, chosen: Settings) -> dict[str, Any]:
        made_by = {"version": VERSION, "torch": torch.__version__, "device": self.decoder.device.type}
        precision = str(self.decoder.dtype).removeprefix("torch.")
        return {
            "command": "generate",
            "prompt": prompt,
            "seed": seed,
            "settings": to_dict(chosen),
            "sampling": self.prior.sampling
            | {stage.name: to_dict(stage.sampling) for stage in (self.decoder, *self.upsamplers)},
            "system": self.identity,
            "made_by": made_by | {"dtype": precision},
        }


def _decoder_changes(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("guidance", "steps", "sampler", "eta")}


def _is_guided_away(chosen: Settings) -> bool:
    """Whether a negative prompt is in force; without guidance there is no branch that could hold it."""
    return bool(chosen.negative) and chosen.guidance != 1


def _pairs(prompts: str | Sequence[str], seeds: Iterable[SupportsIndex] | None) -> list[tuple[str, int]]:
    """One (prompt, seed) per picture. Raises UnclipError when their numbers do not match."""
    words = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = [secrets.randbelow(2**32) for _ in words] if seeds is None else [operator.index(seed) for seed in seeds]
    if not words or not numbers:
        raise UnclipError("nothing to generate: expected at least one prompt and one seed")
    if len(words) == 1:
        words = words * len(numbers)
    if len(words) != len(numbers):
        raise UnclipError(f"{len(words)} prompts and {len(numbers)} seeds: expected one seed per prompt")
    if any("\ud800" <= letter <= "\udfff" for word in words for letter in word):
        raise UnclipError("a prompt is not valid Unicode text; give it in the encoding of your terminal, usually UTF-8")
    if not all(word.strip() for word in words):
        warnings.warn("an empty prompt is drawn unconditionally", UnclipWarning, stacklevel=3)
    return list(zip(words, numbers, strict=True))
