"""Saving, rotating, and starting from given weights."""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.run import OptimConfig, Run, RunConfig
from stages.state import State, begin, save
from unclip import checkpoint
from unclip.checkpoint import read_header, read_tensors
from unclip.errors import UnclipError
from unclip.models.prior import Prior
from unclip.models.upsampler import Upsampler


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(RunConfig(out=str(tmp_path / "run"), steps=10, batch=2, keep=2), OptimConfig(lr=0.1), {})
    run.open(0)
    return run


def saved(run: Run) -> list[str]:
    return sorted(os.listdir(run.states))


def at(state: State, run: Run, step: int) -> None:
    state.step = step
    save(state, run, {"place": step})


def test_the_newest_states_are_kept_and_the_last_is_resumed(run: Run) -> None:
    state = begin(nn.Linear(2, 2), run)
    assert state.position is None
    for step in (1, 2, 9, 10, 11):
        at(state, run, step)
    assert saved(run) == ["step-00000010.pt", "step-00000011.pt"]
    again = begin(nn.Linear(2, 2), run)
    assert (again.step, again.position) == (11, {"place": 11})
    assert torch.equal(again.core.weight, state.core.weight)  # type: ignore[arg-type]
    assert torch.equal(again.average.weight, state.average.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RuntimeError("PytorchStreamWriter failed\n…"), OSError(errno.ENOSPC, "No space")])
def test_a_full_disk_costs_one_line_and_no_state(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    state = begin(nn.Linear(2, 2), run)
    for step in (1, 2):
        at(state, run, step)

    def full(contents: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UnclipError, match=r"step-00000003\.pt: could not be written: (Pytorch|.*No space)") as refused:
        at(state, run, 3)
    assert "\n" not in str(refused.value)
    assert saved(run) == ["step-00000001.pt", "step-00000002.pt"]
    assert begin(nn.Linear(2, 2), run).step == 2


def test_the_average_is_that_of_the_bare_net(run: Run) -> None:
    class Buffered(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)

    state = begin(Buffered(), run)
    for _ in range(3):
        with torch.no_grad():
            state.core.weight += 1  # type: ignore[operator]
            state.core.mask[0] += 1  # type: ignore[index,operator]
        state.ema.update()
    assert set(state.average.state_dict()) == {"weight", "bias"}
    assert state.average.mask.tolist() == [3.0, -torch.inf]  # type: ignore[operator]
    difference = state.core.weight - state.average.weight  # type: ignore[operator]
    assert 0.1 < float(difference.detach().min()) < 2


def test_vectors_do_not_decay(run: Run) -> None:
    run.optim = OptimConfig(lr=0.1, weight_decay=0.5)
    decayed, plain = begin(nn.Linear(2, 3), run).optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2)]
    assert [tuple(p.shape) for p in plain["params"]] == [(3,)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)


def test_init_gives_weights_and_nothing_else(lab: Any, tmp_path: Path) -> None:
    first = lab.train("prior", tmp_path / "first")
    weights = first / "weights.safetensors"
    second = lab.train("prior", tmp_path / "second", "run.steps=1", "optim.warmup=0", "run.save_every=1", init=weights)
    start, end = read_tensors(weights), torch.load(second / "states" / "step-00000001.pt", weights_only=True)
    moved = {name: (end["net"][name] - start[name]).abs().max().item() for name in start}
    # Adam's first step, without any history, is lr wherever there is a gradient
    assert max(moved.values()) == pytest.approx(1e-2, rel=1e-3)
    assert all(entry["step"] == 1 for entry in end["optimizer"]["state"].values())
    assert (end["step"], end["samples"]) == (1, 4)
    assert read_header(second / "weights.safetensors").provenance["init"] == str(weights)
    assert read_header(second / "weights.safetensors").provenance["step"] == 1


def test_fresh_modules_start_anew_and_may_be_others(lab: Any, tmp_path: Path) -> None:
    """A text encoder is exchanged: what is named is not taken from the checkpoint, in whichever of the two it is."""
    weights = lab.train("prior", tmp_path / "first", "run.steps=1") / "weights.safetensors"
    start, tensors = read_tensors(weights), read_tensors(weights)
    tensors["old.weight"] = torch.ones(3)
    tensors["text.weight"] = torch.ones(2, 2)  # of another shape
    checkpoint.save(tmp_path / "old.safetensors", tensors, read_header(weights))
    run = Run(
        RunConfig(out=str(tmp_path / "run"), steps=1, batch=2, fresh=("text", "old", "query")), OptimConfig(lr=0.1), {}
    )
    core = checkpoint.load(weights, Prior)[0]
    with torch.no_grad():
        core.query.fill_(7.0)
        core.out.bias.fill_(7.0)
    begin(core, run, str(tmp_path / "old.safetensors"))
    assert core.query.eq(7.0).all()
    assert torch.equal(core.out.bias, start["out.bias"])
    assert torch.equal(core.text.weight, start["text.weight"])
    assert all(parameter.requires_grad for parameter in core.parameters())
    run.settings = dataclasses.replace(run.settings, fresh=("txt",))
    with pytest.raises(UnclipError, match=r"run\.fresh: this prior has no 'txt'; its modules are image_emb, "):
        begin(core, run, str(weights))


def test_init_is_not_read_again_by_a_run_that_goes_on(lab: Any, tmp_path: Path) -> None:
    lab.train("upsampler", tmp_path / "first", "run.steps=1")
    weights = tmp_path / "first" / "weights.safetensors"
    lab.train("upsampler", tmp_path / "second", init=weights)
    final = read_tensors(tmp_path / "second" / "weights.safetensors")
    os.remove(weights)
    os.remove(tmp_path / "second" / "weights.safetensors")
    lab.train("upsampler", tmp_path / "second", init=weights)
    again = read_tensors(tmp_path / "second" / "weights.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final)


def test_init_refuses_what_does_not_fit(lab: Any, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(lab.clip.read_bytes()[:500])
    lab.train("prior", tmp_path / "wide", "model.width=32", "run.steps=1")
    cases = {
        "no such file": tmp_path / "none.safetensors",
        "of some other program": tmp_path / "foreign.safetensors",
        "damaged, cut short": tmp_path / "cut.safetensors",
        "holds a clip; expected a prior": lab.clip,
        r"is \[32\]; the net wants \[16\]": tmp_path / "wide" / "weights.safetensors",
    }
    for message, file in cases.items():
        with pytest.raises(UnclipError, match=message) as error:
            lab.train("prior", tmp_path / "run", init=file)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


def test_what_is_exported_is_the_average_under_plain_names(lab: Any, tmp_path: Path) -> None:
    run = lab.train("upsampler", tmp_path / "run")
    state = torch.load(run / "states" / "step-00000006.pt", weights_only=True)
    net, header = checkpoint.load(run / "weights.safetensors", Upsampler)
    exported = net.state_dict()
    assert exported.keys() == state["net"].keys()
    assert all(torch.equal(exported[name], state["ema"][f"ema_model.{name}"]) for name in exported)
    assert not all(torch.equal(exported[name], state["net"][name]) for name in exported)
    assert header.process["timesteps"] == 20
    assert header.sampling["steps"] == 2
    assert header.model["level"] is True
