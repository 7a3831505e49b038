"""Images: what enters comes out again, and files appear whole or not at all."""

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.errors import UnclipError
from unclip.images import grid, open_image, read_recipe, resize, save_png, square, to_levels, to_pil, to_tensor, upright

from .systems import file_limit

RECIPE = {"prompt": "ein Würfel 立方体 🎲", "seed": 3, "settings": {"steps": 4, "guidance": 2.5}}


def noise_picture(size=(32, 24), mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8), mode)


def test_all_grey_levels_survive_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([pixels, pixels.T, 255 - pixels], axis=-1))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor.min() == -1
    assert tensor.max() == 1
    assert np.array_equal(np.array(to_pil(tensor)), np.array(image))


def test_pixels_are_clipped_and_rounded_to_the_nearest_level():
    row = torch.tensor([-7.0, -1.0, 0.0026, 0.0066, 1.0, 9.0])
    made = np.array(to_pil(row.expand(3, 1, -1)))[0, :, 0]
    assert made.tolist() == [0, 0, 128, 128, 255, 255]
    assert np.array(to_pil(torch.full((3, 1, 1), 0.0079)))[0, 0, 0] == 129


@pytest.mark.parametrize(
    ("kind", "level", "grey"), [(np.int32, 200, 200), (np.int32, 51_400, 200), (np.uint16, 200, 0)]
)
def test_grey_of_more_bits_is_scaled_by_what_it_holds(tmp_path, kind, level, grey):
    """Of 16 bits always; 32 may hold 8 or 16."""
    Image.fromarray(np.full((8, 8), level, kind)).save(tmp_path / "grey.tif")
    assert to_levels(open_image(tmp_path / "grey.tif")).unique().tolist() == [grey]


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colours_times_opacity_are_read(mode):
    seen = to_levels(upright(Image.new(mode[:-1] + "A", (4, 4), "red" if mode == "RGBa" else (90, 255)).convert(mode)))
    assert seen[:, 0, 0].tolist() == ([255, 0, 0] if mode == "RGBa" else [90, 90, 90])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (2, 0, 4, 2))
    converted = image.quantize() if mode == "P" else image.convert(mode)
    tensor = to_tensor(converted)
    assert (tensor[:, :, 2:] > 0.98).all()
    assert (tensor[1:, :, :2] < 0.2).all()


def test_resizing_keeps_flat_pictures_and_does_not_alias():
    flat = torch.full((1, 3, 64, 64), 0.25)
    assert torch.allclose(resize(flat, 24), torch.full((1, 3, 24, 24), 0.25), atol=1e-5)
    fine = ((torch.arange(64) % 4 == 0) * 2.0 - 1).expand(1, 3, 64, 64)  # every fourth column white: grey from afar
    assert (resize(fine, 16)[..., 1:-1] + 0.5).abs().max() < 0.1
    assert resize(fine, (64, 64)) is fine
    assert resize(flat.half(), (8, 4)).shape == (1, 3, 8, 4)


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_the_square_is_the_centre(shape):
    images = torch.zeros(1, 3, *shape)
    height, width = shape
    images[..., (height - 40) // 2 : (height + 40) // 2, (width - 40) // 2 : (width + 40) // 2] = 1
    assert torch.equal(square(images, 40), torch.ones(1, 3, 40, 40))
    assert square(images, 16).shape == (1, 3, 16, 16)


def test_a_grid_holds_every_picture_once():
    pictures = [Image.new("RGB", (8, 6), (k, 0, 0)) for k in range(5)]
    sheet = np.array(grid(pictures))
    assert sheet.shape == (2 * 6 + 2, 3 * 8 + 2 * 2, 3)
    assert [sheet[y, x, 0] for y in (3, 11) for x in (4, 14, 24)] == [0, 1, 2, 3, 4, 255]
    assert grid(pictures, columns=5).size == (5 * 8 + 4 * 2, 6)


def test_a_recipe_comes_back_and_a_name_is_never_taken_twice(tmp_path):
    path = tmp_path / "a.png"
    image = noise_picture()
    save_png(image, path, RECIPE)
    assert read_recipe(path) == RECIPE
    assert np.array_equal(np.array(Image.open(path)), np.array(image))
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        save_png(Image.new("RGB", (9, 9)), path)
    assert path.read_bytes() == before
    save_png(Image.new("RGB", (9, 9)), path, replace=True)
    assert open_image(path).size == (9, 9)
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


def test_a_full_disk_leaves_nothing(tmp_path):
    with file_limit(1000), pytest.raises(OSError, match="File too large"):
        save_png(noise_picture(), tmp_path / "a.png", RECIPE)
    assert not list(tmp_path.iterdir())


def test_what_holds_no_recipe_is_one_line(tmp_path):
    mine, again, junk, cut = (tmp_path / name for name in ("mine.png", "again.png", "junk.png", "cut.png"))
    save_png(noise_picture(), mine, RECIPE)
    Image.open(mine).save(again)
    junk.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    cut.write_bytes(mine.read_bytes()[:900])
    for path, told in [
        (again, "holds no recipe"),
        (junk, "not a readable picture"),
        (cut, "not a readable picture"),
        (tmp_path / "missing.png", "no such picture"),
        (tmp_path, "not a readable picture"),
    ]:
        with pytest.raises(UnclipError, match=told) as caught:
            read_recipe(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_pictures_are_opened_upright(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (32, 16)).save(path, exif=exif)
    assert open_image(path).size == (16, 32)
