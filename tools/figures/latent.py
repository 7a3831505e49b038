"""Figures 3, 4, 5 and 7, and the reconstructions they rest on: what the latent pair allows."""

import dataclasses
import random
from itertools import pairwise

import torch
from PIL import Image

from tools.evaluate.stats import mean, share
from tools.evaluate.upsamplers import psnr
from tools.figures.probe import entropy, probe_entropy
from tools.figures.studio import Figure, Studio, gain, kept, more, names, pil, shown, so
from tools.world import geometry, palette
from tools.world.scene import Scene, Thing
from tools.world.splits import held_out_pair
from unclip.errors import UnclipError
from unclip.images import to_tensor

ETAS = (0.25, 0.5, 1.0)
REACHED = "reached, the rest kept"
THETAS = (0.1, 0.2, 0.3, 0.4, 0.5)
INVERSIONS = ((10, 1.0), (50, 1.0), (250, 1.0), (250, 2.0))  # steps and guidance
VARIATIONS = 16
PATHS = 50  # steps of inversions that a figure walks many of


def inversion(studio: Studio) -> Figure:
    """Section 3: the latent pair reconstructs the picture, the better the more steps; guidance spoils it."""
    images = studio.renders(studio.scenes(1)[:8] + studio.scenes(2, studio.count)[:8])
    found, rows, ratios = {}, [images[:8]], []
    for steps, guidance in INVERSIONS:
        parts = [studio.draw(studio.system.reconstruct, pil(image), steps=steps, guidance=guidance) for image in images]
        drawn = torch.cat(parts)
        ratios.append(psnr(drawn, images).tolist())
        found[f"{steps} steps, guidance {guidance:g}"] = {"PSNR, dB": mean(ratios[-1])}
        rows.append(drawn[:8])
    few, some, many, guided = ratios
    claims = [
        more("more steps reconstruct better", gain(some, few)),
        more("still more steps reconstruct still better", gain(many, some)),
        so("at 250 steps and guidance 1 reconstructions reach 45 dB", mean(many).value >= 45),
        more("guidance makes them only approximate", gain(many, guided)),
    ]
    told = "Rows: held-out renders; 10, 50, 250 steps of inversion and of DDIM; 250 under guidance 2."
    return Figure("Inversion", found, claims, torch.cat(rows), 8, told)


def variations(studio: Studio) -> Figure:
    """Fig. 3: variations keep what CLIP encodes and vary the rest, the more so the larger eta."""
    scenes, system = studio.scenes(1), studio.system
    images = studio.renders(scenes)
    found, rows = {}, [images[:8]]
    few, apart = min(len(scenes), 20), []
    for eta in ETAS:
        drawn = torch.cat([studio.draw(system.vary, pil(x), 1, eta=eta, seeds=[0], steps=PATHS) for x in images[:few]])
        answers = [kept(r, scene) for r, scene in zip(studio.read(drawn), scenes, strict=False)]
        apart.append(((drawn - images[:few]).abs().flatten(1).mean(dim=1) * 127.5).tolist())
        found[f"eta {eta:g}"] = {"names kept": share(answers), "grey levels apart": mean(apart[-1])}
        rows.append(drawn[:8])
    each = [studio.draw(system.vary, pil(image), seeds=range(VARIATIONS)) for image in images]
    rows.append(torch.stack([one[0] for one in each[:8]]))
    readings = [studio.read(one) for one in each]
    # a scene's variations are no independent trials: scenes are
    shares = [sum(kept(r, scene) for r in row) / len(row) for row, scene in zip(readings, scenes, strict=True)]
    found["fresh noise"] = {"names kept": mean(shares)}
    ratios = {}
    for factor, limit in probe_entropy(studio).items():
        spread = [entropy([r.whole[factor] for r in row]) / limit for row in readings]
        ratios[factor] = mean(spread)
    found["nuisance, share of what CLIP leaves open"] = ratios
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
    ]
    told = (
        f"Rows: held-out renders; variations at eta {', '.join(map(str, ETAS))} from their own x_T; from fresh noise."
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
    numbers = {f"{name} flips once": share(values) for name, values in found.items()}
    numbers |= {
        "steps that go from the first end and towards the last": mean(falling),
        "paths on which all do": share([one == 1 for one in falling]),
    }
    claims = [
        so(
            "pictures go from one end to the other at every step, on most paths",
            numbers["paths on which all do"].value > 0.5,
        ),
        *(so(f"{name} flips once on most paths", numbers[f"{name} flips once"].value > 0.5) for name in found),
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
        so(f"at least 80 % of changes of {name} succeed at some theta up to 0.5", values[REACHED].value >= 0.8)
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
        so("known pixels are kept exactly", all(exact)),
        so("half of the pictures show both things as told", share(answers).value >= 0.5),
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
    right = {name: [] for name in ("floor", "colour", "shape")}  # by name, for each count, for each scene
    for k in range(len(counts)):
        readings = studio.read(torch.stack([one[k] for one in drawn]))
        right["floor"].append([r.whole["floor"] == scene.floor for r, scene in zip(readings, scenes, strict=True)])
        seen = [shown(reading) for reading in readings]
        things = [scene.things[0] for scene in scenes]
        for name in ("colour", "shape"):
            pairs = zip(seen, things, strict=True)
            right[name].append([one is not None and getattr(one, name) == getattr(thing, name) for one, thing in pairs])
    found = {
        f"{count} components": {name: share(rows[k]) for name, rows in right.items()} for k, count in enumerate(counts)
    }
    whole = [k for k in range(len(scenes)) if all(rows[-1][k] for rows in right.values())]
    early = {name: [sum(row[k] for row in rows) for k in whole] for name, rows in right.items()}
    claims = [more(f"more components show more of the {name}", gain(rows[-1], rows[0])) for name, rows in right.items()]
    if len(whole) > 1:  # of pictures that come out right in the end: at how many counts each name already is
        claims += [
            more(f"the {name} comes before the shape", gain(early[name], early["shape"]))
            for name in ("floor", "colour")
        ]
    rows = torch.cat([torch.cat([one, image[None]]) for one, image in zip(drawn[:6], images[:6], strict=True)])
    told = f"Each row: {', '.join(map(str, counts))} components, all from one noise; last the picture itself."
    return Figure("Principal components (Fig. 7)", found, claims, rows, len(counts) + 1, told)
