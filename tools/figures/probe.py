"""How much an embedding leaves open: the entropy of what no caption names, given the embedding."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.evaluate import draw
from tools.evaluate.probe import probe
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
    emb = draw.embeddings(clip, images)
    found = {}
    for factor in NUISANCE:
        values = PER_PICTURE[factor]
        labels = torch.tensor([values.index(reading.whole[factor]) for reading in readings])
        found[factor] = _probed(emb, labels, len(values))
    return found


def _probed(emb: Tensor, labels: Tensor, classes: int) -> float:
    """The cross-entropy in bits of what was held out; the weight decay is chosen on a part of the rest."""
    cut = TRAIN * 4 // 5
    parts = emb[:cut], labels[:cut], emb[cut:TRAIN], labels[cut:TRAIN]
    scores = {decay: _held_out(*parts, classes, decay) for decay in DECAYS}
    best = min(scores, key=lambda decay: scores[decay])
    return _held_out(emb[:TRAIN], labels[:TRAIN], emb[TRAIN:], labels[TRAIN:], classes, best)


def _held_out(x: Tensor, y: Tensor, held: Tensor, truth: Tensor, classes: int, decay: float) -> float:
    net = probe(x, y[:, None], [classes], decay)
    with torch.no_grad():
        return float(F.cross_entropy(net(held), truth)) / math.log(2)


def entropy(values: Sequence[str]) -> float:
    """The entropy in bits of a few draws, corrected for their number (Miller and Madow)."""
    counts, n = Counter(values), len(values)
    plain = -sum(c / n * math.log2(c / n) for c in counts.values())
    return plain + (len(counts) - 1) / (2 * n) / math.log(2)
