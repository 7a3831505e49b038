"""Sampling under known pixels (RePaint, arXiv 2201.09865)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unclip.diffusion.guidance import Denoiser
from unclip.diffusion.samplers import Step, ddim
from unclip.diffusion.schedule import Schedule, spread
from unclip.errors import UnclipError
from unclip.noise import Noise


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the pictures to draw: where `keep`, `pixels` stay as they are. Each step is taken `rounds` times."""

    pixels: Float[Tensor, " b *d"]
    keep: Bool[Tensor, " b *d"]
    rounds: int = 5


def repaint(
    denoise: Denoiser,
    x: Float[Tensor, " b *d"],
    times: Sequence[int],
    schedule: Schedule,
    noise: Noise,
    known: Known,
    eta: float = 1.0,
) -> Iterator[Step]:
    """DDIM steps in which the known pixels are noised to each time; at the end they are exactly what is known.

    Every step is taken `known.rounds` times with a step of pure noise back between them, so that the new pixels come to fit
    the known ones (2201.09865 alg. 1, jumps of one step). Going back from s to t keeps sqrt(alpha_bar_t / alpha_bar_s)
    of the sample and adds noise of the variance that is then missing. Raises UnclipError for fewer than one round.
    """
    if known.rounds < 1:
        raise UnclipError(f"rounds = {known.rounds}: expected at least 1")
    pixels, keep = known.pixels.to(x), known.keep.to(x.device)
    for t, s in pairwise(times):
        for turn in range(known.rounds):
            (step,) = ddim(denoise, x, (t, s), schedule, noise, eta)
            beside = pixels if s == 0 else schedule.noised(pixels, noise().to(x), s)
            after = torch.where(keep, beside, step.x)
            yield Step(t, s, after, step.x0)
            if s == 0:
                break
            if turn < known.rounds - 1:
                beta = schedule.transition(t, s).beta
                x = spread((1 - beta).sqrt(), x) * after + spread(beta.sqrt(), x) * noise().to(x)
            else:
                x = after
