"""Numbers (times, noise levels) as vectors."""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn


def small(*shape: int, std: float) -> nn.Parameter:
    """A parameter that starts normal with deviation `std`: learned tokens, positions, tables."""
    # not torch.randn: on the meta device that takes 5 s, since it imports torch's compiler
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=std))


def sinusoid(t: Num[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """The sinusoidal embedding of t (1706.03762), cosines first and then sines as in ADM, wavelengths 2 pi to 2e4 pi.

    `dim` is even. Always float32: bfloat16 cannot tell t = 999 from t = 1000.
    """
    assert dim % 2 == 0, "half of a sinusoid is cosines, half is sines"
    half = dim // 2
    # multiplied first and then divided, as ADM does: in the other order the angles differ by 1e-4 at t = 999
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoid -> linear -> SiLU -> linear: how a time or a noise level enters a net."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Num[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """The embedding of t, integer or not."""
        return self.mlp(sinusoid(t, self.dim).to(next(self.mlp.parameters()).dtype))
