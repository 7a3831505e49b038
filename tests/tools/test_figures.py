"""The instruments of the figures, on what is known; and that all of them are drawn, measured and shown."""

import dataclasses
import json
import math

import pytest
import torch

from tools.evaluate.fidelity import entropy, kernel, widened
from tools.evaluate.stats import apart, jackknife, mean
from tools.figures.__main__ import FIGURES, figures
from tools.figures.binding import spelt
from tools.figures.latent import _changed
from tools.figures.probe import left_open
from tools.figures.studio import changed, gain, kept, more, so
from tools.reader.reading import Reading, decoded
from tools.reader.targets import targets
from tools.world import render, sample
from tools.world.splits import held_out_pair
from unclip.errors import UnclipError

from .test_reader import perfect

SCENES = [sample(6, index, "test") for index in range(300)]
ONE = [scene for scene in SCENES if len(scene.things) == 1]


def test_signs_of_real_renders_are_mostly_read():
    signs = [scene for scene in SCENES if scene.sign is not None][:20]
    words = spelt(torch.cat([render([scene], 64) for scene in signs]).float() / 127.5 - 1)
    right = sum(word == scene.sign.word for word, scene in zip(words, signs, strict=True) if scene.sign)
    assert right >= 16, "chance is 1 of 18"


def test_a_picture_keeps_what_it_shows_and_no_more():
    scene = ONE[0]
    reading = decoded(*perfect(targets(scene)))[0]
    assert kept(reading, scene)
    (thing,) = scene.things
    other = dataclasses.replace(scene, things=(dataclasses.replace(thing, colour="none"),))
    assert not kept(reading, other)
    assert kept(reading, other, ["colour"])
    assert not kept(reading, dataclasses.replace(scene, floor="none"))


@pytest.mark.parametrize("attribute", ["colour", "material", "shape"])
def test_a_change_is_of_one_name_and_of_no_pair_held_out(attribute):
    for scene in ONE[:40]:
        (thing,) = scene.things
        before, after, target = _changed(thing, attribute)
        assert target != getattr(thing, attribute)
        assert not held_out_pair(dataclasses.replace(thing, **{attribute: target}))
        assert len([1 for a, b in zip(before.split(), after.split(), strict=True) if a != b]) == 1
        assert target in after.split()


def test_probes_find_what_is_there_and_no_more():
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (3500, 2), generator=rng)
    noise = torch.randn(3500, 8, generator=rng)
    shown = noise + 6 * torch.nn.functional.one_hot(labels[:, 0], 8)  # the second is not in it
    found = left_open(shown[:2500], labels[:2500], shown[2500:], labels[2500:], [4, 4])
    assert found[0] < 0.1
    assert found[1] == pytest.approx(2, abs=0.03)


def test_probes_find_what_no_linear_one_can():
    x = torch.randn(3500, 8, generator=torch.Generator().manual_seed(0))
    labels = (x[:, :1] * x[:, 1:2] > 0).long()
    assert left_open(x[:2500], labels[:2500], x[2500:], labels[2500:], [2])[0] < 0.6


def test_entropies_of_small_groups_are_corrected():
    assert entropy(["a"] * 8) == 0
    draws = torch.randint(0, 4, (500, 8), generator=torch.Generator().manual_seed(0)).tolist()
    plain = -sum(math.log2(row.count(x) / 8) / 8 for row in draws for x in row) / len(draws)
    corrected = sum(entropy(list(map(str, row))) for row in draws) / len(draws)
    assert abs(corrected - 2) < abs(plain - 2) / 2


def test_claims_are_decided_only_beyond_their_intervals():
    ones, none = [1.0] * 20, [0.0] * 20
    half = [0.0, 1.0] * 10
    assert more("", gain(ones, none)).verdict == "holds"
    assert more("", gain(none, ones)).verdict == "fails"
    assert more("", gain(half, half[::-1])).verdict == "undecided"
    assert more("", gain(none, none)).verdict == "undecided"
    assert (so("", True).verdict, so("", False).verdict) == ("holds", "fails")


def test_a_jackknife_of_a_mean_is_the_means_interval():
    values = torch.randn(200, generator=torch.Generator().manual_seed(1))
    found, known = jackknife(lambda rows: float(values[rows].mean()), 200), mean(values.tolist())
    assert found.value == pytest.approx(known.value, abs=1e-6)
    assert found.high - found.low == pytest.approx(known.high - known.low, rel=1e-4)
    two = jackknife(lambda a, b: float(values[a].mean() - values[b].mean()), 200, 200)
    wide = apart(known, known)
    assert (two.low, two.high) == pytest.approx((wide.low, wide.high), rel=1e-4)
    assert wide.value == 0
    assert wide.high - wide.low == pytest.approx(math.sqrt(2) * (known.high - known.low))


def test_intervals_of_kernel_distances_and_entropies_hold_the_truth():
    """As many as 95 % do; samples drawn again with their copies would never hold it."""
    rng, held = torch.Generator().manual_seed(3), {"kernel": 0, "entropy": 0, "coin": 0}
    for _ in range(20):
        a, b = torch.randn(2, 40, 16, generator=rng).unbind()
        draws, coins = ([str(one) for one in torch.randint(n, (40,), generator=rng).tolist()] for n in (6, 2))
        found = {
            "kernel": (jackknife(lambda rows, real, a=a, b=b: kernel(b[real], a[rows]), 40, 40), 0.0),
            "entropy": (jackknife(lambda rows, d=draws: entropy([d[k] for k in rows.tolist()]), 40), math.log2(6)),
            "coin": (widened(jackknife(lambda rows, d=coins: entropy([d[k] for k in rows.tolist()]), 40), 2), 1.0),
        }
        for name, (one, truth) in found.items():
            held[name] += one.low <= truth <= one.high
    assert min(held.values()) >= 17


def test_too_few_scenes_are_one_line():
    with pytest.raises(UnclipError, match="--count 1: expected at least 8"):
        figures(count=1)


def test_nuisance_that_changed_is_counted():
    one, other = (Reading((), {"light": light, "pitch": "low", "zoom": "wide"}) for light in ("left", "right"))
    assert changed(one, one) == 0
    assert changed(one, other) == pytest.approx(1 / 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_figures_are_drawn_measured_and_shown(tmp_path, monkeypatch):
    from tools.figures import guidance, latent, probe, reconstruction

    for module, name, value in (
        (latent, "PATHS", 3),
        (reconstruction, "INVERSIONS", ((2, 1.0), (3, 1.0), (4, 1.0), (4, 2.0))),
        (latent, "INVERSIONS", ((3, 1.0),)),
        (guidance, "STEPS", (2, 3)),
        (guidance, "SCALES", (1.0, 2.0)),
        (guidance, "FIXED", ("a red cube",)),
        (latent, "VARIATIONS", 4),
        (probe, "TRAIN", 200),
        (probe, "HELD_OUT", 50),
    ):
        monkeypatch.setattr(module, name, value)
    out = tmp_path / "figures"
    figures(out=out, count=8, device="cpu")
    page = (tmp_path / "figures.md").read_text()
    for name in FIGURES:
        found = json.loads((out / f"{name}.json").read_text())
        assert found["claims"], name
        assert found["numbers"], name
        assert f"## {found['title']}" in page
        assert all(claim["text"] in page for claim in found["claims"])
        assert (out / f"{name}.png").is_file()
