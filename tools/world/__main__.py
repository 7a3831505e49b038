"""The command line: python -m tools.world OUT --count N --size 64 …"""

import os
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tools.world.pack import pack
from tools.world.shards import Settings
from unclip.cli.shell import run

app = App(
    name="python -m tools.world",
    help="Render the demo world into webdataset shards.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.default
def world(
    out: Path,
    *,
    count: int = 1000,
    size: int = 64,
    crop: int | None = None,
    seed: int = 0,
    split: str = "train",
    shard: int = 1000,
    workers: Annotated[int | None, Parameter(help="processes; default: one per core")] = None,
    device: str = "cpu",
) -> None:
    """Write COUNT pictures with captions and scene graphs into OUT; the same command goes on where it was stopped.

    Parameters
    ----------
    out
        folder for 00000.tar, 00001.tar, … and index.json
    count
        number of pictures; may grow later
    size
        width and height of the whole picture in pixels: 64, 256, 1024 or any other
    crop
        write random square crops of this many pixels of each picture instead (mostly with some of a thing in them)
    seed
        another seed gives other scenes
    split
        train, test (like train, other scenes), crowded (like train, but two or three things in each), stacked (the same, with
        one on another in each), twins (crowded, each followed by itself with two things exchanged) or composition (with
        pairs or relations that training never shows)
    shard
        pictures per shard
    device
        cpu or cuda
    """
    settings = Settings(size, crop, seed, split, shard)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{split} {crop or size} px", total=count, rate="")

        def advance(done: int) -> None:
            bar.advance(task, done)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.0f}/s" if speed else "")

        pack(out, settings, count, workers or len(os.sched_getaffinity(0)), device, advance)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(app)
