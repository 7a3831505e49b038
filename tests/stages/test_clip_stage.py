"""What the CLIP stage adds to the loop: its loss, its crops, its vocabulary, what it logs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stages.clip import ClipRun, Objective, random_square
from stages.data import Batch, validation_batches
from unclip.clip import Clip, build_net, normalise
from unclip.config import build
from unclip.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def trained(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ("run.steps=40", "run.batch=8", "run.log_every=40", "run.preview_every=40", "run.save_every=40")
    return lab.train("clip", tmp_path_factory.mktemp("clip") / "run", *options, "run.validate_every=40")


def test_what_is_trained_opens_as_a_clip_with_the_vocabulary_of_its_data(lab: Any, trained: Path) -> None:
    clip = Clip(trained / "weights.safetensors")
    assert len(clip.config.merges or ()) < 100
    assert clip.tokenizer.vocabulary < 512 + 100
    ids, _ = clip.tokenizer(["a cube on top of a small blue sphere 7"], 12)
    whole, _ = Tokenizer()(["a cube on top of a small blue sphere 7"], 12)
    assert clip.tokenizer.bpe.decode(ids[0].tolist()) == Tokenizer().bpe.decode(whole[0].tolist())
    (batch,) = validation_batches(build(ClipRun, lab.values("clip", trained), "").data, 8, 8)
    assert batch.images is not None
    assert clip.image_emb(batch.images).norm(dim=-1).tolist() == pytest.approx([1] * 8)
    assert clip.text(["a cube"]).emb.norm().item() == pytest.approx(1)


def test_it_learns_to_tell_captions_apart_and_logs_it(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    first, last = ([row for row in rows if "logit_scale" in row][k] for k in (0, -1))
    assert all(0 <= row["recall_at_1"] <= row["recall_at_5"] <= 1 for row in (first, last))
    assert last["logit_scale"] != first["logit_scale"]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 2.4  # ln 8 = 2.08 is chance on a batch of 8, and Adam's first steps are rough
    assert {"val_loss", "val_accuracy"} <= {key for row in rows for key in row}


def objective(lab: Any) -> tuple[Objective, torch.nn.Module, Batch]:
    settings = build(ClipRun, lab.values("clip", Path("none")), "clip")
    torch.manual_seed(0)
    (batch,) = validation_batches(settings.data, 6, 6)
    model = dataclasses.replace(settings.model, merges=())  # every caption falls to bytes, and is cut
    return Objective(settings, model, Tokenizer(())), build_net(model), batch


@pytest.mark.filterwarnings("ignore::unclip.errors.UnclipWarning")
def test_the_loss_is_the_symmetric_cross_entropy(lab: Any) -> None:
    goal, net, batch = objective(lab)
    assert batch.images is not None
    losses = goal(net.eval(), batch, torch.Generator())
    ids, _ = goal.tokenizer(batch.captions, 12)
    with torch.no_grad():
        image = F.normalize(net.encode_image(normalise(batch.images, goal.model)), dim=-1)  # type: ignore[operator]
        text = F.normalize(net.encode_text(ids), dim=-1)  # type: ignore[operator]
        logits = net.logit_scale.exp() * image @ text.T  # type: ignore[operator]
    diagonal = torch.arange(6)
    expected = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(losses["loss"].detach(), expected.expand(6))
    assert losses["accuracy"].tolist() == (logits.argmax(dim=1) == diagonal).float().tolist()


@pytest.mark.filterwarnings("ignore::unclip.errors.UnclipWarning")
def test_training_sees_crops_and_validation_whole_pictures(lab: Any) -> None:
    goal, net, batch = objective(lab)
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1, 0, 1)]
    with torch.no_grad():
        train = [goal(net.train(), batch, rng)["loss"][0] for rng in seeds[:2]]
        evaluation = [goal(net.eval(), batch, rng)["loss"][0] for rng in seeds[2:]]
    assert train[0] != train[1]
    assert evaluation[0] == evaluation[1]


def test_a_random_square_is_inside_the_picture_and_large_enough() -> None:
    line = torch.linspace(-1, 1, 32)  # pixels that say where they are
    images = torch.stack([line.expand(32, 32), line[:, None].expand(32, 32)]).expand(200, 2, 32, 32)
    squares = random_square(images, 0.5, torch.Generator().manual_seed(0))
    low, high = squares.amin(dim=(2, 3)), squares.amax(dim=(2, 3))
    sides = (high - low) / 2 * 32 / 31  # the squares' outermost centres of pixels are a pixel's width inside
    area = sides[:, 0] * sides[:, 1]
    assert 0.45 < float(area.min()) < 0.6
    assert 0.9 < float(area.max()) <= 1.07
    middle = (low + high) / 2
    assert float(middle.std(dim=0).min()) > 0.05  # they are in different places
    assert len(squares.flatten(1).unique(dim=0)) == 200  # each sample has its own
    assert random_square(images, 1.0, torch.Generator()) is images
