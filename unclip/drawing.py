"""From starting points to pictures: embeddings where they are missing, the decoder, the upsamplers, in batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from unclip.choosing import Choice, Matching, likeness, picked
from unclip.clip import Clip
from unclip.conditioning import Prompts, decoder_cond, read
from unclip.diffusion.inpainting import Known
from unclip.errors import UnclipError
from unclip.images import resize, save_png, square, to_pil
from unclip.models.decoder import Decoder, DecoderCond
from unclip.models.upsampler import Upsampler
from unclip.noise import Noise, Seed, beginning_with, redrawn, stream
from unclip.priors import EmbeddingPrior, OnStep, finish, silent
from unclip.stage import Stage
from unclip.upsampling import chunk_size, upsample


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture with everything that made it; `recipe` is plain data, and what its PNG will hold."""

    image: Image.Image
    prompt: str
    seed: int
    image_emb: Float[Tensor, " d"]
    recipe: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes a PNG that holds the recipe, in place of a file of that name. Raises UnclipError for another kind of file."""
        if Path(path).suffix.lower() != ".png":
            raise UnclipError(f"{path}: a picture with its recipe is a PNG; give a name that ends in .png")
        save_png(self.image, path, self.recipe, replace=True)


@dataclass(frozen=True, eq=False)
class Paint:
    """A square picture of which only the pixels in `paint` are to be drawn anew, each step taken `rounds` times."""

    pixels: Float[Tensor, "3 n n"]
    paint: Bool[Tensor, "1 n n"]
    rounds: int

    def at(self, size: int) -> tuple[Float[Tensor, "1 3 s s"], Bool[Tensor, "1 1 s s"]]:
        """The picture and what to keep of it, at another size: no pixel that a painted one had a part in is kept."""
        pixels, painted, side = (
            resize(self.pixels[None], size).clamp(-1, 1),
            self.paint[None].float(),
            self.paint.shape[-1],
        )
        # the bicubic kernel reaches two pixels far, on the coarser of the two grids
        painted = F.max_pool2d(painted, 5, stride=1, padding=2) if size > side else painted
        painted = F.adaptive_max_pool2d(painted, size)
        painted = F.max_pool2d(painted, 5, stride=1, padding=2) if size < side else painted
        return pixels, painted == 0


def paint(image: Float[Tensor, "3 h w"], where: Bool[Tensor, "1 h2 w2"], rounds: int) -> Paint:
    """The centre squares of a picture and of its mask. Raises UnclipError when they differ in size."""
    if image.shape[1:] != where.shape[1:]:
        given, other = ("x".join(map(str, reversed(x.shape[1:]))) for x in (where, image))
        raise UnclipError(f"the mask has {given} pixels, the picture {other}; give a mask of the picture's size")
    inside = centred(where.float())  # a square of the same size: nothing is resized
    if not inside.any():
        raise UnclipError("the mask is empty within the picture's centre square, which is what is drawn")
    return Paint(centred(image), inside > 0, rounds)


def centred(pixels: Float[Tensor, "c h w"]) -> Float[Tensor, "c s s"]:
    """The centre square."""
    return square(pixels[None], min(pixels.shape[-2:]))[0]


@dataclass(frozen=True, eq=False)
class Start:
    """Where a picture begins. Without `image_emb` the prior draws one, without `x_T` the seed; `about`: for its recipe."""

    prompt: str
    seed: int
    image_emb: Float[Tensor, " d"] | None = None
    x_T: Float[Tensor, "3 h w"] | None = None
    paint: Paint | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Parts(Protocol):
    """The stages of a system, as drawing needs them."""

    @property
    def clip(self) -> Clip: ...
    @property
    def prior(self) -> EmbeddingPrior: ...
    @property
    def decoder(self) -> Stage[Decoder]: ...
    @property
    def upsamplers(self) -> tuple[Stage[Upsampler], ...]: ...
    @property
    def choice(self) -> Choice: ...
    @property
    def matching(self) -> Matching | None: ...
    def seeded(self, seed: int) -> Seed: ...


class Pictures(Iterator[Picture]):
    """Pictures as they are finished; `plan` says how often `on_step` is called for all of them, by stage."""

    def __init__(self, made: Iterator[Picture], plan: Mapping[str, int]) -> None:
        self.plan = dict(plan)
        self._made = made

    def __next__(self) -> Picture:
        return next(self._made)


def drawn(
    parts: Parts,
    starts: Iterator[Start],
    size: int,
    recipe: Callable[[Start], dict[str, Any]],
    negative: str = "",
    on_step: OnStep = silent,
) -> Iterator[Picture]:
    """Pictures of the starts, `size` at once, each as soon as its batch is finished.

    Of the small pictures of `parts.choice.best_of` seeds, each made anew from its embedding on, only the best is enlarged.
    """
    while batch := list(islice(starts, size)):
        groups = tries_at_once(parts.choice.best_of, len(batch), size)
        tries = [one for group in groups for one in _tries(parts, batch, group, negative, on_step)]
        small = tries[0] if len(tries) == 1 else _best(parts, batch, tries)
        x = small.x
        for stage in parts.upsamplers:
            known = _known(batch, stage.net.config.size)
            x = upsample(stage, x, small.seeds, chunk_size(size, stage), on_step, known)
        for k, start in enumerate(batch):
            yield Picture(to_pil(x[k]), start.prompt, start.seed, small.image_emb[k].cpu(), recipe(start))


def tries_at_once(best_of: int, pictures: int, size: int) -> list[range]:
    """The tries for each of some pictures, grouped so that no more than `size` are drawn at once (or one for each picture)."""
    each = max(1, size // pictures)
    return [range(first, min(first + each, best_of)) for first in range(0, best_of, each)]


@dataclass(frozen=True, eq=False)
class Small:
    """The decoder's pictures of some starts, what they were drawn from, and the seeds that draw on."""

    x: Float[Tensor, "b 3 h w"]
    image_emb: Float[Tensor, "b d"]
    seeds: Sequence[Seed]


def _tries(parts: Parts, starts: Sequence[Start], group: range, negative: str, on_step: OnStep) -> list[Small]:
    """The k-th small pictures of the starts, for each k of a group: those of other seeds, but for the first."""
    others = [replace(start, seed=redrawn(start.seed, k)) for k in group for start in starts]
    made, count = _small(parts, others, negative, on_step), len(starts)
    rows = [slice(first, first + count) for first in range(0, len(others), count)]
    return [Small(made.x[part], made.image_emb[part], made.seeds[part]) for part in rows]


def _small(parts: Parts, starts: Sequence[Start], negative: str, on_step: OnStep) -> Small:
    """The decoder's pictures of the starts."""
    seeds = [parts.seeded(start.seed) for start in starts]
    prompts = read(parts.clip, [start.prompt for start in starts])
    emb = embeddings(parts, prompts, starts, seeds, on_step)
    uncond = unconditional(parts, prompts, emb, seeds, negative, on_step)
    noise = beginning_with(noise_of(parts.decoder, seeds), [start.x_T for start in starts])
    known = _known(starts, parts.decoder.net.config.size)
    cond = decoder_cond(parts.decoder.net, parts.clip, prompts, emb)
    return Small(finish(parts.decoder, parts.decoder.run(cond, noise, uncond, known), on_step), emb, seeds)


def _best(parts: Parts, starts: Sequence[Start], tries: Sequence[Small]) -> Small:
    """Row by row, the try whose picture fits its embedding and its prompt best; the first of equals."""
    prompts = read(parts.clip, [start.prompt for start in starts])
    matching = parts.matching if parts.choice.match_weight else None
    which = parts.choice.best(likeness(parts.clip, [(one.x, one.image_emb) for one in tries], prompts, matching))
    seeds = [tries[int(k)].seeds[row] for row, k in enumerate(which)]
    x, emb = (picked([getattr(one, name) for one in tries], which) for name in ("x", "image_emb"))
    return Small(x, emb, seeds)


def embeddings(
    parts: Parts, prompts: Prompts, starts: Sequence[Start], seeds: Sequence[Seed], on_step: OnStep = silent
) -> Float[Tensor, "b d"]:
    """The starts' image embeddings; the prior draws those that are missing."""
    missing = [k for k, start in enumerate(starts) if start.image_emb is None]
    rows = {k: start.image_emb.to(prompts.text.emb) for k, start in enumerate(starts) if start.image_emb is not None}
    if missing:
        told = read(parts.clip, [starts[k].prompt for k in missing])
        found = parts.prior.draw(told, [seeds[k] for k in missing], on_step)
        rows |= dict(zip(missing, found, strict=True))
    return torch.stack([rows[k] for k in range(len(starts))])


def noise_of(stage: Stage[Decoder], seeds: Sequence[Seed]) -> Noise:
    """The noise of the decoder's pictures with these seeds."""
    size = stage.net.config.size
    return stream(stage.name, seeds, (3, size, size), stage.device)


def unconditional(
    parts: Parts,
    prompts: Prompts,
    image_emb: Float[Tensor, "b d"],
    seeds: Sequence[Seed],
    negative: str = "",
    on_step: OnStep = silent,
) -> DecoderCond | None:
    """What guidance leads away from: the learned nulls, or the negative prompt with an embedding drawn for it.

    None without guidance.
    """
    if parts.decoder.sampling.guidance == 1:
        return None
    if negative:
        away = read(parts.clip, [negative] * len(seeds))
        return decoder_cond(parts.decoder.net, parts.clip, away, parts.prior.draw(away, seeds, on_step))
    none = torch.zeros_like(prompts.keep)
    return decoder_cond(parts.decoder.net, parts.clip, prompts, image_emb, keep_image=none, keep_text=none)


def _known(starts: Sequence[Start], size: int) -> Known | None:
    """What is known of a batch's pictures at one size; all of a batch are painted in, or none."""
    paints = [start.paint for start in starts if start.paint is not None]
    if not paints:
        return None
    assert len(paints) == len(starts)
    pixels, keep = (torch.cat(column) for column in zip(*(one.at(size) for one in paints), strict=True))
    return Known(pixels, keep.expand_as(pixels), paints[0].rounds)
