"""Figures 3, 4 and 5: what the latent pair allows."""

import dataclasses
import random
from collections.abc import Sequence
from itertools import pairwise

import torch

from tools.evaluate.fidelity import entropy
from tools.evaluate.stats import Estimate, mean, share
from tools.evaluate.upsamplers import psnr
from tools.figures.probe import TRAIN, probe_entropy
from tools.figures.reconstruction import INVERSIONS
from tools.figures.studio import Figure, Studio, changed, gain, kept, more, names, pil, shown, so, told_of
from tools.world import palette
from tools.world.scene import Scene, Thing
from tools.world.splits import held_out_pair
from unclip.images import to_tensor

ETAS = (0.25, 0.5, 1.0)
CHANGED = "nuisance factors changed"
REACHED = "reached and the rest kept, at some theta"
THETAS = tuple(k / 20 for k in range(1, 11))
VARIATIONS = 48  # of fewer, entropies come out too small
ENDS = 8
PATHS = 50  # steps of inversions that a figure walks many of


def variations(studio: Studio) -> Figure:
    """Fig. 3: variations keep what CLIP encodes and vary the rest, the more so the larger eta."""
    scenes, system = studio.scenes(1), studio.system
    images = studio.renders(scenes)
    found, rows = {}, [images[:8]]
    few, apart, strayed = min(len(scenes), 20), [], []
    own = studio.read(images[:few])
    for eta in ETAS:
        drawn = torch.cat([studio.draw(system.vary, pil(x), 1, eta=eta, seeds=[0], steps=PATHS) for x in images[:few]])
        seen = studio.read(drawn)
        answers = [kept(reading, scene) for reading, scene in zip(seen, scenes, strict=False)]
        apart.append(((drawn - images[:few]).abs().flatten(1).mean(dim=1) * 127.5).tolist())
        strayed.append([changed(reading, before) for reading, before in zip(seen, own, strict=True)])
        found[f"eta {eta:g}"] = {"names kept": share(answers), "grey levels apart": mean(apart[-1])}
        found[f"eta {eta:g}"][CHANGED] = mean(strayed[-1])
        rows.append(drawn[:8])
    each = [studio.draw(system.vary, pil(image), seeds=range(VARIATIONS)) for image in images]
    rows.append(torch.stack([one[0] for one in each[:8]]))
    readings = [studio.read(one) for one in each]
    # a scene's variations are no independent trials: scenes are
    shares = [sum(kept(r, scene) for r in row) / len(row) for row, scene in zip(readings, scenes, strict=True)]
    fresh = [changed(row[0], before) for row, before in zip(readings, own, strict=False)]
    found["fresh noise"] = {"names kept": mean(shares), CHANGED: mean(fresh)}
    ratios, limits = {}, probe_entropy(studio)
    for factor, limit in limits.items():
        spread = [entropy([r.whole[factor] for r in row]) / limit for row in readings]
        ratios[factor] = mean(spread)
    found["nuisance, share of what CLIP leaves open"] = ratios
    found["nuisance, bits that a probe of the embedding leaves open"] = limits
    claims = [
        so("what CLIP names is kept in at least 90 % of variations", mean(shares).value >= 0.9),
        so(
            "every nuisance factor varies by at least 80 % of what the embedding leaves open",
            min(one.value for one in ratios.values()) >= 0.8,
        ),
        *(
            more(f"variations stray further at eta {larger:g} than at {eta:g}", gain(apart[k + 1], apart[k]))
            for k, (eta, larger) in enumerate(pairwise(ETAS))
        ),
        more(f"more of the nuisance changes at eta {ETAS[-1]:g} than at {ETAS[0]:g}", gain(strayed[-1], strayed[0])),
    ]
    told = (
        f"Rows: held-out renders; variations at eta {', '.join(map(str, ETAS))} from their own x_T, of {few} renders;"
        f" from fresh noise, {VARIATIONS} of each of {len(scenes)}; all of one thing. CLIP leaves open what a probe does not"
        f" find that learned from {TRAIN:,} other such scenes."
    )
    return Figure("Variations (Fig. 3)", found, claims, torch.cat(rows), 8, told)


def interpolations(studio: Studio, frames: int = 9) -> Figure:
    """Fig. 4: on the way from one picture to another attributes change once, and cosines fall steadily."""
    scenes = studio.scenes(1)
    found, rows, falling = {name: [] for name in ("colour", "shape")}, [], []
    for k, (a, b) in enumerate(zip(scenes[::2], scenes[1::2], strict=False)):
        first_end, last_end = (pil(image) for image in studio.renders([a, b]))
        pictures = list(
            studio.system.interpolate(first_end, last_end, frames, "fixed", k, size=studio.size, batch=frames)
        )
        drawn = torch.stack([to_tensor(one.image) for one in pictures])
        emb = studio.system.clip.image_emb(torch.cat([drawn, studio.renders([a, b])]))
        # of what was drawn: those of the embeddings it was drawn from fall by construction
        near, far = (emb[:frames] @ emb[frames + k] for k in (0, 1))
        steps = [*(near.diff() < 0).tolist(), *(far.diff() > 0).tolist()]
        falling.append(sum(steps) / len(steps))
        rows += [drawn] if k < 6 else []
        seen = [shown(reading) for reading in studio.read(drawn)]
        for name in found:
            before, after = getattr(a.things[0], name), getattr(b.things[0], name)
            values = [one and getattr(one, name) for one in seen]
            if before != after:
                changes = sum(x != y for x, y in pairwise(values))
                found[name].append(values[0] == before and values[-1] == after and changes == 1)
    found = {name: values for name, values in found.items() if values}
    numbers = {f"{name} flips once": share(values) for name, values in found.items()}
    ends = _ends(studio, scenes[:ENDS])
    numbers |= {
        f"PSNR of both ends with the noises inverted, {ENDS // 2} paths, dB": mean(ends),
        "steps that go from the first end and towards the last": mean(falling),
        "paths on which all do": share([one == 1 for one in falling]),
    }
    claims = [
        so(
            "pictures go from one end to the other at every step, on most paths",
            numbers["paths on which all do"].value > 0.5,
        ),
        *(so(f"{name} flips once on most paths", numbers[f"{name} flips once"].value > 0.5) for name in found),
        so("with the noises inverted both ends reconstruct, at 45 dB or more", mean(ends).value >= 45),
    ]
    told = (
        "Each row goes from one held-out render to another along the slerp of their embeddings, the noise fixed."
        f" {len(falling)} paths between scenes of one thing."
    )
    return Figure("Interpolations (Fig. 4)", {"paths": numbers}, claims, torch.cat(rows), frames, told)


def _ends(studio: Studio, scenes: Sequence[Scene]) -> list[float]:
    """PSNR of the two ends of paths between pairs of scenes, with inverted noise and eta 0."""
    found = []
    for a, b in zip(scenes[::2], scenes[1::2], strict=True):
        images = studio.renders([a, b])
        how = {"frames": 2, "noise": "inverted", "steps": INVERSIONS[-1][0]}
        found += psnr(studio.draw(studio.system.interpolate, *map(pil, images), **how), images).tolist()
    return found


def differences(studio: Studio) -> Figure:
    """Fig. 5: a text difference changes what the texts differ in and keeps the rest."""
    found, rows = {}, []
    for attribute in ("colour", "material", "shape"):
        reached, rest = [], []
        for scene in studio.scenes(1):
            before, after, target = _changed(scene.things[0], attribute)
            image = studio.renders([scene])
            how = {"to": after, "source_text": before, "theta": THETAS, "steps": PATHS}
            drawn = studio.draw(studio.system.text_diff, pil(image[0]), **how)
            seen = studio.read(drawn)
            reached.append([getattr(shown(one), attribute, None) == target for one in seen])
            rest.append([kept(one, scene, [attribute]) for one in seen])
            rows += [torch.cat([image, drawn])] if len(rest) <= 3 else []
        found[attribute] = _against_theta(reached, rest)
    claims = [
        so(f"at least 80 % of changes of {name} succeed at some theta up to 0.5", values[REACHED].value >= 0.8)
        for name, values in found.items()
    ]
    told = (
        f"Rows: a held-out render, theta = {', '.join(map(str, THETAS))}; three each for colour, material, shape."
        f" {len(rest)} renders of one thing for each."
    )
    return Figure("Text differences (Fig. 5)", found, claims, torch.cat(rows), 1 + len(THETAS), told)


def _against_theta(reached: Sequence[Sequence[bool]], rest: Sequence[Sequence[bool]]) -> dict[str, Estimate]:
    """Success, preservation and both at each theta, and both at some theta, each given for every scene and theta."""
    both = [[a and b for a, b in zip(*rows, strict=True)] for rows in zip(reached, rest, strict=True)]
    told = {REACHED: share([any(row) for row in both])}
    for name, answers in (("both", both), ("reached", reached), ("the rest kept", rest)):
        told |= {f"{name}, at theta {t:g}": share([row[k] for row in answers]) for k, t in enumerate(THETAS)}
    return told


def _changed(thing: Thing, attribute: str) -> tuple[str, str, str]:
    """A text of a thing, one with another value of `attribute`, and that value; no pair that training never showed."""
    values = {"colour": tuple(palette.COLOURS), "material": palette.MATERIALS, "shape": palette.SHAPES}[attribute]
    others = [value for value in values if value != getattr(thing, attribute)]
    others = [value for value in others if not held_out_pair(dataclasses.replace(thing, **{attribute: value}))]
    target = random.Random(repr(thing)).choice(others)
    told = [names(thing), names(thing) | {attribute: target}]
    before, after = (told_of(dataclasses.replace(thing, **one)) for one in told)
    return before, after, target
