"""One Gaussian stream per (stage, seed): a picture's noise does not depend on the batch it is drawn in."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def generator(*key: object) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone: (stage, seed), or (seed, rank, step) in training."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def stream(
    stage: str, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Callable[[], Float[Tensor, "b ..."]]:
    """A source of standard normal draws `[len(seeds), *shape]`, float32: the first call gives x_T, the next the steps' noise.

    Row k is a function of (stage, seeds[k]) and of how many draws came before it. Drawn on the CPU, so that every
    device sees the same numbers.
    """
    sources = [generator(stage, seed) for seed in seeds]

    def draw() -> Float[Tensor, "b ..."]:
        return torch.stack([torch.randn(*shape, generator=source) for source in sources]).to(device)

    return draw
