"""Trains the attribute reader on shards of the demo world and says how often it is right on others.

python -m tools.reader OUT.safetensors --shards TRAIN --validation VALIDATION
"""

import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from cyclopts import App
from cyclopts.types import PositiveInt
from jaxtyping import Float, Int, UInt8
from PIL import Image
from rich.progress import track
from torch import Tensor

from stages.degrade import gaussian_blur
from stages.shards import Faults, find
from stages.shards import read as read_shards
from tools.reader.net import PER_PICTURE, PER_THING, PLAIN, SIZE, Reader, ReaderConfig
from tools.reader.reading import open_reader
from tools.reader.score import report, right
from tools.reader.targets import Targets, collate, joined, targets
from tools.world.scene import Scene, from_graph, mirrored
from unclip import checkpoint
from unclip.cli.shell import run
from unclip.config import to_dict
from unclip.devices import pick_device
from unclip.images import grey_levels, of_grey_levels, resize, to_tensor

app = App(help=__doc__, help_format="plaintext", help_formatter="plain")


@app.default
def train(
    out: Path,
    *,
    shards: str,
    validation: str,
    epochs: PositiveInt = 1,
    batch: PositiveInt = 64,
    lr: float = 2e-3,
    seed: int = 0,
    init: Path | None = None,
    bf16: bool = False,
    device: str = "auto",
) -> None:
    """Train a reader and write it to OUT, with its validation beside it (OUT with the suffix .json).

    Parameters
    ----------
    out
        The checkpoint to write.
    shards
        Training shards of 64 px pictures that tools.world wrote.
    validation
        Others to validate on.
    epochs
        Passes through the training shards.
    batch
        Pictures per step.
    lr
        The highest learning rate of a one-cycle schedule.
    seed
        Of the initial weights, the order and the corruptions.
    init
        A reader to start from.
    bf16
        Compute in bfloat16: several times faster where the processor has it.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    torch.manual_seed(seed)
    where, began = pick_device(device), time.time()
    net = Reader(ReaderConfig()) if init is None else open_reader(init)
    net = net.train().requires_grad_(True).to(where).to(memory_format=torch.channels_last)
    seen = _learn(net, load(shards), epochs, batch, lr, torch.Generator().manual_seed(seed), bf16)
    net.eval()
    found = validate(net, validation)
    made = {"command": "python -m tools.reader", "pictures": seen, "seconds": round(time.time() - began)}
    header = checkpoint.Header(net="reader", model=to_dict(net.config), provenance=made | {"right": found["clean"]})
    checkpoint.save(out, net.state_dict(), header, torch.float16)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report(found))


def _learn(
    net: Reader,
    data: tuple[Tensor, list[Scene], Targets],
    epochs: int,
    batch: int,
    lr: float,
    rng: torch.Generator,
    bf16: bool,
) -> int:
    """Trains the net; returns how many pictures it saw."""
    (pictures, scenes, straight), where = data, next(net.parameters()).device
    turned = collate([targets(mirrored(scene)) for scene in scenes])
    steps = epochs * (len(pictures) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    order = torch.cat([torch.randperm(len(pictures), generator=rng)[: steps // epochs * batch] for _ in range(epochs)])
    bar = track(order.split(batch), "training")
    for step, rows in enumerate(bar):
        # every other picture is seen in a mirror: twice as many scenes, but for the slope of stripes
        images = torch.cat([of_grey_levels(pictures[rows[::2]]), of_grey_levels(pictures[rows[1::2]]).flip(-1)])
        wanted = joined(straight.at(rows[::2]), turned.at(rows[1::2]))
        images = corrupted(images, rng).to(where, memory_format=torch.channels_last)
        with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
            grid, whole, _ = net(images)
        parts = losses(grid.float(), whole.float(), wanted)
        sum(parts.values(), torch.zeros(())).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps} " + " ".join(f"{key} {float(part):.3f}" for key, part in parts.items()))
    return steps * batch


def load(spec: str) -> tuple[UInt8[Tensor, "n 3 64 64"], list[Scene], Targets]:
    """All pictures of some shards, as bytes, with their scenes and targets."""
    found = find(spec, "shards")
    pictures, scenes = [], []
    for raw in read_shards(found, range(len(found.paths)), ("png", "json"), Faults()):
        picture = to_tensor(Image.open(io.BytesIO(raw["png"])))
        pictures.append(grey_levels(picture))
        scenes.append(from_graph(json.loads(raw["json"])["scene"]))
    return torch.stack(pictures), scenes, collate([targets(scene) for scene in scenes])


def corrupted(images: Float[Tensor, "b 3 h w"], rng: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Half of the pictures blurred, half of them grainy: what nets draw is never quite clean."""
    chosen = torch.rand(2, len(images), 1, 1, 1, generator=rng) < 0.5
    sigma = 0.3 + 0.6 * torch.rand(len(images), generator=rng)
    blurred = torch.where(chosen[0], gaussian_blur(images, sigma, kernel=5), images)
    grain = 0.06 * torch.rand(len(images), 1, 1, 1, generator=rng) * torch.randn(images.shape, generator=rng)
    return blurred + torch.where(chosen[1], grain, 0.0)


def losses(grid: Float[Tensor, "b g 32 32"], whole: Float[Tensor, "b w"], wanted: Targets) -> dict[str, Tensor]:
    """The loss of logits, by term: centres (focal, arXiv 1904.07850, eq. 1), names of things, places, names of the whole."""
    heat, peak = wanted.heat.to(grid), wanted.heat.to(grid) == 1
    logit = grid[:, 0]
    p = logit.sigmoid()
    near = F.logsigmoid(logit) * (1 - p) ** 2
    far = F.logsigmoid(-logit) * p**2 * (1 - heat) ** 4
    centre = -torch.where(peak, near, far).sum() / peak.sum()
    rows, slots = (wanted.things[:, :, 0] >= 0).nonzero(as_tuple=True)
    there = wanted.things[rows, slots].to(grid.device)
    columns = grid.flatten(2)[rows.to(grid.device), :, there[:, 0]]
    on = F.binary_cross_entropy_with_logits(columns[:, 1], there[:, 1].float())
    place = F.smooth_l1_loss(columns[:, 2:4], wanted.places[rows, slots].to(grid))
    named = _cross_entropies(columns[:, len(PLAIN) :], there[:, 2:], PER_THING)
    rest = _cross_entropies(whole, wanted.whole.to(grid.device), PER_PICTURE)
    return {"centre": centre, "on": on, "place": place, **named, **{key: 0.3 * part for key, part in rest.items()}}


def _cross_entropies(
    logits: Float[Tensor, "n c"], said: Int[Tensor, "n k"], names: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """The loss of each group of names; their logits lie side by side."""
    parts = logits.split([len(values) for values in names.values()], dim=1)
    return {key: F.cross_entropy(part, said[:, k]) for k, (key, part) in enumerate(zip(names, parts, strict=True))}


def validate(net: Reader, spec: str) -> dict[str, dict[str, float]]:
    """Shares right on held-out renders: as they are, blurred, grainy, and enlarged four times (then read at 64 px)."""
    pictures, scenes, _ = load(spec)
    images = of_grey_levels(pictures)
    rng = torch.Generator().manual_seed(1)
    sigma = torch.full((len(images),), 0.6)
    kinds = {
        "clean": images,
        "blurred": gaussian_blur(images, sigma),
        "grainy": images + 0.04 * torch.randn(images.shape, generator=rng),
        "upsampled": resize(images, (4 * SIZE, 4 * SIZE)),
    }
    return {kind: right(net, changed, scenes) for kind, changed in kinds.items()}


if __name__ == "__main__":
    run(app)
