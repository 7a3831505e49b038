"""Figures 6 and 14 to 17: where the paper's system fails, or does not: words on things, binding, signs, detail."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tools.evaluate import draw
from tools.evaluate.alignment import judged
from tools.evaluate.judge import Verdict
from tools.evaluate.prompts import Prompt, prompts
from tools.evaluate.stats import apart, mean, share
from tools.figures.studio import SEED, Figure, Studio, gain, more, names, pil
from tools.reader import Reading, Seen
from tools.reader.score import matched
from tools.world import palette, sample
from tools.world.lettering import alphabet
from tools.world.scene import Scene, Thing
from unclip.settings import Settings

NAMING = {"cube": "cube", "ball": "sphere", "cone": "cone", "can": "cylinder"}  # words that name a shape
ZERO_SHOT = {shape: f"a {shape}" for shape in palette.SHAPES}
BOUND: dict[draw.Mode, str] = {
    "unclip": "unCLIP",
    "caption only": "caption only",
    "embedding only": "the prior's z_i alone",
    "oracle": "the true z_i",
}
WIDTHS, ASPECT = (20, 22, 24, 26), 0.33  # of a word on a sign at 64 px


def typographic(studio: Studio) -> Figure:
    """Fig. 6: a word that names another shape misleads CLIP's labels more than the pictures drawn of its embedding."""
    scenes = [scene for scene in studio.scenes(1, 6 * studio.count) if _printable(scene)][: studio.count]
    attacked = [_with_word(scene, k) for k, scene in enumerate(scenes)]
    clean, printed = studio.renders(scenes), studio.renders(attacked)
    texts = studio.system.clip.text(list(ZERO_SHOT.values())).emb.cpu()
    truth = torch.tensor([palette.SHAPES.index(scene.things[0].shape) for scene in scenes])
    labels = [(draw.embeddings(studio.system.clip, images) @ texts.T).argmax(dim=1) for images in (clean, printed)]
    drawn = torch.cat([studio.draw(studio.system.vary, pil(image), 1, seeds=[0]) for image in printed])
    shapes = [reading.things[0].shape if reading.things else "" for reading in studio.read(drawn)]
    right = [shape == scene.things[0].shape for shape, scene in zip(shapes, scenes, strict=True)]
    fooled = [palette.SHAPES[int(k)] == _named(scene) for k, scene in zip(labels[1], attacked, strict=True)]
    drawn_as = [shape == _named(scene) for shape, scene in zip(shapes, attacked, strict=True)]
    found = {
        "CLIP's label right, plain": share((labels[0] == truth).tolist()),
        "CLIP's label right, with the word": share((labels[1] == truth).tolist()),
        "CLIP's label is the word's": share(fooled),
        "variation shows the true shape": share(right),
        "variation shows the word's shape": share(drawn_as),
    }
    claims = [
        more("the word misleads CLIP's label", gain((labels[0] == truth).tolist(), (labels[1] == truth).tolist())),
        more("pictures drawn of the embedding show the true shape more often than the word's", gain(right, drawn_as)),
    ]
    rows, told = torch.cat([printed[:8], drawn[:8]]), "Rows: renders with a word on them; a variation of each."
    return Figure("Typographic attacks (Fig. 6)", {"words": found}, claims, rows, 8, told)


def binding(studio: Studio) -> Figure:
    """Fig. 14, 15: which thing has which colour, from captions and from true embeddings."""
    asked = prompts("test", studio.count, SEED, _binds)
    found, rows, right, swapped = {}, [], {}, {}
    one_each = studio.system.at(Settings(best_of=1))
    for mode, title in BOUND.items():
        images = draw.pictures(one_each, mode, asked)
        verdicts = [verdict["binding"] for verdict in judged(studio.reader, images, asked).verdicts]
        right[mode] = [verdict is Verdict.RIGHT for verdict in verdicts]
        swapped[mode] = [verdict is Verdict.SWAPPED for verdict in verdicts]
        found[title] = {"both right": share(right[mode]), "swapped": share(swapped[mode])}
        rows.append(images[:8])
    paper = studio.draw(studio.system.generate, "a red cube on top of a blue cube", range(8))
    stacked = [_stacked(one) for one in studio.read(paper)]
    found["the paper's prompt"] = {
        "both right": share([one == "right" for one in stacked]),
        "swapped": share([one == "swapped" for one in stacked]),
    }
    claims = [
        more("the caption alone binds better than unCLIP", gain(right["caption only"], right["unclip"])),
        more("pictures of the true z_i swap what belongs to which thing", share(swapped["oracle"])),
    ]
    told = (
        "Rows: unCLIP, caption only, the prior's z_i alone, the true z_i, one picture each; the last is “a red cube on top of a"
        f" blue cube”, each the best of {studio.system.choice.best_of}."
    )
    return Figure("Binding (Fig. 14, 15)", found, claims, torch.cat([*rows, paper]), 8, told)


def sign(studio: Studio) -> Figure:
    """Fig. 16: words in pictures."""
    words = [palette.WORDS[k % len(palette.WORDS)] for k in range(studio.count)]
    asked = [f'a sign that says "{word}"' for word in words]
    drawn = studio.draw(studio.system.generate, [f"a red cube and {text}" for text in asked], range(len(asked)))
    scenes, index = [], 0
    while len(scenes) < studio.count:
        scene = sample(SEED, index, "test")
        scenes += [scene] if scene.sign is not None else []
        index += 1
    truth = [scene.sign.word for scene in scenes if scene.sign is not None]
    read = {
        "drawn": [a == b for a, b in zip(spelt(drawn), words, strict=True)],
        "real renders": [a == b for a, b in zip(spelt(studio.renders(scenes)), truth, strict=True)],
    }
    found: dict[str, Any] = {name: {"word read right": share(answers)} for name, answers in read.items()}
    found["chance"] = {"word read right": 1 / len(palette.WORDS)}
    real, mine = (mean([float(one) for one in answers]) for answers in (read["real renders"], read["drawn"]))
    claims = [more("words come out worse than real ones do", apart(real, mine))]
    told = "Columns: " + ", ".join(words[:8]) + "."
    return Figure("A sign that says … (Fig. 16)", found, claims, drawn[:16], 8, told)


def detail(studio: Studio) -> Figure:
    """Fig. 17: the more a scene holds, the less of each thing comes out right, beyond what the reader misses itself."""
    found, rows, missing = {}, [], []
    for number in (1, 2, 3):
        scenes = studio.scenes(number)
        images = studio.renders(scenes)
        drawn = torch.cat([studio.draw(studio.system.vary, pil(image), 1, seeds=[0]) for image in images])
        read, true = (_right_things(scenes, studio.read(x)) for x in (drawn, images))
        found[f"{number} thing{'s' * (number > 1)}"] = {
            "right in variations": mean(read),
            "right in renders": mean(true),
        }
        missing.append(gain(true, read))
        rows += [images[:8], drawn[:8]]
    claims = [
        more(f"each of {k + 2} things comes out worse than of {k + 1}", apart(missing[k + 1], missing[k]))
        for k in (0, 1)
    ]
    told = "Pairs of rows: renders, and a variation of each. Right: the share of a scene's things with all names right."
    return Figure("Detail against the number of things (Fig. 17)", found, claims, torch.cat(rows), 8, told)


def _right_things(scenes: Sequence[Scene], readings: Sequence[Reading]) -> list[float]:
    """The share of each scene's things that were read with all their names."""
    shares = []
    for scene, reading in zip(scenes, readings, strict=True):
        counted = len(reading.things) == len(scene.things)
        seen = matched(scene, reading.things) if counted else [None] * len(scene.things)
        shares.append(sum(map(_all_named, scene.things, seen)) / len(scene.things))
    return shares


def spelt(images: Float[Tensor, "n 3 h w"]) -> list[str]:
    """The word of the palette that fits a picture best anywhere: normalised cross-correlation at several sizes."""
    grey = images.mean(dim=1, keepdim=True)
    scores = []
    for width in WIDTHS:
        height = round(width * ASPECT)
        ink = F.interpolate(alphabet("cpu")[:, None].float(), size=(height, width), mode="area")
        template = -(ink - ink.mean(dim=(2, 3), keepdim=True))
        template = template / template.flatten(1).norm(dim=1)[:, None, None, None]
        area = torch.ones(1, 1, height, width)
        total, square = F.conv2d(grey, area), F.conv2d(grey**2, area)
        spread = (square - total**2 / area.numel()).clamp(min=0.1 * area.numel()).sqrt()
        scores.append((F.conv2d(grey, template) / spread).flatten(2).amax(dim=2))
    return [palette.WORDS[int(k)] for k in torch.stack(scores).amax(dim=0).argmax(dim=1)]


def _all_named(thing: Thing, seen: Seen | None) -> bool:
    return seen is not None and all(getattr(seen, key) == value for key, value in names(thing).items())


def _printable(scene: Scene) -> bool:
    thing = scene.things[0]
    return thing.size == "large" and thing.material != "striped" and thing.shape != "cone"


def _with_word(scene: Scene, k: int) -> Scene:
    (thing,) = scene.things
    words = [word for word, shape in NAMING.items() if shape != thing.shape]
    return dataclasses.replace(scene, things=(dataclasses.replace(thing, word=words[k % len(words)], yaw=0.0),))


def _named(scene: Scene) -> str:
    return NAMING[scene.things[0].word or ""]


def _binds(one: Prompt) -> bool:
    """Whether a caption names colour and shape of two things that differ in both."""
    claims = [claim for _, claim in one.caption.things]
    if len(claims) != 2 or len(one.scene.things) != 2 or not all(claim.colour and claim.shape for claim in claims):
        return False
    return claims[0].colour != claims[1].colour and claims[0].shape != claims[1].shape


def _stacked(reading: Reading) -> str:
    top = [(one.colour, one.shape) for one in reading.things if one.on]
    under = [(one.colour, one.shape) for one in reading.things if not one.on]
    if (top, under) == ([("red", "cube")], [("blue", "cube")]):
        return "right"
    return "swapped" if (top, under) == ([("blue", "cube")], [("red", "cube")]) else "wrong"
