"""How much an embedding leaves open: the entropy of what no caption names, given the embedding."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.evaluate import draw
from tools.reader.net import PER_PICTURE
from tools.reader.targets import nuisance
from tools.world import sample
from unclip.clip import Clip

FACTORS = ("light", "pitch", "zoom")
TRAIN, HELD_OUT = 3000, 1000
DECAYS = (1e-3, 1e-2, 1e-1)


def probe_entropy(clip: Clip, size: int, seed: int = 5) -> dict[str, tuple[float, float]]:
    """The held-out cross-entropy, in bits, of a linear probe of each factor from z_i, and its accuracy."""
    scenes = [sample(seed, index, "test") for index in range(TRAIN + HELD_OUT)]
    emb = draw.embeddings(clip, draw.renders(scenes, size)) * math.sqrt(clip.config.embed_dim)
    found = {}
    for factor in FACTORS:
        values = PER_PICTURE[factor]
        labels = torch.tensor([values.index(nuisance(scene)[factor]) for scene in scenes])
        found[factor] = _probed(emb, labels, len(values))
    return found


def _probed(emb: Tensor, labels: Tensor, classes: int) -> tuple[float, float]:
    """Softmax regression, its weight decay chosen on a part of the training set."""
    torch.manual_seed(0)
    cut = TRAIN * 4 // 5
    parts = emb[:cut], labels[:cut], emb[cut:TRAIN], labels[cut:TRAIN]
    scores = {decay: _fitted(*parts, classes, decay)[0] for decay in DECAYS}
    best = min(scores, key=lambda decay: scores[decay])
    return _fitted(emb[:TRAIN], labels[:TRAIN], emb[TRAIN:], labels[TRAIN:], classes, best)


def _fitted(x: Tensor, y: Tensor, held: Tensor, truth: Tensor, classes: int, decay: float) -> tuple[float, float]:
    probe = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(probe.weight)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(probe(x), y) + decay * probe.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        logits = probe(held)
        return float(F.cross_entropy(logits, truth)) / math.log(2), float((logits.argmax(1) == truth).float().mean())


def fresh_entropy(groups: Sequence[Sequence[str]]) -> float:
    """The mean entropy in bits within groups, each corrected for its small size (Miller and Madow)."""
    return sum(map(_entropy, groups)) / len(groups)


def _entropy(values: Sequence[str]) -> float:
    counts, n = Counter(values), len(values)
    plain = -sum(c / n * math.log2(c / n) for c in counts.values())
    return plain + (len(counts) - 1) / (2 * n) / math.log(2)
