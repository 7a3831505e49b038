"""Native Karlo's tables, in float64 NumPy: a cosine schedule, respaced, with the posterior's coefficients."""

import math

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.floating]


def native_timesteps(steps: int, timesteps: int = 1000) -> NDArray[np.int64]:
    """The kept timesteps, ascending: equal strides from 0 to the last, each sum rounded."""
    stride = (timesteps - 1) / (steps - 1) if steps > 1 else 1.0
    position, kept = 0.0, []
    for _ in range(steps):
        kept.append(round(position))
        position += stride
    return np.array(sorted(set(kept)))


def native_schedule(steps: int, timesteps: int = 1000) -> dict[str, Table]:
    """Tables over the kept timesteps, ascending (row 0 is t = 0).

    timesteps; betas (of consecutive kept steps); alphas_cumprod, alphas_cumprod_prev; posterior_mean_coef1 (of x0) and
    posterior_mean_coef2 (of x_t); posterior_variance, posterior_log_variance_clipped (row 0 repeats row 1): the noise of
    the prior and of the upsamplers; log_betas: with the former the two ends of the decoder's learned range.
    """

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    whole = [min(1 - alpha_bar((t + 1) / timesteps) / alpha_bar(t / timesteps), 0.999) for t in range(timesteps)]
    kept = native_timesteps(steps, timesteps)
    kept_bars = np.cumprod(1.0 - np.array(whole))[kept]
    betas = 1.0 - kept_bars / np.append(1.0, kept_bars[:-1])
    alphas = 1.0 - betas
    bars = np.cumprod(alphas)  # as the respaced process multiplies them up again
    before = np.append(1.0, bars[:-1])
    variance = betas * (1.0 - before) / (1.0 - bars)
    clipped = np.append(variance[1:2] if len(variance) > 1 else betas, variance[1:])
    return {
        "timesteps": kept.astype(np.float64),
        "betas": betas,
        "alphas_cumprod": bars,
        "alphas_cumprod_prev": before,
        "posterior_mean_coef1": betas * np.sqrt(before) / (1.0 - bars),
        "posterior_mean_coef2": (1.0 - before) * np.sqrt(alphas) / (1.0 - bars),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(clipped),
        "log_betas": np.log(betas),
    }
