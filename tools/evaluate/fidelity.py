"""How pictures as a set compare with real ones, in the reader's feature space."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tools.evaluate.stats import Estimate, Z, share
from tools.reader import Reading

NEAREST = 3


def frechet(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """The Fréchet distance of two Gaussians fitted to features (arXiv 1706.08500, section 3); 0 for equal sets."""
    a, b = a.double(), b.double()
    covariances = a.T.cov(), b.T.cov()
    # the trace of a root of A B is the sum of the roots of its eigenvalues, which are real and not negative
    eigenvalues = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0)
    apart = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return float(apart + covariances[0].trace() + covariances[1].trace() - 2 * eigenvalues.sqrt().sum())


def kernel(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """The squared maximum mean discrepancy with the cubic kernel, unbiased (KID, arXiv 1801.01401, section 4)."""
    a, b = a.double(), b.double()
    xx, yy, xy = (((x @ y.T) / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def precision_recall(
    real: Float[Tensor, "n f"], drawn: Float[Tensor, "m f"], k: int = NEAREST
) -> tuple[Estimate, Estimate]:
    """Shares of drawn features within the real ones' k-nearest-neighbour balls, and the reverse (arXiv 1904.06991, eq. 1-2)."""
    return _covered(real, drawn, k), _covered(drawn, real, k)


def _covered(support: Float[Tensor, "n f"], points: Float[Tensor, "m f"], k: int) -> Estimate:
    radii = torch.cdist(support, support).kthvalue(k + 1, dim=1).values  # the nearest of all is the point itself
    return share((torch.cdist(points, support) <= radii).any(dim=1).tolist())


def memorised(drawn: Float[Tensor, "n f"], fresh: Float[Tensor, "m f"], training: Float[Tensor, "t f"]) -> Estimate:
    """The share of drawn pictures nearer to a training picture than all but 1 % of fresh real pictures are.

    So 1 % is what honest pictures get.
    """
    limit = _distance(fresh, training).quantile(0.01)
    return share((_distance(drawn, training) < limit).tolist())


def _distance(points: Tensor, support: Tensor) -> Float[Tensor, " n"]:
    return torch.cat([torch.cdist(part, support).min(dim=1).values for part in points.split(500)])


def entropies(readings: Sequence[Reading]) -> dict[str, float]:
    """The entropy in bits of what no caption names: light, pitch and zoom of the picture, the first thing's place."""
    found = {key: [reading.whole[key] for reading in readings] for key in ("light", "pitch", "zoom")}
    placed = [reading.things[0] for reading in readings if reading.things]
    found["across"] = [str(int(3 * thing.u)) for thing in placed]
    found["along"] = [str(int(3 * thing.v)) for thing in placed]
    return {key: entropy(values) for key, values in found.items()}


def widened(found: Estimate, kinds: int) -> Estimate:
    """An entropy of so many kinds with a wider interval: the jackknife's is of first order, which vanishes for kinds alike."""
    second = Z * math.sqrt((kinds - 1) / 2) / found.n / math.log(2)
    half = math.hypot((found.high - found.low) / 2, second)
    return replace(found, low=found.value - half, high=found.value + half)


def entropy(values: Sequence[str]) -> float:
    """The entropy in bits of what a few values were drawn from, corrected for their number (Miller and Madow); 0 for none."""
    shares = [count / len(values) for count in Counter(values).values()]
    return sum(-one * math.log2(one) for one in shares) + max(0, len(shares) - 1) / (
        2 * max(1, len(values))
    ) / math.log(2)
