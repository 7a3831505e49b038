"""Which of a schedule's times a sampler visits."""

import math
from collections.abc import Sequence
from typing import Literal

Spacing = Literal["linspace", "trailing", "quadratic", "logsnr"]


def spaced(log_snr: Sequence[float], steps: int, spacing: Spacing) -> list[int]:
    """`steps` + 1 whole numbers falling strictly from T to 0, for `log_snr` at the times 1..T; 1 <= steps <= T."""
    last = len(log_snr)
    if spacing == "trailing":
        rising = [_rounded(k * last, steps) for k in range(1, steps + 1)]
    elif steps == 1:
        rising = [last]
    elif spacing == "linspace":
        pace = (last - 1) / (
            steps - 1
        )  # a float, and halves to the even neighbour: what released weights are used with
        rising = [1 + round(pace * k) for k in range(steps)]
    elif spacing == "quadratic":
        pace = (math.sqrt(last) - 1) / (steps - 1)
        rising = [round((1 + pace * k) ** 2) for k in range(steps)]
    else:
        rising = _even(log_snr, steps)
    return [*reversed(_distinct(rising, last)), 0]


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest whole number, halves up, in exact arithmetic: rounded floats may meet."""
    return (2 * numerator + denominator) // (2 * denominator)


def _even(log_snr: Sequence[float], steps: int) -> list[int]:
    """Rising times whose log-SNR is nearest to an even grid; a T without any signal is visited besides."""
    finite = [value for value in log_snr if math.isfinite(value)]
    points = steps - (len(log_snr) - len(finite))
    pace = (finite[0] - finite[-1]) / max(points - 1, 1)
    wanted = [finite[0] - pace * k for k in range(points)]
    nearest = [min(range(len(finite)), key=lambda i: abs(finite[i] - value)) + 1 for value in wanted]
    return nearest if points == steps else [*nearest, len(log_snr)]


def _distinct(rising: Sequence[int], last: int) -> list[int]:
    """The times pushed apart where they met, with the last of them at `last`."""
    times: list[int] = []
    for k, t in enumerate(rising):
        above = max(t, times[-1] + 1) if times else max(t, 1)
        times.append(min(above, last - (len(rising) - 1 - k)))  # leaves room for those that follow
    times[-1] = last
    return times
