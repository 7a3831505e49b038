"""What the latent pair allows (2204.06125, section 3): each manipulation says where one picture begins.

A manipulation is plain data, so that a recipe can hold it and `unclip replay` can do it again; `start` makes of it, of
the sources and of a seed the starting point that is then drawn like any other. To add one, write a class and name it
in the catalogue.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unclip.bench import Bench
from unclip.config import Natural, NonNegativeFloat, Positive, Share, config
from unclip.drawing import Paint, Start, paint
from unclip.errors import UnclipError
from unclip.latents import blend, difference, slerp, towards
from unclip.sources import Source

DUMMY = "a picture"
"""The caption that stands for a picture's own in text differences; the paper's is "a photo", which here names a style."""


@runtime_checkable
class Manipulation(Protocol):
    """One kind of manipulation with its options, for one picture; `prompt` is what the decoder is told."""

    @property
    def prompt(self) -> str: ...

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """The sources whose x_T it needs."""
        ...

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """Where the picture begins."""
        ...


@config
class Generation:
    """A picture of the prompt, from an embedding that the prior draws, or that a source holds."""

    prompt: str

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """Pictures, whose latent pairs are then decoded under the prompt."""
        return [one for one in sources if one.invertible]

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The prompt alone, or with a source's embedding and, where it has one, x_T."""
        if not sources:
            return Start(self.prompt, seed)
        (one,) = sources
        x_T = bench.latent(one, self.prompt).x_T if one.invertible else None
        return Start(self.prompt, seed, bench.image_emb(one, seed), x_T)


@config
class Variation:
    """The same embedding, decoded anew. `strength` turns the picture's own x_T (0) into the seed's (1)."""

    strength: Share = 1.0
    prompt: str = ""

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """The picture, unless nothing of its x_T is wanted."""
        return list(sources) if self.strength < 1 else []

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The picture's embedding, and its noise mixed with the seed's."""
        (one,) = sources
        if self.strength == 1:
            return Start(self.prompt, seed, bench.image_emb(one))
        own = bench.latent(one, self.prompt)
        return Start(self.prompt or own.prompt, seed, own.image_emb, _mixed(own.x_T, bench.noise(seed), self.strength))


@config
class Interpolation:
    """The picture at `share` of the way from one source to another, each a picture or a text.

    `noise` "inverted": x_T goes from one's to the other's too, so that pictures at the ends reconstruct (a text has the
    seed's); "fixed": all pictures have the seed's x_T (2204.06125, Fig. 4).
    """

    share: Share
    noise: Literal["inverted", "fixed"] = "inverted"
    prompt: str = ""

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """Both ends that are pictures."""
        return [one for one in sources if one.invertible] if self.noise == "inverted" else []

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The embeddings' slerp, and that of the noises."""
        a, b = sources
        emb = slerp(bench.image_emb(a, seed), bench.image_emb(b, seed).to(bench.image_emb(a, seed)), self.share)
        if self.noise == "fixed":
            return Start(self.prompt, seed, emb)
        own = [bench.latent(one, self.prompt) for one in (a, b) if one.invertible]
        told = {self.prompt or one.prompt for one in own} or {self.prompt}
        if len(told) > 1:
            raise UnclipError(
                f"latents inverted under different prompts, {sorted(told)}; invert their pictures anew under one"
            )
        x_a, x_b = (bench.latent(one, self.prompt).x_T if one.invertible else bench.noise(seed) for one in (a, b))
        return Start(told.pop(), seed, emb, _mixed(x_a, x_b, self.share))


@config
class Blend:
    """The weighted mean, on the sphere, of any number of embeddings, of pictures and texts."""

    weights: tuple[NonNegativeFloat, ...]
    prompt: str = ""

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """None."""
        return []

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The mean embedding, and the seed's noise."""
        embs = torch.stack([bench.image_emb(one, seed).cpu() for one in sources])
        return Start(self.prompt, seed, blend(embs, self.weights))


@config
class TextDifference:
    """slerp(z_i, norm(z_t - z_t0), theta) with the picture's own x_T: what changes is what the texts differ in."""

    target: str
    source: str = DUMMY
    theta: Share = 0.35
    prompt: str = ""

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """The picture."""
        return list(sources)

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The embedding turned towards the difference, and the picture's noise."""
        way = difference(bench.text_emb(self.target), bench.text_emb(self.source))
        own = bench.latent(sources[0], self.prompt)
        emb = towards(own.image_emb, way.to(own.image_emb), self.theta)
        return Start(self.prompt or own.prompt, seed, emb, own.x_T)


@config
class Reconstruction:
    """The picture again; with `components`, from that many principal components of its embedding (2204.06125, Fig. 7)."""

    components: Natural | None = None
    prompt: str = ""

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """The picture, unless components are asked for: these are drawn from the seed's noise."""
        return list(sources) if self.components is None else []

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The latent pair; or the projected embedding, made as long as before, and the seed's noise."""
        if self.components is None:
            own = bench.latent(sources[0], self.prompt)
            return Start(self.prompt or own.prompt, seed, own.image_emb, own.x_T)
        assert bench.pca is not None, "catalogue.check_options"
        emb = bench.image_emb(sources[0])
        kept = bench.pca.project(emb[None].cpu(), self.components)[0]
        return Start(self.prompt, seed, kept * (emb.norm().cpu() / kept.norm().clamp(min=1e-12)))


@config
class Inpainting:
    """A picture of `prompt` in which all but the painted pixels are the source's; sources are the picture and the mask.

    Each step of sampling is taken `rounds` times, so that old and new come to fit (2201.09865).
    """

    prompt: str
    rounds: Positive = 5

    def inverts(self, sources: Sequence[Source]) -> list[Source]:
        """None."""
        return []

    def start(self, bench: Bench, sources: Sequence[Source], seed: int) -> Start:
        """The prompt's embedding, drawn by the prior, the seed's noise, and what is to be kept."""
        return Start(self.prompt, seed, paint=self.painted(sources))

    def painted(self, sources: Sequence[Source]) -> Paint:
        """What is kept and what is painted. Raises UnclipError for a mask that does not fit the picture."""
        image, mask = (one.pixels for one in sources)
        assert image is not None
        assert mask is not None
        return paint(image, mask[:1] > 0, self.rounds)


def _mixed(a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"], share: float) -> Float[Tensor, "c h w"]:
    """The slerp of two noises, each as one long vector."""
    return slerp(a.flatten(), b.flatten().to(a), share).view_as(a)
