"""Measures what a person waits for, as ratios and CPU seconds: python -m tools.benchmark [configs/demo | karlo]

Nets have random weights, since speed does not depend on them. Three tables: the share of sampling spent outside the nets,
images per second of each stage's training step, and start-up times of whole processes.
"""

import dataclasses
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from cyclopts import App
from cyclopts.types import PositiveInt
from torch import Tensor, nn

from stages import clip as clip_stage
from stages import decoder, prior, upsampler
from stages.data import Batch
from stages.embeddings import completed
from tools.processes import measured
from unclip.cli.shell import run
from unclip.clip import Clip, ClipConfig, build_net, export
from unclip.conditioning import decoder_cond, read
from unclip.config import build, read_toml
from unclip.devices import pick_device
from unclip.diffusion.process import Process
from unclip.models.decoder import Decoder
from unclip.models.prior import Prior
from unclip.models.upsampler import Upsampler
from unclip.noise import generator, stream
from unclip.stage import Stage
from unclip.tokenizer import used_merges

app = App(help=__doc__, help_format="plaintext", help_formatter="plain")
CAPTION = "a red cube on top of a blue cube"


@app.default
def benchmark(
    folder: Path = Path("configs/demo"), *, repeats: PositiveInt = 5, batch: PositiveInt = 16, device: str = "auto"
) -> None:
    """Run all benchmarks on the nets of a config FOLDER.

    Parameters
    ----------
    folder
        Holds clip.toml, prior.toml, decoder.toml and the upsamplers' configs.
    repeats
        How often each thing is measured; medians are printed.
    batch
        Samples per training step.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    where = pick_device(device)
    print(f"{folder} on {where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "clip.safetensors")
        settings = build(ClipConfig, read_toml(folder / "clip.toml")["model"], "clip.toml")
        settings = dataclasses.replace(settings, merges=used_merges([CAPTION]))
        export(build_net(settings), settings, path, {})
        overhead(folder, Clip(path, where), repeats)
        training(folder, path, repeats, batch, where)
    startup(repeats)


@app.command
def karlo(
    *,
    share: float = 0.4,
    steps: tuple[int, int, int] = (10, 10, 7),
    repeats: PositiveInt = 3,
    full: Literal["float32", "bfloat16"] | None = None,
) -> None:
    """Compare with diffusers' pipeline on the same random weights; or draw one picture at the released size.

    Parameters
    ----------
    share
        The nets' widths, as a share of the released ones.
    steps
        Of prior, decoder and upsampler.
    repeats
        How often each is measured; the least CPU time counts.
    full
        float32 or bfloat16: instead draw one picture at the released size in this precision, one net at a time.
    """
    from tools import karlo

    if full is not None:
        karlo.full(full)
    else:
        karlo.compare(share, steps, repeats)


def overhead(folder: Path, clip: Clip, repeats: int) -> None:
    """The share of sampling time outside the decoder's net."""
    settings = _settings(folder, "decoder", decoder.DecoderRun, Path(clip.weights.where))
    stage = Stage(
        "decoder", Decoder(settings.model).to(clip.device).eval(), Process(settings.process), settings.sampling
    )
    words = read(clip, [CAPTION])
    cond = decoder_cond(stage.net, clip, words, torch.zeros(1, settings.model.image_emb, device=clip.device))
    none = torch.zeros_like(words.keep)
    uncond = dataclasses.replace(cond, keep_image=none, keep_text=none)
    inside = 0.0

    def timed(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(*args: Any) -> Tensor:
            nonlocal inside
            start = _now(clip.device)
            out = call(*args)
            inside += _now(clip.device) - start
            return out

        return wrapper

    stage.net.forward = timed(stage.net.forward)  # type: ignore[method-assign]
    shares, seconds = [], []
    for _ in range(repeats + 1):  # the first warms up
        inside, start, cpu = 0.0, _now(clip.device), time.process_time()
        noise = stream("decoder", [0], (3, settings.model.size, settings.model.size), clip.device)
        for _ in stage.run(cond, noise, uncond):
            pass
        shares.append(1 - inside / (_now(clip.device) - start))
        seconds.append(time.process_time() - cpu)
    how = settings.sampling
    print(f"sampler overhead (decoder, {how.sampler}, {how.steps} steps, guidance {how.guidance:g}, one picture):")
    print(
        f"  {statistics.median(shares[1:]):.2%} of the time outside the net; {statistics.median(seconds[1:]):.2f} CPU s"
    )


def training(folder: Path, clip: Path, repeats: int, batch: int, device: torch.device) -> None:
    """Images per second of each stage's training step: loss, gradients, optimizer, without data loading."""
    print(f"training step (batch {batch}):")
    for name in ("clip", "prior", "decoder", *sorted(path.stem for path in folder.glob("upsampler*.toml"))):
        net, objective, side = _stage(folder, name, clip, device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        samples = _samples(batch, side, Clip(clip).config.embed_dim, device)
        walls, cpus = [], []
        for step in range(repeats + 1):
            wall, cpu = _now(device), time.process_time()
            objective(net, samples, generator("benchmark", step))["loss"].mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            walls.append(_now(device) - wall)
            cpus.append(time.process_time() - cpu)
        wall, cpu = statistics.median(walls[1:]), statistics.median(cpus[1:])
        count = sum(parameter.numel() for parameter in net.parameters())
        print(f"  {name:16} {count / 1e6:6.2f}M  {batch / wall:8.1f} images/s  {cpu / batch * 1000:8.2f} CPU ms/image")


def startup(repeats: int) -> None:
    """Whole processes, from the shell's point of view."""
    print("start-up:")
    bare = ["-c", "pass"]
    drawn = ["-m", "unclip", "generate", CAPTION, "-n", "1", "--seed", "0", "--device", "cpu"]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with tempfile.TemporaryDirectory() as folder:
        for title, words in (
            ("python", bare),
            ("unclip --help", ["-m", "unclip", "--help"]),
            ("import unclip.system", ["-c", "import unclip.system"]),
            ("generate at 256 px", [*drawn, "--size", "256", "--out", folder]),
            ("generate at 1024 px", [*drawn, "--size", "1024", "--out", folder]),
        ):
            runs = [measured(words) for _ in range(repeats)]
            wall, cpu, memory = (
                statistics.median(getattr(one, kind) for one in runs) for kind in ("wall", "cpu", "memory")
            )
            # a child's count begins with what its parent had
            told = f"  {memory:5.2f} GB at most" if memory > 1.05 * own else ""
            print(f"  {title:22} {wall:6.2f} s  {cpu:6.2f} CPU s{told}")


def _stage(folder: Path, name: str, clip: Path, device: torch.device) -> tuple[nn.Module, Any, int]:
    """A stage's net and objective with random weights, and the side of the pictures it trains on."""
    if name == "clip":
        settings = _settings(folder, name, clip_stage.ClipRun, None)
        model = Clip(clip).config
        objective = clip_stage.Objective(settings, model, Clip(clip).tokenizer)
        return build_net(model).to(device).train(), objective, model.image_size
    if name == "prior":
        settings = _settings(folder, name, prior.PriorRun, clip)
        net = Prior(settings.model).to(device)
        return net, prior.Objective(settings, Process(settings.process), net, Clip(clip, device)), 0
    if name == "decoder":
        settings = _settings(folder, name, decoder.DecoderRun, clip)
        net = Decoder(settings.model).to(device)
        objective = decoder.Objective(settings, Process(settings.process), net, Clip(clip, device))
        return net, objective, settings.model.size
    settings = _settings(folder, name, upsampler.UpsamplerRun, None)
    net = Upsampler(settings.model).to(device)
    return net, upsampler.Objective(settings, Process(settings.process)), settings.objective.crop


def _settings(folder: Path, name: str, kind: type, clip: Path | None) -> Any:
    values = read_toml(folder / f"{name}.toml")
    if clip is not None:
        values["clip"] = {**values["clip"], "path": str(clip), "embeddings": "stored"}
        values = completed(values)
    return build(kind, values, f"{name}.toml")


def _samples(batch: int, side: int, dim: int, device: torch.device) -> Batch:
    rng = generator("benchmark")
    emb = nn.functional.normalize(torch.randn(batch, dim, generator=rng), dim=-1)
    images = torch.rand(batch, 3, side, side, generator=rng) * 2 - 1 if side else None
    names = [str(k) for k in range(batch)]
    made = Batch(keys=names, captions=[CAPTION] * batch, images=images, image_emb=emb, text_emb=emb, position={})
    return made.to(device)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    run(app)
