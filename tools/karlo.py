"""Karlo's system with random weights, against diffusers' pipeline of the same, and at its released size.

Speed and memory do not depend on what the weights are. Every measurement is a process of its own, so that the most memory
it took is its own too.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.processes import Cost, measured
from unclip.checkpoint import Header, Weights
from unclip.clip import ClipConfig
from unclip.config import build, read_toml, to_dict
from unclip.folder import Box, SystemConfig
from unclip.interop.nets import CONFIGS, hollow_tensors
from unclip.interop.writing import convert

CONFIG = Path(__file__).parents[1] / "configs" / "karlo"
TEXT = {"context_length": 77, "width": 768, "heads": 12, "layers": 12}
PROMPT = "a corgi in a beret"

THEIRS = """
import sys, time, torch, numpy
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel, UnCLIPPipeline, UnCLIPScheduler
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer
kinds = dict(prior=PriorTransformer, decoder=UNet2DConditionModel, text_proj=UnCLIPTextProjModel,
    super_res_first=UNet2DModel, super_res_last=UNet2DModel, text_encoder=CLIPTextModelWithProjection, tokenizer=CLIPTokenizer,
    prior_scheduler=UnCLIPScheduler, decoder_scheduler=UnCLIPScheduler, super_res_scheduler=UnCLIPScheduler)
parts = {name: kind.from_pretrained(f"{sys.argv[1]}/{name}") for name, kind in kinds.items()}
pipe, (a, b, c) = UnCLIPPipeline(**parts), map(int, sys.argv[2:5])
began = time.process_time()
made = pipe([sys.argv[5]], generator=torch.Generator().manual_seed(0), prior_num_inference_steps=a,
    decoder_num_inference_steps=b, super_res_num_inference_steps=c, output_type="np")
seconds = time.process_time() - began
numpy.save(sys.argv[6], made.images[0])
print(seconds)
"""
OURS = """
import sys, time, numpy
from unclip.system import UnCLIP
folder, a, b, c, prompt, out, dtype, arithmetic, cached = sys.argv[1:]
system = UnCLIP.from_pretrained(folder, "cpu", dtype, arithmetic=arithmetic)
if cached == "no":
    prior = system.prior.stage.net
    prepare, forward = prior.prepare, type(prior).forward
    prior.prepare = lambda cond: cond
    prior.forward = lambda x, t, cond: forward(prior, x, t, prepare(cond))
system.clip.net  # theirs is in memory by now, ours is read when it is first used
began, last = time.process_time(), {}
list(system.generate(prompt, [0], prior_steps=int(a), steps=int(b), upsampler_steps=int(c),
    on_step=lambda _, step: last.update(x=step.x)))
seconds = time.process_time() - began
numpy.save(out, ((last["x"][0].float().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy())
print(seconds)
"""


def compare(share: float, steps: tuple[int, int, int], repeats: int) -> None:
    """Prints what one picture costs in diffusers and here, for nets whose widths are `share` of the released ones."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "karlo")
        box = scaled(share)
        convert(box, folder, "diffusers")
        count = sum(tensor.numel() for file in folder.rglob("*.safetensors") for tensor in _values(file))
        print(
            f"Karlo with widths of {share:g} ({count / 1e6:.0f}M values), one picture, {steps} steps, {_threads()} threads:"
        )
        told = [str(folder), *map(str, steps), PROMPT]
        half = [max(2, number // 2) for number in steps]
        few = [str(folder), *map(str, half), PROMPT]
        ways = {
            "diffusers, float32": [THEIRS, *told],
            "unclip, float32": [OURS, *told, "float32", "diffusers", "yes"],
            "unclip, bfloat16": [OURS, *told, "bfloat16", "diffusers", "yes"],
            "unclip, no KV cache": [OURS, *told, "float32", "diffusers", "no"],
            f"unclip, {' + '.join(map(str, half))} steps": [OURS, *few, "float32", "own", "yes"],
        }
        for name, words in ways.items():
            words.insert(6, str(folder / f"{name}.npy"))  # where its picture goes
        costs = {
            name: min((measured(["-c", *words]) for _ in range(repeats)), key=_drawing) for name, words in ways.items()
        }
        base = costs["diffusers, float32"]
        print(f"  {'':22} {'drawing, CPU s':>22} {'whole process, CPU s':>26} {'wall s':>8} {'GB at most':>12}")
        for name, cost in costs.items():
            drawing = f"{_drawing(cost):14.1f} {_drawing(cost) / _drawing(base):5.2f} x"
            whole = f"{cost.cpu:18.1f} {cost.cpu / base.cpu:5.2f} x"
            print(f"  {name:22} {drawing} {whole} {cost.wall:8.1f} {cost.memory:12.2f}")
        for name in ("unclip, float32", "unclip, bfloat16"):
            print(f"  {name}: {_difference(folder / 'diffusers, float32.npy', folder / f'{name}.npy')}")


def _difference(one: Path, other: Path) -> str:
    """How far two pictures in [0, 1] are apart: no net does the same sums in the same order, and guidance 8 amplifies it."""
    gap = np.abs(np.load(one, allow_pickle=False) - np.load(other, allow_pickle=False)) * 255
    return f"the picture differs from diffusers' by {gap.mean():.2g} grey levels of 255 on average, {gap.max():.2g} at most"


def full(dtype: str) -> None:
    """Prints what one 256 px picture costs at the released size, one net at a time in memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, began = Path(temporary, "karlo"), time.perf_counter()
        convert(scaled(1.0), folder, dtype=torch.bfloat16)
        print(f"random weights written in {time.perf_counter() - began:.0f} s", flush=True)
        words = f"-m unclip generate -n 1 --low-memory --dtype {dtype} --model {folder} --out {temporary}".split()
        cost = measured([*words, PROMPT])
        print(f"{dtype}: {cost.wall:.0f} s, {cost.cpu:.0f} CPU s, {cost.memory:.2f} GB at most, {_threads()} threads")


def scaled(share: float) -> Box:
    """Karlo's system as configs/karlo has it, all widths times `share`, its weights drawn when they are read."""
    text = TEXT | {"width": _even(TEXT["width"] * share, 64), "heads": max(1, round(TEXT["heads"] * share))}
    embed = _even(768 * share, 64)
    clip = _random("clip", ClipConfig(embed_dim=embed, quick_gelu=True, text=text, normalize=False))
    stages = [_stage(name, share, embed, text["width"]) for name in ("prior", "decoder", "upsampler-256")]
    return Box("random", SystemConfig(name="random", candidates=1), clip, stages[0], stages[1], (stages[2],))


def _stage(name: str, share: float, embed: int, hidden: int) -> Weights:
    tables = read_toml(CONFIG / f"{name}.toml")
    model = {key: value for key, value in tables["model"].items() if key != "unet"}
    changes = {"image_emb": embed, "text_hidden": hidden}
    changes |= {"width": _even(model.get("width", 0) * share, 64), "heads": round(model.get("heads", 0) * share)}
    changes |= {"text_width": _even(model.get("text_width", 0) * share, 64)}
    model |= {key: value for key, value in changes.items() if key in model}
    if "unet" in tables["model"]:
        unet = tables["model"]["unet"]
        model["unet"] = unet | {"channels": _even(unet["channels"] * share, 64), "checkpointing": False, "dropout": 0.0}
    role = name.partition("-")[0]
    return _random(role, build(CONFIGS[role], model, name), process=tables["process"], sampling=tables["sampling"])


def _random(net: str, config: Any, **tables: Any) -> Weights:
    parents = {"clip": "random"} if net in ("prior", "decoder") else {}
    header = Header(net=net, model=to_dict(config), parents=parents, fingerprint="random", **tables)
    return Weights("random", header, lambda: _drawn(net, config))


def _drawn(net: str, config: Any) -> dict[str, torch.Tensor]:
    """Random values for all tensors: those that training begins with are partly 0."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: 1 + torch.rand(tensor.shape, generator=rng) * 0.1
        if tensor.ndim <= 1
        else torch.empty(tensor.shape).uniform_(-0.02, 0.02, generator=rng)
        for name, tensor in hollow_tensors(net, config).items()
    }


def _drawing(cost: Cost) -> float:
    """CPU seconds of drawing alone, which the measured programs print last."""
    return float(cost.told.split()[-1])


def _even(value: float, step: int) -> int:
    return max(step, round(value / step) * step) if value else 0


def _values(file: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return list(load_file(file).values())


def _threads() -> int:
    return torch.get_num_threads()
