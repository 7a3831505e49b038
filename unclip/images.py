"""PIL and uint8 on one side, float32 NCHW in [-1, 1] on the other; resizing, grids, and recipes inside PNGs."""

import io
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from unclip.errors import UnclipError

RECIPE = "unclip"  # the PNG text chunk that holds a picture's recipe
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # no format that starts another program


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """The pixels of a PIL image, in [-1, 1]; transparency is laid on white."""
    return of_grey_levels(to_levels(image))


def to_levels(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """The same as 256 grey levels, in a quarter of the memory."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def to_pil(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """A PIL image of pixels in [-1, 1]; what lies outside is clipped, and values are rounded to the nearest grey level."""
    return Image.fromarray(grey_levels(image.detach()).permute(1, 2, 0).cpu().numpy())


def grey_levels(images: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """Pixels in [-1, 1] as 256 grey levels; what lies outside is clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def of_grey_levels(images: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """Grey levels as pixels in [-1, 1]."""
    return images.float() / 127.5 - 1


def resize(images: Float[Tensor, "b c h w"], size: int | tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Images resized to `size` (a number means a square), bicubic and antialiased; computed in float32 at least."""
    size = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] == size:
        return images
    # half precision has no antialiased kernel on the CPU
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.interpolate(wide, size=size, mode="bicubic", antialias=True).to(images.dtype)


def square(images: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c size size"]:
    """The centre square of images, resized to `size`."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(images[..., top : top + side, left : left + side], size)


def cropped(images: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c size size"]:
    """The centre of images whose shorter side was resized to `size` in 8 bits, as Pillow and transformers do it."""
    height, width = images.shape[-2:]
    side = min(height, width)
    to = size * height // side, size * width // side
    # first along the rows, then along the columns; what overshoots black or white is cut off after each
    small = _rounded(resize(_rounded(resize(images, (height, to[1]))), to))
    top, left = (to[0] - size) // 2, (to[1] - size) // 2
    return small[..., top : top + size, left : left + size]


def _rounded(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images of the grey levels that 8 bits have."""
    return of_grey_levels(grey_levels(images))


def grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Pictures of one size laid out in rows of `columns` (default: as square as can be), white between them."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for k, image in enumerate(images):
        sheet.paste(image, ((k % columns) * (width + gap), (k // columns) * (height + gap)))
    return sheet


def open_image(file: str | Path | io.BytesIO, where: str = "", formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture in a file, `upright`. Raises UnclipError, which begins with `where` (default: the file's name)."""
    where = where or str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # up to twice its limit Pillow only warns
            image = Image.open(file, formats=formats)
    except FileNotFoundError:
        raise UnclipError(f"{where}: no such picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS or 0:,}"
        raise UnclipError(f"{where}: more than {most} pixels (a decompression bomb?); make it smaller first") from None
    except UnidentifiedImageError:  # its own message holds a memory address, and would make two equal runs differ
        raise UnclipError(f"{where}: not a readable picture: no {', '.join(formats)} file") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UnclipError(f"{where}: not a readable picture: {error}") from None
    return upright(image, where)


def upright(image: Image.Image, where: str = "the picture") -> Image.Image:
    """A picture read whole, turned as its EXIF says, of 8 bits a channel. Raises UnclipError if it is damaged."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # noqa: BLE001 (a damaged file can fail in any way, its EXIF in more)
        raise UnclipError(f"{where}: not a readable picture: {error}") from None
    if image.mode == "F":
        raise UnclipError(
            f"{where}: its pixels are floating-point numbers of no known range; save it with 8 or 16 bits each"
        )
    if 0 in image.size:
        raise UnclipError(f"{where}: it has no pixels ({image.width}x{image.height})")
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip at 255 instead of scaling, or of 32
        levels = np.asarray(image)
        if image.mode == "I" and (levels.min() < 0 or levels.max() > 65535):
            raise UnclipError(f"{where}: its grey levels go beyond 16 bits; save it with 8 or 16 bits each")
        levels = levels >> 8 if image.mode != "I" or levels.max() > 255 else levels
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    # colours times opacity, which Pillow converts to these alone
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def save_png(
    image: Image.Image, path: str | Path, recipe: Mapping[str, Any] | None = None, replace: bool = False
) -> None:
    """Writes a PNG whose metadata hold `recipe`; it appears whole under its name or not at all.

    Raises FileExistsError when the name is taken, unless it may `replace`.
    """
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_itxt(RECIPE, json.dumps(recipe, ensure_ascii=False))
    _write(path, lambda partial: image.save(partial, format="PNG", pnginfo=info), replace)


def save_gif(frames: Sequence[Image.Image], path: str | Path, milliseconds: int = 120) -> None:
    """Writes an endless animation, whole or not at all. Raises FileExistsError when the name is taken."""
    first, *rest = frames
    how = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    _write(path, lambda partial: first.save(partial, format="GIF", **how))


def _write(path: str | Path, save: Callable[[Path], None], replace: bool = False) -> None:
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save(partial)
        # unlike a renaming, linking fails when the name is taken
        (os.replace if replace else os.link)(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe inside a picture. Raises UnclipError when the file is no picture of ours."""
    text = open_image(path).info.get(RECIPE)
    if text is None:
        raise UnclipError(
            f"{path}: holds no recipe; only single pictures that unclip wrote, and nobody saved again, do"
        )
    try:
        recipe = json.loads(text)
    except (TypeError, ValueError):
        recipe = None
    if not isinstance(recipe, dict):
        raise UnclipError(f"{path}: its recipe is damaged")
    return recipe
