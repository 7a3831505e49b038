"""Systems written as native Karlo's files."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from unclip.checkpoint import Weights
from unclip.clip import TOWERS
from unclip.config import build, to_dict
from unclip.diffusion.process import ProcessConfig
from unclip.errors import UnclipError
from unclip.folder import Box
from unclip.interop import native_configs, native_names
from unclip.interop.entries import given
from unclip.interop.jsons import refuse
from unclip.interop.native_configs import KARLO, STAGES, NativeShape
from unclip.interop.nets import cast_tensors, complete, hollow_tensors, net_config
from unclip.interop.tokenizer_files import tokenizer_files

FILES = {
    "clip": "ViT-L-14.safetensors",
    "prior": "prior-ckpt-step=01000000-of-01000000.ckpt",
    "decoder": "decoder-ckpt-step=01000000-of-01000000.ckpt",
    "upsampler": "improved-sr-ckpt-step=1.2M.ckpt",
}
# of CLIP's config: the tokenizer's own file, and the arithmetic of whoever draws
ELSEWHERE = ("merges", "padding_text", "fit")
TRAINING = ("checkpointing", "dropout")  # of a U-Net's config: no drawing depends on them


def write_native(box: Box, folder: Path, dtype: torch.dtype | None, shape: NativeShape = KARLO) -> None:
    """Fills a folder with the system's files, which will be read as nets of that `shape`: they do not say it.

    Raises UnclipError for a system that the layout cannot hold, before anything is large.
    """
    clip, decoder, upsampler = complete(box)
    if box.prior is None:
        raise UnclipError(f"{box.where}: has no prior; native Karlo's layout has one")
    nets = (clip, box.prior, decoder, upsampler)
    for net in nets:
        _check(net, shape)
    for net in nets:
        role = net.header.net
        tensors = given(getattr(native_names, f"{role}_entries")(net_config(net)), net.read())
        if role == "prior":
            torch.save(tuple(tensors.pop(name).float() for name in native_names.STATS), folder / "ViT-L-14_stats.th")
        if role == "clip":
            save_file(cast_tensors(tensors, dtype), str(folder / FILES[role]))
        else:
            torch.save({"state_dict": cast_tensors(tensors, dtype)}, folder / FILES[role])
    if net_config(clip).merges is not None:
        tokenizer_files(net_config(clip), folder)


def _check(net: Weights, shape: NativeShape) -> None:
    """That whoever reads the net's file will make the same net of it, and draw with it under the same process."""
    role, mine = net.header.net, net_config(net)
    hollow = given(getattr(native_names, f"{role}_entries")(mine), hollow_tensors(role, mine))
    where = f"{net.where}: as native Karlo's {role}"
    theirs = getattr(native_configs, f"{role}_config")(hollow, where, shape)
    _same(where, _plain(role, mine), _plain(role, theirs))
    if role in STAGES:
        process = to_dict(build(ProcessConfig, net.header.process, net.where))
        _same(where, process | {"tables": None}, to_dict(STAGES[role][0]) | {"tables": None})


def _plain(role: str, config: Any) -> dict[str, Any]:
    values = to_dict(config)
    if role != "clip":
        if "unet" not in values:
            return values
        unet = {key: value for key, value in values["unet"].items() if key not in TRAINING}
        return values | {"unet": unet | {"depth": list(config.unet.depths)}}
    for name, kind in TOWERS.items():
        if name in values:
            default = kind()
            values[name] = {f.name: getattr(default, f.name) for f in fields(kind)} | values[name]
    return {key: value for key, value in values.items() if key not in ELSEWHERE}


def _same(where: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key in sorted(mine.keys() | theirs.keys()):
        value, other = mine.get(key), theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            _same(f"{where}: {key}", value, other)
        elif value != other:
            refuse(where, key, value, f"{other!r}, which this layout always has or its tensors say")
