"""Per-sample losses of a diffusion net, and the times they are taken at."""

import math
from dataclasses import replace

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from unclip.diffusion.process import Process, reverse_log_variance
from unclip.diffusion.schedule import Schedule, Transition, spread

BIN = 1 / 255
"""Half the distance between two of the 256 grey levels, in the units of images in [-1, 1]."""


def random_times(
    count: int, timesteps: int, rng: torch.Generator, shift: float | None = None, logit_std: float | None = None
) -> Int[Tensor, " count"]:
    """Times of 1..T to train at: T s u / (1 + (s - 1) u) rounded up, u uniform, s the `shift`; on the CPU.

    That is the map of 2403.03206 eq. 23, there of a flow's times, here of a schedule's indices. A shift above 1 spends
    more samples on the noisy times, where a picture's layout is decided; 1 or None is uniform. With `logit_std` the logit
    of u is normal with that deviation (eq. 19, of mean 0): fewer samples at both ends, more where shapes are decided.
    """
    s = shift or 1.0
    if logit_std is None:
        u = torch.rand(count, generator=rng, dtype=torch.float64)
    else:
        u = (torch.randn(count, generator=rng, dtype=torch.float64) * logit_std).sigmoid()
    return (timesteps * s * u / (1 + (s - 1) * u)).ceil().long().clamp(1, timesteps)


def simple(
    process: Process,
    out: Float[Tensor, "b _ *d"],
    x0: Float[Tensor, "b c *d"],
    eps: Float[Tensor, "b c *d"],
    t: Int[Tensor, " b"],
    min_snr: float | None = None,
) -> Float[Tensor, " b"]:
    """The mean squared error of the prediction (2006.11239 eq. 14); `min_snr`, a gamma, turns on min-SNR weights.

    The weights (2303.09556) are min(SNR, gamma) on x0, the same over SNR on eps and over SNR + 1 on v, and 1
    where the SNR is 0, since there they would ignore the sample.
    """
    error = process.prediction(out).to(x0.dtype) - process.target(x0, eps, t)
    loss = _mean(error.square())
    return loss if min_snr is None else loss * spread(_min_snr_weight(process, t, min_snr), loss)


def vlb_term(
    process: Process,
    out: Float[Tensor, "b _ *d"],
    x0: Float[Tensor, "b c *d"],
    xt: Float[Tensor, "b c *d"],
    t: Int[Tensor, " b"],
    pixels: bool = False,
) -> Float[Tensor, " b"]:
    """L_{t-1} of the variational bound in bits per dimension (2006.11239 eq. 5, 13).

    For t > 1 the KL divergence of the posterior from the net's step, at t = 1 the negative log-likelihood of x0: a
    density, or with `pixels` the probability of 8-bit grey levels in images in [-1, 1]. log beta-tilde, -inf at t = 1,
    is that of t = 2 there (2102.09672). The whole bound is the sum over all t plus `vlb_prior`.
    """
    schedule = process.schedule
    step = schedule.transition(t, t - 1)
    floor = schedule.transition(2, 1).variance
    finite = replace(step, variance=step.variance.where(t.cpu() > 1, floor))
    estimate = process.read(out, xt, t)
    log_variance = reverse_log_variance(estimate, step if estimate.x0_var is not None else finite).expand_as(xt)
    error = x0 - estimate.x0
    divergence = _divergence(error, log_variance, finite)
    surprise = _grey_level_surprise(x0, error, log_variance) if pixels else _surprise(error, log_variance)
    first = (t == 1).to(xt.device).reshape(-1, *[1] * (xt.ndim - 1))
    return _mean(torch.where(first, surprise, divergence)) / math.log(2)


def vlb_prior(schedule: Schedule, x0: Float[Tensor, " b *d"]) -> Float[Tensor, " b"]:
    """L_T in bits per dimension: the KL divergence of q(x_T | x_0) from the standard normal (2006.11239 eq. 5)."""
    alpha_bar = schedule.at(schedule.timesteps)
    rest = -torch.log1p(-alpha_bar) - alpha_bar
    return _mean(spread(alpha_bar, x0) * x0.square() + spread(rest, x0)) / (2 * math.log(2))


def variance_bound(
    process: Process,
    out: Float[Tensor, "b _ *d"],
    x0: Float[Tensor, "b c *d"],
    eps: Float[Tensor, "b c *d"],
    t: Int[Tensor, " b"],
    pixels: bool = True,
) -> Float[Tensor, " b"]:
    """`vlb_term` with the prediction frozen: it teaches the variance channels only (2102.09672 sec. 3.1)."""
    prediction = process.prediction(out)
    frozen = torch.cat([prediction.detach(), out[:, prediction.shape[1] :]], dim=1)
    return vlb_term(process, frozen, x0, process.schedule.noised(x0, eps, t), t, pixels)


def hybrid(
    process: Process,
    out: Float[Tensor, "b _ *d"],
    x0: Float[Tensor, "b c *d"],
    eps: Float[Tensor, "b c *d"],
    t: Int[Tensor, " b"],
    weight: float = 0.001,
    min_snr: float | None = None,
) -> Float[Tensor, " b"]:
    """L_hybrid of images with a learned variance: `simple` + weight T `variance_bound` (2102.09672 eq. 16).

    T makes one term an estimate of the whole bound where t is drawn uniformly. For data that are not 8-bit images add the
    two losses yourself.
    """
    bound = variance_bound(process, out, x0, eps, t)
    return simple(process, out, x0, eps, t, min_snr) + weight * process.schedule.timesteps * bound


def _mean(values: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    return reduce(values, "b ... -> b", "mean")


def _min_snr_weight(process: Process, t: Int[Tensor, " b"], gamma: float) -> Float[Tensor, " b"]:
    snr = process.schedule.snr(t)
    weight = snr.clamp(max=gamma)
    if process.config.predicts == "eps":
        weight = weight / snr
    elif process.config.predicts == "v":
        weight = weight / (snr + 1)
    return weight.where(snr > 0, 1.0)


def _divergence(error: Tensor, log_variance: Tensor, step: Transition) -> Tensor:
    """KL(posterior || step of the net) in nats; the means differ only by what the step makes of x0's error."""
    ratio = spread(step.variance.log(), error) - log_variance
    apart = (spread(step.x0, error) * error).square() * (-log_variance).exp()
    return 0.5 * (ratio.exp() - 1 - ratio + apart)


def _surprise(error: Tensor, log_variance: Tensor) -> Tensor:
    """-log N(error; 0, variance) in nats."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + error.square() * (-log_variance).exp())


def _grey_level_surprise(x0: Tensor, error: Tensor, log_variance: Tensor) -> Tensor:
    """-log of the normal law's mass in the bin of x0, open at black and white, in nats (2006.11239 eq. 13)."""
    scale = (-0.5 * log_variance).exp()
    above = torch.special.ndtr((error + BIN) * scale).where(x0 < 1 - BIN, 1.0)
    below = torch.special.ndtr((error - BIN) * scale).where(x0 > -1 + BIN, 0.0)
    return -(above - below).clamp(min=1e-12).log()
