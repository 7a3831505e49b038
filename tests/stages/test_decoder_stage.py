"""What the decoder's stage adds to the loop: two independent drops, a learned variance, sheets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.data import Batch, validation_batches
from stages.decoder import DecoderRun, Objective, preview
from stages.embeddings import completed, open_clip
from unclip import checkpoint
from unclip.clip import Clip
from unclip.config import build
from unclip.diffusion.losses import hybrid, simple
from unclip.diffusion.process import Process
from unclip.models.decoder import Decoder, DecoderCond

PLAIN = ("model.learned_variance=false", "process.variance=small")


class Spy(nn.Module):
    """A net that notes what it is asked, and answers 0 or what its core does."""

    def __init__(self, core: Decoder, answers: bool = True) -> None:
        super().__init__()
        self.core, self.answers, self.asked = core, answers, list[tuple[Tensor, Tensor, DecoderCond]]()

    def forward(self, x: Tensor, t: Tensor, cond: DecoderCond) -> Tensor:
        self.asked.append((x, t, cond))
        return self.core(x, t, cond) if self.answers else torch.zeros(len(x), 6, *x.shape[2:])


def begun(lab: Any, *overrides: str) -> tuple[Objective, Batch]:
    """An objective with a net whose output is not zero, and six validation samples."""
    settings = build(DecoderRun, completed(lab.values("decoder", Path("none"), *overrides)), "decoder")
    torch.manual_seed(0)
    core = Decoder(settings.model).eval()
    for parameter in core.parameters():
        nn.init.normal_(parameter, std=0.1)
    clip = open_clip(settings.clip, settings.data, "cpu")
    (batch,) = validation_batches(settings.data, 6, 6)
    return Objective(settings, Process(settings.process), core, clip), batch


def test_drops_are_per_sample_and_independent(lab: Any) -> None:
    goal, batch = begun(lab)
    assert batch.images is not None
    times, spy = 200, Spy(goal.core, answers=False)
    images = batch.images.repeat(times, 1, 1, 1)
    large = replace(batch, images=images, captions=batch.captions * times, keys=batch.keys * times)
    for seed in range(8):
        goal(spy, large, torch.Generator().manual_seed(seed))
    assert all(cond.keep_image is not None and cond.keep_text is not None for _, _, cond in spy.asked)
    image = torch.cat([cond.keep_image for _, _, cond in spy.asked])  # type: ignore[misc]
    text = torch.cat([cond.keep_text for _, _, cond in spy.asked])  # type: ignore[misc]
    shares = {(i, w): ((image == i) & (text == w)).float().mean().item() for i in (True, False) for w in (True, False)}
    # 9600 draws: a standard error is at most 0.005
    assert shares[True, True] == pytest.approx(0.45, abs=0.02)
    assert shares[True, False] == pytest.approx(0.45, abs=0.02)
    assert shares[False, True] == pytest.approx(0.05, abs=0.01)
    assert shares[False, False] == pytest.approx(0.05, abs=0.01)


def test_shifted_times_are_noisier(lab: Any) -> None:
    told = []
    for shift in ([], ["objective.shift=5.0"]):
        goal, batch = begun(lab, *PLAIN, *shift)
        spy = Spy(goal.core)
        for seed in range(20):
            goal(spy, batch, torch.Generator().manual_seed(seed))
        told.append(torch.cat([t for _, t, _ in spy.asked]).double().median() / goal.process.schedule.timesteps)
    assert told == [pytest.approx(1 / 2, abs=0.1), pytest.approx(5 / 6, abs=0.1)]


def test_the_loss_is_that_of_the_noise(lab: Any) -> None:
    goal, batch = begun(lab, *PLAIN, "objective.min_snr=5.0")
    spy = Spy(goal.core)
    loss = goal(spy, batch, torch.Generator().manual_seed(1))["loss"]
    ((xt, t, cond),) = spy.asked
    assert batch.images is not None
    assert torch.equal(cond.image_emb, goal.clip.image_emb(batch.images))
    eps = goal.process.schedule.eps(batch.images, xt, t)
    expected = simple(goal.process, goal.core(xt, t, cond), batch.images, eps, t, min_snr=5.0)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)
    assert len(loss.unique()) == 6


@pytest.mark.parametrize("min_snr", [None, 0.5])
def test_a_learned_variance_adds_the_bound(lab: Any, min_snr: float | None) -> None:
    goal, batch = begun(lab, *([f"objective.min_snr={min_snr}"] if min_snr else []))
    spy = Spy(goal.core)
    loss = goal(spy, batch, torch.Generator().manual_seed(1))["loss"]
    ((xt, t, cond),) = spy.asked
    assert batch.images is not None
    eps, out = goal.process.schedule.eps(batch.images, xt, t), goal.core(xt, t, cond)
    expected = hybrid(goal.process, out, batch.images, eps, t, 0.001, min_snr)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)
    assert (loss - simple(goal.process, out, batch.images, eps, t, min_snr)).abs().min() > 1e-5


@pytest.mark.parametrize("text", ["own", "hidden", "none"])
def test_stored_embeddings_give_the_loss_of_computed_ones(lab: Any, text: str) -> None:
    losses = []
    for options in ((), lab.stored()):
        goal, batch = begun(lab, f"model.text={text}", *options)
        losses.append(goal(goal.core, batch, torch.Generator().manual_seed(1))["loss"])
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-3, atol=1e-4)
    assert not torch.equal(losses[0], losses[1])


def test_oblong_pictures_lose_their_ends_and_keep_their_shape(lab: Any) -> None:
    goal, batch = begun(lab, *PLAIN, "objective.image_drop=1.0", "objective.text_drop=1.0")
    assert batch.images is not None
    wide = torch.nn.functional.pad(batch.images, (5, 5, 0, 0), value=-1.0)
    losses = [
        goal(goal.core, replace(batch, images=images), torch.Generator().manual_seed(1))["loss"]
        for images in (batch.images, wide)
    ]
    torch.testing.assert_close(*losses)


def test_a_sheet_shows_truth_over_drawing_under_guidance(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    goal, batch = begun(lab, *PLAIN)
    asked: list[Any] = []
    usual = Decoder.prepare
    monkeypatch.setattr(Decoder, "prepare", lambda self, cond: asked.append(cond) or usual(self, cond))
    sheet = preview(goal.core, goal, batch).sheet
    assert sheet is not None
    assert sheet.size == (6 * 18 - 2, 2 * 18 - 2)
    assert batch.images is not None
    truth = ((batch.images[5] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    assert sheet.crop((5 * 18, 0, 5 * 18 + 16, 16)).tobytes() == truth.numpy().tobytes()
    cond, uncond = asked
    assert cond.keep_image is None
    assert cond.keep_text.all()
    assert not (uncond.keep_image | uncond.keep_text).any()
    again = preview(goal.core, goal, batch).sheet
    assert again is not None
    assert again.tobytes() == sheet.tobytes()  # same seeds, same pictures


def test_the_export_names_its_clip_and_loads(lab: Any, tmp_path: Path) -> None:
    run = lab.train("decoder", tmp_path / "run", "run.steps=2")
    net, header = checkpoint.load(run / "weights.safetensors", Decoder)
    assert header.parents == {"clip": Clip(lab.clip).fingerprint}
    assert (net.config.image_emb, net.config.context) == (8, 12)
    assert net.config.vocabulary == Clip(lab.clip).tokenizer.vocabulary
    assert header.process["variance"] == "learned"
    assert header.sampling["guidance"] == 2.0
