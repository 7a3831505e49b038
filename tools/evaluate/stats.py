"""Numbers with what they are worth: shares and means with 95 % confidence intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

Z = 1.959964  # 97.5 % of the normal distribution lies below it


@dataclass(frozen=True)
class Estimate:
    """A measured value, its 95 % confidence interval, and of how many; `proportion`: a share, told in percent."""

    value: float
    low: float
    high: float
    n: int
    proportion: bool = False

    def percent(self) -> str:
        """As in "91.2 % (89.3 to 92.8)"."""
        return f"{self.value:.1%} ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def plain(self, digits: int = 3) -> str:
        """As in "0.712 ± 0.011"."""
        return f"{self.value:.{digits}f} ± {(self.high - self.low) / 2:.{digits}f}"


def share(answers: Sequence[bool]) -> Estimate:
    """The share of True, with Wilson's score interval. Raises ValueError when nothing was asked."""
    n = len(answers)
    if n == 0:
        raise ValueError("a share of nothing")
    p = sum(answers) / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half), n, proportion=True)


def bootstrap(statistic: Callable[[Int[Tensor, " n"]], float], n: int, rounds: int = 300) -> Estimate:
    """A statistic of n samples, given their indices, with the interval of its percentiles over samples drawn again."""
    rng = torch.Generator().manual_seed(0)
    again = torch.tensor([statistic(torch.randint(n, (n,), generator=rng)) for _ in range(rounds)])
    low, high = (float(again.quantile(q)) for q in (0.025, 0.975))
    return Estimate(statistic(torch.arange(n)), low, high, n)


def apart(a: Estimate, b: Estimate) -> Estimate:
    """The difference a - b of two means of different samples, with the interval that theirs make (Welch)."""
    half = math.hypot(a.high - a.low, b.high - b.low) / 2
    middle = a.value - b.value
    return Estimate(middle, middle - half, middle + half, min(a.n, b.n))


def mean(values: Sequence[float]) -> Estimate:
    """The mean, with the interval of the normal approximation. Raises ValueError for fewer than two values."""
    n = len(values)
    if n < 2:
        raise ValueError("an interval needs two values")
    middle = sum(values) / n
    half = Z * math.sqrt(sum((value - middle) ** 2 for value in values) / (n - 1) / n)
    return Estimate(middle, middle - half, middle + half, n)
