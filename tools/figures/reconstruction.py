"""Figure 7, and the reconstructions that all others rest on: what of a picture comes back, and from how much of it."""

import torch
from PIL import Image

from tools.evaluate.stats import mean, share
from tools.evaluate.upsamplers import psnr
from tools.figures.studio import Figure, Studio, gain, more, pil, shown, so, told_of
from tools.world import geometry
from tools.world.scene import Scene
from unclip.errors import UnclipError
from unclip.images import to_tensor

INVERSIONS = ((10, 1.0), (50, 1.0), (250, 1.0), (250, 2.0))  # steps and guidance


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
    told = f"Rows: held-out renders; 10, 50, 250 steps of inversion and of DDIM; 250 under guidance 2. {len(images)} renders."
    return Figure("Inversion", found, claims, torch.cat(rows), 8, told)


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


def inpainting(studio: Studio) -> Figure:
    """Section 1's use of the decoder: a painted part comes to show what the prompt says, the rest stays as it is."""
    scenes = studio.scenes(2)[: max(8, studio.count // 2)]
    answers, exact, rows = [], [], []
    for k, (scene, image) in enumerate(zip(scenes, studio.renders(scenes), strict=True)):
        mask, prompt = _half(scene, studio.size), " and ".join(told_of(thing) for thing in scene.things)
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
    told = f"Rows: renders, the half that is kept, and it completed from a text that names both things. {len(scenes)} renders."
    columns = [torch.stack(row[:8]) for row in zip(*rows, strict=True)]
    return Figure("Inpainting", found, claims, torch.cat(columns), 8, told)


def _half(scene: Scene, size: int) -> Image.Image:
    """A mask over the half of the picture that the scene's second thing lies in."""
    u, _ = geometry.project(scene.camera, scene.things[1].centre)
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (size // 2, 0, size, size) if u > 0.5 else (0, 0, size // 2, size))
    return mask
