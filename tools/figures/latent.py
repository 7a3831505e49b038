"""Figures 3, 4, 5 and 7, and the reconstructions they rest on: what the latent pair allows."""

import dataclasses
import random
from collections.abc import Sequence
from itertools import pairwise

import torch
from PIL import Image

from tools.evaluate.stats import mean, share
from tools.evaluate.upsamplers import psnr
from tools.figures.probe import fresh_entropy, probe_entropy
from tools.figures.studio import Claim, Figure, Studio, kept, names, pil, shown
from tools.world import geometry, palette
from tools.world.scene import Scene, Thing
from tools.world.splits import held_out_pair
from unclip.errors import UnclipError
from unclip.images import to_tensor

ETAS = (0.25, 0.5, 1.0)
REACHED = "reached, the rest kept"
THETAS = (0.1, 0.2, 0.3, 0.4, 0.5)
INVERSIONS = ((10, 1.0), (50, 1.0), (250, 1.0), (250, 2.0))  # steps and guidance
PATHS = 50  # steps of inversions that a figure walks many of


def inversion(studio: Studio) -> Figure:
    """Section 3: the latent pair reconstructs the picture, the better the more steps; guidance spoils it."""
    images = studio.renders(studio.scenes(1)[:8] + studio.scenes(2, studio.count)[:8])
    found, rows = {}, [images[:8]]
    for steps, guidance in INVERSIONS:
        parts = [studio.draw(studio.system.reconstruct, pil(image), steps=steps, guidance=guidance) for image in images]
        drawn = torch.cat(parts)
        found[f"{steps} steps, guidance {guidance:g}"] = {"PSNR, dB": mean(psnr(drawn, images).tolist())}
        rows.append(drawn[:8])
    db = [values["PSNR, dB"].value for values in found.values()]
    claims = [
        Claim("more steps reconstruct better", db[0] < db[1] < db[2]),
        Claim("at 250 steps and guidance 1 reconstructions reach 45 dB", db[2] >= 45),
        Claim("guidance makes them only approximate", db[3] < db[2]),
    ]
    told = "Rows: held-out renders; 10, 50, 250 steps of inversion and of DDIM; 250 under guidance 2."
    return Figure("Inversion", found, claims, torch.cat(rows), 8, told)


def variations(studio: Studio) -> Figure:
    """Fig. 3: variations keep what CLIP encodes and vary the rest, the more so the larger eta."""
    scenes, system = studio.scenes(1), studio.system
    images = studio.renders(scenes)
    found, rows = {}, [images[:8]]
    few = min(len(scenes), 20)
    for eta in ETAS:
        drawn = torch.cat([studio.draw(system.vary, pil(x), 1, eta=eta, seeds=[0], steps=PATHS) for x in images[:few]])
        found[f"eta {eta:g}"] = _variation(studio, drawn, images[:few], scenes[:few])
        rows.append(drawn[:8])
    each = [studio.draw(system.vary, pil(image), seeds=range(8)) for image in images]
    first = torch.stack([one[0] for one in each])
    found["fresh noise"] = _variation(studio, first, images, scenes)
    rows.append(first[:8])
    readings = [studio.read(one) for one in each]
    everything = [kept(r, scene) for row, scene in zip(readings, scenes, strict=True) for r in row]
    found["fresh noise"]["names kept"] = share(everything)
    ratios = {}
    for factor, (limit, _) in probe_entropy(system.clip, studio.size).items():
        ratios[factor] = fresh_entropy([[r.whole[factor] for r in row] for row in readings]) / limit
    found["nuisance, share of what CLIP leaves open"] = ratios
    apart = [found[f"eta {eta:g}"]["pixels apart"].value for eta in ETAS]
    claims = [
        Claim("what CLIP names is kept in at least 90 % of variations", share(everything).value >= 0.9),
        Claim(
            "every nuisance factor varies by at least 80 % of what the embedding leaves open",
            min(ratios.values()) >= 0.8,
        ),
        Claim("variations stray further as eta grows", all(a < b for a, b in pairwise(apart))),
    ]
    told = (
        f"Rows: held-out renders; variations at eta {', '.join(map(str, ETAS))} from their own x_T; from fresh noise."
    )
    return Figure("Variations (Fig. 3)", found, claims, torch.cat(rows), 8, told)


def _variation(studio, drawn, images, scenes) -> dict:
    readings = studio.read(drawn)
    answers = [kept(reading, scene) for reading, scene in zip(readings, scenes, strict=True)]
    apart = (drawn - images).abs().flatten(1).mean(dim=1) * 127.5
    return {"names kept": share(answers), "pixels apart": mean(apart.tolist())}


def interpolations(studio: Studio, frames: int = 9) -> Figure:
    """Fig. 4: on the way from one picture to another attributes change once, and cosines fall steadily."""
    scenes = studio.scenes(1)
    found, rows, monotone = {name: [] for name in ("colour", "shape")}, [], []
    for k, (a, b) in enumerate(zip(scenes[::2], scenes[1::2], strict=False)):
        first_end, last_end = (pil(image) for image in studio.renders([a, b]))
        pictures = list(
            studio.system.interpolate(first_end, last_end, frames, "fixed", k, size=studio.size, batch=frames)
        )
        first = pictures[0].image_emb
        cosines = [float(torch.cosine_similarity(one.image_emb, first, dim=0)) for one in pictures]
        monotone.append(all(x >= y for x, y in pairwise(cosines)))
        drawn = torch.stack([to_tensor(one.image) for one in pictures])
        rows += [drawn] if k < 6 else []
        seen = [shown(reading) for reading in studio.read(drawn)]
        for name in found:
            before, after = getattr(a.things[0], name), getattr(b.things[0], name)
            values = [one and getattr(one, name) for one in seen]
            if before != after:
                changes = sum(x != y for x, y in pairwise(values))
                found[name].append(values[0] == before and values[-1] == after and changes == 1)
    numbers = {f"{name} flips once": share(values) for name, values in found.items()}
    claims = [
        Claim("cosines to the first end fall steadily", all(monotone)),
        *(Claim(f"{key} in most paths", one.value > 0.5) for key, one in numbers.items()),
    ]
    told = "Each row goes from one held-out render to another along the slerp of their embeddings, the noise fixed."
    return Figure("Interpolations (Fig. 4)", {"paths": numbers}, claims, torch.cat(rows), frames, told)


def differences(studio: Studio) -> Figure:
    """Fig. 5: a text difference changes what the texts differ in and keeps the rest."""
    found, rows = {}, []
    for attribute in ("colour", "material", "shape"):
        answers, early = [], []
        for scene in studio.scenes(1)[: max(8, studio.count // 2)]:
            before, after, target = _changed(scene.things[0], attribute)
            image = studio.renders([scene])
            drawn = studio.draw(studio.system.text_diff, pil(image[0]), after, before, THETAS, steps=PATHS)
            done = [kept(reading, scene, {attribute: target}) for reading in studio.read(drawn)]
            answers.append(any(done))
            early.append(done)
            rows += [torch.cat([image, drawn])] if len(answers) <= 3 else []
        found[attribute] = {REACHED: share(answers)}
        found[attribute] |= {f"at theta {t:g}": share([row[k] for row in early]) for k, t in enumerate(THETAS)}
    claims = [
        Claim(
            f"at least 80 % of changes of {name} succeed at some theta up to 0.5",
            values[REACHED].value >= 0.8,
        )
        for name, values in found.items()
    ]
    told = f"Rows: a held-out render, theta = {', '.join(map(str, THETAS))}; three each for colour, material, shape."
    return Figure("Text differences (Fig. 5)", found, claims, torch.cat(rows), 1 + len(THETAS), told)


def _changed(thing: Thing, attribute: str) -> tuple[str, str, str]:
    """A text of a thing, one with another value of `attribute`, and that value; no pair that training never showed."""
    values = {"colour": tuple(palette.COLOURS), "material": palette.MATERIALS, "shape": palette.SHAPES}[attribute]
    others = [value for value in values if value != getattr(thing, attribute)]
    others = [value for value in others if not held_out_pair(dataclasses.replace(thing, **{attribute: value}))]
    target = random.Random(repr(thing)).choice(others)
    told = [names(thing), names(thing) | {attribute: target}]
    before, after = (_told(dataclasses.replace(thing, **one)) for one in told)
    return before, after, target


def inpainting(studio: Studio) -> Figure:
    """Section 1's use of the decoder: a painted part comes to show what the prompt says, the rest stays as it is."""
    scenes = studio.scenes(2)[: max(8, studio.count // 2)]
    answers, exact, rows = [], [], []
    for k, (scene, image) in enumerate(zip(scenes, studio.renders(scenes), strict=True)):
        mask, prompt = _half(scene, studio.size), " and ".join(_told(thing) for thing in scene.things)
        drawn = studio.draw(studio.system.inpaint, pil(image), mask, f"{prompt} on a {scene.floor} floor", 1, seeds=[k])
        hidden = to_tensor(mask)[:1] > 0
        exact.append(bool(((drawn[0] - image).abs() < 1e-6)[~hidden.expand(3, -1, -1)].all()))
        (reading,) = studio.read(drawn)
        seen = sorted((one.colour, one.shape) for one in reading.things)
        answers.append(seen == sorted((thing.colour, thing.shape) for thing in scene.things))
        rows.append((image, torch.where(hidden, 1.0, image), drawn[0]))
    found = {"inpainting": {"colours and shapes as told": share(answers), "known pixels kept exactly": share(exact)}}
    claims = [
        Claim("known pixels are kept exactly", all(exact)),
        Claim("half of the pictures show both things as told", share(answers).value >= 0.5),
    ]
    told = "Rows: renders, the half that is kept, and it completed from a text that names both things."
    columns = [torch.stack(row[:8]) for row in zip(*rows, strict=True)]
    return Figure("Inpainting", found, claims, torch.cat(columns), 8, told)


def _half(scene: Scene, size: int) -> Image.Image:
    """A mask over the half of the picture that the scene's second thing lies in."""
    u, _ = geometry.project(scene.camera, scene.things[1].centre)
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (size // 2, 0, size, size) if u > 0.5 else (0, 0, size // 2, size))
    return mask


def _told(thing: Thing) -> str:
    return f"a {thing.material} {thing.colour} {thing.shape}"


def components(studio: Studio) -> Figure:
    """Fig. 7: the first principal components hold what a picture shows, the later ones its details."""
    scenes, pca = studio.scenes(1), studio.system.pca
    if pca is None:
        raise UnclipError("the system has no PCA; name one in system.toml (pca = …), as tools.embed writes it")
    counts = [count for count in (2, 5, 10, 20, 40, 80, 160) if count < len(pca.components)] + [len(pca.components)]
    images = studio.renders(scenes)
    drawn = [studio.draw(studio.system.reconstruct, pil(image), counts) for image in images]
    found = {}
    for k, count in enumerate(counts):
        readings = studio.read(torch.stack([one[k] for one in drawn]))
        values = {"colour": [], "shape": [], "floor": []}
        for reading, scene in zip(readings, scenes, strict=True):
            seen = shown(reading)
            for name in ("colour", "shape"):
                values[name].append(seen is not None and getattr(seen, name) == getattr(scene.things[0], name))
            values["floor"].append(reading.whole["floor"] == scene.floor)
        found[f"{count} components"] = {name: share(answers) for name, answers in values.items()}
    first, last = (list(found.values())[k] for k in (0, -1))
    half = {name: _halfway([values[name].value for values in found.values()]) for name in last}
    claims = [
        Claim("more components show more", all(last[name].value >= first[name].value for name in last)),
        Claim("the floor and the colour come before the shape", max(half["floor"], half["colour"]) <= half["shape"]),
    ]
    rows = torch.cat([torch.cat([one, image[None]]) for one, image in zip(drawn[:6], images[:6], strict=True)])
    told = f"Each row: {', '.join(map(str, counts))} components, all from one noise; last the picture itself."
    return Figure("Principal components (Fig. 7)", found, claims, rows, len(counts) + 1, told)


def _halfway(values: Sequence[float]) -> int:
    """The first place at which half of the way from the first to the last value is gone."""
    return next(k for k, value in enumerate(values) if value >= (values[0] + values[-1]) / 2)
