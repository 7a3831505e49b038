"""Pictures that the commands are given: of any mode and size, and bad ones, which are refused in one line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unclip.images import open_image

from .command_line import one_line
from .systems import SIZES

SMALL = ("--size", SIZES[0], "--steps", 5)


def bomb(path):
    """A PNG that claims 60,000 x 60,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    end = b"IEND"
    chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, end))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "truncated", "bomb", "folder"])
def test_a_bad_picture_is_one_line_before_any_work(call, image, tmp_path, kind):
    path = tmp_path / "bad.png"
    if kind == "text":
        path.write_text("no picture at all")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(image.read_bytes()[:500])
    elif kind == "bomb":
        bomb(path)
    elif kind == "folder":
        path.mkdir()
    for command, words in (("vary", ("-n", 1)), ("edit", ("--to", "a cone")), ("reconstruct", ())):
        code, out, err = call(command, path, *words, *SMALL)
        assert code == 1
        assert out == ""
        assert one_line(err), err
        assert "bad.png" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "CMYK", "I;16", "1"])
def test_pictures_of_any_mode_are_taken(call, image, tmp_path, mode):
    picture = Image.open(image)
    changed = (
        Image.fromarray(np.arange(0, 2000, dtype=np.uint16).reshape(40, 50))
        if mode == "I;16"
        else picture.convert(mode)
    )
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    changed.save(path)
    assert call("vary", path, "-n", 1, *SMALL)[0] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 2)])
def test_pictures_of_any_size_are_taken(call, tmp_path, size):
    path = tmp_path / "x.png"
    Image.new("RGB", size, "red").save(path)
    assert call("vary", path, "-n", 1, *SMALL)[0] == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_large_pictures_are_taken(call, tmp_path):
    path, mask = tmp_path / "x.jpg", tmp_path / "mask.jpg"
    Image.new("RGB", (7100, 7100), "red").save(path)  # 50 megapixels
    Image.new("L", (7100, 7100), 255).save(mask)
    assert call("inpaint", path, "--mask", mask, "a cube", "-n", 2, "--rounds", 1, *SMALL)[0] == 0


def test_pictures_of_no_known_range_are_one_line(call, tmp_path):
    Image.new("F", (9, 9), 0.5).save(tmp_path / "x.tif")
    assert "floating-point numbers" in call("vary", tmp_path / "x.tif", *SMALL)[2]


def test_pictures_are_turned_upright(tmp_path):
    picture, exif = Image.new("RGB", (20, 10), "red"), Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (10, 20)
