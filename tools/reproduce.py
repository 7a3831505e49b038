"""Runs all trainings of a config folder in order and leaves a system that draws pictures.

    python -m tools.reproduce configs/tiny

render shards → train clip → embed → train prior, draft (where there is a config of one), decoder, matcher (likewise), both
upsamplers → write the system folder → sample a sheet.
Every step is the command a person would type, and each goes on where it stopped, so this does too.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cyclopts import App

from unclip.cli.shell import run
from unclip.config import Natural, Positive, config, load, read_toml
from unclip.errors import UnclipError
from unclip.places import FILE, write_text

PCA = "pca.safetensors"
app = App(help=__doc__, help_format="plaintext", help_formatter="plain")


@config
class Renders:
    """One set of shards: `count` training pictures and `validation` others of the i.i.d. test split.

    `more`: splits of the world and how many pictures of each prior, draft, decoder and matcher train on besides.
    """

    count: Positive
    validation: Positive
    size: Positive
    crop: Positive | None = None
    more: dict[str, Positive] = field(default_factory=dict)


@config
class Plan:
    """`reproduce.toml` of a config folder. `upsamplers` name the configs beside it, each with its renders."""

    name: str
    out: str
    pictures: Renders
    upsamplers: dict[str, Renders]
    prompts: tuple[str, ...]
    each: Positive = 4
    seed: Natural = 0
    shard: Positive = 1000
    workers: Positive = 2


@dataclass(frozen=True)
class Step:
    """A command of the plan, and what a person calls it."""

    name: str
    words: tuple[str, ...]


@app.default
def reproduce(folder: Path, *, out: Path | None = None, scale: float = 1.0) -> None:
    """Reproduce a system from its CONFIG folder.

    Parameters
    ----------
    folder
        Holds reproduce.toml, clip.toml, prior.toml, decoder.toml, one config per upsampler; draft.toml and matcher.toml where
        such are wanted.
    out
        Where everything goes; default: what reproduce.toml says.
    scale
        Share of the data and of each training's steps; below 1 for a quick look at the whole chain.
    """
    plan = load(Plan, folder / "reproduce.toml")
    if not 0 < scale <= 1:
        raise UnclipError(f"--scale {scale}: expected a share above 0 and up to 1")
    root = out or Path(plan.out)
    start = time.time()
    for step in steps(plan, folder, root, scale):
        began = time.time()
        print(f"== {step.name}: {' '.join(step.words)}", flush=True)
        code = _run(step)
        if code:
            raise UnclipError(f"{step.name} failed with exit code {code}; mend it and run the same command again")
        print(f"== {step.name}: {time.time() - began:.0f} s", flush=True)
    print(
        f"== the system is {root / 'system'}, its sheet lies in {root / 'sheet'}; {(time.time() - start) / 60:.1f} min"
    )


def steps(plan: Plan, folder: Path, root: Path, scale: float) -> Iterator[Step]:
    """The plan's commands in order; the system folder is written between the trainings and the sheet."""
    data, runs, clip = root / "data", root / "runs", root / "runs" / "clip" / "weights.safetensors"
    yield from _renders(plan, plan.pictures, data / "pictures", scale)
    for name, renders in plan.upsamplers.items():
        yield from _renders(plan, renders, data / name, scale)
    yield _training("clip", folder, runs, data / "pictures", scale)
    for split in ("train", "validation", *plan.pictures.more):
        source, target = data / "pictures" / split, data / "embedded" / split
        words = ("-m", "tools.embed", str(source), str(target), "--clip", str(clip))
        yield Step(f"embed {split}", (*words, "--pca", str(runs / PCA)) if split == "train" else words)
    told = [f"clip.path={clip}", *_all_of(plan, data / "embedded")]
    balanced = "pca" in read_toml(folder / "prior.toml").get("objective", {})
    pca = [f"objective.pca={runs / PCA}"] if balanced else []
    yield _training("prior", folder, runs, data / "embedded", scale, *told, *pca)
    draft = []
    if (folder / "draft.toml").is_file():
        yield _training("draft", folder, runs, data / "embedded", scale, *told)
        draft = [f"run.pretrained.draft={runs / 'draft' / 'weights.safetensors'}"]
    yield _training("decoder", folder, runs, data / "embedded", scale, *told, *draft)
    matcher = ("matcher",) if (folder / "matcher.toml").is_file() else ()
    if matcher:
        seen = _all_of(plan, data / "pictures")
        yield _training("matcher", folder, runs, data / "pictures", scale, f"clip.path={clip}", *seen)
    for name in plan.upsamplers:
        yield _training(name, folder, runs, data / name, scale)
    assemble(plan, runs, root / "system", matcher)
    if any((root / "sheet").glob("*-grid.png")):  # written last
        return
    sheet = ("-m", "unclip", "generate", *plan.prompts, "--model", str(root / "system"))
    yield Step("sheet", (*sheet, "-n", str(plan.each), "--seed", str(plan.seed), "--out", str(root / "sheet")))


def assemble(plan: Plan, runs: Path, folder: Path, more: Sequence[str] = ()) -> None:
    """Gathers trained weights, those of `more` nets too, into a system folder; settings in a system.toml that is there stay."""
    names = ["clip", "prior", "decoder", *plan.upsamplers, *more]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        partial = folder / f".{name}.part"
        shutil.copyfile(runs / name / "weights.safetensors", partial)
        partial.replace(folder / f"{name}.safetensors")
    shutil.copyfile(runs / PCA, folder / PCA)
    files = ", ".join(f'"{name}.safetensors"' for name in plan.upsamplers)
    text = f'name = "{plan.name}"\nupsamplers = [{files}]\npca = "{PCA}"\n'
    text += "".join(f'{name} = "{name}.safetensors"\n' for name in more)
    if not (folder / FILE).exists():
        write_text(folder / FILE, text)


def _run(step: Step) -> int:
    """The exit code of a step. Ctrl-C is handed on once, and waited for: a training then saves its state."""
    process = subprocess.Popen([sys.executable, *step.words], start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def _renders(plan: Plan, renders: Renders, folder: Path, scale: float) -> Iterator[Step]:
    more = ((split, split, count) for split, count in renders.more.items())
    for split, world, count in (("train", "train", renders.count), ("validation", "test", renders.validation), *more):
        words = ["-m", "tools.world", str(folder / split), "--count", str(max(1, round(count * scale)))]
        words += ["--size", str(renders.size), "--split", world, "--seed", str(plan.seed), "--shard", str(plan.shard)]
        words += ["--crop", str(renders.crop)] if renders.crop else []
        yield Step(f"render {folder.name}/{split}", (*words, "--workers", str(plan.workers)))


def _all_of(plan: Plan, folder: Path) -> list[str]:
    """What has a training see more splits of the world than the first, where the plan has more."""
    splits = ",".join(("train", *plan.pictures.more))
    return [f"data.shards={folder}/{{{splits}}}/*.tar"] if plan.pictures.more else []


def _training(name: str, folder: Path, runs: Path, data: Path, scale: float, *more: str) -> Step:
    """The training command of one stage; `name` is its config's, and of the program too but for upsamplers."""
    program = name if name in ("clip", "prior", "draft", "decoder", "matcher") else "upsampler"
    path = folder / f"{name}.toml"
    overrides = [f"run.out={runs / name}", f"data.shards={data / 'train'}", f"data.validation={data / 'validation'}"]
    if scale < 1:
        overrides.append(f"run.steps={max(2, round(_configured_steps(path) * scale))}")
    return Step(f"train {name}", ("-m", f"stages.{program}", str(path), *overrides, *more))


def _configured_steps(path: Path) -> int:
    return read_toml(path)["run"]["steps"]


if __name__ == "__main__":
    run(app)
