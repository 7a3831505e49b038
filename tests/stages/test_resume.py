"""A run that was stopped, politely or not, ends like one that never was."""

import importlib
import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stages.fit
import stages.state
from stages.run import command
from unclip.checkpoint import read_tensors
from unclip.errors import UnclipError

CLOCKS = ("time", "images_per_second", "data_wait")
NEWEST = "step-00000006.pt"


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of values hold the same, tensors bitwise."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def rows(run: Path) -> list[dict[str, Any]]:
    """The log without what clocks say."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCKS} for line in lines]


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "states" / NEWEST, weights_only=True)


def same_end(one: Path, two: Path) -> bool:
    """Whether two runs ended in the same state, the same weights and the same log."""
    weights = [read_tensors(run / "weights.safetensors") for run in (one, two)]
    return equal(state(one), state(two)) and equal(*weights) and rows(one) == rows(two)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a stage's data send this process a signal while its batch number `at` (from 1) is being read."""

    def arrange(name: str, at: float, number: signal.Signals = signal.SIGINT) -> None:
        usual = stages.fit.stream

        def stream(*arguments: Any) -> Iterator[Any]:
            for count, batch in enumerate(usual(*arguments), start=1):
                if count == at:
                    os.kill(os.getpid(), number)
                yield batch

        monkeypatch.setattr(f"stages.{name}.stream", stream)

    return arrange


@pytest.fixture(scope="module")
def whole(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of a stage that nothing stopped, made once."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = lab.train(name, tmp_path_factory.mktemp("whole") / name)
        return made[name]

    return run


@pytest.mark.parametrize("name", ["clip", "prior", "decoder", "matcher", "upsampler"])
def test_a_stopped_run_goes_on_bitwise(
    lab: Any, whole: Any, signalled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context():
        signalled(name, at=4)
        with pytest.raises(KeyboardInterrupt):
            lab.train(name, tmp_path / "run")
    monkeypatch.undo()
    saved = sorted(path.name for path in (tmp_path / "run" / "states").iterdir())
    assert saved == ["step-00000003.pt", "step-00000004.pt"]  # stopped after the step it was in, not before
    assert not equal(state(whole(name))["net"], torch.load(tmp_path / "run" / "states" / saved[-1])["net"])
    torch.rand(7)  # what happens to the global generator between or around runs is of no account
    assert same_end(lab.train(name, tmp_path / "run"), whole(name))


def test_accumulated_micro_batches_resume_bitwise(lab: Any, signalled: Any, tmp_path: Path) -> None:
    options = ("run.accumulate=2", "run.batch=2")
    once = lab.train("prior", tmp_path / "once", *options)
    signalled("prior", at=7)  # the first micro-batch of step 4
    with pytest.raises(KeyboardInterrupt):
        lab.train("prior", tmp_path / "twice", *options)
    signalled("prior", at=math.inf)
    assert same_end(lab.train("prior", tmp_path / "twice", *options), once)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_exits_with_130_and_goes_on(
    lab: Any,
    whole: Any,
    signalled: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    module, config = importlib.import_module("stages.prior"), tmp_path / "prior.toml"
    lines = [
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for table, values in lab.values("prior", tmp_path / "elsewhere").items()
    ]
    config.write_text("\n".join(lines))
    monkeypatch.setattr("sys.argv", ["prior", str(config), f"run.out={tmp_path / 'run'}"])
    signalled("prior", at=2, number=number)
    with pytest.raises(SystemExit) as stopped:
        command(module.train)
    assert stopped.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; what was finished is kept"
    signalled("prior", at=math.inf)
    with pytest.raises(SystemExit) as done:
        command(module.train)
    assert done.value.code in (0, None)
    assert same_end(tmp_path / "run", whole("prior"))
    before = (tmp_path / "run" / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        command(module.train)  # a third time there is nothing to do
    assert (tmp_path / "run" / "weights.safetensors").stat().st_mtime_ns == before


def test_a_second_signal_stops_at_once(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*_: Any) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on after the second signal")
        yield

    monkeypatch.setattr("stages.upsampler.stream", stream)
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        lab.train("upsampler", tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is usual


def killed_while_saving(lab: Any, run: Path) -> None:
    """Trains in a child process, which dies like by kill -9 half-way through writing its second state."""
    child = os.fork()
    if child == 0:
        usual, saved = torch.save, []

        def save(contents: Any, path: Path) -> None:
            usual(contents, path)
            saved.append(path)
            if len(saved) == 2:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            torch.save = save
            lab.train("upsampler", run, "run.save_every=2")
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_run_killed_while_saving_goes_on_bitwise(lab: Any, tmp_path: Path) -> None:
    killed_while_saving(lab, tmp_path / "killed")
    states = tmp_path / "killed" / "states"
    assert sorted(path.name for path in states.iterdir()) == ["step-00000002.pt", "step-00000004.part"]
    assert rows(tmp_path / "killed")[-1]["step"] == 4
    again = lab.train("upsampler", tmp_path / "killed", "run.save_every=2")
    assert same_end(again, lab.train("upsampler", tmp_path / "whole", "run.save_every=2"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_state_is_named_and_the_one_before_serves(
    lab: Any, whole: Any, signalled: Any, tmp_path: Path
) -> None:
    signalled("upsampler", at=5)
    with pytest.raises(KeyboardInterrupt):
        lab.train("upsampler", tmp_path / "run")
    signalled("upsampler", at=math.inf)
    newest = tmp_path / "run" / "states" / "step-00000005.pt"
    os.truncate(newest, newest.stat().st_size // 2)
    with pytest.raises(UnclipError, match=r"step-00000005\.pt: cannot be resumed from; delete it") as error:
        lab.train("upsampler", tmp_path / "run")
    assert "\n" not in str(error.value)
    newest.unlink()
    assert same_end(lab.train("upsampler", tmp_path / "run"), whole("upsampler"))


def test_strangers_among_the_states_are_let_alone(lab: Any, whole: Any, tmp_path: Path) -> None:
    states = tmp_path / "run" / "states"
    lab.train("upsampler", tmp_path / "run", "run.keep=1")
    strangers = ("step-00000009.part", "step-00000009.pt.bak", "best.pt", "step-9.pt", ".DS_Store")
    (states / "best").mkdir()
    for name in strangers:
        (states / name).write_text("stranger")
    os.remove(tmp_path / "run" / "weights.safetensors")
    lab.train("upsampler", tmp_path / "run", "run.keep=1")
    assert sorted(path.name for path in states.iterdir()) == sorted([*strangers, "best", NEWEST])
    assert equal(state(tmp_path / "run"), state(whole("upsampler")))


def test_what_a_run_lacks_at_its_end_is_exported(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        usual(*arguments)
        if "step-00000006.pt" in os.listdir(tmp_path / "run" / "states"):
            raise MemoryError  # after the last state, before its export

    usual = stages.state.save
    monkeypatch.setattr("stages.fit.save", failing)
    with pytest.raises(MemoryError):
        lab.train("upsampler", tmp_path / "run")
    monkeypatch.undo()
    early = read_tensors(tmp_path / "run" / "weights.safetensors")  # of step 3
    lab.train("upsampler", tmp_path / "run")
    assert not equal(read_tensors(tmp_path / "run" / "weights.safetensors"), early)


@pytest.mark.parametrize("change", ["net", "rank"])
def test_a_state_that_does_not_fit_is_refused_in_one_line(lab: Any, tmp_path: Path, change: str) -> None:
    lab.train("upsampler", tmp_path / "run")
    path = tmp_path / "run" / "states" / NEWEST
    saved = torch.load(path)
    if change == "net":
        saved["net"].popitem()
    else:
        saved["positions"] *= 2
    torch.save(saved, path)
    os.remove(tmp_path / "run" / "weights.safetensors")
    expected = {"net": "cannot be resumed from", "rank": "written by 2 processes, this run has 1"}[change]
    with pytest.raises(UnclipError, match=rf"{NEWEST}: {expected}"):
        lab.train("upsampler", tmp_path / "run")
