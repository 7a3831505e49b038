"""Decoder settings compared: guidance, steps and samplers, each with what it costs."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tools.evaluate.alignment import judged
from tools.evaluate.draw import BATCH, of_embeddings, tries
from tools.evaluate.fidelity import frechet
from tools.evaluate.priors import embeddings
from tools.evaluate.prompts import Prompt
from tools.evaluate.stats import Estimate
from tools.reader.net import Reader
from unclip.choosing import Choice, picked
from unclip.settings import Sampler, Settings
from unclip.system import UnCLIP

GUIDANCE, STEPS = (1.0, 2.0, 3.0, 5.0, 8.0), (6, 12, 25)
NUMBERS = (1, 2, 4, 8, 16)
TEXT_WEIGHTS, MATCH_WEIGHTS = (0.0, 0.25, 0.5, 1.0), (0.0, 0.1, 0.25, 0.5, 1.0)
TOLD = ("one object", "two objects", "relation", "count", "caption")
SAMPLERS: tuple[Sampler, ...] = ("ddim", "dpmpp_2m")


@dataclass(frozen=True)
class Point:
    """Settings, and what they reach: whole captions right, Fréchet distance, net evaluations and CPU seconds per picture."""

    guidance: float
    steps: int
    sampler: Sampler
    right: Estimate
    frechet: float
    evaluations: int
    seconds: float


def sweep(
    system: UnCLIP,
    reader: Reader,
    prompts: Sequence[Prompt],
    real: Float[Tensor, "n f"],
    progress: Callable[[int], None],
) -> Iterator[Point]:
    """A point for each setting, all from the same image embeddings and seeds; the best of one."""
    emb, _ = embeddings(system, prompts)
    for sampler in SAMPLERS:
        for steps in STEPS:
            for guidance in GUIDANCE:
                chosen = system.at(Settings(guidance=guidance, steps=steps, sampler=sampler))
                began = time.process_time()
                images = of_embeddings(chosen, prompts, emb)
                seconds = (time.process_time() - began) / len(prompts)
                drawn = judged(reader, images, prompts)
                calls = steps * (1 if guidance == 1 else 2)
                right = drawn.aligned["caption"].right
                yield Point(guidance, steps, sampler, right, frechet(real, drawn.features), calls, seconds)
                progress(1)


def best_of_several(
    system: UnCLIP,
    reader: Reader,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    keep: Path | None = None,
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """What the whole system's pictures show if of so many seeds' the best is kept, by its own weights; and, of the most of
    these, by other weights. The pictures are kept in the folder `keep`."""
    parts, own = [], system.choice
    numbers = sorted({*NUMBERS, own.best_of})
    most = numbers[-1]
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        parts.append(tries(system, "unclip", part, range(start, start + len(part)), most, keep))
        progress(len(part))
    pictures, like = torch.cat([one for one, _ in parts], dim=1), torch.cat([one for _, one in parts], dim=2)

    def shown(choice: Choice) -> dict[str, Estimate]:
        which = choice.best(like[:, : choice.best_of])
        aligned = judged(reader, picked(list(pictures[: choice.best_of]), which), prompts).aligned
        return {tag: aligned[tag].right for tag in TOLD if tag in aligned}

    own = replace(own, best_of=most)
    weighed = {"text_weight": TEXT_WEIGHTS} | ({} if system.matching is None else {"match_weight": MATCH_WEIGHTS})
    return {"best of several": {f"best of {number}": shown(replace(own, best_of=number)) for number in numbers}} | {
        name.replace("_", " "): {
            f"weight {weight:g}": shown(replace(own, **{name: weight}))
            for weight in sorted({*weights, getattr(own, name)})
        }
        for name, weights in weighed.items()
    }


def best(points: Sequence[Point]) -> Point:
    """The point with most captions right; among those within one standard error of it the cheapest, then the truest."""
    top = max(points, key=lambda point: point.right.value)
    error = (top.right.high - top.right.low) / 4
    near = [point for point in points if point.right.value >= top.right.value - error]
    return min(near, key=lambda point: (point.evaluations, point.frechet))
