"""Numbers with what they are worth: shares and means with 95 % confidence intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

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


def jackknife(statistic: Callable[..., float], *sizes: int) -> Estimate:
    """A statistic of independent samples of these sizes, given the indices of each, with the jackknife's interval.

    Each index is left out once (Efron and Stein 1981). A bootstrap would not do: samples drawn again hold copies, which
    distances between pictures and entropies take for likeness.
    """
    every = [torch.arange(size) for size in sizes]
    value, variance = statistic(*every), 0.0
    for k, rows in enumerate(every):
        without = [statistic(*every[:k], rows[rows != out], *every[k + 1 :]) for out in rows]
        variance += (len(rows) - 1) * float(torch.tensor(without, dtype=torch.float64).var(correction=0))
    half = Z * math.sqrt(variance)
    return Estimate(value, value - half, value + half, min(sizes))


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
