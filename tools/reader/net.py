"""The reader's net: object centres and what stands there, on a grid; floor, style and nuisance of the whole picture."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tools.world import palette
from unclip.config import Positive, config

PER_THING = {
    "shape": palette.SHAPES,
    "colour": tuple(palette.COLOURS),
    "size": palette.SIZES,
    "material": palette.MATERIALS,
}
# what no caption names, in bins: its spread at a fixed caption is a system's diversity
LIGHTS, PITCHES, FIELDS = 6, 3, 3
PER_PICTURE = {
    "floor": tuple(palette.FLOORS),
    "style": palette.STYLES,
    "light": tuple(f"light {k}" for k in range(LIGHTS)),
    "pitch": tuple(f"pitch {k}" for k in range(PITCHES)),
    "zoom": tuple(f"zoom {k}" for k in range(FIELDS)),
}
PLAIN = (
    "centre",
    "on",
    "x",
    "z",
)  # one channel each: logits of a centre and of standing on another; place on the floor
SIZE, CELL = 64, 2  # pixels of the pictures it reads, and of a cell of its grid


@config
class ReaderConfig:
    """Channels at a half, a quarter and an eighth of the resolution."""

    channels: tuple[Positive, Positive, Positive] = (48, 96, 160)


def block(channels: int) -> nn.Module:
    """Two convolutions whose result is added to the input by `Residual`."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )


class Residual(nn.Module):
    """x + f(x), then SiLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = block(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The block's output."""
        return functional.silu(x + self.body(x))


class Reader(nn.Module):
    """Pictures in, logits out: `grid` per cell of 2 x 2 pixels, `whole` per picture, and `features` to compare by."""

    def __init__(self, config: ReaderConfig):
        super().__init__()
        self.config = config
        a, b, c = config.channels
        self.fine = nn.Sequential(nn.Conv2d(3, a, 4, stride=2, padding=1), nn.SiLU(), Residual(a))
        self.middle = nn.Sequential(nn.Conv2d(a, b, 2, stride=2), Residual(b), Residual(b))
        self.coarse = nn.Sequential(nn.Conv2d(b, c, 2, stride=2), Residual(c), Residual(c))
        self.to_middle, self.to_fine = nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)
        self.merge_middle, self.merge_fine = Residual(b), Residual(a)
        self.grid = nn.Conv2d(a, len(PLAIN) + sum(map(len, PER_THING.values())), 1)
        self.whole = nn.Linear(c + b, sum(map(len, PER_PICTURE.values())))

    def forward(
        self, x: Float[Tensor, "b 3 64 64"]
    ) -> tuple[Float[Tensor, "b g 32 32"], Float[Tensor, "b w"], Float[Tensor, "b f"]]:
        """Logits of the grid, logits of the whole picture, pooled features."""
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.merge_middle(middle + functional.interpolate(self.to_middle(coarse), scale_factor=2))
        fine = self.merge_fine(fine + functional.interpolate(self.to_fine(middle), scale_factor=2))
        features = torch.cat([part.mean(dim=(2, 3)) for part in (coarse, middle)], dim=1)
        return self.grid(fine), self.whole(features), features
