"""The attribute reader: targets say where things are, decoding them gives the scene back, and a short training learns."""

import json
import subprocess
import sys

import pytest
import torch

from tools.reader.net import CELL, PER_PICTURE, PER_THING, PLAIN, SIZE, Reader, ReaderConfig
from tools.reader.reading import decoded, open_reader, read, relation
from tools.reader.score import judged, matched
from tools.reader.targets import Targets, targets
from tools.world import relations, render, sample
from tools.world.scene import from_graph
from tools.world.shards import graph

SCENES = [sample(5, index, "test") for index in range(120)]


def perfect(wanted: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a net that answers exactly its targets."""
    cells = SIZE // CELL
    grid = torch.zeros(1, len(PLAIN) + sum(map(len, PER_THING.values())), cells * cells)
    grid[0, 0] = torch.logit(wanted.heat.flatten().clamp(1e-4, 1 - 1e-4))
    for row, place in zip(wanted.things.tolist(), wanted.places, strict=True):
        if row[0] < 0:
            continue
        grid[0, 1, row[0]] = 10 if row[1] else -10
        grid[0, 2:4, row[0]] = place
        start = len(PLAIN)
        for value, values in zip(row[2:], PER_THING.values(), strict=True):
            grid[0, start + value, row[0]] = 10
            start += len(values)
    whole = [torch.nn.functional.one_hot(k, len(v)) for k, v in zip(wanted.whole, PER_PICTURE.values(), strict=True)]
    return grid.view(1, -1, cells, cells), 10.0 * torch.cat(whole)[None].float()


def test_targets_decode_to_the_scene():
    for scene in SCENES:
        reading = decoded(*perfect(targets(scene)))[0]
        wrong = [key for key, right in judged(scene, reading) if not right]
        assert not wrong, f"{wrong} in {scene}"


def test_relations_are_read_back_from_places():
    for scene in SCENES:
        things = matched(scene, decoded(*perfect(targets(scene)))[0].things)
        for subject, name, other in relations(scene):
            assert relation(things[subject], things[other]) == name


def test_a_scene_survives_its_graph():
    for scene in SCENES:
        assert from_graph(json.loads(json.dumps(graph(scene)))) == scene


def test_a_scene_with_a_thing_too_many_is_wrong():
    one, two = (next(s for s in SCENES if len(s.things) == n) for n in (1, 2))
    answers = dict(judged(one, decoded(*perfect(targets(two)))[0]))
    assert not answers["count"]
    assert not answers["all"]
    assert not answers["shape"]


def test_pictures_of_any_size_are_read_at_64_px():
    reader = Reader(ReaderConfig(channels=(8, 8, 8))).eval()
    images = render(SCENES[:2], 64).float() / 127.5 - 1
    large = torch.nn.functional.interpolate(images, scale_factor=4, mode="bicubic")
    features = [read(reader, x)[1] for x in (images, large)]
    torch.testing.assert_close(*features, atol=0.05, rtol=0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute and a half where nothing else runs
def test_a_short_training_learns_floors(tmp_path):
    words = ("--size", "64", "--shard", "500", "--workers", "1")
    for split, count in (("train", "2000"), ("test", "100")):
        folder = str(tmp_path / split)
        subprocess.run(
            [sys.executable, "-m", "tools.world", folder, "--count", count, "--split", split, *words], check=True
        )
    out = tmp_path / "reader.safetensors"
    command = [sys.executable, "-m", "tools.reader", str(out), "--shards", str(tmp_path / "train")]
    subprocess.run([*command, "--validation", str(tmp_path / "test"), "--epochs", "2"], check=True)
    right = json.loads(out.with_suffix(".json").read_text())["clean"]
    assert right["floor"] > 0.7
    assert right["style"] > 0.7
    assert isinstance(open_reader(out), Reader)
