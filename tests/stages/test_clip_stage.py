"""What the CLIP stage adds to the loop: its loss, its crops, its vocabulary, what it logs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stages.clip import ClipRun, Objective, random_square, told_apart
from stages.data import Batch, validation_batches
from unclip.clip import Clip, build_net, normalise
from unclip.config import build
from unclip.images import square
from unclip.models.draft import SIDE, DraftConfig, Redrawing
from unclip.tokenizer import Tokenizer

from .test_data import sample, write


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


def test_a_clip_that_is_trained_on_keeps_its_vocabulary(lab: Any, trained: Path, tmp_path: Path) -> None:
    """Whatever the new data's captions use: its embeddings are of the old tokens."""
    meta = json.dumps({"captions": ["zebras crossing"]}).encode()
    write(tmp_path / "00000.tar", {f"{n:03d}": sample(n, json=meta) for n in range(8)})
    options = ("run.steps=1", "run.batch=8", f"data.shards={tmp_path}", "data.image_size=16")
    went_on = lab.train("clip", tmp_path / "run", *options, init=trained / "weights.safetensors")
    first, second = (Clip(run / "weights.safetensors").config.merges for run in (trained, went_on))
    assert first == second


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


def test_a_caption_is_told_apart_from_its_own_negatives_only() -> None:
    unit = torch.eye(3)
    image, text = unit[[0, 0, 1]], torch.stack([unit[0], unit[1], unit[1]])
    wrong, owners = unit[[1, 0, 2]], torch.tensor([0, 1, 1])  # of the third picture there are none
    scale = torch.tensor(100.0, requires_grad=True)
    loss, right = told_apart(image, text, wrong, owners, scale)
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, 100.0, 0.0]))
    assert right.tolist() == [True, False, True]
    loss.sum().backward()
    assert scale.grad == 1.0  # of the second row, that the -inf of others' negatives would make nan


@pytest.mark.filterwarnings("ignore::unclip.errors.UnclipWarning")
def test_negatives_join_the_loss_where_there_are_any(lab: Any) -> None:
    goal, net, batch = objective(lab)
    plain = goal(net.eval(), batch, torch.Generator())
    asked = dataclasses.replace(
        goal, settings=build(ClipRun, lab.values("clip", Path("none"), "objective.negatives=2"), "clip")
    )
    none = asked(net, batch, torch.Generator())  # this batch has none
    assert torch.equal(none["loss"], plain["loss"])
    assert none["told_apart"].tolist() == [1] * 6
    told = dataclasses.replace(batch, negatives=[["a", "b", "c"], [], ["d"], [], [], []])
    assert torch.equal(goal(net, told, torch.Generator())["loss"], plain["loss"])  # none are asked for
    texts, rows = asked._wrong(told, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 0, 2]
    assert len(set(texts)) == 3
    found = asked(net, told, torch.Generator())
    extra = found["loss"] - plain["loss"]
    assert (extra[[0, 2]] > 0).all()
    assert extra[[1, 3, 4, 5]].abs().max() < 1e-6
    assert found["told_apart"].shape == (6,)


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


@pytest.mark.filterwarnings("ignore::unclip.errors.UnclipWarning")
def test_drafts_of_both_embeddings_join_the_loss(lab: Any) -> None:
    goal, net, batch = objective(lab)
    assert batch.images is not None
    whole = Redrawing(net, DraftConfig(image_emb=goal.model.embed_dim, width=8)).eval()
    settings = build(ClipRun, lab.values("clip", Path("none"), "objective.redraw=3.0"), "clip")
    plain = goal(net.eval(), batch, torch.Generator())["loss"]
    found = dataclasses.replace(goal, settings=settings)(whole, batch, torch.Generator())
    ids, _ = goal.tokenizer(batch.captions, 12)
    with torch.no_grad():
        image, text, _ = net(normalise(batch.images, goal.model), ids)
        errors = [
            (draft(x) - square(batch.images, SIDE)).square().mean(dim=(1, 2, 3))
            for draft, x in ((whole.of_image, image), (whole.of_text, text))
        ]
    torch.testing.assert_close(found["redrawn"].detach(), errors[0])
    torch.testing.assert_close(found["redrawn_of_text"].detach(), errors[1])
    torch.testing.assert_close(found["loss"], plain + 3 * (errors[0] + errors[1]))


def test_what_redraws_begins_with_a_clip_and_ends_as_one(lab: Any, tmp_path: Path) -> None:
    """What draws is trained beside it and is no part of what is exported."""
    before = lab.train("clip", tmp_path / "before", "run.steps=1", "run.batch=8") / "weights.safetensors"
    images = torch.rand(2, 3, 32, 32)
    for lr, moved in ((1e-9, False), (1e-2, True)):
        steps = ("objective.redraw=1.0", f"optim.lr={lr}", "run.steps=3")
        after = Clip(lab.train("clip", tmp_path / str(lr), *steps, init=before) / "weights.safetensors")
        assert after.config == Clip(before).config
        assert moved != torch.allclose(after.image_emb(images), Clip(before).image_emb(images), atol=1e-4)
