"""Systems written as diffusers saves its pipelines."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unclip.checkpoint import Weights
from unclip.config import build
from unclip.diffusion.process import ProcessConfig
from unclip.errors import UnclipError
from unclip.folder import Box
from unclip.interop import diffusers_configs, diffusers_names
from unclip.interop.diffusers_schedulers import CLIP_RANGE, scheduler_json
from unclip.interop.entries import given
from unclip.interop.indices import index, preprocessor
from unclip.interop.nets import cast_tensors, complete, net_config
from unclip.interop.tokenizer_files import tokenizer_files
from unclip.interop.transformers_configs import clip_json
from unclip.stage import Sampling


def write_diffusers(box: Box, folder: Path, dtype: torch.dtype | None) -> None:
    """Fills a folder with the system. Raises UnclipError for one that the layout cannot hold, before anything is large."""
    clip, decoder, upsampler = complete(box)
    nets = [clip, decoder, upsampler, *([box.prior] if box.prior is not None else [])]
    # all that can be refused comes before anything that is large
    jsons = {net.header.net: FOLDERS[net.header.net](net_config(net)) for net in nets}
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
        tensors = given(getattr(diffusers_names, f"{role}_entries")(net_config(net)), net.read())
        parts = {"prior": tensors} if role == "prior" else _split(tensors)
        for part, held in parts.items():
            _part(folder / part, jsons[role][part], held, dtype)
    for name, values in schedulers.items():
        _write_json(folder / name / "scheduler_config.json", values)
    tokenizer_files(net_config(clip), folder / "tokenizer")
    _write_json(folder / "model_index.json", index(box.prior is not None))
    if box.prior is None:
        _write_json(folder / "feature_extractor" / "preprocessor_config.json", preprocessor(net_config(clip)))


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
    save_file(cast_tensors(tensors, dtype), str(folder / name), metadata={"format": "pt"})


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
