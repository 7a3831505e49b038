"""One raw sample of a shard, decoded: its picture, one of its captions, its embeddings. No pickle is ever loaded."""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.shards import Raw
from unclip import images

FORMATS = ("PNG", "JPEG", "WEBP")
PICTURES = ("png", "jpg", "jpeg", "webp")
ARRAYS = ("image_emb", "text_emb", "text_hidden", "text_mask")
PER_CAPTION = frozenset(ARRAYS) - {"image_emb"}  # arrays with a row for each


@dataclass(frozen=True)
class Decoding:
    """How samples are decoded.

    `layout` gives the arrays every sample must hold and the shape of each, without the axis of captions; `size` None
    keeps pictures as they are; `seed` keys the choice of the caption, None takes the first.
    """

    pictures: bool
    size: int | None
    seed: int | None
    layout: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The files that decoding looks at; all others stay unread."""
        return (*(PICTURES if self.pictures else ()), "txt", "json", *(f"{name}.npy" for name in ARRAYS))


@dataclass(frozen=True, eq=False)
class Sample:
    """A decoded sample; `arrays` holds what the decoding's layout names, text arrays for the chosen caption only.

    `negatives`: captions that are nearly the chosen one, and false of the picture.
    """

    key: str
    caption: str
    negatives: list[str]
    image: Float[Tensor, "3 h w"] | None
    arrays: Mapping[str, Tensor]


def decode(raw: Raw, how: Decoding, epoch: int) -> Sample:
    """The sample in `raw`; its caption is a function of (seed, epoch, key).

    Raises an exception of whatever kind a damaged file provokes; its message says what is wrong.
    """
    meta, key = _meta(raw), raw["__key__"]
    usable = _usable(raw, meta)
    chosen = usable[0] if how.seed is None else random.Random(f"caption {how.seed} {epoch} {key}").choice(usable)
    return _told(raw, meta, how, chosen, _picture(raw, how.size) if how.pictures else None)


def decode_all(raw: Raw, how: Decoding) -> list[Sample]:
    """The sample in `raw` once with each of its captions, or with the first when `how` has no seed; raises like `decode`."""
    meta, image = _meta(raw), _picture(raw, how.size) if how.pictures else None
    usable = _usable(raw, meta)
    return [_told(raw, meta, how, k, image) for k in (usable if how.seed is not None else usable[:1])]


def _usable(raw: Raw, meta: Mapping[str, Any]) -> list[int]:
    """Which of a sample's captions say something."""
    usable = [k for k, caption in enumerate(_captions(raw, meta)) if caption.strip()]
    if not usable:
        raise ValueError("no caption")
    return usable


def _told(raw: Raw, meta: Mapping[str, Any], how: Decoding, chosen: int, image: Tensor | None) -> Sample:
    captions = _captions(raw, meta)
    arrays = {name: _array(raw, name, shape, len(captions), chosen) for name, shape in how.layout.items()}
    return Sample(raw["__key__"], captions[chosen], _negatives(meta, len(captions), chosen), image, arrays)


def layout(raw: Raw) -> dict[str, tuple[int, ...]]:
    """The arrays in `raw` and their shapes without the axis of captions. Raises like `decode`."""
    found = {name: _load(raw, name) for name in ARRAYS if f"{name}.npy" in raw}
    return {name: array.shape if name == "image_emb" else array.shape[1:] for name, array in found.items()}


def captions_of(raw: Raw) -> list[str]:
    """All captions of a sample. Raises ValueError when its texts are damaged."""
    return _captions(raw, _meta(raw))


def _captions(raw: Raw, meta: Mapping[str, Any]) -> list[str]:
    captions: Any = meta.get("captions")
    if captions is None:
        text = raw["txt"].decode("utf-8") if "txt" in raw else meta.get("caption")
        captions = [] if text is None else [text]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError("its captions are not strings")
    return captions


def _negatives(meta: Mapping[str, Any], captions: int, chosen: int) -> list[str]:
    """What "negatives" in the .json, a list for each caption, holds for the chosen one; nothing where there is no such key."""
    lists = meta.get("negatives")
    if lists is None:
        return []
    if not isinstance(lists, list) or len(lists) != captions:
        raise ValueError("its negatives are not one list for each caption")
    texts = lists[chosen]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its negatives are not strings")
    return texts


def _meta(raw: Raw) -> dict[str, Any]:
    meta = json.loads(raw["json"]) if "json" in raw else {}
    if not isinstance(meta, dict):
        raise ValueError("its .json is not an object")
    return meta


def _picture(raw: Raw, size: int | None) -> Float[Tensor, "3 h w"]:
    data = next((raw[suffix] for suffix in PICTURES if suffix in raw), None)
    if data is None:
        raise ValueError("no picture")
    pixels = images.to_tensor(images.open_image(io.BytesIO(data), "its picture", FORMATS))
    return pixels if size is None else images.square(pixels[None], size)[0].clamp(-1, 1)


def _load(raw: Raw, name: str) -> np.ndarray:
    if f"{name}.npy" not in raw:
        raise ValueError(f"no {name}.npy")
    return np.load(io.BytesIO(raw[f"{name}.npy"]), allow_pickle=False)


def _array(raw: Raw, name: str, shape: tuple[int, ...], captions: int, chosen: int) -> Tensor:
    array = _load(raw, name)
    expected = shape if name == "image_emb" else (captions, *shape)
    kind = "b" if name == "text_mask" else "f"
    if array.shape != expected or array.dtype.kind != kind:
        raise ValueError(f"its {name}.npy is {array.dtype} {list(array.shape)}, not {list(expected)} like the others'")
    row = array if name == "image_emb" else array[chosen]
    if kind == "f" and not np.isfinite(row).all():
        raise ValueError(f"its {name}.npy holds a value that is not finite")
    return torch.from_numpy(row.astype(bool if kind == "b" else np.float32))
