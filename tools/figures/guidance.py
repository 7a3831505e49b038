"""Figures 8 to 11 and DDIM's table: ways of conditioning one decoder, guidance, steps and eta."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tools.evaluate import draw, fidelity, priors
from tools.evaluate.alignment import judged
from tools.evaluate.judge import Verdict
from tools.evaluate.prompts import Prompt, prompts
from tools.evaluate.stats import Estimate, jackknife, mean, share
from tools.figures.studio import SEED, Figure, Studio, gain, more, so
from tools.reader import read
from unclip.conditioning import read as told_of
from unclip.settings import Settings
from unclip.system import UnCLIP

SCALES = (1.0, 2.0, 3.0, 4.0)
STEPS, ETAS = (5, 10, 20, 50), (0.0, 0.2, 0.5, 1.0)
DISTANCE = "kernel distance x 1000"
TITLES: dict[draw.Mode, str] = {
    "caption only": "caption only",
    "text as image": "text embedding as z_i",
    "unclip": "the prior's z_i",
}
FIXED = ("a red cube", "two cones", "a blue sphere on a white floor")  # captions whose pictures should differ


@dataclass(frozen=True, eq=False)
class Quality:
    """Pictures of the same prompts under one condition: which show what their captions say, and their features."""

    right: list[bool]
    features: Float[Tensor, "n f"]
    real: Float[Tensor, "m f"]

    @property
    def numbers(self) -> dict[str, Estimate]:
        """The share of captions right, and the kernel distance to real pictures: unbiased, as Fréchet's is not of so few."""
        return {"captions right": share(self.right), DISTANCE: jackknife(self.distance, *self.sizes)}

    @property
    def sizes(self) -> tuple[int, int]:
        """How many pictures there are, and how many real ones."""
        return len(self.features), len(self.real)

    def distance(self, rows: Int[Tensor, " n"], real: Int[Tensor, " m"]) -> float:
        """1000 times the kernel distance of some of the pictures from some of the real ones."""
        return 1000 * fidelity.kernel(self.real[real], self.features[rows])

    def nearer(self, other: "Quality") -> Estimate:
        """By how much less than the other's pictures these are away from real ones; both of the same prompts."""
        return jackknife(lambda *which: other.distance(*which) - self.distance(*which), *self.sizes)


def modes(studio: Studio) -> Figure:
    """Fig. 8: the same decoder given the caption alone, the text embedding as z_i, and the prior's z_i."""
    asked, real = prompts("test", studio.count, SEED), _real(studio)
    one_each = studio.system.at(Settings(best_of=1))
    drawn: dict[draw.Mode, Tensor] = {mode: draw.pictures(one_each, mode, asked) for mode in TITLES}
    made: dict[draw.Mode, Quality] = {mode: _quality(studio, images, asked, real) for mode, images in drawn.items()}
    best, claims = made["unclip"], []
    others: tuple[draw.Mode, ...] = ("caption only", "text as image")
    for mode in others:
        other = made[mode]
        claims.append(
            more(f"the prior's z_i draws more captions right than {TITLES[mode]}", gain(best.right, other.right))
        )
        claims.append(more(f"the prior's z_i is nearer to real pictures than {TITLES[mode]}", best.nearer(other)))
    told = f"Rows: {', '.join(TITLES.values())}, one picture each. Columns: {'; '.join(one.text for one in asked[:8])}."
    rows = torch.cat([images[:8] for images in drawn.values()])
    found = {TITLES[mode]: one.numbers for mode, one in made.items()}
    return Figure("Three ways of conditioning (Fig. 8)", found, claims, rows, 8, told)


def guidance(studio: Studio) -> Figure:
    """Fig. 9 to 11: under guidance unCLIP keeps its variety, since the embedding is fixed; caption-only loses it."""
    asked, real = prompts("test", studio.count, SEED), _real(studio)
    emb = priors.embeddings(studio.system, asked)[0]
    found, rows, made, bits = {}, [], {}, {}
    for name, image in (("unCLIP", True), ("caption only", False)):
        for scale in SCALES:
            system = studio.system.at(Settings(guidance=scale))
            images = draw.of_embeddings(system, asked, emb, image)
            one = made[name, scale] = _quality(studio, images, asked, real)
            bits[name, scale] = _variety(studio, system, image)
            found[f"{name}, guidance {scale:g}"] = one.numbers | {"bits of variety": mean(bits[name, scale])}
            rows.append(images[:8])
    low, high = SCALES[0], SCALES[-1]

    def lost(name: str) -> list[float]:
        return [a - b for a, b in zip(bits[name, low], bits[name, high], strict=True)]

    def worse(name: str, *which: Int[Tensor, " n"]) -> float:
        return made[name, high].distance(*which) - made[name, low].distance(*which)

    kept = sum(bits["unCLIP", high]) / sum(bits["unCLIP", low])
    claims = [
        so(f"at guidance {high:g} unCLIP keeps at least nine tenths of its variety", kept >= 0.9),
        more("guidance costs caption-only more variety than unCLIP", gain(lost("caption only"), lost("unCLIP"))),
        more(
            "guidance takes caption-only further from real pictures than unCLIP",
            jackknife(lambda *which: worse("caption only", *which) - worse("unCLIP", *which), len(asked), len(real)),
        ),
    ]
    told = f"Rows: unCLIP at guidance {', '.join(f'{s:g}' for s in SCALES)} with fixed embeddings and noise; then caption only."
    return Figure("Guidance (Fig. 9 to 11)", found, claims, torch.cat(rows), 8, told)


def steps(studio: Studio) -> Figure:
    """DDIM's table (2010.02502, table 1): quality against the number of steps and eta."""
    asked, real = prompts("test", studio.count, SEED), _real(studio)
    emb = priors.embeddings(studio.system, asked)[0]
    made, drawn = {}, {}
    for eta in ETAS:
        for number in STEPS:
            system = studio.system.at(Settings(sampler="ddim", steps=number, eta=eta))
            images = drawn[eta, number] = draw.of_embeddings(system, asked, emb)
            made[eta, number] = _quality(studio, images, asked, real)
    found = {
        f"eta {eta:g}": {f"{key}, S = {n}": value for n in STEPS for key, value in made[eta, n].numbers.items()}
        for eta in ETAS
    }
    few, many = STEPS[0], STEPS[-1]
    claims = [
        more("with few steps eta = 0 is better than eta = 1", made[0.0, few].nearer(made[1.0, few])),
        more("at eta = 0 many steps are better than few", made[0.0, many].nearer(made[0.0, few])),
    ]
    rows = torch.stack([drawn[eta, number][k] for eta in ETAS for k in (0, 1) for number in STEPS])
    told = (
        f"Rows: eta = {', '.join(f'{eta:g}' for eta in ETAS)}; columns: S = {', '.join(map(str, STEPS))},"
        f" of {asked[0].text!r}, then of {asked[1].text!r}."
    )
    return Figure("DDIM's table", found, claims, rows, 2 * len(STEPS), told)


def _real(studio: Studio) -> Float[Tensor, "n f"]:
    """Features of fresh renders."""
    scenes = [one.scene for one in prompts("test", studio.count, SEED + 1)]
    return read(studio.reader, studio.renders(scenes))[1]


def _quality(studio: Studio, images: Tensor, asked: Sequence[Prompt], real: Tensor) -> Quality:
    drawn = judged(studio.reader, images, asked)
    return Quality([one["caption"] is Verdict.RIGHT for one in drawn.verdicts], drawn.features, real)


def _variety(studio: Studio, system: UnCLIP, image: bool, each: int = 40) -> list[float]:
    """The entropy, for each caption and factor, of what no caption names, in pictures of one embedding and caption."""
    bits = []
    for words in FIXED:
        told = told_of(system.clip, [words] * each)
        emb = system.prior.draw(told_of(system.clip, [words]), [0]).expand(each, -1)
        bits += list(
            fidelity.entropies(studio.read(draw.decoded(system, told, emb, range(each), image).cpu())).values()
        )
    return bits
