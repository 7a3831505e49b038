"""A draft's training of its own, and the decoder that begins with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.data import Batch, validation_batches
from stages.draft import DraftRun, Objective, targets
from stages.embeddings import completed, open_clip
from unclip.checkpoint import load, read_header, read_tensors
from unclip.config import build
from unclip.errors import UnclipError
from unclip.models.decoder import Decoder
from unclip.models.draft import SIDE, Draft


def begun(lab: Any, *overrides: str) -> tuple[Objective, Batch]:
    """An objective and six validation samples."""
    settings = build(DraftRun, completed(lab.values("draft", Path("none"), *overrides)), "draft")
    torch.manual_seed(0)
    clip = open_clip(settings.clip, settings.data, "cpu")
    (batch,) = validation_batches(settings.data, 6, 6)
    return Objective(settings, Draft(settings.model), clip), batch


class Oracle(nn.Module):
    """Answers with the pictures themselves, some grey levels off, and notes what was kept."""

    def __init__(self, batch: Batch, off: float) -> None:
        super().__init__()
        self.answer, self.kept = targets(batch) + off, list[tuple[Tensor, Tensor]]()

    def forward(self, image_emb: Tensor, text_emb: Tensor, keep_image: Tensor, keep_text: Tensor) -> Tensor:
        """The pictures."""
        self.kept.append((keep_image, keep_text))
        return self.answer


def test_the_loss_is_the_squared_error_of_the_small_picture(lab: Any) -> None:
    goal, batch = begun(lab)
    assert batch.images is not None
    assert torch.equal(targets(batch), batch.images)  # the lab's pictures have a draft's size
    large = functional.interpolate(batch.images, 4 * SIDE)
    assert torch.allclose(targets(Batch(**vars(batch) | {"images": large})), batch.images, atol=0.4)
    loss = goal(Oracle(batch, 0.5), batch, torch.Generator())["loss"]
    assert torch.allclose(loss, torch.full((6,), 0.25), atol=1e-6)


def test_drops_are_those_of_the_config(lab: Any) -> None:
    goal, batch = begun(lab, "objective.image_drop=1.0", "objective.text_drop=0.0")
    oracle = Oracle(batch, 0.0)
    goal(oracle, batch, torch.Generator())
    keep_image, keep_text = oracle.kept[0]
    assert not keep_image.any()
    assert keep_text.all()


@pytest.mark.parametrize("init", [False, True])
def test_a_decoder_begins_with_a_trained_draft(lab: Any, tmp_path: Path, init: bool) -> None:
    weights = lab.train("draft", tmp_path / "draft", *lab.stored()) / "weights.safetensors"
    net, header = load(weights, Draft)
    assert (header.net, header.process, header.sampling) == ("draft", {}, {})
    assert header.parents == {"clip": read_header(lab.clip).fingerprint}
    first, last = losses(tmp_path / "draft")
    assert last < first
    more = ["model.draft=8", "model.pooled_text=true", f"run.pretrained.draft={weights}"]
    start = None
    if init:
        start = (
            lab.train("decoder", tmp_path / "before", "run.steps=1", "model.pooled_text=true") / "weights.safetensors"
        )
        more.append('run.fresh=["unet.hint"]')
    lab.train("decoder", tmp_path / "decoder", "run.steps=1", "optim.lr=1e-9", "run.save_every=1", *more, init=start)
    decoder, _ = load(tmp_path / "decoder" / "weights.safetensors", Decoder)
    assert decoder.draft is not None
    for name, tensor in net.state_dict().items():
        assert torch.allclose(decoder.draft.state_dict()[name], tensor, atol=1e-6), name
    if start is not None:
        before = read_tensors(start)
        assert torch.allclose(decoder.image.weight, before["image.weight"], atol=1e-6)


def losses(folder: Path) -> tuple[float, float]:
    """A run's first and last validation loss."""
    rows = [json.loads(row) for row in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row["val_loss"] for row in rows if "val_loss" in row]
    return found[0], found[-1]


def test_what_is_no_draft_is_refused(lab: Any, tmp_path: Path) -> None:
    weights = lab.train("draft", tmp_path / "draft", "run.steps=1") / "weights.safetensors"
    for wrong, told in [
        ("run.pretrained.scetch", r"this net has no 'scetch'; its modules are unet, "),
        ("run.pretrained.draft", r"extra tensor|wants \["),
        ("run.pretrained.text", r"holds a draft; expected a owntext"),
    ]:
        with pytest.raises(UnclipError, match=told):
            lab.train("decoder", tmp_path / "decoder", "model.draft=4", f"{wrong}={weights}")
    with pytest.raises(UnclipError, match=r"data\.images = false; a draft is trained on pictures"):
        lab.train("draft", tmp_path / "blind", "data.images=false")
