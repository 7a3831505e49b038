"""Figures 8 to 11 and DDIM's table: ways of conditioning one decoder, guidance, steps and eta."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tools.evaluate import draw, fidelity, priors
from tools.evaluate.alignment import judged
from tools.evaluate.prompts import Prompt, prompts
from tools.figures.studio import SEED, Claim, Figure, Studio
from tools.reader import read
from unclip.conditioning import read as told_of
from unclip.settings import Settings
from unclip.system import UnCLIP

SCALES = (1.0, 2.0, 3.0, 4.0)
STEPS, ETAS = (5, 10, 20, 50), (0.0, 0.2, 0.5, 1.0)
FIXED = ("a red cube", "two cones", "a blue sphere on a white floor")  # captions whose pictures should differ


def modes(studio: Studio) -> Figure:
    """Fig. 8: the same decoder given the caption alone, the text embedding as z_i, and the prior's z_i."""
    asked, real = prompts("test", studio.count, SEED), _real(studio)
    titles: dict[draw.Mode, str] = {
        "caption only": "caption only",
        "text as image": "text embedding as z_i",
        "unclip": "the prior's z_i",
    }
    found, rows = {}, []
    for mode, title in titles.items():
        images = draw.pictures(studio.system, mode, asked)
        found[title] = _quality(studio, images, asked, real)
        rows.append(images[:8])
    right = {title: values["captions right"].value for title, values in found.items()}
    distance = {title: values["Fréchet distance"] for title, values in found.items()}
    best = titles["unclip"]
    claims = []
    for other in (title for title in right if title != best):
        claims.append(Claim(f"the prior's z_i draws more captions right than {other}", right[best] > right[other]))
        claims.append(
            Claim(f"the prior's z_i has less Fréchet distance than {other}", distance[best] < distance[other])
        )
    told = f"Rows: {', '.join(titles.values())}. Columns: {'; '.join(one.text for one in asked[:8])}."
    return Figure("Three ways of conditioning (Fig. 8)", found, claims, torch.cat(rows), 8, told)


def guidance(studio: Studio) -> Figure:
    """Fig. 9 to 11: under guidance unCLIP keeps its variety, since the embedding is fixed; caption-only loses it."""
    asked, real = prompts("test", studio.count, SEED), _real(studio)
    emb = priors.embeddings(studio.system, asked)[0]
    found, rows = {}, []
    for name, image in (("unCLIP", True), ("caption only", False)):
        for scale in SCALES:
            system = studio.system.at(Settings(guidance=scale))
            images = _decoded(system, asked, emb, image)
            found[f"{name}, guidance {scale:g}"] = _quality(studio, images, asked, real) | {
                "bits of variety": _variety(studio, system, image)
            }
            rows.append(images[:8])
    values = list(found.values())
    loss = [values[k]["bits of variety"] - values[k + len(SCALES) - 1]["bits of variety"] for k in (0, len(SCALES))]
    worse = [values[k + len(SCALES) - 1]["Fréchet distance"] - values[k]["Fréchet distance"] for k in (0, len(SCALES))]
    claims = [
        Claim("guidance costs unCLIP less variety than caption-only", loss[0] < loss[1]),
        Claim("guidance raises unCLIP's Fréchet distance less than caption-only's", worse[0] < worse[1]),
    ]
    told = f"Rows: unCLIP at guidance {', '.join(f'{s:g}' for s in SCALES)} with fixed embeddings and noise; then caption only."
    return Figure("Guidance (Fig. 9 to 11)", found, claims, torch.cat(rows), 8, told)


def steps(studio: Studio) -> Figure:
    """DDIM's table (2010.02502, table 1): quality against the number of steps and eta."""
    asked, real = prompts("test", studio.count, SEED), _real(studio)
    emb = priors.embeddings(studio.system, asked)[0]
    found = {}
    for eta in ETAS:
        row = {}
        for number in STEPS:
            system = studio.system.at(Settings(sampler="ddim", steps=number, eta=eta))
            images = _decoded(system, asked, emb)
            quality = _quality(studio, images, asked, real)
            row |= {
                f"Fréchet, S = {number}": quality["Fréchet distance"],
                f"right, S = {number}": quality["captions right"],
            }
        found[f"eta {eta:g}"] = row
    few, many = (f"Fréchet, S = {number}" for number in (STEPS[0], STEPS[-1]))
    claims = [
        Claim("with few steps eta = 0 is better than eta = 1", found["eta 0"][few] < found["eta 1"][few]),
        Claim(
            "at eta = 0 more steps are better than the fewest",
            found["eta 0"][many] < found["eta 0"][few],
        ),
    ]
    return Figure("DDIM's table", found, claims)


def _real(studio: Studio) -> Float[Tensor, "n f"]:
    """Features of fresh renders."""
    scenes = [one.scene for one in prompts("test", studio.count, SEED + 1)]
    return read(studio.reader, studio.renders(scenes))[1]


def _quality(studio: Studio, images: Tensor, asked: Sequence[Prompt], real: Tensor) -> dict:
    drawn = judged(studio.reader, images, asked)
    return {
        "captions right": drawn.aligned["caption"].right,
        "Fréchet distance": fidelity.frechet(real, drawn.features),
    }


def _decoded(system: UnCLIP, asked: Sequence[Prompt], emb: Tensor, image: bool = True) -> Float[Tensor, "n 3 h w"]:
    parts = []
    for start in range(0, len(asked), draw.BATCH):
        told = told_of(system.clip, [one.text for one in asked[start : start + draw.BATCH]])
        rows = range(start, start + len(told.words))
        parts.append(draw.decoded(system, told, emb[rows.start : rows.stop].to(told.text.emb), rows, image).cpu())
    return torch.cat(parts)


def _variety(studio: Studio, system: UnCLIP, image: bool, each: int = 40) -> float:
    """The mean entropy, over captions and factors, of what no caption names, in pictures of one embedding and caption."""
    bits = []
    for words in FIXED:
        told = told_of(system.clip, [words] * each)
        emb = system.prior.draw(told_of(system.clip, [words]), [0]).expand(each, -1)
        bits += list(
            fidelity.entropies(studio.read(draw.decoded(system, told, emb, range(each), image).cpu())).values()
        )
    return sum(bits) / len(bits)
