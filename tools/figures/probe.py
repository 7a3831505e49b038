"""How much an embedding leaves open: the entropy of what no caption names, given the embedding."""

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from stages.embeddings import check_stored
from stages.shards import Faults, Shards, find
from stages.shards import read as read_shards
from tools.evaluate import draw
from tools.evaluate.probe import probe
from tools.figures.studio import NUISANCE, Studio
from tools.reader.net import PER_PICTURE
from unclip.clip import Clip
from unclip.errors import UnclipError
from unclip.images import to_tensor

TRAIN, HELD_OUT = 2000, 1000  # scenes
STORED = ("png", "image_emb.npy")
CLASSES = [len(PER_PICTURE[factor]) for factor in NUISANCE]
DECAYS = (1e-4, 1e-3, 1e-2)
WIDTH, DROPOUT, EPOCHS, BATCH = 512, 0.3, 14, 256  # of the probe that is not linear
LEARNING_RATE, WEIGHT_DECAY = 1.5e-3, 0.05


def probe_entropy(studio: Studio) -> dict[str, float]:
    """The held-out cross-entropy, in bits, of the best probe of each factor from z_i, on scenes of one plain thing.

    The probes are fitted to other such scenes, or, more of them and any, to the studio's embedded shards: the more they
    see, the less of what CLIP kept escapes them. The factor is what the reader says of the picture, right or not: what
    varies is read by the same eyes. Raises UnclipError for shards that lack this system's embeddings.
    """
    held = studio.scenes(1, HELD_OUT)
    if studio.shards is None:
        x, y = _seen(studio, studio.renders(studio.scenes(1, TRAIN + HELD_OUT)[HELD_OUT:]))
    else:
        x, y = (torch.cat(column) for column in zip(*_stored(studio, studio.shards), strict=True))
    return dict(zip(NUISANCE, left_open(x, y, *_seen(studio, studio.renders(held)), CLASSES), strict=True))


def _seen(studio: Studio, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n k"]]:
    """Embeddings of pictures, and their factors as read."""
    return draw.embeddings(studio.system.clip, images), _read(studio, images)


def _read(studio: Studio, images: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n k"]:
    rows = [[PER_PICTURE[name].index(reading.whole[name]) for name in NUISANCE] for reading in studio.read(images)]
    return torch.tensor(rows)


def embedded(clip: Clip, spec: str) -> Shards:
    """Shards of this CLIP's embeddings. Raises UnclipError for others."""
    found = find(spec, "--shards")
    check_stored(found.paths, clip.fingerprint, "the system's")
    return found


def _stored(studio: Studio, found: Shards) -> Iterator[tuple[Float[Tensor, "n d"], Int[Tensor, "n k"]]]:
    """The embeddings in shards and their pictures' factors as read, a shard at a time.

    Raises UnclipError where there are none.
    """
    for number in range(len(found.paths)):
        raws = [raw for raw in read_shards(found, [number], STORED, Faults()) if all(name in raw for name in STORED)]
        if not raws:
            raise UnclipError(
                f"--shards: {found.paths[number]} has no sample with {' and '.join(STORED)}; leave it out"
            )
        emb = [np.load(io.BytesIO(raw["image_emb.npy"]), allow_pickle=False) for raw in raws]
        images = [to_tensor(Image.open(io.BytesIO(raw["png"]))) for raw in raws]
        if len({image.shape for image in images}) > 1:
            raise UnclipError(f"--shards: {found.paths[number]} has pictures of several sizes; give renders of one")
        yield torch.from_numpy(np.stack(emb)).float(), _read(studio, torch.stack(images))


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
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # shards are sorted by what they show
    x, y, cut = x[order], y[order], len(x) * 9 // 10
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
        first.weight /= scale
    return net.eval()


def entropy(values: Sequence[str]) -> float:
    """The entropy in bits of a few draws, corrected for their number (Miller and Madow)."""
    counts, n = Counter(values), len(values)
    plain = -sum(c / n * math.log2(c / n) for c in counts.values())
    return plain + (len(counts) - 1) / (2 * n) / math.log(2)
