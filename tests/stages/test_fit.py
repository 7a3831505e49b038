"""The training loop on a net of two weights, where everything can be computed by hand."""

import dataclasses
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.data import Batch
from stages.fit import PATIENCE, Preview, Watch, fit, lr_at, validate
from stages.run import OptimConfig, Run
from stages.state import State
from unclip.errors import UnclipError, UnclipWarning
from unclip.noise import generator

OPTIM = OptimConfig(lr=0.1, clip=0.0, ema=0.9)


def batch(rows: Tensor, **more: Any) -> Batch:
    """A batch whose "image embeddings" are the rows of a table."""
    return Batch(keys=[""] * len(rows), captions=[""] * len(rows), image_emb=rows, position={}, **more)


def squares(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """A loss without randomness: the net's first output squared."""
    return {"loss": net(batch.image_emb).square().mean(dim=1)}


def table(rows: int) -> Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(5))


def train(state: State, run: Run, objective: Any, samples: Iterator[Batch], watch: Watch | None = None) -> None:
    fit(state, objective, samples, run, watch or Watch([], lambda net: Preview(), lambda state: None))


def batches(size: int, count: int) -> Iterator[Batch]:
    return map(batch, table(size * count).split(size))


def log(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def weights(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_micro_batches_add_up_to_one_batch(start: Any) -> None:
    ends = []
    for accumulate, size in ((1, 8), (4, 2)):
        state, run = start(accumulate=accumulate, batch=size)
        train(state, run, squares, batches(size, 3 * accumulate))
        assert (state.step, state.samples) == (3, 24)
        assert [row["lr"] for row in log(run)] == [0.1] * 3
        ends.append((weights(state.core), [row["loss"] for row in log(run)], [row["grad_norm"] for row in log(run)]))
    net = start()[0].core  # as all began
    expected = squares(net, batch(table(24)[:8]), torch.Generator())["loss"].mean()
    assert ends[0][1][0] == pytest.approx(float(expected.detach()), rel=1e-5)
    for one, many in zip(*ends, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(many))


def test_the_average_follows_its_closed_form(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state, run = start(dataclasses.replace(OPTIM, ema=0.6, ema_power=0.75), steps=9)
    seen: list[Tensor] = []
    usual = state.ema.update
    monkeypatch.setattr(state.ema, "update", lambda: (seen.append(weights(state.core)), usual()))
    train(state, run, squares, batches(4, 9))
    average = seen[0]
    for step, value in enumerate(seen[1:], start=1):
        decay = min(0.6, 1 - (1 + step) ** -0.75)
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(weights(state.average), average)
    assert len(seen) == 9
    assert (weights(state.average) - weights(state.core)).abs().min() > 1e-3
    assert not state.average.training


def test_the_rate_warms_up_then_falls_once_per_step(start: Any) -> None:
    optim = OptimConfig(lr=1.0, warmup=3, schedule="cosine")
    assert [lr_at(step, optim, 11) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_at(7, optim, 11) == pytest.approx(0.5)
    assert 0 < lr_at(10, optim, 11) < 0.05
    flat = dataclasses.replace(optim, schedule="constant")
    assert [lr_at(step, flat, 11) for step in (0, 2, 3, 10)] == [0.25, 0.75, 1.0, 1.0]
    state, run = start(dataclasses.replace(optim, lr=1e-7), steps=5, accumulate=2)
    train(state, run, squares, batches(4, 10))
    assert [row["lr"] for row in log(run)] == pytest.approx(
        [lr_at(step, optim, 5) * 1e-7 for step in range(5)], rel=1e-5
    )


def test_the_gradient_is_clipped_and_its_norm_logged_unclipped(start: Any) -> None:
    ends = []
    for clip in (0.0, 1e-3):
        state, run = start(OptimConfig(lr=0.1, clip=clip, eps=1.0), steps=1)
        before = weights(state.core)
        train(state, run, lambda *a: {"loss": 100 * squares(*a)["loss"]}, batches(4, 1))
        ends.append((float((weights(state.core) - before).norm()), log(run)[0]["grad_norm"]))
    assert ends[1][0] == pytest.approx(1e-4, rel=0.01)  # Adam's step is lr g / (|g| + eps)
    assert ends[0][0] > 0.05
    assert ends[0][1] == ends[1][1] > 1


def test_steps_without_a_finite_gradient_change_nothing_and_end_the_run(start: Any) -> None:
    bad = {1, 2, *range(5, 100)}
    calls = itertools.count()

    def objective(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        losses = squares(net, batch, rng)["loss"]
        term = losses * (math.nan if next(calls) in bad else 1.0)
        return {"part": losses, "rest": term, "loss": losses + term}

    state, run = start(steps=100)
    seen: list[Tensor] = []
    samples = (seen.append(weights(state.core)) or one for one in batches(4, 100))
    with pytest.raises(UnclipError, match=rf"^rest was not finite for {PATIENCE} steps; lower optim\.lr") as error:
        train(state, run, objective, samples)
    assert "\n" not in str(error.value)
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == [k not in bad for k in range(len(moved))]
    assert len(seen) == 5 + PATIENCE
    assert torch.isfinite(weights(state.average)).all()
    assert log(run)[1]["loss"] is None  # JSON knows no nan
    assert state.step == 5 + PATIENCE


def test_a_gradient_that_is_not_finite_is_named_where_all_terms_are(start: Any) -> None:
    state, run = start(steps=100)
    with pytest.raises(UnclipError, match=r"^the gradient was not finite"):
        train(state, run, lambda net, batch, rng: {"loss": (net(batch.image_emb) * 0).sqrt()}, batches(4, 100))


def test_validation_repeats_itself_whatever_the_mode(start: Any) -> None:
    def objective(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(len(batch.keys), 2, generator=rng)
        return {"loss": net(nn.functional.dropout(noise, 0.5, net.training)).square()[:, 0]}

    state, run = start()
    held_out, device = [batch(rows) for rows in table(6).split(4)], torch.device("cpu")
    first = validate(state.average, objective, held_out, device)
    state.ema.ema_model.train()  # type: ignore[union-attr]
    state.net.train()
    assert validate(state.average, objective, held_out, device) == first
    assert state.net.training
    rows = [objective(state.average, one, generator("validation", k))["loss"] for k, one in enumerate(held_out)]
    assert first == {"val_loss": pytest.approx(float(torch.cat(rows).mean()))}  # of samples, not of batches
    train(state, run, objective, batches(4, 3), Watch(held_out, lambda net: Preview(), lambda state: None))
    assert log(run)[0]["val_loss"] == pytest.approx(first["val_loss"], rel=1e-5)


def test_randomness_is_a_function_of_seed_and_step(start: Any) -> None:
    def objective(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        dropped = nn.functional.dropout(torch.ones(4), 0.5)  # of the global generator, as nets do it
        return {"loss": (net(batch.image_emb)[:, 0] - dropped - torch.randn(4, generator=rng)).square()}

    def preview(net: nn.Module) -> Preview:
        torch.rand(3)
        return Preview()

    def samples() -> Iterator[Batch]:
        for one in batches(4, 3):
            torch.seed()  # as other code in the process may
            yield one

    def ending(disturbed: bool, seed: int) -> Tensor:
        state, run = start(seed=seed, previews=int(disturbed), preview_every=1)
        train(state, run, objective, samples(), Watch([batch(table(4))], preview, lambda state: None))
        return weights(state.core)

    assert torch.equal(ending(False, seed=0), ending(True, seed=0))
    assert not torch.equal(ending(False, seed=0), ending(False, seed=1))


def test_every_step_and_micro_batch_draws_anew(start: Any) -> None:
    drawn: list[float] = []

    def objective(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        drawn.extend([float(torch.rand(1, generator=rng)), float(torch.rand(1))])
        return squares(net, batch, rng)

    state, run = start(accumulate=2)
    train(state, run, objective, batches(4, 6))
    assert len(set(drawn)) == 12


def test_a_row_of_the_log_is_the_mean_since_the_last_and_counts_what_was_skipped(
    start: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    state, run = start(steps=5, log_every=2, validate_every=1)
    counts = itertools.count()
    samples = (
        dataclasses.replace(one, skipped=k // 2, reason="no picture") for k, one in enumerate(batches(4, 5), start=1)
    )
    train(
        state,
        run,
        lambda *a: squares(*a) | {"count": torch.full((4,), float(next(counts)))},
        samples,
        Watch([batch(table(2))], lambda net: Preview(), lambda state: None),
    )
    rows = [row for row in log(run) if "loss" in row]
    # six validations come in between (counts 0, 2, 4 …), and take nothing away
    assert [(row["step"], row["count"], row["skipped"]) for row in rows] == [(2, 2, 1), (4, 6, 2), (5, 9, 2)]
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert said == [f"warning: {k} samples skipped so far, the last because: no picture" for k in (1, 2)]


def test_pauses_are_no_training_time(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("stages.report.time.perf_counter", lambda: now[0])

    def objective(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        now[0] += 1.5
        return squares(net, batch, rng)

    def preview(net: nn.Module) -> Preview:
        now[0] += 100
        return Preview()

    def samples() -> Iterator[Batch]:
        for one in batches(4, 4):
            now[0] += 0.5
            yield one

    state, run = start(steps=4, log_every=2, preview_every=1, previews=1, validate_every=100)
    train(state, run, objective, samples(), Watch([batch(table(2))], preview, lambda state: None))
    rows = [row for row in log(run) if "loss" in row]
    assert [(row["images_per_second"], row["data_wait"]) for row in rows] == [(2.0, 0.25)] * 2


def test_captions_that_are_cut_are_no_news(start: Any) -> None:
    def objective(net: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        warnings.warn("cut", UnclipWarning, stacklevel=1)
        return squares(net, batch, rng)

    state, run = start()
    train(state, run, objective, batches(4, 3))
    with pytest.raises(UnclipWarning):  # but only in there
        warnings.warn("cut", UnclipWarning, stacklevel=1)
