"""Renders of the demo world: the same at every size, crop by crop, with colours that can be told apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange, reduce

from tools.world import palette, render, sample
from tools.world.batch import collate
from tools.world.scene import mirrored
from tools.world.shading import nearest, rays
from unclip.errors import UnclipError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes():
    return [sample(5, i, "test") for i in range(160)]


@pytest.mark.parametrize(("size", "crop"), [(64, (13, 22)), (256, (64, 64)), (1024, (100, 64))])
def test_a_crop_equals_the_crop_of_the_whole_alone_or_in_a_batch(scenes, size, crop):
    few = scenes[:6] if size < 1024 else scenes[:2]
    places = [
        ((37 * i + 5) % (size - 99 if size > 64 else 40), (61 * i + 11) % (size // 2), *crop) for i, _ in enumerate(few)
    ]
    whole, cut = render(few, size), render(few, size, places)
    for i, (top, left, height, width) in enumerate(places):
        wanted = whole[i, :, top : top + height, left : left + width]
        assert torch.equal(cut[i], wanted)
        assert torch.equal(render(few[i : i + 1], size, places[i : i + 1])[0], wanted)


def test_a_mirrored_scene_is_the_picture_mirrored(scenes):
    assert [mirrored(mirrored(scene)) for scene in scenes] == scenes
    plain = [s for s in scenes if s.sign is None and all(t.material != "striped" and not t.word for t in s.things)][:16]
    there = render([mirrored(scene) for scene in plain], 64).float()
    assert (there - render(plain, 64).float()).abs().mean() > 5
    assert (there - render(plain, 64).float().flip(-1)).abs().mean() < 0.1  # grey levels


def test_a_picture_looks_the_same_at_every_size(scenes):
    small = render(scenes[:24], 64).float()
    shrunk = reduce(render(scenes[:24], 256).float(), "b c (h i) (w j) -> b c h w", "mean", i=4, j=4)
    error = (small - shrunk).square().mean((1, 2, 3)).sqrt()
    assert error.max() < 4  # grey levels; a shift by half a pixel costs about 10
    shrunk = reduce(render(scenes[:2], 1024).float(), "b c (h i) (w j) -> b c h w", "mean", i=16, j=16)
    assert (small[:2] - shrunk).square().mean((1, 2, 3)).sqrt().max() < 4


def test_edges_are_antialiased(scenes):
    """A render with one ray per pixel has far fewer colours than one that is supersampled."""
    plain = [
        replace(s, style="drawing", things=tuple(replace(t, material="matte", word=None) for t in s.things))
        for s in scenes[:8]
    ]
    for picture in rearrange(render(plain, 64), "b c h w -> b (h w) c"):
        assert len(torch.unique(picture, dim=0)) > 40


def _owner(scene, size):
    """Which solid each pixel shows at its middle."""
    batch = replace(collate([scene]), drawing=torch.zeros(1, dtype=torch.bool))
    steps = (torch.arange(size) + 0.5) / size
    row = torch.zeros(1, dtype=torch.int64)
    ray = rays(batch, row, (steps.repeat(size)[None], steps.repeat_interleave(size)[None]))
    return nearest(batch, row, torch.ones(1, len(scene.solids), dtype=torch.bool), ray)[1].view(size, size).numpy()


def _lab(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.cbrt(linear @ matrix.T / np.array([0.9505, 1, 1.089]))
    return np.stack([116 * xyz[..., 1] - 16, 500 * (xyz[..., 0] - xyz[..., 1]), 200 * (xyz[..., 1] - xyz[..., 2])], -1)


def _colour(pixels):
    """Nearest palette hue of the most colourful third of a solid's pixels, "gray" where that is hardly coloured."""
    lab = _lab(pixels)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    vivid = lab[np.argsort(chroma)[-max(4, len(chroma) // 3) :]].mean(0)
    if np.hypot(vivid[1], vivid[2]) < 20:
        return "gray"
    hues = {
        name: np.angle(complex(*_lab(np.array(rgb))[1:])) for name, rgb in palette.COLOURS.items() if name != "gray"
    }
    hue = complex(vivid[1], vivid[2])
    return min(hues, key=lambda name: abs(np.angle(hue * np.exp(-1j * hues[name]))))


def test_colours_are_told_apart_under_every_light_tint_floor_and_style(scenes):
    pictures = rearrange(torch.cat([render(scenes[i : i + 40], 64) for i in range(0, 160, 40)]), "b c h w -> b h w c")
    read = [
        (thing.colour, _colour(picture[_owner(scene, 64) == k] / 255))
        for scene, picture in zip(scenes, pictures.numpy(), strict=True)
        for k, thing in enumerate(scene.things)
    ]
    assert len(read) > 200
    assert all(colour == seen for colour, seen in read)


def test_names_that_differ_look_different_and_words_are_legible():
    """Each attribute alone changes many pixels of the thing, so that none is only a matter of metadata."""
    scene = next(s for s in (sample(5, i, "train") for i in range(999)) if len(s.things) == 1 and s.things[0].word)
    thing = scene.things[0]
    variants = [scene] + [
        replace(scene, things=(replace(thing, **change),))
        for change in (
            {"material": "striped"},
            {"material": "shiny"},
            {"material": "matte"},
            {"word": None},
            {"word": "green"},
        )
    ]
    variants += [replace(scene, style={"photo": "drawing", "drawing": "photo"}[scene.style])]
    pictures = render(list(dict.fromkeys(variants)), 64).float()
    for i in range(len(pictures)):
        for j in range(i):
            assert ((pictures[i] - pictures[j]).abs().amax(0) > 24).sum() >= 12


def test_bad_crops_are_refused_in_one_line(scenes):
    with pytest.raises(UnclipError, match=r"does not lie within 64 x 64 pixels$"):
        render(scenes[:1], 64, [(10, 0, 60, 10)])
    with pytest.raises(UnclipError, match="must be equal in height and width"):
        render(scenes[:2], 64, [(0, 0, 8, 8), (0, 0, 9, 8)])
