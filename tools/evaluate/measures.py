"""The parts of a report: each measures, and adds what it found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from stages.degrade import DegradeConfig
from tools.evaluate import draw, fidelity, order, priors, report, sweep, upsamplers
from tools.evaluate.alignment import Drawn, aligned, judged
from tools.evaluate.judge import Verdict
from tools.evaluate.prompts import Prompt, prompts
from tools.evaluate.stats import Estimate, jackknife
from tools.reader import Reading, read
from tools.reader.net import PER_PICTURE, Reader
from unclip.checkpoint import read_header
from unclip.config import build, load
from unclip.folder import SystemConfig
from unclip.images import resize, to_tensor
from unclip.places import FILE
from unclip.settings import Settings
from unclip.system import UnCLIP
from unclip.upsampling import upsample

PROBED = 6000  # scenes that probes are fitted to
DIVERSE = ("a red cube", "a blue sphere on a white floor", "two cones", "a green cylinder to the left of a yellow cube")


@dataclass
class Work:
    """What the parts of a report share: the system, the reader, the prompts, and what was found so far.

    `keep`: a folder for the small pictures that are drawn.
    """

    folder: Path
    system: UnCLIP
    reader: Reader
    iid: list[Prompt]
    apart: list[Prompt]
    out: Path
    bars: Progress
    keep: Path | None = None
    found: dict[str, Any] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)

    def progress(self, name: str, total: int) -> Callable[[int], None]:
        """A new bar; gives the function that advances it."""
        task = self.bars.add_task(name, total=total)
        return lambda n: self.bars.advance(task, n)

    def say(self, key: str, found: Any, text: str) -> None:
        """Adds a finding to the report, in place of an older one, and writes it, so that nothing finished is lost."""
        self.found[key], self.text[key] = found, text
        report.write(self.out, self.found, self.text)

    def resume(self, made: Mapping[str, Any], title: str) -> None:
        """Begins the report, with what other parts left in its folder if the same system was measured there."""
        self.found, self.text = report.read(self.out, made)
        self.say("made by", made, title)


def alignment(work: Work, name: str, told: list[Prompt]) -> None:
    """The whole system on the prompts of a split."""
    images = draw.pictures(work.system, "unclip", told, work.progress(name, len(told)), work.keep)
    drawn = judged(work.reader, images, told)
    report.sheet(work.out / f"{name.replace('.', '').replace(' ', '-')}.png", drawn, told)
    work.say(name, drawn.aligned, report.alignment(f"The whole system, {name}", drawn.aligned))


def baselines(work: Work, count: int, training: int) -> None:
    """Everything the system must beat, and real renders, on the same prompts: alignment and fidelity.

    One picture for each, so that nets are compared and not choices.
    """
    told, size, single = work.iid[:count], work.system.sizes[0], work.system.at(Settings(best_of=1))
    bank = draw.bank(work.system.clip, training, size)
    real = judged(work.reader, draw.renders([prompt.scene for prompt in told], size), told)
    sets: dict[draw.Mode, Drawn] = {"real": real}
    text = work.system.clip.text([prompt.text for prompt in told]).emb.cpu()
    nearest = (text @ bank.emb.T).argmax(dim=1)
    sets["retrieval"] = judged(work.reader, bank.images[nearest], told)
    for mode in draw.DRAWN:
        images = draw.pictures(single, mode, told, work.progress(draw.TITLES[mode], len(told)), work.keep)
        sets[mode] = judged(work.reader, images, told)
        report.sheet(work.out / f"{mode.replace(' ', '-')}.png", sets[mode], told)
    tags = ("one object", "two objects", "binding", "relation", "count", "floor", "style", "caption")
    columns = {
        draw.TITLES[mode]: {tag: drawn.aligned[tag].right for tag in tags if tag in drawn.aligned}
        for mode, drawn in sets.items()
    }
    work.say("baselines", columns, report.numbers(f"Beside its baselines ({count} prompts, one picture each)", columns))
    _, features = read(work.reader, bank.images)
    fresh = read(work.reader, draw.renders([prompt.scene for prompt in prompts("test", count, seed=3)], size))[1]
    qualities = {draw.TITLES[mode]: _fidelity(drawn, fresh, features) for mode, drawn in sets.items()}
    work.say("fidelity", qualities, report.numbers(f"Fidelity in the reader's features (N = {count})", qualities))
    diversity = _diversity(work, real)
    work.say("diversity", diversity, report.numbers("Diversity at a fixed caption, nothing chosen, bits", diversity))


def _fidelity(drawn: Drawn, real: torch.Tensor, training: torch.Tensor) -> dict[str, float | Estimate]:
    """The Fréchet distance has no interval: of pictures drawn again and again it only grows."""
    precision, recall = fidelity.precision_recall(real, drawn.features)
    kernel = jackknife(
        lambda seen, rows: 1000 * fidelity.kernel(real[seen], drawn.features[rows]), len(real), len(drawn.features)
    )
    return {
        "Fréchet distance": fidelity.frechet(real, drawn.features),
        "kernel distance x 1000": kernel,
        "precision": precision,
        "recall": recall,
        "nearest-neighbour memorisation": fidelity.memorised(drawn.features, real, training),
    }


def _diversity(work: Work, real: Drawn, each: int = 60) -> dict[str, dict[str, Estimate]]:
    """Entropies of what no caption names, over pictures of one caption at a time; and those of real pictures at large."""
    found = {"real renders, any caption": _entropies(real.readings)}
    for words in DIVERSE:
        images = [torch.empty(0, 3, *[work.system.sizes[0]] * 2)]
        for start in range(0, each, draw.BATCH):
            seeds = range(start, start + draw.BATCH)
            small = work.system.generate(words, seeds, draw.BATCH, size=work.system.sizes[0], best_of=1)
            images.append(torch.stack([to_tensor(picture.image) for picture in small]))
        found[words] = _entropies(read(work.reader, torch.cat(images))[0])
    return found


def _entropies(readings: Sequence[Reading]) -> dict[str, Estimate]:
    def bits(key: str, rows: torch.Tensor) -> float:
        return fidelity.entropies([readings[k] for k in rows.tolist()])[key]

    thirds = {"across": 3, "along": 3}
    kinds = {name: len(values) for name, values in PER_PICTURE.items()} | thirds
    found = {key: jackknife(partial(bits, key), len(readings)) for key in fidelity.entropies(readings)}
    return {key: fidelity.widened(one, kinds[key]) for key, one in found.items()}


def prior(work: Work) -> None:
    """The prior's embeddings against the true ones of the same scenes."""
    images = draw.renders([prompt.scene for prompt in work.iid], work.system.sizes[0])
    true = draw.embeddings(work.system.clip, images)
    drawn, text = priors.embeddings(work.system, work.iid)
    found = priors.measure(drawn, text, true)
    work.say("prior", found, report.numbers("The prior", {"": found}))
    placed = order.measure(work.system.clip, work.iid, {"true embeddings": true, "drawn": drawn}, PROBED)
    title = "The prior: two things in the told places, as a probe reads it from embeddings"
    work.say("order", placed, report.numbers(title, placed))
    swept = {f"best of {n}": values for n, values in priors.best_of(work.system, work.iid, true).items()}
    work.say(
        "best of", swept, report.numbers("The prior, best of N: cosine to the true embedding and to the text", swept)
    )


def enlargement(work: Work, count: int) -> None:
    """Each upsampler against bicubic, and what the first does to alignment."""
    number = min(count, 100)
    files = load(SystemConfig, work.folder / FILE).upsamplers
    for stage, file in zip(work.system.upsamplers, files, strict=True):
        taught = read_header(work.folder / file).provenance.get("degrade", {})
        degrade = build(DegradeConfig, taught, f"{file}: header: provenance: degrade")
        found, made = upsamplers.measure(stage, number, degrade)
        work.say(stage.name, found, report.numbers(f"{stage.name} beside bicubic ({number} squares)", found))
        rows = [made.bicubic[:6], made.drawn[:6], made.truth[:6]]
        report.pictures(work.out / f"{stage.name}.png", torch.cat(rows), columns=6)
        if stage.net.config.residual:
            swept = upsamplers.shrinks(stage, number, degrade)
            title = f"{stage.name} by how much its residual is shrunk, on {number} other squares; it draws with"
            work.say(f"{stage.name} shrunk", swept, report.numbers(f"{title} {stage.sampling.shrink:g}", swept))
    if not work.system.upsamplers:
        return
    columns = _enlarged(work, work.iid[:number])
    title = f"Alignment before and after each upsampler, and bicubic instead ({number} prompts, one picture each)"
    work.say("upsampled", columns, report.numbers(title, columns))


def _enlarged(work: Work, told: list[Prompt], at_once: int = 10) -> dict[str, dict[str, Estimate]]:
    """What enlarged pictures show, by size; few at once, as large ones are large."""
    small = draw.pictures(work.system.at(Settings(best_of=1)), "unclip", told, keep=work.keep)
    verdicts: dict[str, list[dict[str, Verdict]]] = {}
    for start in range(0, len(told), at_once):
        x, part = small[start : start + at_once], told[start : start + at_once]
        columns = {f"{x.shape[-1]} px": x}
        for stage in work.system.upsamplers:
            size = stage.net.config.size
            x = upsample(stage, x, range(start, start + len(x)), at_once)
            columns |= {f"{size} px": x, f"{size} px, bicubic": resize(small[start : start + at_once], size)}
        for name, images in columns.items():
            verdicts.setdefault(name, []).extend(judged(work.reader, images, part).verdicts)
    return {name: {tag: one.right for tag, one in aligned(found).items()} for name, found in verdicts.items()}


def settings(work: Work, count: int) -> None:
    """Guidance, steps and samplers of the decoder; how many pictures are drawn for one, and by what the best is chosen."""
    told = work.iid[:count]
    real = read(
        work.reader, draw.renders([prompt.scene for prompt in prompts("test", count, seed=3)], work.system.sizes[0])
    )[1]
    total = len(sweep.SAMPLERS) * len(sweep.STEPS) * len(sweep.GUIDANCE)
    points = list(sweep.sweep(work.system, work.reader, told, real, work.progress("sweep", total)))
    top = sweep.best(points)
    work.say("sweep", {"points": points, "best": top}, report.sweep(points, top))
    tables = sweep.best_of_several(
        work.system, work.reader, told, work.progress("best of several", len(told)), work.keep
    )
    choice = work.system.choice
    titles = {
        "best of several": f"The whole system, if the best of N pictures is kept; it draws {choice.best_of}",
        "text weight": f"The whole system, by how much the text weighs in choosing; it draws with {choice.text_weight:g}",
        "match weight": f"The whole system, by how much the matcher weighs in choosing; it draws with {choice.match_weight:g}",
    }
    for name, table in tables.items():
        work.say(name, table, report.numbers(titles[name], table))
