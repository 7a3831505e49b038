"""How much an embedding leaves open: the entropy of what no caption names, given the embedding."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tools.evaluate import draw
from tools.evaluate.probe import probe
from tools.figures.studio import NUISANCE, Studio
from tools.reader.net import PER_PICTURE
from tools.world.scene import Scene

TRAIN, HELD_OUT, AT_ONCE = 40_000, 1000, 500  # scenes; each doubling takes some percent off what probes leave open
CLASSES = [len(PER_PICTURE[factor]) for factor in NUISANCE]
DECAYS = (1e-4, 1e-3, 1e-2)
WIDTH, DROPOUT, EPOCHS, BATCH = 512, 0.2, 20, 512  # of the probe that is not linear
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05


def probe_entropy(studio: Studio) -> dict[str, float]:
    """The held-out cross-entropy, in bits, of the best probe of each factor from z_i, on scenes of one plain thing.

    The probes are fitted to other such scenes. The factor is what the reader says of the picture, right or not: what
    varies is read by the same eyes.
    """
    scenes = studio.scenes(1, HELD_OUT + TRAIN)
    held, others = _seen(studio, scenes[:HELD_OUT]), _seen(studio, scenes[HELD_OUT:])
    return dict(zip(NUISANCE, left_open(*others, *held, CLASSES), strict=True))


def _seen(studio: Studio, scenes: Sequence[Scene]) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n k"]]:
    """Embeddings of the scenes' pictures, and their factors as read."""
    embs, factors = [], []
    for start in range(0, len(scenes), AT_ONCE):
        images = studio.renders(scenes[start : start + AT_ONCE])
        embs.append(draw.embeddings(studio.system.clip, images))
        factors += [[PER_PICTURE[name].index(seen.whole[name]) for name in NUISANCE] for seen in studio.read(images)]
    return torch.cat(embs), torch.tensor(factors)


def left_open(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, "n k"],
    held: Float[Tensor, "m d"],
    truth: Int[Tensor, "m k"],
    classes: Sequence[int],
) -> list[float]:
    """Bits of each of k names that probes leave open on the held-out rows.

    Linear probes and one that is not are fitted to nine tenths of x; for each name that counts which does best on the tenth.
    """
    cut = len(x) * 9 // 10
    nets = [probe(x[:cut], y[:cut], classes, decay) for decay in DECAYS] + [_deep(x[:cut], y[:cut], classes)]
    chosen = torch.stack([_bits(net, x[cut:], y[cut:], classes) for net in nets]).argmin(dim=0)
    told = torch.stack([_bits(net, held, truth, classes) for net in nets])
    return told[chosen, range(len(classes))].tolist()


def _bits(net: nn.Module, x: Tensor, y: Tensor, classes: Sequence[int]) -> Float[Tensor, " k"]:
    with torch.no_grad():
        parts = net(x).split(list(classes), dim=1)
    return torch.stack([F.cross_entropy(part, y[:, k]) for k, part in enumerate(parts)]) / math.log(2)


def _deep(x: Float[Tensor, "n d"], y: Int[Tensor, "n k"], classes: Sequence[int]) -> nn.Module:
    """A probe with two hidden layers, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, axes = x.mean(dim=0), torch.linalg.eigh(torch.cov(x.T))[1]
        x = (x - mean) @ axes  # along principal axes Adam's steps fit small directions as well as large ones
        scale, first, second = x.std(), nn.Linear(x.shape[1], WIDTH), nn.Linear(WIDTH, WIDTH)
        hidden = first, nn.GELU(), nn.Dropout(DROPOUT), second, nn.GELU(), nn.Dropout(DROPOUT)
        net = nn.Sequential(*hidden, nn.Linear(WIDTH, sum(classes)))
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = EPOCHS * math.ceil(len(x) / BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for rows in (rows for _ in range(EPOCHS) for rows in torch.randperm(len(x)).split(BATCH)):
            optimizer.zero_grad()
            parts = net(x[rows] / scale).split(list(classes), dim=1)
            sum((F.cross_entropy(part, y[rows, k]) for k, part in enumerate(parts)), torch.zeros(())).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        first.weight.copy_(first.weight @ axes.T / scale)
        first.bias.sub_(first.weight @ mean)
    return net.eval()
