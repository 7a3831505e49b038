"""How much an embedding leaves open: the entropy of what no caption names, given the embedding."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.evaluate import draw
from tools.figures.studio import NUISANCE, Studio
from tools.reader.net import PER_PICTURE

TRAIN, HELD_OUT = 2000, 500
DECAYS = (1e-3, 1e-2, 1e-1)


def probe_entropy(studio: Studio) -> dict[str, float]:
    """The held-out cross-entropy, in bits, of a linear probe of each factor from z_i, over scenes of one plain thing.

    The factor is what the reader says of the render, right or not: what varies is read by the same eyes.
    """
    scenes = studio.scenes(1, TRAIN + HELD_OUT)
    images = studio.renders(scenes)
    clip, readings = studio.system.clip, studio.read(images)
    emb = draw.embeddings(clip, images) * math.sqrt(clip.config.embed_dim)
    found = {}
    for factor in NUISANCE:
        values = PER_PICTURE[factor]
        labels = torch.tensor([values.index(reading.whole[factor]) for reading in readings])
        found[factor] = _probed(emb, labels, len(values))[0]
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


def entropy(values: Sequence[str]) -> float:
    """The entropy in bits of a few draws, corrected for their number (Miller and Madow)."""
    counts, n = Counter(values), len(values)
    plain = -sum(c / n * math.log2(c / n) for c in counts.values())
    return plain + (len(counts) - 1) / (2 * n) / math.log(2)
