"""Priors as the orchestrator sees them: something that draws a CLIP image embedding for a prompt."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unclip.clip import Clip
from unclip.conditioning import Prompts, prior_cond
from unclip.config import to_dict
from unclip.diffusion.samplers import Step
from unclip.errors import UnclipError
from unclip.models.prior import Prior
from unclip.noise import Seed, stream
from unclip.settings import Settings
from unclip.stage import Stage

OnStep = Callable[[str, Step], None]  # called after each step with the stage's name; may raise to stop


def silent(stage: str, step: Step) -> None:
    """An OnStep that does nothing."""


@runtime_checkable
class EmbeddingPrior(Protocol):
    """What the orchestrator asks of a prior, be it diffusion, autoregressive, one-pass or an oracle."""

    def draw(self, prompts: Prompts, seeds: Sequence[Seed], on_step: OnStep = silent) -> Float[Tensor, "b d"]:
        """One CLIP image embedding per prompt and seed, of the norm CLIP gives them."""
        ...

    def at(self, settings: Settings) -> "EmbeddingPrior":
        """This prior under a user's settings."""
        ...

    def resolve(self, settings: Settings) -> Settings:
        """The settings with this prior's own where the user left them open."""
        ...

    @property
    def steps(self) -> dict[str, int]:
        """How often one draw calls `on_step`, by stage name."""
        ...

    @property
    def sampling(self) -> dict[str, Any]:
        """How it draws, as plain data for a recipe, by stage name."""
        ...


@dataclass(frozen=True, eq=False)
class DiffusionPrior:
    """The diffusion prior of arXiv 2204.06125, section 2.2.

    It draws `candidates` embeddings for each prompt and keeps the one with the highest dot product with the text embedding.
    """

    stage: Stage[Prior]
    clip: Clip
    candidates: int = 2

    def draw(self, prompts: Prompts, seeds: Sequence[Seed], on_step: OnStep = silent) -> Float[Tensor, "b d"]:
        """One image embedding per prompt and seed. An empty prompt draws from the prior without text."""
        drawn = [self._candidate(prompts, seeds, k, on_step) for k in range(self.candidates)]
        stacked = torch.stack(drawn, dim=1)
        scores = torch.einsum("bnd,bd->bn", stacked, prompts.text.emb)
        best = torch.where(prompts.keep, scores.argmax(dim=1), 0)  # without text there is nothing to rank by
        return stacked[torch.arange(len(seeds), device=stacked.device), best]

    def at(self, settings: Settings) -> "DiffusionPrior":
        """This prior under a user's settings."""
        stage = self.stage.at(guidance=settings.prior_guidance, steps=settings.prior_steps)
        return dataclasses.replace(self, stage=stage, candidates=settings.candidates or self.candidates)

    def resolve(self, settings: Settings) -> Settings:
        """The settings with this prior's own where the user left them open."""
        mine = self.at(settings)
        how = mine.stage.sampling
        return dataclasses.replace(
            settings, prior_guidance=how.guidance, prior_steps=how.steps, candidates=mine.candidates
        )

    @property
    def steps(self) -> dict[str, int]:
        """How often one draw calls `on_step`."""
        return {self.stage.name: self.candidates * (len(self.stage.times) - 1)}

    @property
    def sampling(self) -> dict[str, Any]:
        """How it draws, for a recipe."""
        return {self.stage.name: to_dict(self.stage.sampling)}

    def _candidate(self, prompts: Prompts, seeds: Sequence[Seed], k: int, on_step: OnStep) -> Float[Tensor, "b d"]:
        stage, net = self.stage, self.stage.net
        cond = prior_cond(net, self.clip, prompts)
        uncond = prior_cond(net, self.clip, prompts, keep=torch.zeros_like(prompts.keep))
        noise = stream(f"{stage.name}/{k}", seeds, (net.config.image_emb,), stage.device)
        emb = net.restore(finish(stage, stage.run(cond, noise, uncond), on_step))
        return F.normalize(emb, dim=-1) if self.clip.config.normalize else emb


@dataclass(frozen=True)
class NoPrior:
    """Stands where a system has no prior: it draws from pictures and embeddings, and refuses texts."""

    def draw(self, prompts: Prompts, seeds: Sequence[Seed], on_step: OnStep = silent) -> Float[Tensor, "b d"]:
        """Raises UnclipError."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raises UnclipError."""
        raise UnclipError(
            "this system has no prior to draw from a text; give it a picture (unclip vary), or another system"
        )

    def at(self, settings: Settings) -> "NoPrior":
        """The same: there is nothing to set."""
        return self

    def resolve(self, settings: Settings) -> Settings:
        """The settings as they are."""
        return settings

    @property
    def steps(self) -> dict[str, int]:
        """None."""
        return {}

    @property
    def sampling(self) -> dict[str, Any]:
        """None."""
        return {}


def finish(stage: Stage, steps: Iterator[Step], on_step: OnStep = silent) -> Tensor:
    """What a run of this stage ends in, each step reported."""
    x = None
    for step in steps:
        on_step(stage.name, step)
        x = step.x
    assert x is not None, "a run has at least one step"
    return x
