"""Adds CLIP embeddings to shards, so that the prior and the decoder can train without running CLIP.

    python -m tools.embed SHARDS OUT --clip CLIP.safetensors

OUT gets the same samples, each with image_emb.npy [d] and text_emb.npy [captions, d], and on request text_hidden.npy
and text_mask.npy; all float16. Finished shards that lie there are kept, so the same command goes on where it stopped.
With --pca FILE the principal components of all image embeddings in OUT are written too, for a system's `pca`.
"""

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from cyclopts.types import PositiveInt
from rich.progress import track
from webdataset.writer import TarWriter

from stages.samples import PICTURES, Decoding, captions_of, decode
from stages.shards import INDEX, Faults, Raw, find, read
from unclip.cli.shell import run
from unclip.clip import Clip
from unclip.devices import pick_device
from unclip.errors import UnclipError, UnclipWarning
from unclip.latents import Pca, fit_pca

app = App(help=__doc__, help_format="plaintext", help_formatter="plain")


@app.default
def embed(
    shards: str,
    out: Path,
    *,
    clip: Path,
    states: bool = False,
    pca: Path | None = None,
    batch: PositiveInt = 256,
    device: str = "auto",
) -> None:
    """Embed SHARDS into OUT.

    Parameters
    ----------
    shards
        A folder of tars, one tar, or a brace or glob pattern, in img2dataset's layout.
    out
        The folder of the new shards.
    clip
        The CLIP's checkpoint.
    states
        Store hidden text states too; they are large.
    pca
        Write the principal components of the image embeddings to this file (.safetensors).
    batch
        Samples embedded at once.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    net, source, faults = Clip(clip, pick_device(device)), find(shards, "SHARDS"), Faults()
    names = [path.name for path in source.paths]
    if len(set(names)) < len(names):
        raise UnclipError(f"{shards}: two of its shards have one name; embed their folders one by one")
    out.mkdir(parents=True, exist_ok=True)
    index = _open_index(out, net, states)
    _write_index(out, index)  # before the first shard, which would be a stranger without it
    for number in track(range(len(names)), description="embedding"):
        name = names[number]
        if name in index["shards"] and (out / name).is_file():
            continue
        raws = list(read(source, [number], (*PICTURES, "txt", "json"), faults))
        done = [
            sample
            for start in range(0, len(raws), batch)
            for sample in _embedded(net, raws[start : start + batch], states, faults)
        ]
        _write(out / name, done)
        index["shards"][name] = len(done)
        _write_index(out, index)
    if pca is not None:
        components(out, Faults()).save(pca, net.fingerprint)
    print(f"{sum(index['shards'].values())} samples in {len(index['shards'])} shards, {faults.count} skipped")
    if faults.count:
        warnings.warn(f"{faults.count} samples skipped, the last because: {faults.reason}", UnclipWarning, stacklevel=2)


def components(embedded: Path, faults: Faults) -> Pca:
    """The principal components of all image embeddings in a folder of embedded shards."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    found = find(str(embedded), "OUT")
    for number in range(len(found.paths)):
        rows = [raw["image_emb.npy"] for raw in read(found, [number], ("image_emb.npy",), faults)]
        if not rows:
            continue
        emb = torch.stack([torch.from_numpy(np.load(io.BytesIO(row), allow_pickle=False)) for row in rows]).double()
        count, total, products = count + len(emb), total + emb.sum(dim=0), products + emb.T @ emb
    return fit_pca(count, total, products)


def _open_index(out: Path, clip: Clip, states: bool) -> dict[str, Any]:
    """What is finished there. Raises UnclipError when the folder holds another CLIP's embeddings, or something else."""
    path = out / INDEX
    fresh: dict[str, Any] = {"clip": clip.fingerprint, "states": states, "shards": {}}
    if not path.is_file():
        if any(out.glob("*.tar")):
            raise UnclipError(f"{out}: holds shards but no {INDEX}; give another folder")
        return fresh
    index = json.loads(path.read_text(encoding="utf-8"))
    if {key: index.get(key) for key in ("clip", "states")} != {"clip": clip.fingerprint, "states": states}:
        raise UnclipError(
            f"{out}: holds embeddings of another CLIP, or made with another --states; give another folder"
        )
    return index


def _embedded(clip: Clip, raws: Sequence[Raw], states: bool, faults: Faults) -> list[Raw]:
    """The good samples among `raws` with their embeddings; others are counted."""
    size = clip.config.image_size
    good, pictures, words = [], [], []
    for raw in raws:
        try:
            pictures.append(decode(raw, Decoding(True, size, None), 0).image)
            words.append(captions_of(raw))
            good.append(raw)
        except Exception as error:  # noqa: BLE001 (a damaged sample can fail in any way)
            faults.add(f"{raw['__key__']}: {error}")
    if not good:
        return []
    image_emb = clip.image_emb(torch.stack(pictures)).half().cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnclipWarning)  # long captions are no news in training data
        text = clip.text([caption for row in words for caption in row])
    ends = np.cumsum([len(row) for row in words])[:-1]
    arrays = {"text_emb": text.emb.half()}
    if states and text.hidden is not None and text.mask is not None:
        arrays |= {"text_hidden": text.hidden.half(), "text_mask": text.mask}
    split = {name: np.split(values.cpu().numpy(), ends) for name, values in arrays.items()}
    return [
        raw | {"image_emb.npy": _npy(image_emb[k])} | {f"{name}.npy": _npy(rows[k]) for name, rows in split.items()}
        for k, raw in enumerate(good)
    ]


def _write(path: Path, samples: Sequence[Raw]) -> None:
    """A shard, whole under its name or not at all."""
    buffer = io.BytesIO()
    with TarWriter(buffer, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write({key: value for key, value in sample.items() if key != "__url__"})
    _replace(path, buffer.getvalue())


def _write_index(out: Path, index: dict[str, Any]) -> None:
    _replace(out / INDEX, json.dumps(index, indent=1).encode())


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


if __name__ == "__main__":
    run(app)
