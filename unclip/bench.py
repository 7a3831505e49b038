"""Where what a person gives is prepared for drawing: its embedding, its latent pair."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from unclip.conditioning import decoder_cond, read
from unclip.drawing import Parts, noise_of
from unclip.errors import UnclipError
from unclip.images import square
from unclip.latents import Latent, Pca
from unclip.priors import OnStep, finish, silent
from unclip.sources import Source, check_text

INVERSION = "inversion"  # the name under which its steps are reported


@dataclass(eq=False)
class Bench:
    """Where sources are prepared: their embeddings and inversions, each made once however many pictures begin with it.

    `weights` are the names of the system's weights by role; latents tell those that they depend on.
    """

    parts: Parts
    weights: Mapping[str, str]
    pca: Pca | None = None
    on_step: OnStep = silent
    _latents: dict[tuple[int, str], Latent] = field(default_factory=dict)
    _embs: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def image_emb(self, source: Source, seed: int = 0) -> Float[Tensor, " d"]:
        """The embedding of a picture, of a latent, or the one that the prior draws for a text with this seed."""
        key = (id(source), seed if source.text is not None else 0)
        if key not in self._embs:
            self._embs[key] = self._embedded(source, seed)
        return self._embs[key]

    def text_emb(self, text: str) -> Float[Tensor, " d"]:
        """The embedding of a text."""
        return read(self.parts.clip, [text]).text.emb[0]

    def noise(self, seed: int) -> Float[Tensor, "c h w"]:
        """The x_T of a seed."""
        return noise_of(self.parts.decoder, [seed])()[0]

    def latent(self, source: Source, prompt: str = "") -> Latent:
        """The latent pair of a picture, by DDIM inversion under its embedding and `prompt`."""
        check_text(prompt)
        if source.latent is not None:
            return self._checked(source.latent)
        key = (id(source), prompt)
        if key not in self._latents:
            self._latents[key] = self._inverted(source, prompt)
        return self._latents[key]

    def _embedded(self, source: Source, seed: int) -> Tensor:
        if source.latent is not None:
            return self._checked(source.latent).image_emb
        if source.image_emb is not None:
            return self._fitting(source.image_emb)
        if source.text is not None:
            return self.parts.prior.draw(read(self.parts.clip, [source.text]), [seed], self.on_step)[0]
        pixels = source.pixels
        assert pixels is not None
        return self.parts.clip.image_emb(pixels[None])[0]

    def _inverted(self, source: Source, prompt: str) -> Latent:
        if (pixels := source.pixels) is None:
            raise UnclipError("only a picture can be inverted, not a text or an embedding; give a picture or a latent")
        stage, emb = self.parts.decoder, self.image_emb(source)
        told = read(self.parts.clip, [prompt])
        cond = decoder_cond(stage.net, self.parts.clip, told, emb[None].to(stage.device))
        x0 = square(pixels[None], stage.net.config.size).clamp(-1, 1).to(stage.device)
        steps = stage.invert(cond, x0)
        x = finish(stage, steps, lambda _, step: self.on_step(INVERSION, step))
        return Latent(emb.cpu(), x[0].cpu(), prompt, self._made_with)

    @property
    def _made_with(self) -> dict[str, str]:
        return {role: mark for role, mark in self.weights.items() if role in ("clip", "decoder")}

    def _checked(self, latent: Latent) -> Latent:
        for role, mine in self._made_with.items():
            theirs = (latent.weights or {}).get(role, mine)
            if theirs != mine:
                raise UnclipError(
                    f"the latent was made with another {role} ({theirs[:12]}, here {mine[:12]}); use that one"
                )
        self._fitting(latent.image_emb)
        wanted = (3, *[self.parts.decoder.net.config.size] * 2)
        if tuple(latent.x_T.shape) != wanted or not latent.x_T.isfinite().all():
            raise UnclipError(f"the latent's x_T is {list(latent.x_T.shape)}; expected finite numbers, {list(wanted)}")
        return latent

    def _fitting(self, emb: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        wanted = self.parts.decoder.net.config.image_emb
        if len(emb) != wanted or not emb.isfinite().all():
            raise UnclipError(
                f"an image embedding of {len(emb)} numbers; expected {wanted} finite ones, as this CLIP makes"
            )
        return emb
