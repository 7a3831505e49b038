"""Inpainting: what a mask keeps is kept exactly, whatever kind of picture it is; what makes no sense is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.drawing import Paint
from unclip.errors import UnclipError
from unclip.images import square, to_tensor
from unclip.system import UnCLIP

from .systems import CAPTIONS, SIZES, write_system, write_upsampler
from .test_manipulations import SMALL, apart, pixels


@pytest.mark.parametrize("size", SIZES)
def test_inpainting_keeps_known_pixels_exactly_at_every_size(system, size):
    side = SIZES[-1]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side + 40, 3), dtype=np.uint8))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (60, 20, 160, 120))
    (one,) = system.inpaint(image, mask, CAPTIONS[0], seeds=[0], size=size, rounds=2, steps=3)
    kept = square(to_tensor(image)[None], size)[0]
    painted = square(to_tensor(mask.convert("RGB"))[None], side)[0, 0] > 0
    painted = torch.nn.functional.adaptive_max_pool2d(painted[None].float(), size)[0] > 0
    margin = torch.nn.functional.max_pool2d(painted[None].float(), 5, 1, 2)[0] > 0 if size < side else painted
    truth = ((kept.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(int)
    same = (pixels(one) == truth).all(axis=2)
    assert same[~margin.numpy()].all()
    assert not same[painted.numpy()].all()


@pytest.mark.parametrize("steps", [1, 3])
def test_shrunk_residuals_keep_known_pixels_too(tmp_path, steps):
    write_system(tmp_path)
    write_upsampler(tmp_path, SIZES[1], steps, residual=0.1)
    system = UnCLIP.from_pretrained(tmp_path, "cpu")
    shrunk = tuple(stage.at(threshold="none", shrink=0.3) for stage in system.upsamplers[:1])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (8, 8, 40, 40))
    drawn = replace(system, upsamplers=shrunk).inpaint(
        image, mask, CAPTIONS[0], seeds=[0], size=SIZES[1], rounds=2, steps=3
    )
    same = (pixels(next(drawn)) == pixels(image)).all(axis=2)
    assert same[pixels(mask) == 0].all()
    assert not same[8:40, 8:40].all()


@pytest.mark.parametrize("size", [8, 16, 40, 64, 100])
def test_nothing_painted_has_a_part_in_what_is_kept(size):
    rng = torch.Generator().manual_seed(0)
    image, where = torch.rand(3, 40, 40, generator=rng) * 2 - 1, torch.zeros(1, 40, 40, dtype=torch.bool)
    where[:, 10:20, 5:25] = True
    dark, light = (Paint(torch.where(where, value, image), where, 1).at(size) for value in (-1.0, 1.0))
    assert torch.equal(dark[1], light[1])
    keep = dark[1].expand_as(dark[0])
    assert torch.equal(dark[0][keep], light[0][keep])
    assert keep.float().mean() > (0.5 if size > 8 else 0.2)


@pytest.mark.parametrize(
    ("size", "mask", "told"),
    [
        ((40, 40), Image.new("L", (40, 40), 0), "the mask is empty"),
        ((40, 40), Image.new("L", (30, 40), 255), "the mask has 30x40 pixels, the picture 40x40"),
        ((80, 40), None, "empty within the picture's centre square"),
    ],
)
def test_masks_that_make_no_sense_are_refused(system, size, mask, told):
    if mask is None:
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, 10, 10))
    with pytest.raises(UnclipError, match=told):
        next(system.inpaint(Image.new("RGB", size), mask, "a cube", seeds=[0], **SMALL))


def soft(size):
    """A mask with grey edges."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, 8, 8))
    mask.paste(100, (8, 0, 10, 8))
    return mask


def transparent(size):
    """A mask that is clear where to paint."""
    mask = Image.new("RGBA", size, (10, 20, 30, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 8, 8))
    return mask


def opaque(size):
    """A black and white mask that was saved with an alpha channel of no use."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((255, 255, 255, 255), (0, 0, 8, 8))
    return mask


@pytest.mark.parametrize("make", [soft, transparent, opaque])
def test_masks_of_all_kinds_paint_the_same_and_replay(system, pictures, tmp_path, make):
    pictures[0].save(tmp_path / "x.png")
    make(pictures[0].size).save(tmp_path / "mask.png")
    plain = Image.new("L", pictures[0].size, 0)
    plain.paste(255, (0, 0, 8, 8))
    one, other = (
        next(system.inpaint(tmp_path / "x.png", mask, "a cube", seeds=[2], rounds=2, **SMALL))
        for mask in (tmp_path / "mask.png", plain)
    )
    assert apart(one, other) == 0
    assert apart(next(system.replay(one.recipe)), one) <= 1
