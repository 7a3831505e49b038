"""Systems written as folders: in our own layout, as diffusers saves its pipelines, or as native Karlo's files."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from unclip.checkpoint import Weights, read_header, save
from unclip.clip import ClipConfig
from unclip.config import build, to_dict
from unclip.diffusion.process import ProcessConfig
from unclip.errors import UnclipError
from unclip.folder import FILE, Box
from unclip.interop import diffusers_configs, diffusers_names, native_names
from unclip.interop.diffusers_schedulers import CLIP_RANGE, scheduler_json
from unclip.interop.entries import given
from unclip.interop.indices import index, preprocessor
from unclip.interop.tokenizer_files import tokenizer_files
from unclip.interop.transformers_configs import clip_json
from unclip.models.decoder import DecoderConfig
from unclip.models.prior import PriorConfig
from unclip.models.upsampler import UpsamplerConfig
from unclip.stage import Sampling

Layout = Literal["unclip", "diffusers", "native"]
CONFIGS: dict[str, type] = {
    "clip": ClipConfig,
    "prior": PriorConfig,
    "decoder": DecoderConfig,
    "upsampler": UpsamplerConfig,
}
PCA = "pca.safetensors"


def convert(box: Box, folder: str | Path, layout: Layout = "unclip", dtype: torch.dtype | None = None) -> None:
    """Writes a system's weights as a new folder, whole or not at all, in a layout and a precision (None: as they are).

    A system that the layout cannot hold is refused before anything is written. Raises UnclipError.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UnclipError(f"{folder}: exists already; give a folder that is to be made")
    with _new(folder) as partial, _told(folder):
        WRITERS[layout](box, partial, dtype)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Makes one line of what a full disk is to the libraries."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise UnclipError(f"{folder}: could not be written: {' '.join(str(error).split())[:200]}") from None


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder beside the one wanted, which gets its name when all went well and is deleted otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # empty
        for file in partial.rglob("*.safetensors"):
            file.chmod(0o644)  # the library makes files that only their owner may read
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ours(box: Box, folder: Path, dtype: torch.dtype | None) -> None:
    clip = folder / "clip.safetensors"
    save(clip, box.clip.read(), box.clip.header, dtype)
    parents = {"clip": read_header(clip).fingerprint}
    upsamplers = [f"upsampler-{one.header.model['size']}.safetensors" for one in box.upsamplers]
    names = ("prior.safetensors", "decoder.safetensors", *upsamplers)
    for name, weights in zip(names, (box.prior, box.decoder, *box.upsamplers), strict=True):
        if weights is not None:
            mine = weights.header.parents.get("clip") == box.clip.header.fingerprint
            kept = parents if mine else weights.header.parents
            save(folder / name, weights.read(), replace(weights.header, parents=kept), dtype)
    if box.decoder is None:
        return  # no system, but parts of one
    told = to_dict(box.config) | {"clip": clip.name, "decoder": names[1], "upsamplers": upsamplers}
    told |= {"prior": names[0] if box.prior is not None else "", "pca": PCA if box.pca is not None else None}
    if box.pca is not None:
        shutil.copyfile(box.pca, folder / PCA)
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in told.items() if value is not None)
    (folder / FILE).write_text(text, encoding="utf-8")


def _toml(value: Any) -> str:
    """A value as TOML; a table is written in line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _diffusers(box: Box, folder: Path, dtype: torch.dtype | None) -> None:
    clip, decoder, upsampler = _complete(box)
    nets = [clip, decoder, upsampler, *([box.prior] if box.prior is not None else [])]
    # all that can be refused comes before anything that is large
    jsons = {net.header.net: FOLDERS[net.header.net](_config(net)) for net in nets}
    schedulers = {SCHEDULERS[net.header.net]: scheduler_json(*_how(net)) for net in nets if net is not clip}
    if jsons["upsampler"]["super_res_last"] is None or (box.prior is None and jsons["clip"]["image_encoder"] is None):
        raise UnclipError(
            f"{box.where}: this layout needs a last upsampling net, and a prior or CLIP's picture tower; one is missing"
        )
    if box.prior is not None:  # our own arithmetic has another
        schedulers["prior_scheduler"]["clip_sample_range"] = box.prior.header.provenance.get(
            "clip_sample_range", CLIP_RANGE
        )
    for net in nets:
        role = net.header.net
        tensors = given(getattr(diffusers_names, f"{role}_entries")(_config(net)), net.read())
        parts = {"prior": tensors} if role == "prior" else _split(tensors)
        for part, held in parts.items():
            _part(folder / part, jsons[role][part], held, dtype)
    for name, values in schedulers.items():
        _write_json(folder / name / "scheduler_config.json", values)
    tokenizer_files(_config(clip), folder / "tokenizer")
    _write_json(folder / "model_index.json", index(box.prior is not None))
    if box.prior is None:
        _write_json(folder / "feature_extractor" / "preprocessor_config.json", preprocessor(_config(clip)))


def _folders(*names: str, of: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], dict[str, Any]]:
    return lambda config: dict(zip(names, of(config), strict=True))


FOLDERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "clip": _folders("text_encoder", "image_encoder", of=clip_json),
    "prior": _folders("prior", of=lambda config: (diffusers_configs.prior_json(config),)),
    "decoder": _folders("decoder", "text_proj", of=diffusers_configs.decoder_json),
    "upsampler": _folders("super_res_first", "super_res_last", of=diffusers_configs.upsampler_json),
}
"""The folders that a net's weights are spread over, with the config of each."""
SCHEDULERS = {"prior": "prior_scheduler", "decoder": "decoder_scheduler", "upsampler": "super_res_scheduler"}


def _native(box: Box, folder: Path, dtype: torch.dtype | None) -> None:
    clip, decoder, upsampler = _complete(box)
    if box.prior is None:
        raise UnclipError(f"{box.where}: has no prior; native Karlo's layout has one")
    shape: ClipConfig = _config(clip)
    names = {
        "prior": "prior-ckpt-step=01000000-of-01000000.ckpt",
        "decoder": "decoder-ckpt-step=01000000-of-01000000.ckpt",
        "upsampler": "improved-sr-ckpt-step=1.2M.ckpt",
    }
    for weights in (box.prior, decoder, upsampler):
        role = weights.header.net
        tensors = given(getattr(native_names, f"{role}_entries")(_config(weights)), weights.read())
        if role == "prior":
            stats = tuple(tensors.pop(name).float() for name in ("clip_mean", "clip_std"))
            torch.save(stats, folder / "ViT-L-14_stats.th")
        torch.save({"state_dict": _cast(tensors, dtype)}, folder / names[role])
    tensors = given(native_names.clip_entries(shape), clip.read())
    save_file(_cast(tensors, dtype), str(folder / "ViT-L-14.safetensors"))
    if shape.merges is not None:
        tokenizer_files(shape, folder)


def _complete(box: Box) -> tuple[Weights, Weights, Weights]:
    """CLIP, decoder and the one upsampler that foreign layouts have. Raises UnclipError for other systems."""
    if box.decoder is None or len(box.upsamplers) != 1:
        raise UnclipError(
            f"{box.where}: {len(box.upsamplers)} upsamplers and {'a' if box.decoder else 'no'} decoder; this layout holds"
            " a decoder and one upsampler"
        )
    return box.clip, box.decoder, box.upsamplers[0]


def _config(weights: Weights) -> Any:
    return build(CONFIGS[weights.header.net], weights.header.model, f"{weights.where}: header: model")


def _how(weights: Weights) -> tuple[ProcessConfig, Sampling]:
    header = weights.header
    return build(ProcessConfig, header.process, weights.where), build(Sampling, header.sampling, weights.where)


def _split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each folder, which their names begin with."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def _part(folder: Path, config: dict[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    transformers = folder.name.endswith("_encoder")
    _write_json(folder / "config.json", config)
    name = "model.safetensors" if transformers else "diffusion_pytorch_model.safetensors"
    save_file(_cast(tensors, dtype), str(folder / name), metadata={"format": "pt"})


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    # parts of a fused tensor share its memory, which a file must not
    return {name: (x.to(dtype) if dtype and x.is_floating_point() else x).clone() for name, x in tensors.items()}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Box, Path, torch.dtype | None], None]] = {
    "unclip": _ours,
    "diffusers": _diffusers,
    "native": _native,
}
