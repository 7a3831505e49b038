"""Printed words: rasterised once with pillow's default font, then looked up on the side that faces the viewer."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tools.world.palette import WORDS
from tools.world.solids import Rays

HEIGHT, WIDTH = 96, 240
REACH_ACROSS, REACH_UP = 0.86, 0.62  # the half extents of the printed patch, canonical


@cache
def alphabet(device: str) -> Float[Tensor, "n h w"]:
    """Every word of the palette as coverage in [0, 1], as large as fits; a blank border all around."""
    return torch.from_numpy(np.stack([_raster(word) for word in WORDS])).to(device)


def lettering(point: Rays, word: Int[Tensor, " m"]) -> Float[Tensor, "m r"] | None:
    """How much ink (0 to 1) lies at canonical points of solids on whose front (local -z) `word` is printed.

    None where no row has a word.
    """
    if not bool((word >= 0).any()):
        return None
    u = ((point[0] / REACH_ACROSS + 1) * 0.5 * WIDTH - 0.5).clamp(0, WIDTH - 1.001)
    v = ((1 - point[1] / REACH_UP) * 0.5 * HEIGHT - 0.5).clamp(0, HEIGHT - 1.001)
    left, top = u.floor(), v.floor()
    fu, fv = u - left, v - top
    flat = alphabet(str(word.device)).flatten()
    start = (word.clamp(min=0)[:, None] * HEIGHT + top.long()) * WIDTH + left.long()
    upper = flat[start] * (1 - fu) + flat[start + 1] * fu
    lower = flat[start + WIDTH] * (1 - fu) + flat[start + WIDTH + 1] * fu
    front = (point[2] < -0.1) & (word >= 0)[:, None]
    return torch.where(front, upper * (1 - fv) + lower * fv, 0.0)


def _raster(word: str) -> np.ndarray:
    font = ImageFont.load_default(size=72)
    left, top, right, bottom = font.getbbox(word, stroke_width=2)
    drawn = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), word, font=font, fill=255, stroke_width=2)
    scale = min((HEIGHT - 8) / drawn.height, (WIDTH - 8) / drawn.width)
    drawn = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (WIDTH, HEIGHT))
    canvas.paste(drawn, ((WIDTH - drawn.width) // 2, (HEIGHT - drawn.height) // 2))
    return np.asarray(canvas, dtype=np.float32) / 255
