"""One stage over two processes (gloo, CPU), and under accelerate's launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SPY = """
import json, os, runpy, sys
import torch
import stages.fit

optimise, notes = stages.fit._optimise, []

def spied(state, objective, samples, run, report):
    def noted():
        for batch in samples:
            keys.extend(batch.keys)
            yield batch
    keys = []
    losses, norm, batch = optimise(state, objective, noted(), run, report)
    weights = torch.cat([p.detach().flatten() for p in state.core.parameters()]).double()
    average = torch.cat([p.detach().flatten() for p in state.average.parameters()]).double()
    notes.append({"step": state.step, "keys": keys, "lr": state.optimizer.param_groups[0]["lr"], "norm": norm,
                  "loss": losses["loss"], "weights": weights.tolist(), "average": average.tolist()})
    with open(f"{sys.argv[1]}.{os.environ['RANK']}", "w") as file:
        json.dump(notes, file)
    return losses, norm, batch

stages.fit._optimise = spied
from stages.clip import train as clip
from stages.prior import train as prior

train = {"clip": clip, "prior": prior}[sys.argv[2]]
train(json.loads(sys.argv[3]), None)
"""


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def both(lab: Any, folder: Path, name: str, *overrides: str) -> list[list[dict[str, Any]]]:
    """What the two ranks noted of a training's steps."""
    script, notes = folder / "spy.py", folder / "notes"
    script.write_text(SPY)
    values = json.dumps(lab.values(name, folder / "run", "run.batch=2", "data.shuffle=0", *overrides))
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = launch(*torchrun, str(script), str(notes), name, values)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{notes}.{rank}").read_text()) for rank in (0, 1)]


def test_two_ranks_train_one_net_on_disjoint_data_and_resume(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "again").mkdir()
    whole = both(lab, tmp_path / "whole", "prior", "run.accumulate=3", "run.steps=4", "run.save_every=2")
    zero, one = whole
    for a, b in zip(zero, one, strict=True):
        assert a["weights"] == b["weights"]
        assert a["average"] == b["average"]
        assert a["norm"] == b["norm"]
        assert a["loss"] != b["loss"]
        assert len(a["keys"]) == 6
    assert zero[-1]["average"] != zero[-1]["weights"]
    # 2 ranks x 2 steps x 3 micro-batches x 2 samples are an epoch
    epoch = [key for notes in whole for step in notes[:2] for key in step["keys"]]
    assert sorted(epoch) == [f"{number:03d}" for number in range(24)]
    assert [step["lr"] for step in zero] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2])  # warm-up over two steps
    states = sorted((tmp_path / "whole" / "run" / "states").iterdir())
    assert [path.name for path in states] == ["step-00000002.pt", "step-00000004.pt"]
    saved = torch.load(states[-1], weights_only=True)
    assert saved["samples"] == 4 * 3 * 2 * 2
    assert [place["rank"] for place in saved["positions"]] == [0, 1]
    assert not any(name.startswith("module.") for name in [*saved["net"], *saved["ema"]])
    # as if it had been killed after its first state
    states[-1].unlink()
    os.remove(tmp_path / "whole" / "run" / "weights.safetensors")
    os.rename(tmp_path / "whole" / "run", tmp_path / "again" / "run")
    config = tmp_path / "again" / "run" / "config.json"
    config.write_text(config.read_text().replace("/whole/run", "/again/run"))
    again = both(lab, tmp_path / "again", "prior", "run.accumulate=3", "run.steps=4", "run.save_every=2")
    assert [step["step"] for step in again[0]] == [3, 4]
    assert again == [notes[2:] for notes in whole]
    rows = [json.loads(line) for line in (tmp_path / "again" / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


def test_two_ranks_contrast_all_their_samples(lab: Any, tmp_path: Path) -> None:
    zero, one = both(lab, tmp_path, "clip", "run.steps=2", "objective.crop=1.0")
    assert zero[-1]["weights"] == one[-1]["weights"]
    # fresh embeddings are nearly alike: the loss is near ln(negatives + 1) of both ranks' four samples, not of two
    assert (zero[0]["loss"] + one[0]["loss"]) / 2 > 1.0


def test_accelerates_launcher_runs_a_stage(lab: Any, tmp_path: Path) -> None:
    config = tmp_path / "upsampler.toml"
    tables = lab.values("upsampler", tmp_path / "run", "run.steps=2")
    unet = tables["model"].pop("unet")
    tables["model.unet"] = unet
    config.write_text(
        "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        )
    )
    words = ("accelerate.commands.launch", "--num_processes", "1", "--cpu", "-m", "stages.upsampler", str(config))
    done = launch(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    refused = launch(*words, "run.steps=3")
    assert refused.returncode != 0
    assert "holds a run of another config, which differs in run.steps" in refused.stderr


def test_too_few_shards_for_the_ranks_is_one_line(lab: Any, tmp_path: Path) -> None:
    values = json.dumps(lab.values("prior", tmp_path / "run", "data.workers=3"))
    (tmp_path / "spy.py").write_text(SPY)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = launch(*torchrun, str(tmp_path / "spy.py"), str(tmp_path / "notes"), "prior", values)
    assert done.returncode != 0
    assert "holds 4 shards, but 2 ranks x 3 workers need at least 6" in done.stderr
    assert not (tmp_path / "run").exists()
