"""What a person gives to start from: a picture, a text or a saved latent pair."""

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from unclip.errors import UnclipError
from unclip.images import of_grey_levels, open_image, to_levels, upright
from unclip.latents import Latent
from unclip.places import LATENTS, named_files

Given = Image.Image | Path | str | Latent | Tensor
"""A picture or its path, a latent pair or its path, an image embedding [d], or a text: a string that names no file."""


@dataclass(frozen=True, eq=False)
class Source:
    """One thing to start from; exactly one of the first four is set. `where` is the file it came from, if any.

    A picture is kept as grey levels: one of 50 megapixels would take 600 MB as numbers in [-1, 1].
    """

    levels: UInt8[Tensor, "3 h w"] | None = None
    text: str | None = None
    latent: Latent | None = None
    image_emb: Float[Tensor, " d"] | None = None
    where: str = ""

    @property
    def pixels(self) -> Float[Tensor, "3 h w"] | None:
        """A picture's pixels in [-1, 1], made anew each time."""
        return None if self.levels is None else of_grey_levels(self.levels)

    @property
    def invertible(self) -> bool:
        """Whether it has an x_T of its own."""
        return self.levels is not None or self.latent is not None

    @property
    def recipe(self) -> dict[str, Any]:
        """What names this source in a recipe; pictures by a digest of their pixels, so that a copy serves as well."""
        if self.text is not None:
            return {"text": self.text}
        if self.image_emb is not None:
            return {"image_emb": base64.b64encode(self.image_emb.float().cpu().numpy().tobytes()).decode("ascii")}
        name = {"file": self.where} if self.where else {}
        return {**name, ("pixels" if self.latent is None else "latent"): self.digest}

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels (8 bit, RGB, upright), or of the latent pair."""
        if self.levels is not None:
            parts = [self.levels]
        else:
            assert self.latent is not None
            parts = [self.latent.image_emb, self.latent.x_T]
        found = hashlib.sha256()
        for part in parts:
            found.update(str(list(part.shape)).encode())
            found.update(part.contiguous().cpu().numpy().data)
        return found.hexdigest()


def source(given: Given) -> Source:
    """What was given, opened. Raises UnclipError for a file that is missing, unreadable or no picture."""
    if isinstance(given, Latent):
        return Source(latent=given)
    if isinstance(given, Tensor):
        if given.ndim != 1:
            raise UnclipError(f"a tensor of shape {list(given.shape)}: expected one image embedding, [d]")
        return Source(image_emb=given.detach().float().cpu())
    if isinstance(given, Image.Image):
        return Source(levels=to_levels(upright(given)))
    if not isinstance(given, str | os.PathLike):
        kind = type(given).__name__
        raise UnclipError(
            f"a thing of type {kind}: expected a picture (of PIL: Image.fromarray), a path, a text or a latent"
        )
    suffix = Path(given).suffix.lower()
    if isinstance(given, str) and not named_files([given]) and not os.path.isfile(given):
        check_text(given)
        return Source(text=given)
    if suffix in LATENTS:
        return Source(latent=Latent.load(given), where=str(given))
    return Source(levels=to_levels(open_image(given)), where=str(given))


def opened(given: Given) -> Source:
    """A picture, latent or embedding; a string is a path, whatever it ends in. Raises UnclipError for what is none."""
    return source(Path(given) if isinstance(given, str) else given)


def picture(given: Given) -> Source:
    """A picture, whatever its file is called. Raises UnclipError for anything else."""
    found = opened(given)
    if found.levels is None:
        raise UnclipError(f"{given if isinstance(given, str | Path) else 'a latent'}: expected a picture")
    return found


def invertible(given: Given) -> Source:
    """A picture or a latent. Raises UnclipError for anything else."""
    found = opened(given)
    if not found.invertible:
        raise UnclipError("an embedding alone: expected a picture or a latent")
    return found


def check_text(text: str) -> None:
    """Raises UnclipError for what no tokenizer can read."""
    if not isinstance(text, str):
        raise UnclipError(f"a prompt is {text!r}: expected a text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UnclipError("a prompt is not valid Unicode text; give it in the encoding of your terminal, usually UTF-8")


def mask_source(given: Given) -> Source:
    """A mask as a picture that is white where it was white or, if any of it is, transparent: what is to be painted.

    Raises UnclipError for a mask without any such pixel.
    """
    if not isinstance(given, Image.Image | str | os.PathLike):
        kind = type(given).__name__
        raise UnclipError(f"a mask of type {kind}: expected a picture (of PIL: Image.fromarray) or the path of one")
    where = "the mask" if isinstance(given, Image.Image) else str(given)
    image = upright(given, where) if isinstance(given, Image.Image) else open_image(given)
    paint = to_levels(image.convert("RGB").convert("L"))[:1] >= 128
    if image.has_transparency_data:
        alpha = to_levels(image.convert("RGBA").getchannel("A"))[:1]
        paint = alpha < 128 if bool((alpha < 255).any()) else paint
    if not paint.any():
        raise UnclipError(f"{where}: the mask is empty; make white what is to be painted anew")
    levels = (paint.to(torch.uint8) * 255).expand(3, -1, -1)
    return Source(levels=levels, where="" if isinstance(given, Image.Image) else str(given))


def restored(told: Mapping[str, Any]) -> Source:
    """The source that a recipe holds itself: a text or an embedding."""
    if "text" in told:
        return Source(text=told["text"])
    try:
        values = np.frombuffer(base64.b64decode(told["image_emb"], validate=True), np.float32)
    except (TypeError, ValueError):
        raise UnclipError("the recipe is damaged: its image_emb is not base64 of float32 numbers") from None
    return Source(image_emb=torch.from_numpy(values.copy()))


def check_source(found: Source, told: Mapping[str, Any]) -> None:
    """Raises UnclipError when a source is not the one that a recipe names."""
    if any(found.recipe.get(kind) != told.get(kind) for kind in ("pixels", "latent")):
        raise UnclipError(
            f"{found.where or 'the given source'}: not what this picture was made from; give the same file"
        )
