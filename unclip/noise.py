"""One Gaussian stream per (stage, seed): a picture's noise does not depend on the batch it is drawn in."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Callable[[], Tensor]
"""Each call is the next standard normal draw, of the sample's shape."""


def generator(*key: object) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone: (stage, seed), or (seed, rank, step) in training."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def augmented(
    images: Float[Tensor, "b c h w"], level: Float[Tensor, " b"], eps: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """sqrt(1 - level^2) x + level eps: noise-conditioning augmentation, variance-preserving form (arXiv 2205.11487, A.1).

    `level` is the noise's standard deviation: 0 leaves a sample bitwise as it is, 1 leaves nothing of it.
    """
    level = level[:, None, None, None]
    return (1 - level**2).sqrt() * images + level * eps


def stream(stage: str, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Noise:
    """A source of standard normal draws `[len(seeds), *shape]`, float32: the first call gives x_T, the next the steps' noise.

    Row k is a function of (stage, seeds[k]) and of how many draws came before it. Drawn on the CPU, so that every
    device sees the same numbers.
    """
    sources = [generator(stage, seed) for seed in seeds]

    def draw() -> Float[Tensor, "b ..."]:
        return torch.stack([torch.randn(*shape, generator=source) for source in sources]).to(device)

    return draw


def beginning_with(noise: Noise, first: Sequence[Float[Tensor, "..."] | None]) -> Noise:
    """The source with its first draw replaced in the rows where `first` has something; later draws are as they were."""
    waiting = [dict(enumerate(first))]

    def draw() -> Float[Tensor, "b ..."]:
        x = noise()
        given = waiting.pop() if waiting else {}
        rows = [x[k] if (row := given.get(k)) is None else row.to(x) for k in range(len(x))]
        return torch.stack(rows)

    return draw
