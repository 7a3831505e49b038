"""One sample decoded: every kind of picture, every kind of damage, and no pickle."""

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.samples import Decoding, Sample, decode, layout

PLAIN = Decoding(pictures=True, size=None, seed=0)


def picture(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def raw(changes: Mapping[str, bytes | None] | None = None) -> dict[str, Any]:
    """A good sample with three captions and embeddings, but for `changes`; None removes a file."""
    rows = np.arange(3, dtype=np.float16)
    files: dict[str, Any] = {
        "png": picture(Image.new("RGB", (2, 2), "red")),
        "txt": b"a red cube",
        "json": json.dumps({"caption": "a red cube", "captions": ["a red cube", "a cube", "red"]}).encode(),
        "image_emb.npy": npy(np.full(5, 7, np.float32)),
        "text_emb.npy": npy(np.repeat(rows[:, None], 5, 1)),
        "text_hidden.npy": npy(np.broadcast_to(rows[:, None, None], (3, 2, 6))),
        "text_mask.npy": npy(np.array([[True, True], [True, False], [False, False]])),
    }
    files = {name: data for name, data in (files | dict(changes or {})).items() if data is not None}
    return {"__key__": "0001", "__url__": "0.tar"} | files


def colour(changes: Mapping[str, bytes | None]) -> list[float]:
    image = decode(raw(changes), PLAIN, 0).image
    assert image is not None
    assert image.dtype == torch.float32
    assert image.shape[0] == 3
    return ((image[:, 0, 0] + 1) * 127.5).tolist()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("L", (2, 2), 51), (51, 51, 51)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 0x8000, np.uint16)), (128, 128, 128)),
        (Image.new("RGB", (2, 2), (0, 255, 51)).quantize(4), (0, 255, 51)),
    ],
    ids=["transparent", "opaque", "grey-alpha", "grey", "bits", "grey-16", "palette"],
)
def test_every_kind_of_png_becomes_rgb(image: Image.Image, expected: tuple[int, ...]) -> None:
    assert colour({"png": picture(image)}) == pytest.approx(expected)


def test_transparent_palette_cmyk_and_turned_pictures() -> None:
    indexed = Image.new("P", (2, 2), 0)
    indexed.putpalette([0, 0, 255])
    assert colour({"png": picture(indexed, transparency=0)}) == pytest.approx((255, 255, 255))
    cmyk = picture(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert colour({"png": None, "jpg": cmyk}) == pytest.approx((255, 0, 0), abs=6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = decode(raw({"png": None, "jpeg": picture(Image.new("RGB", (4, 2)), "JPEG", exif=exif)}), PLAIN, 0)
    assert turned.image is not None
    assert turned.image.shape == (3, 4, 2)


def test_pictures_are_resized_and_cropped_to_the_centre() -> None:
    wide = Image.new("RGB", (30, 10), "white")
    wide.paste("blue", (10, 0, 20, 10))
    how = Decoding(pictures=True, size=5, seed=None)
    image = decode(raw({"png": None, "webp": picture(wide, "WEBP", lossless=True)}), how, 0).image
    assert image is not None
    torch.testing.assert_close(image, torch.tensor([-1.0, -1, 1])[:, None, None].expand(3, 5, 5), atol=1e-5, rtol=0)
    edge = Image.new("L", (40, 40))
    edge.paste(255, (20, 0, 40, 40))
    image = decode(raw({"png": picture(edge)}), how, 0).image  # bicubic overshoots at an edge
    assert image is not None
    assert image.min() == -1
    assert image.max() == 1


DAMAGE = {
    "no picture file": ({"png": None}, "no picture"),
    "no picture at all": ({"png": b"nothing"}, "no PNG, JPEG, WEBP file"),
    "another format": ({"png": picture(Image.new("RGB", (4, 4)), "GIF")}, "no PNG, JPEG, WEBP file"),
    "cut picture": ({"png": picture(Image.effect_noise((40, 40), 50))[:-400]}, "truncated"),
    "no caption": ({"txt": None, "json": None}, "no caption"),
    "blank captions": ({"json": b'{"captions": ["", " "]}'}, "no caption"),
    "broken json": ({"json": b'{"caption": '}, "Expecting value"),
    "json list": ({"json": b"[]"}, "not an object"),
    "captions of numbers": ({"json": b'{"captions": [1]}'}, "not strings"),
    "negatives of one caption": (
        {"json": b'{"captions": ["a", "b", "c"], "negatives": [["d"]]}'},
        "not one list for each",
    ),
    "negatives of numbers": (
        {"json": b'{"captions": ["a", "b", "c"], "negatives": [[1], [1], [1]]}'},
        "its negatives are not strings",
    ),
    "a negative for a list": (
        {"json": b'{"captions": ["a", "b", "c"], "negatives": ["d", "d", "d"]}'},
        "its negatives are not strings",
    ),
    "not UTF-8": ({"txt": b"\xff\xfe", "json": None}, "utf-8"),
    "no embedding": ({"image_emb.npy": None}, r"no image_emb\.npy"),
    "other width": ({"image_emb.npy": npy(np.zeros(4, np.float32))}, r"float32 \[4\], not \[5\]"),
    "other count": ({"text_emb.npy": npy(np.zeros((2, 5), np.float32))}, r"\[2, 5\], not \[3, 5\]"),
    "not finite": ({"image_emb.npy": npy(np.full(5, np.nan, np.float32))}, "not finite"),
    "whole numbers": ({"image_emb.npy": npy(np.zeros(5, np.int64))}, "int64"),
    "cut array": ({"text_emb.npy": npy(np.zeros((3, 5), np.float32))[:-8]}, "EOF"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_with_its_reason(name: str) -> None:
    changes, reason = DAMAGE[name]
    how = Decoding(pictures=True, size=None, seed=0, layout=layout(raw()))
    assert decode(raw(), how, 0).arrays.keys() == how.layout.keys()
    with pytest.raises(Exception, match=reason):
        decode(raw(changes), how, 0)


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = raw({"png": picture(Image.new("L", (40, 40)))})
    for limit in (1000, 500):  # Pillow itself warns of the first and refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(Exception, match="decompression bomb"):
            decode(bomb, PLAIN, 0)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    trap, objects = pickle.dumps(Trap()), npy(np.array([Trap()], dtype=object))
    for data in (trap, objects):
        bad = raw({"image_emb.npy": data})
        with pytest.raises(ValueError, match="allow_pickle"):
            layout(bad)
        with pytest.raises(ValueError, match="allow_pickle"):
            decode(bad, Decoding(pictures=True, size=None, seed=0, layout={"image_emb": (1,)}), 0)
    assert not {"pkl", "pyd", "pth", "pickle", "cls"} & {*PLAIN.suffixes}
    decode(raw({"pkl": trap, "pyd": trap, "pth": trap}), PLAIN, 0)
    assert not (tmp_path / "ran").exists()


def test_arrays_follow_the_chosen_caption() -> None:
    how = Decoding(pictures=False, size=None, seed=0, layout=layout(raw()))
    captions = json.loads(raw()["json"])["captions"]
    drawn = [decode(raw({"png": None}), how, epoch) for epoch in range(40)]
    assert {sample.caption for sample in drawn} == set(captions)
    for sample in drawn:
        row = captions.index(sample.caption)
        assert sample.image is None
        assert sample.arrays["image_emb"].tolist() == [7.0] * 5
        assert sample.arrays["text_emb"].tolist() == [float(row)] * 5
        assert sample.arrays["text_hidden"].tolist() == [[float(row)] * 6] * 2
        assert sample.arrays["text_mask"].tolist() == [[True, True], [True, False], [False, False]][row]
        assert sample.arrays["text_mask"].dtype == torch.bool
        assert sample.arrays["text_emb"].dtype == torch.float32


def test_where_captions_come_from() -> None:
    def caption(sample: Sample) -> str:
        return sample.caption

    first = Decoding(pictures=False, size=None, seed=None)
    assert caption(decode(raw(), first, 3)) == "a red cube"
    assert caption(decode(raw({"json": b'{"captions": ["", "b"]}'}), PLAIN, 0)) == "b"
    assert caption(decode(raw({"json": b'{"caption": "other"}'}), PLAIN, 0)) == "a red cube"
    assert caption(decode(raw({"json": None, "txt": "ein Würfel".encode()}), PLAIN, 0)) == "ein Würfel"
    assert caption(decode(raw({"json": b'{"caption": "only here"}', "txt": None}), PLAIN, 0)) == "only here"


def test_negatives_follow_the_chosen_caption() -> None:
    """Without the key there are none; the stage that wants some then learns without."""
    meta = {"captions": ["a", "b"], "negatives": [["not a"], ["not b", "nor b"]]}
    drawn = [decode(raw({"json": json.dumps(meta).encode()}), PLAIN, epoch) for epoch in range(8)]
    assert {sample.caption: sample.negatives for sample in drawn} == {"a": ["not a"], "b": ["not b", "nor b"]}
    assert decode(raw(), PLAIN, 0).negatives == []
