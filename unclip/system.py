"""The orchestrator: text → CLIP text embedding → image embedding → 64 px → 256 px → 1024 px, and what the latent allows."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unclip import choices, choosing, opening, requests
from unclip.bench import Bench
from unclip.catalogue import MANIPULATIONS, asked, check_options, check_sources, faithful, texts, warn_of_copies
from unclip.clip import Clip
from unclip.config import build, to_dict
from unclip.drawing import Picture, Pictures, Start, drawn
from unclip.folder import SystemConfig, warn_of_strangers
from unclip.interop.systems import Arithmetic
from unclip.latents import Latent, Pca, check_weights
from unclip.manipulations import DUMMY
from unclip.models.decoder import Decoder
from unclip.models.upsampler import Upsampler
from unclip.noise import Seed, seeded
from unclip.priors import EmbeddingPrior, OnStep, silent
from unclip.requests import Seeds, listed, made_by, numbers, pairs, several, shares, whole, wholes
from unclip.settings import BATCH, Settings
from unclip.sources import Given, Source, invertible, mask_source, opened, picture, source
from unclip.stage import Stage


@dataclass(frozen=True, eq=False)
class UnCLIP:
    """A text-to-image system of separately trained stages (arXiv 2204.06125); `identity` names its weights in recipes.

    All that draws takes `batch` (small pictures at once), `on_step` (called after every step of a net) and **settings (the
    fields of Settings), and gives Pictures one by one. Mistakes raise UnclipError, most of them before any work is done.
    """

    clip: Clip
    prior: EmbeddingPrior
    decoder: Stage[Decoder]
    upsamplers: tuple[Stage[Upsampler], ...] = ()
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: SystemConfig = SystemConfig(name="unnamed")
    pca: Pca | None = None
    matching: choosing.Matching | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "demo",
        device: str = "auto",
        dtype: str = "auto",
        low_memory: bool = False,
        arithmetic: Arithmetic = "own",
    ) -> "UnCLIP":
        """The system in a folder, or of a name: "demo" travels inside the package, "karlo" is downloaded.

        The folder is ours (`system.toml`) or holds released weights (see unclip.interop.systems, `arithmetic` too). With
        `low_memory` one net at a time is in memory. Raises UnclipError for whatever is missing or unfit.
        """
        return cls(**opening.opened(name, device, dtype, low_memory, arithmetic))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The picture sizes it can make, in pixels."""
        return choices.sizes(self)

    def generate(
        self,
        prompts: str | Sequence[str],
        seeds: Seeds | None = None,
        batch: int = BATCH,
        on_step: OnStep = silent,
        init: Given | None = None,
        **settings: Any,
    ) -> Pictures:
        """Pictures of `prompts`, one per seed.

        One prompt goes with any number of seeds, several prompts with as many seeds (default: random ones). A picture is a
        function of prompt, seed and settings, not of the batch it is drawn in. `init`, an image embedding or a latent pair,
        stands in place of what the prior would draw.
        """
        jobs = [({"prompt": word}, seed) for word, seed in pairs(prompts, seeds)]
        return self.manipulate("generate", [] if init is None else [opened(init)], jobs, batch, on_step, **settings)

    def vary(
        self,
        image: Given,
        n: int = 4,
        eta: float | None = None,
        seeds: Seeds | None = None,
        strength: float | None = None,
        prompt: str = "",
        **drawing: Any,
    ) -> Pictures:
        """`n` variations of a picture, or one per seed: its CLIP embedding decoded anew (2204.06125, section 3.1).

        By default from fresh noise, so that only what CLIP kept remains. With `eta` from the picture's own x_T by DDIM with
        that much noise: 0 is the picture again, more is centred on it. `strength` turns that x_T (0) into fresh noise (1).
        """
        strength = (1.0 if eta is None else 0.0) if strength is None else strength
        jobs = [({"strength": strength, "prompt": prompt}, seed) for seed in numbers(n, seeds)]
        return self.manipulate("vary", [invertible(image)], jobs, **drawing, eta=eta)

    def interpolate(
        self,
        a: Given,
        b: Given,
        frames: int = 8,
        noise: Literal["inverted", "fixed"] = "inverted",
        seed: int = 0,
        **drawing: Any,
    ) -> Pictures:
        """`frames` pictures from a to b, each a picture or a text, along slerps of embedding and noise (section 3.2).

        With `noise` "inverted" pictures at the ends reconstruct; "fixed" draws all from the seed's x_T. `steps` are DDIM's.
        """
        jobs = [({"share": share, "noise": noise}, seed) for share in shares(frames)]
        return self.manipulate("interpolate", [source(a), source(b)], jobs, **drawing)

    def blend(
        self, things: Sequence[Given], weights: Sequence[float], n: int = 4, seeds: Seeds | None = None, **drawing: Any
    ) -> Pictures:
        """Pictures of the weighted spherical mean of any number of pictures' and texts' embeddings."""
        given, weights = [source(thing) for thing in listed("things", things)], several("weights", weights)
        check_weights(len(given), weights)
        return self.manipulate("blend", given, [({"weights": weights}, seed) for seed in numbers(n, seeds)], **drawing)

    def text_diff(
        self,
        image: Given,
        *,
        to: str,
        source_text: str = DUMMY,
        theta: float | Sequence[float] = (0.15, 0.25, 0.35, 0.5),
        seed: int = 0,
        **drawing: Any,
    ) -> Pictures:
        """The picture with what differs between two texts, a picture for each `theta` in [0, 1] (section 3.3).

        Its noise is the picture's own; `seed` is that of what `eta` and the upsamplers add.
        """
        jobs = [({"target": to, "source": source_text, "theta": one}, seed) for one in several("theta", theta)]
        return self.manipulate("edit", [invertible(image)], jobs, **drawing)

    def invert(self, image: Given, prompt: str = "", on_step: OnStep = silent, **settings: Any) -> Latent:
        """The latent pair (z_i, x_T) of a picture, by unguided DDIM inversion (section 3; 2105.05233, app. F).

        More `steps` reconstruct better. `prompt` is what the decoder is told beside the embedding.
        """
        system = self.at(self.resolve(faithful(build(Settings, settings, "invert"))))
        return system._bench(on_step).latent(picture(image), prompt)

    def decode(self, latent: Given, eta: float = 0.0, seed: int = 0, **drawing: Any) -> Picture:
        """The picture of a latent pair, by default unguided and unclipped; `eta` adds noise of the seed's."""
        return next(self.manipulate("reconstruct", [invertible(latent)], [({}, seed)], **drawing, eta=eta))

    def reconstruct(
        self, image: Given, components: Sequence[int] | None = None, prompt: str = "", seed: int = 0, **drawing: Any
    ) -> Pictures:
        """The picture from its own latent pair; or one picture per number of kept principal components (Fig. 7)."""
        kept = [None] if components is None else wholes("components", components)
        jobs = [({"components": count, "prompt": prompt}, seed) for count in kept]
        return self.manipulate("reconstruct", [invertible(image)], jobs, **drawing)

    def inpaint(
        self,
        image: Given,
        mask: Given,
        prompt: str,
        n: int = 4,
        seeds: Seeds | None = None,
        rounds: int = 5,
        **drawing: Any,
    ) -> Pictures:
        """The picture with the mask's white (or transparent) pixels drawn anew as `prompt` has it (2201.09865).

        All others are kept exactly, at every size, of the picture's centre square resized to that size.
        """
        jobs = [({"prompt": word, "rounds": rounds}, seed) for word, seed in pairs(prompt, numbers(n, seeds))]
        return self.manipulate("inpaint", [picture(image), mask_source(mask)], jobs, **drawing)

    def replay(self, recipe: Mapping[str, Any], given: Sequence[Given] | None = None, **drawing: Any) -> Pictures:
        """The one picture of a recipe again; `given` stands for the files that it names, in their order.

        Raises UnclipError when the weights, the sources or the system's own sampling are others than the recipe's.
        """
        requests.check_recipe(recipe, MANIPULATIONS)
        requests.check_maker(recipe, self.identity.get("weights", {}), made_by(self.decoder.device, self.decoder.dtype))
        chosen = requests.recipe_settings(recipe)
        requests.check_sampling(recipe, self.at(self.resolve(chosen)).sampling, self.config.noise)
        sources, jobs = requests.recipe_sources(recipe, given), [(recipe["options"], recipe["seed"])]
        return self.manipulate(recipe["command"], sources, jobs, **drawing, **to_dict(chosen))

    def manipulate(
        self,
        name: str,
        given: Sequence[Source],
        jobs: Sequence[tuple[Mapping[str, Any], int]],
        batch: int = BATCH,
        on_step: OnStep = silent,
        **settings: Any,
    ) -> Pictures:
        """A picture for each job, the options of the manipulation `name` and a seed; all methods above end here."""
        requests.check_work(len(jobs), batch)
        check_sources(name, given)
        made = [(build(MANIPULATIONS[name], options, name), whole("seed", seed)) for options, seed in jobs]
        check_options([one for one, _ in made], given, self.pca)
        chosen = self.resolve(asked(made[0][0], given, build(Settings, settings, name), self.config.variations))
        warn_of_strangers(self.config, [*(text for one, _ in made for text in texts(one, given)), chosen.negative])
        warn_of_copies(made, given, chosen.eta)
        system = self.at(chosen)
        bench, told = system._bench(on_step), [one.recipe for one in given]
        starts = (
            dataclasses.replace(one.start(bench, given, seed), about={"options": to_dict(one), "sources": told})
            for one, seed in made
        )
        pictures = drawn(system, starts, batch, partial(system._recipe, name, chosen), chosen.negative, on_step)
        return Pictures(pictures, choices.plan(system, chosen, made, given, batch))

    @property
    def choice(self) -> choosing.Choice:
        """How many small pictures are drawn for one, and how the best is chosen."""
        return choosing.Choice(self.config.best_of, self.config.text_weight, self.config.match_weight)

    def seeded(self, seed: int) -> Seed:
        """What a picture's noise is drawn from."""
        return seeded(self.config.noise, seed, self.decoder.dtype)

    def resolve(self, settings: Settings) -> Settings:
        """The settings with the system's own values where the user left them open."""
        return choices.resolved(self, settings)

    def at(self, settings: Settings) -> "UnCLIP":
        """This system with its stages' sampling, and as many upsamplers, as the settings ask for."""
        config = dataclasses.replace(self.config, **vars(self.choice.at(settings)))
        return dataclasses.replace(self, config=config, **choices.chosen(self, settings))

    def _bench(self, on_step: OnStep) -> Bench:
        return Bench(self, self.identity.get("weights", {}), self.pca, on_step)

    @property
    def sampling(self) -> dict[str, Any]:
        """How each stage samples, for recipes."""
        return self.prior.sampling | {stage.name: to_dict(stage.sampling) for stage in (self.decoder, *self.upsamplers)}

    def _recipe(self, name: str, chosen: Settings, start: Start) -> dict[str, Any]:
        told = {"command": name, "prompt": start.prompt, "seed": start.seed, **start.about, "settings": to_dict(chosen)}
        told |= {"sampling": self.sampling, "noise": self.config.noise, "system": self.identity}
        return told | {"made_by": made_by(self.decoder.device, self.decoder.dtype)}
