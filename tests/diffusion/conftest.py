"""Gaussian data, for which everything that a diffusion net is trained to find is known in closed form."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from unclip.diffusion.guidance import Denoiser
from unclip.diffusion.process import Denoised
from unclip.diffusion.schedule import Schedule


@dataclass(frozen=True)
class GaussianData:
    """Independent coordinates N(mean, variance)."""

    mean: Tensor
    variance: Tensor

    def marginal(self, schedule: Schedule, t: int, z: Tensor) -> Tensor:
        """The point of x_t's law that is z standard deviations off; along the probability-flow ODE z stays constant."""
        alpha_bar = schedule.at(t)
        return alpha_bar.sqrt() * self.mean + (alpha_bar * self.variance + 1 - alpha_bar).sqrt() * z

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """E[x_0 | x_t] and Var[x_0 | x_t]."""

        def denoise(x: Tensor, t: int) -> Denoised:
            alpha_bar = schedule.at(t)
            total = alpha_bar * self.variance + 1 - alpha_bar
            gain = alpha_bar.sqrt() * self.variance / total
            x0 = self.mean + gain * (x - alpha_bar.sqrt() * self.mean)
            return Denoised(x0, x0_var=self.variance * (1 - alpha_bar) / total)

        return denoise


@pytest.fixture
def gaussian() -> GaussianData:
    mean = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)
    return GaussianData(mean, torch.tensor([0.25, 0.5, 0.9], dtype=torch.float64))
