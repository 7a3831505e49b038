"""One Gaussian stream per (stage, seed): a picture's noise does not depend on the batch it is drawn in.

Or, to draw what a released pipeline draws, one `Thread` per picture through all of its stages.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Callable[[], Tensor]
"""Each call is the next standard normal draw, of the sample's shape."""


@dataclass(eq=False)
class Thread:
    """All the noise of one picture from one generator, in the order in which it is drawn, as released pipelines do it.

    diffusers: x_T and each step's noise but the last's, stage after stage. `native` Karlo: also the last step's, which
    it multiplies by 0; and in all stages but upsamplers, whatever their guidance, for two rows, of which it uses the first.
    """

    seed: int
    native: bool = False
    dtype: torch.dtype = torch.float32
    _source: torch.Generator = field(init=False, repr=False)
    _before: tuple[int, ...] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._source = torch.Generator().manual_seed(self.seed)

    def begin(self, stage: str, shape: Sequence[int]) -> Callable[[], Tensor]:
        """What gives a stage's draws of `shape`, one after the other."""
        if self._before is not None:
            self._normal(self._before)  # the last step of the stage before
        shape = tuple(shape)
        rows = (1 if stage.startswith("upsampler") else 2, *shape) if self.native else (1, *shape)
        self._before = rows if self.native else None
        return lambda: self._normal(rows)[0]

    def _normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.randn(*shape, generator=self._source, dtype=self.dtype)


Seed = int | Thread
Style = Literal["streams", "diffusers", "native"]


def seeded(style: Style, seed: int, dtype: torch.dtype = torch.float32) -> Seed:
    """What a picture's noise comes from: its seed, or a Thread of that pipeline's."""
    single = torch.promote_types(dtype, torch.float32)
    return seed if style == "streams" else Thread(seed, style == "native", single)


def generator(*key: object) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone: (stage, seed), or (seed, rank, step) in training."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(shape: Sequence[int], rng: torch.Generator, device: torch.device) -> Float[Tensor, "..."]:
    """Standard normal numbers, drawn on `device`: a function of it and of where `rng`, a CPU generator, stands."""
    if device.type == "cpu":
        return torch.randn(*shape, generator=rng)
    seed = int(torch.randint(2**62, (), generator=rng))
    return torch.randn(*shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def redrawn(seed: int, k: int) -> int:
    """The seed of the k-th picture that is drawn for one with this seed; the first is its own."""
    return seed if k == 0 else generator("redrawn", seed, k).initial_seed()


def augmented(
    images: Float[Tensor, "b c h w"], level: Float[Tensor, " b"], eps: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """sqrt(1 - level^2) x + level eps: noise-conditioning augmentation, variance-preserving form (arXiv 2205.11487, A.1).

    `level` is the noise's standard deviation: 0 leaves a sample bitwise as it is, 1 leaves nothing of it.
    """
    level = level[:, None, None, None]
    return (1 - level**2).sqrt() * images + level * eps


def stream(stage: str, seeds: Sequence[Seed], shape: Sequence[int], device: torch.device | str = "cpu") -> Noise:
    """A source of standard normal draws `[len(seeds), *shape]`: the first call gives x_T, the next the steps' noise.

    Row k is a function of (stage, seeds[k]) and of how many draws came before it, and float32; or the next of a Thread.
    Drawn on the CPU, so that every device sees the same numbers.
    """
    rows = [
        seed.begin(stage, shape)
        if isinstance(seed, Thread)
        else partial(torch.randn, *shape, generator=generator(stage, seed))
        for seed in seeds
    ]

    def draw() -> Float[Tensor, "b ..."]:
        return torch.stack([row() for row in rows]).to(device)

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
