"""What the prior's stage adds to the loop: its targets, its drops, its embeddings, the analytic variance."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.data import Batch, validation_batches
from stages.embeddings import completed, open_clip, prompts
from stages.prior import Objective, PriorRun, balance, eps_power
from unclip import checkpoint
from unclip.clip import Clip
from unclip.conditioning import prior_cond
from unclip.config import build
from unclip.diffusion.process import Process, ProcessConfig
from unclip.errors import UnclipError
from unclip.latents import fit_pca
from unclip.models.prior import Prior, PriorCond


class Spy(nn.Module):
    """A net that notes what it is asked."""

    def __init__(self, core: Prior) -> None:
        super().__init__()
        self.core, self.asked = core, list[tuple[Tensor, Tensor, PriorCond]]()

    def forward(self, x: Tensor, t: Tensor, cond: PriorCond) -> Tensor:
        self.asked.append((x, t, cond))
        return self.core(x, t, cond)


def begun(lab: Any, *overrides: str) -> tuple[Objective, Batch]:
    """An objective with a fresh net, and six validation samples."""
    settings = build(PriorRun, completed(lab.values("prior", Path("none"), *overrides)), "prior")
    torch.manual_seed(0)
    core = Prior(settings.model).eval()
    clip = open_clip(settings.clip, settings.data, "cpu")
    (batch,) = validation_batches(settings.data, 6, 6)
    return Objective(settings, Process(settings.process), core, clip), batch


def many(batch: Batch, times: int) -> Batch:
    """The batch, that many times over."""
    assert batch.images is not None
    images = batch.images.repeat(times, 1, 1, 1)
    return replace(batch, images=images, captions=batch.captions * times, keys=batch.keys * times)


def test_the_net_sees_noised_embeddings_and_should_say_the_clean_ones(lab: Any) -> None:
    goal, batch = begun(lab)
    spy = Spy(goal.core)
    loss = goal(spy, batch, torch.Generator().manual_seed(1))["loss"]
    ((xt, t, cond),) = spy.asked
    x0, same, _, times = goal.noised(batch, torch.Generator().manual_seed(1))
    assert torch.equal(xt, same)
    assert torch.equal(t, times)
    assert batch.images is not None
    torch.testing.assert_close(x0, goal.clip.image_emb(batch.images) * 0.5375 * 8**0.5)
    assert torch.equal(cond.text_emb, goal.clip.text(batch.captions).emb)
    torch.testing.assert_close(loss, (spy.core(xt, t, cond) - x0).square().mean(dim=1))


def test_each_embedding_is_noised_as_often_as_the_config_says(lab: Any) -> None:
    goal, batch = begun(lab, "objective.draws=3", "objective.text_drop=0.0")
    spy = Spy(goal.core)
    loss = goal(spy, batch, torch.Generator().manual_seed(1))["loss"]
    ((xt, t, cond),) = spy.asked
    assert xt.shape == (18, 8)
    assert len(t.unique()) > 9  # each has a time of its own
    x0, same, _, _ = goal.noised(batch, torch.Generator().manual_seed(1), draws=3)
    assert torch.equal(xt, same)
    assert torch.equal(x0[::3], x0[2::3])
    assert len(cond.text_emb) == 6
    errors = [(goal.core(xt[k::3], t[k::3], cond) - x0[::3]).square().mean(dim=1) for k in range(3)]
    torch.testing.assert_close(loss, sum(errors) / 3)


def test_what_belongs_together_is_noised_alike(lab: Any) -> None:
    goal, batch = begun(lab, "data.together=2", "data.in_memory=true", "objective.draws=3")
    x0, xt, eps, t = goal.noised(batch, torch.Generator().manual_seed(1), draws=3)
    assert x0.shape == eps.shape == xt.shape == (18, 8)
    of_sample = [(eps[k : k + 3], t[k : k + 3]) for k in range(0, 18, 3)]
    for (noise, times), (other, same) in zip(of_sample[::2], of_sample[1::2], strict=True):
        assert torch.equal(noise, other)
        assert torch.equal(times, same)
    assert len({tuple(times.tolist()) for _, times in of_sample}) == 3
    torch.testing.assert_close(xt, goal.process.schedule.noised(x0, eps, t))


def test_a_shift_spends_more_on_noisy_times(lab: Any) -> None:
    times = []
    for options in ((), ("objective.shift=3.0",)):
        goal, batch = begun(lab, *options)
        times.append(goal.noised(many(batch, 200), torch.Generator().manual_seed(1))[3])
    assert times[0].float().mean() < 0.55 * goal.process.schedule.timesteps
    assert (times[1] > times[0]).float().mean() > 0.9


def test_a_tenth_loses_its_text_sample_by_sample(lab: Any) -> None:
    goal, batch = begun(lab)
    spy = Spy(goal.core)
    for seed in range(5):
        goal(spy, many(batch, 100), torch.Generator().manual_seed(seed))
    keep = torch.stack([cond.keep for _, _, cond in spy.asked if cond.keep is not None])
    assert keep.shape == (5, 600)
    assert 0.08 < 1 - keep.float().mean() < 0.12  # five standard errors
    assert 0 < (~keep[0, :100]).sum() < 100
    assert not torch.equal(keep[0], keep[1])


def test_without_text_the_noised_embedding_still_matters_and_the_text_does_not(lab: Any) -> None:
    goal, batch = begun(lab, "objective.text_drop=1.0")
    other = replace(batch, captions=batch.captions[::-1])
    rngs = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    spy = Spy(goal.core)
    for one, rng in zip((batch, other, batch), rngs, strict=True):
        goal(spy, one, rng)
    outs = [goal.core(x, spy.asked[0][1], cond) for x, _, cond in spy.asked]
    torch.testing.assert_close(outs[0], outs[1])
    assert (outs[0] - outs[2]).abs().max() > 1e-3
    kept, _ = begun(lab, "objective.text_drop=0.0")
    losses = [kept(kept.core, one, torch.Generator().manual_seed(1))["loss"] for one in (batch, other)]
    assert (losses[0] - losses[1]).abs().max() > 1e-5


def test_balanced_errors_weigh_directions_by_how_little_embeddings_vary_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    std, mean = torch.rand(8) + 0.5, torch.randn(8)
    rows = torch.randn(20_000, 8) * torch.tensor([4.0, 4, 2, 2, 1, 1, 0.5, 0.5]) @ torch.linalg.qr(torch.randn(8, 8))[0]
    rows = (rows - rows.mean(dim=0) + mean).double()
    pca = fit_pca(len(rows), rows.sum(dim=0), rows.T @ rows)
    pca.save(tmp_path / "pca.safetensors", "mine")
    matrix = balance(str(tmp_path / "pca.safetensors"), "mine", std)
    ignorant = (rows.float() - mean) / std  # the errors of a net that always says the mean
    torch.testing.assert_close((ignorant @ matrix).square().sum(), ignorant.square().sum(), rtol=1e-3, atol=0)
    along = (pca.components / std) @ matrix  # errors of length 1 along each component, before they are divided by std
    ratios = along.square().sum(dim=1)
    wanted = 16 / torch.tensor([16.0, 16, 4, 4, 1, 1, 0.48, 0.48])  # the last are at 3 % of the largest
    torch.testing.assert_close(ratios / ratios[0], wanted, rtol=0.1, atol=0)
    with pytest.raises(UnclipError, match=r"objective\.pca = .*another CLIP; write them with tools\.embed --pca"):
        balance(str(tmp_path / "pca.safetensors"), "another", std)


@pytest.mark.parametrize("predicts", ["x0", "eps", "v"])
def test_balanced_errors_are_those_of_what_is_predicted(lab: Any, predicts: str) -> None:
    goal, batch = begun(lab, f"process.predicts={predicts}", "process.variance=small", "objective.text_drop=0.0")
    matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    spy = Spy(goal.core)
    loss = replace(goal, metric=matrix)(spy, batch, torch.Generator().manual_seed(1))["loss"]
    ((xt, t, cond),) = spy.asked
    x0, _, eps, _ = goal.noised(batch, torch.Generator().manual_seed(1))
    errors = goal.core(xt, t, cond) - goal.process.target(x0, eps, t)
    torch.testing.assert_close(loss, (errors @ matrix).square().mean(dim=1))


def test_an_empty_caption_counts_as_dropped(lab: Any) -> None:
    goal, batch = begun(lab, "objective.text_drop=0.0")
    spy = Spy(goal.core)
    goal(spy, replace(batch, captions=["", *batch.captions[1:]]), torch.Generator())
    assert spy.asked[0][2].keep is not None
    assert spy.asked[0][2].keep.tolist() == [False] + [True] * 5


@pytest.mark.parametrize("text", ["own", "hidden"])
def test_stored_embeddings_give_the_loss_of_computed_ones(lab: Any, text: str) -> None:
    losses = []
    for options in ((), lab.stored(), (*lab.stored(), "data.images=false")):
        goal, batch = begun(lab, f"model.text={text}", *options)
        assert (batch.image_emb is None) == (options == ())
        losses.append(goal(goal.core, batch, torch.Generator().manual_seed(1))["loss"])
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-3, atol=1e-4)
    assert torch.equal(losses[1], losses[2])
    assert not torch.equal(losses[0], losses[1])  # they are float16


def test_stored_embeddings_are_read_and_not_made_again(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("ran CLIP")

    goal, batch = begun(lab, "model.text=hidden", *lab.stored(), "data.images=false")
    monkeypatch.setattr(Clip, "net", property(refuse))
    goal(goal.core, batch, torch.Generator())


def test_embeddings_of_another_clip_are_refused(lab: Any, other_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UnclipError, match=r"embedded/train: its embeddings are of CLIP [0-9a-f]{12}, .*other") as error:
        lab.train("prior", tmp_path / "run", *lab.stored(), f"clip.path={other_clip}")
    assert "\n" not in str(error.value)
    with pytest.raises(UnclipError, match=r"train: it holds no embeddings, .*run python -m tools\.embed"):
        lab.train("prior", tmp_path / "run", 'clip.embeddings="stored"')
    assert not (tmp_path / "run").exists()
    # a validation set that was forgotten is caught too, and a pattern means the folder it lies in
    forgotten = (*lab.stored(), f"data.validation={lab.root / 'validation'}")
    with pytest.raises(UnclipError, match="validation: it holds no embeddings"):
        lab.train("prior", tmp_path / "run", *forgotten)
    pattern = f"data.shards={lab.root / 'embedded' / 'train' / '0000{0..3}.tar'}"
    lab.train("prior", tmp_path / "run", *lab.stored(), pattern, "run.steps=1", "run.previews=0")


def test_the_export_holds_what_the_analytic_variance_needs(lab: Any, tmp_path: Path) -> None:
    run = lab.train("prior", tmp_path / "run")
    net, header = checkpoint.load(run / "weights.safetensors", Prior)
    process = build(ProcessConfig, header.process, "")
    goal, _ = begun(lab)
    held_out = validation_batches(goal.settings.data, 4, 6)
    emb = torch.cat([goal.clip.image_emb(batch.images) for batch in held_out if batch.images is not None])
    assert process.data_variance == pytest.approx(float(net.standardise(emb).var(dim=0).mean()), abs=1e-5)
    assert len(process.eps_power) == 20  # not 64: there are but 20 times
    assert process.eps_power == pytest.approx(eps_power(net, goal, held_out))
    assert header.parents == {"clip": goal.clip.fingerprint}
    read = Process(process).read(torch.zeros(2, 8), torch.zeros(2, 8), 10)
    assert read.x0_var is not None


def test_eps_power_is_that_of_the_nets_own_noise_estimate(lab: Any) -> None:
    class Truth(Prior):
        """A net that knows the answer, so that its noise estimate is the noise."""

        answer: Tensor

        def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
            return self.answer

    goal, batch = begun(lab)
    net = Truth(goal.core.config)
    net.answer, _, _, _ = goal.noised(batch, torch.Generator())
    powers = eps_power(net, goal, [batch])
    assert sum(powers) / len(powers) == pytest.approx(1.0, abs=0.12)  # 20 times 6 samples times 8 squares
    net.answer = torch.zeros(6, 8)  # who says 0 takes all of xt for noise
    schedule = goal.process.schedule
    signal = float(goal.noised(batch, torch.Generator())[0].square().mean())
    last, expected = eps_power(net, goal, [batch])[0], 1 + float(schedule.at(1) / (1 - schedule.at(1))) * signal
    assert last == pytest.approx(expected, rel=0.3)


def test_the_preview_compares_drawn_embeddings(lab: Any, tmp_path: Path) -> None:
    run = lab.train("prior", tmp_path / "run", *lab.stored())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    drawn = [row for row in rows if "cos_true" in row]
    assert [row["step"] for row in drawn] == [0, 3, 6]
    assert {"cos_true", "cos_unrelated", "cos_text", "recall_at_1", "norm"} <= drawn[0].keys()
    assert all(-1 <= row[key] <= 1 for row in drawn for key in ("cos_true", "cos_unrelated", "cos_text"))
    assert drawn[0]["norm"] == pytest.approx(0.5375 * 8**0.5, rel=1e-3)
    assert drawn[-1]["cos_true"] > drawn[0]["cos_true"]
    assert not list(run.glob("samples/*"))


def test_a_net_that_reads_no_states_is_given_none(lab: Any) -> None:
    goal, batch = begun(lab, *lab.stored())
    words = prompts(goal.clip, goal.settings.clip, batch, goal.core)
    assert words.text.hidden is None
    cond = prior_cond(goal.core, goal.clip, words)
    assert cond.tokens is not None
    assert cond.tokens.shape == (6, 12)
