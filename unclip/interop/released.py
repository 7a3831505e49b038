"""Released weights as a box: diffusers' folders (Karlo, Kandinsky's priors) and native Karlo's files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.checkpoint import Header, Lazy, Weights
from unclip.config import to_dict
from unclip.diffusion.process import ProcessConfig
from unclip.errors import UnclipError
from unclip.folder import Box, SystemConfig
from unclip.interop import diffusers_configs, diffusers_names, native_configs, native_names
from unclip.interop.diffusers_schedulers import scheduler_config
from unclip.interop.entries import Entry, taking
from unclip.interop.files import chosen, digest, folder_tensors, open_openai, open_stats, open_tensors
from unclip.interop.native_configs import KARLO, NativeShape
from unclip.interop.transformers_configs import clip_config
from unclip.stage import Sampling
from unclip.tokenizer import Tokenizer

INDEX = "model_index.json"
PRIORS = ("KandinskyPriorPipeline", "KandinskyV22PriorPipeline")
PIPELINES = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline", *PRIORS)
NATIVE = {"prior": "prior-*.ckpt", "decoder": "decoder-*.ckpt", "upsampler": "*sr-*.ckpt", "stats": "*_stats.th"}
NATIVE_CLIP = ("ViT-L-14.pt", "ViT-L-14.safetensors")
IGNORED = (*diffusers_names.IGNORED, *native_names.CLIP_IGNORED)


def diffusers_box(folder: Path, pictures: Path | None = None) -> Box:
    """The system, or the prior, in a folder as diffusers saves its pipelines; nothing but configs is read.

    `pictures` is a folder that holds CLIP's `image_encoder` where this one does not. Raises UnclipError.
    """
    index = _json(folder / INDEX)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise UnclipError(f"{folder / INDEX}: _class_name = {kind!r}; expected one of {', '.join(PIPELINES)}")
    clip = _clip(folder, folder if (folder / "image_encoder" / "config.json").is_file() else pictures)
    context = clip.header.model["text"]["context_length"]
    prior = _prior(folder, clip, "scheduler" if kind in PRIORS else "prior_scheduler") if "prior" in index else None
    decoder = None if kind in PRIORS else _decoder(folder, clip, context)
    upsamplers = (_upsampler(folder),) if "super_res_first" in index else ()
    return Box(str(folder), SystemConfig(name=folder.name, candidates=1), clip, prior, decoder, upsamplers)


def native_box(folder: Path, shape: NativeShape = KARLO) -> Box:
    """The system in a folder of native Karlo's files, with OpenAI's CLIP beside them. Raises UnclipError."""
    files = {role: _only(folder, pattern) for role, pattern in NATIVE.items()}
    clip_file = next((folder / name for name in NATIVE_CLIP if (folder / name).is_file()), None)
    if clip_file is None:
        raise UnclipError(f"{folder}: OpenAI's CLIP is missing; put {' or '.join(NATIVE_CLIP)} there")
    tensors = open_openai(clip_file) if clip_file.suffix == ".pt" else open_tensors(clip_file)
    clip_shape = native_configs.clip_config(tensors, shape, _merges(folder))
    clip = _weights("clip", clip_shape, native_names.clip_entries(clip_shape), tensors, [clip_file])
    mean, std = open_stats(files["stats"])
    told = {"clip_mean": mean, "clip_std": std}
    parts: list[Weights] = []
    for role, names in (("prior", told), ("decoder", {}), ("upsampler", {})):
        tensors = {**open_tensors(files[role]), **names}
        config = getattr(native_configs, f"{role}_config")(tensors, shape)
        entries = getattr(native_names, f"{role}_entries")(config)
        parts.append(_weights(role, config, entries, tensors, [files[role]], STAGES[role], clip))
    return Box(str(folder), SystemConfig(name=folder.name, candidates=1), clip, parts[0], parts[1], (parts[2],))


def _released(predicts: Any, variance: Any, **sampling: Any) -> tuple[ProcessConfig, Sampling]:
    process = ProcessConfig(predicts=predicts, variance=variance, time_offset=1)
    return process, Sampling(sampler="ddpm", spacing="linspace", **sampling)


STAGES = {
    "prior": _released("x0", "small", steps=25, guidance=4.0, limit=10.0),
    "decoder": _released("eps", "learned", steps=25, guidance=8.0),
    "upsampler": _released("eps", "small", steps=7),
}
"""How native Karlo draws, which its files do not say (its "fast" settings)."""


def _clip(folder: Path, pictures: Path | None) -> Weights:
    text = _json(folder / "text_encoder" / "config.json")
    vision = None if pictures is None else _json(pictures / "image_encoder" / "config.json")
    config = clip_config(text, vision, _merges(folder / "tokenizer"))
    towers = {"text_encoder": folder / "text_encoder"}
    towers |= {} if pictures is None else {"image_encoder": pictures / "image_encoder"}
    return _folders("clip", config, diffusers_names.clip_entries(config), towers)


def _prior(folder: Path, clip: Weights, scheduler: str) -> Weights:
    config = diffusers_configs.prior_config(_json(folder / "prior" / "config.json"))
    process = scheduler_config(_json(folder / scheduler / "scheduler_config.json"), "prior")
    made = _folders("prior", config, diffusers_names.prior_entries(config), {"": folder / "prior"}, process, clip)
    # kept, since our own arithmetic has another and the scheduler's may be written again
    told = made.header.provenance | {"clip_sample_range": process[1].limit}
    return replace(made, header=replace(made.header, provenance=told))


def _decoder(folder: Path, clip: Weights, context: int) -> Weights:
    unet, text_proj = (_json(folder / part / "config.json") for part in ("decoder", "text_proj"))
    config = diffusers_configs.decoder_config(unet, text_proj, context)
    process = scheduler_config(_json(folder / "decoder_scheduler" / "scheduler_config.json"), "decoder")
    parts = {part: folder / part for part in ("decoder", "text_proj")}
    return _folders("decoder", config, diffusers_names.decoder_entries(config), parts, process, clip)


def _upsampler(folder: Path) -> Weights:
    first, last = (_json(folder / part / "config.json") for part in ("super_res_first", "super_res_last"))
    config = diffusers_configs.upsampler_config(first, last)
    process = scheduler_config(_json(folder / "super_res_scheduler" / "scheduler_config.json"), "super_res")
    parts = {part: folder / part for part in ("super_res_first", "super_res_last")}
    return _folders("upsampler", config, diffusers_names.upsampler_entries(config), parts, process)


def _folders(
    net: str,
    config: Any,
    entries: Sequence[Entry],
    parts: Mapping[str, Path],
    how: tuple[ProcessConfig, Sampling] | None = None,
    clip: Weights | None = None,
) -> Weights:
    """A net whose tensors lie in some folders; a folder's name, if it has one, goes before those of its tensors."""
    tensors: dict[str, Any] = {}
    files: list[Path] = []
    for prefix, folder in parts.items():
        held = folder_tensors(folder)
        start = f"{prefix}." if prefix else ""
        tensors |= {f"{start}{name}": lambda _, held=held, name=name: held[name] for name in held}
        files += [folder / name for name in chosen([path.name for path in folder.iterdir()])]
    return _weights(net, config, entries, Lazy(tensors), files, how, clip)


def _weights(
    net: str,
    config: Any,
    entries: Sequence[Entry],
    tensors: Mapping[str, Tensor],
    files: Sequence[Path],
    how: tuple[ProcessConfig, Sampling] | None = None,
    clip: Weights | None = None,
) -> Weights:
    where = str(files[0].parent if len(files) > 1 else files[0])
    process, sampling = ({}, {}) if how is None else (to_dict(how[0]), to_dict(how[1]))
    header = Header(
        net=net,
        model=to_dict(config),
        process=process,
        sampling=sampling,
        parents={} if clip is None else {"clip": clip.header.fingerprint},
        fingerprint=digest(files),
        provenance={"source": where},
    )
    return Weights(where, header, lambda: taking(entries, tensors, where, IGNORED))


def _merges(folder: Path) -> tuple[str, ...] | None:
    """The merges of a tokenizer's folder; None, which is all of CLIP's, where there is none or they are these."""
    file = folder / "merges.txt"
    if not file.is_file():
        return None
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#version")]
    whole = len(Tokenizer().bpe.bpe_ranks)
    return None if len(lines) == whole else tuple(lines)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UnclipError(f"{folder}: {len(found)} files called {pattern}; expected one, as native Karlo has them")
    return found[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UnclipError(f"{path}: no such file; expected a folder as diffusers saves it") from None
    except (OSError, ValueError) as error:
        raise UnclipError(f"{path}: no readable JSON ({error}); get the file again") from None
    if not isinstance(values, dict):
        raise UnclipError(f"{path}: expected a JSON object")
    return values
