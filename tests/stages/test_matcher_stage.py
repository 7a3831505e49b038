"""A matcher's training: what is told apart from what, by which losses, and what it leaves."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.data import Batch, validation_batches
from stages.matcher import MatcherRun, Objective, ObjectiveConfig, completed, texts
from unclip.checkpoint import load, read_header
from unclip.clip import Clip
from unclip.config import build
from unclip.errors import UnclipError
from unclip.models.matcher import Matcher


class Says(nn.Module):
    """Answers with given logits, a row for every column of texts, and notes what it was asked."""

    def __init__(self, *rows: float) -> None:
        super().__init__()
        self.rows, self.asked = rows, list[tuple[Tensor, Tensor, Tensor]]()

    def forward(self, cells: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """The logits."""
        self.asked.append((cells, hidden, mask))
        return torch.tensor(self.rows).repeat_interleave(len(cells))


def begun(lab: Any, *overrides: str, negatives: int = 0) -> tuple[Objective, Batch]:
    """An objective and six validation samples, each with so many negatives."""
    settings = build(MatcherRun, completed(lab.values("matcher", Path("none"), *overrides)), "matcher")
    (batch,) = validation_batches(settings.data, 6, 6)
    wrong = [[f"{caption} not {k}" for k in range(negatives)] for caption in batch.captions]
    return Objective(settings, Clip(lab.clip)), Batch(**vars(batch) | {"negatives": wrong})


def test_the_losses_are_those_of_the_caption_among_what_is_false(lab: Any) -> None:
    goal, batch = begun(lab, "objective.negatives=2", "objective.others=1", negatives=2)
    found = goal(Says(2.0, 0.0, 1.0, -1.0).eval(), batch, torch.Generator())
    choice = -2 + math.log(sum(math.exp(x) for x in (2, 0, 1, -1)))
    truth = math.log1p(math.exp(-2)) + sum(math.log1p(math.exp(x)) for x in (0, 1, -1)) / 3
    assert torch.allclose(found["choice"], torch.full((6,), choice))
    assert torch.allclose(found["truth"], torch.full((6,), truth))
    assert torch.allclose(found["loss"], torch.full((6,), choice + truth))
    assert found["told_apart"].tolist() == [1] * 6
    assert goal(Says(0.5, 0.0, 1.0, -1.0).eval(), batch, torch.Generator())["told_apart"].tolist() == [0] * 6


def test_what_a_sample_lacks_counts_nothing(lab: Any) -> None:
    """Without negatives a picture is told apart from its neighbours' captions alone."""
    goal, batch = begun(lab, "objective.negatives=2", "objective.others=2")
    found = goal(Says(2.0, 9.0, 9.0, 0.0, 0.0).eval(), batch, torch.Generator())
    assert torch.allclose(found["choice"], torch.full((6,), math.log(1 + 2 * math.exp(-2))))
    assert torch.allclose(found["truth"], torch.full((6,), math.log1p(math.exp(-2)) + math.log(2)))
    assert found["told_apart"].tolist() == [1] * 6
    same = Batch(**vars(batch) | {"captions": batch.captions[:1] * 5 + batch.captions[5:]})
    _, there = texts(same, goal.settings.objective, torch.Generator())
    assert there[2:].tolist() == [[True, *[False] * 4, True], [False, True, *[False] * 3, True]]
    alone = Batch(**vars(batch) | {"captions": batch.captions[:1], "negatives": [], "images": batch.images[:1]})
    assert goal(Says(2.0, 9.0, 9.0, 0.0, 0.0).eval(), alone, torch.Generator())["choice"].tolist() == [0]


def test_texts_are_asked_of_their_own_pictures_and_captions_of_their_neighbours_too(lab: Any) -> None:
    goal, batch = begun(lab, "objective.negatives=1", "objective.others=1", negatives=3)
    net = Says(0.0, 0.0, 0.0).eval()
    goal(net, batch, torch.Generator())
    cells, hidden, mask = net.asked[0]
    assert (len(cells), len(hidden)) == (6, 18)
    assert hidden.shape[1] == mask.sum(dim=1).max()
    assert torch.equal(hidden[12:], hidden[:6].roll(1, dims=0))
    assert torch.equal(mask[12:], mask[:6].roll(1, dims=0))
    columns, there = texts(batch, ObjectiveConfig(negatives=4), torch.Generator().manual_seed(0))
    assert there.tolist() == [[True] * 6] * 3 + [[False] * 6, [True] * 6]
    assert {columns[k][0] for k in (1, 2, 3)} == set(batch.negatives[0])
    assert columns[4] == [""] * 6
    assert columns[0] == batch.captions
    assert columns[5] == [batch.captions[-1], *batch.captions[:-1]]


def test_pictures_are_degraded_while_it_is_trained_and_no_longer(lab: Any) -> None:
    goal, batch = begun(lab, 'degrade.kind="blur"', "degrade.noise_level=0.5", "objective.negatives=1")
    seen = []
    for training in (False, True, True):
        net = Says(0.0, 0.0, 0.0).train(training)
        goal(net, batch, torch.Generator().manual_seed(3))
        seen.append(net.asked[0][0])
    assert batch.images is not None
    assert torch.equal(seen[0], goal.clip.cells(batch.images, goal.settings.model.layer))
    assert (seen[1] - seen[0]).abs().max() > 1e-3
    assert torch.equal(seen[1], seen[2])


def test_a_training_leaves_a_matcher_that_knows_its_clip(lab: Any, tmp_path: Path) -> None:
    weights = lab.train("matcher", tmp_path / "matcher", "run.steps=30") / "weights.safetensors"
    header, clip = read_header(weights), Clip(lab.clip)
    assert (header.net, header.parents, header.process, header.sampling) == (
        "matcher",
        {"clip": clip.fingerprint},
        {},
        {},
    )
    net, _ = load(weights, Matcher)
    assert net.config.text_hidden == clip.config.text_width
    log = [json.loads(line) for line in (tmp_path / "matcher" / "log.jsonl").read_text().splitlines()]
    losses = [entry["val_loss"] for entry in log if "val_loss" in entry]
    assert losses[-1] < losses[0]
    text = clip.text(["a red cube"])
    assert net(clip.cells(torch.zeros(1, 3, 16, 16), net.config.layer), text.hidden, text.mask).shape == (1,)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.images=false", r"data\.images = false, but a matcher is trained on pictures"),
        ("model.layer=7", "layer = 7, but its picture tower has 1 to read, from 0 on"),
        ("model.layer=-1", "layer = -1, but its picture tower has 1 to read, from 0 on"),
        ("objective.others=4", r"objective\.others = 4 must be below run\.batch = 4"),
        ("model.cells=3", r"model\.cells = 3, but .* has 16; leave the key out"),
    ],
)
def test_what_cannot_be_is_refused(lab: Any, tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UnclipError, match=said):
        lab.train("matcher", tmp_path / "matcher", override)
