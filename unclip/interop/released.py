"""Released weights as a box: diffusers' folders (Karlo, Kandinsky's priors) and native Karlo's files."""

from collections.abc import Callable, Mapping, Sequence
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
from unclip.interop.files import digest, folder_tensors, open_stats, open_tensors
from unclip.interop.jsons import read_json
from unclip.interop.native_configs import KARLO, STAGES, NativeShape
from unclip.interop.openai import SIZES, open_openai
from unclip.interop.tokenizer_files import read_merges
from unclip.interop.transformers_configs import clip_config, processed
from unclip.interop.weight_names import chosen
from unclip.stage import Sampling

INDEX = "model_index.json"
PRIORS = ("KandinskyPriorPipeline", "KandinskyV22PriorPipeline")
PIPELINES = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline", *PRIORS)
NATIVE = {"prior": "prior[-_]*.ckpt", "decoder": "decoder-*.ckpt", "upsampler": "*sr-*.ckpt", "stats": "*_stats.th"}
KANDINSKY = "prior_fp16.ckpt"
NATIVE_CLIP = ("ViT-L-14.pt", "ViT-L-14.safetensors")
IGNORED = (*diffusers_names.IGNORED, *SIZES)


def diffusers_box(folder: Path, pictures: Path | None = None) -> Box:
    """The system, or the prior, in a folder as diffusers saves its pipelines; nothing but configs is read.

    `pictures` is a folder that holds CLIP's `image_encoder` where this one does not. Raises UnclipError.
    """
    index = read_json(folder / INDEX)
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
    """The system in a folder of native Karlo's files, with OpenAI's CLIP beside them; of Kandinsky 2.1's, whose decoder is
    another, its prior. Raises UnclipError.
    """
    clip_file = next((folder / name for name in NATIVE_CLIP if (folder / name).is_file()), None)
    if clip_file is None:
        raise UnclipError(f"{folder}: OpenAI's CLIP is missing; put {' or '.join(NATIVE_CLIP)} there")
    merges = read_merges(folder)
    clip = _native("clip", [clip_file], shape, merges=merges)
    prior = _native("prior", [_only(folder, NATIVE["prior"]), _only(folder, NATIVE["stats"])], shape, clip)
    config = SystemConfig(name=folder.name, candidates=1)
    if (folder / KANDINSKY).is_file():
        return Box(str(folder), config, clip, prior, None, ())
    decoder = _native("decoder", [_only(folder, NATIVE["decoder"])], shape, clip)
    upsampler = _native("upsampler", [_only(folder, NATIVE["upsampler"])], shape)
    return Box(str(folder), config, clip, prior, decoder, (upsampler,))


def _native(role: str, files: Sequence[Path], shape: NativeShape, clip: Weights | None = None, **known: Any) -> Weights:
    """A net in a file of native Karlo's (and one of statistics), which is open only while it is read."""
    config = getattr(native_configs, f"{role}_config")(_opened(files), str(files[0]), shape, **known)
    with native_configs.telling(str(files[0])):
        entries = getattr(native_names, f"{role}_entries")(config)
    return _weights(role, config, entries, lambda: _opened(files), files, STAGES.get(role), clip)


def _opened(files: Sequence[Path]) -> Mapping[str, Tensor]:
    tensors = open_openai(files[0]) if files[0].name == NATIVE_CLIP[0] else open_tensors(files[0])
    if not files[1:]:
        return tensors  # read one at a time, if the file allows it
    return {**tensors, **dict(zip(native_names.STATS, open_stats(files[1]), strict=True))}


def _clip(folder: Path, pictures: Path | None) -> Weights:
    text = read_json(folder / "text_encoder" / "config.json")
    vision = None if pictures is None else read_json(pictures / "image_encoder" / "config.json")
    config = clip_config(text, vision, read_merges(folder / "tokenizer"))
    config = config if pictures is None else processed(config, pictures / "feature_extractor")
    towers = {"text_encoder": folder / "text_encoder"}
    towers |= {} if pictures is None else {"image_encoder": pictures / "image_encoder"}
    return _folders("clip", config, diffusers_names.clip_entries(config), towers)


def _prior(folder: Path, clip: Weights, scheduler: str) -> Weights:
    config = diffusers_configs.prior_config(read_json(folder / "prior" / "config.json"))
    process = scheduler_config(read_json(folder / scheduler / "scheduler_config.json"), "prior")
    made = _folders("prior", config, diffusers_names.prior_entries(config), {"": folder / "prior"}, process, clip)
    # kept, since our own arithmetic has another and the scheduler's may be written again
    told = made.header.provenance | {"clip_sample_range": process[1].limit}
    return replace(made, header=replace(made.header, provenance=told))


def _decoder(folder: Path, clip: Weights, context: int) -> Weights:
    unet, text_proj = (read_json(folder / part / "config.json") for part in ("decoder", "text_proj"))
    config = diffusers_configs.decoder_config(unet, text_proj, context)
    process = scheduler_config(read_json(folder / "decoder_scheduler" / "scheduler_config.json"), "decoder")
    parts = {part: folder / part for part in ("decoder", "text_proj")}
    return _folders("decoder", config, diffusers_names.decoder_entries(config), parts, process, clip)


def _upsampler(folder: Path) -> Weights:
    first, last = (read_json(folder / part / "config.json") for part in ("super_res_first", "super_res_last"))
    config = diffusers_configs.upsampler_config(first, last)
    process = scheduler_config(read_json(folder / "super_res_scheduler" / "scheduler_config.json"), "super_res")
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
    files = [folder / name for folder in parts.values() for name in chosen(_names(folder))]
    return _weights(net, config, entries, lambda: _gathered(parts), files or list(parts.values()), how, clip)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _gathered(parts: Mapping[str, Path]) -> Mapping[str, Tensor]:
    tensors: dict[str, Any] = {}
    for prefix, folder in parts.items():
        held = folder_tensors(folder)
        start = f"{prefix}." if prefix else ""
        tensors |= {f"{start}{name}": lambda _, held=held, name=name: held[name] for name in held}
    return Lazy(tensors)


def _weights(
    net: str,
    config: Any,
    entries: Sequence[Entry],
    tensors: Callable[[], Mapping[str, Tensor]],
    files: Sequence[Path],
    how: tuple[ProcessConfig, Sampling] | None = None,
    clip: Weights | None = None,
) -> Weights:
    """A net whose `tensors` are opened when they are read. Of folders without weights only the configs are known."""
    where = str(files[0].parent if len(files) > 1 else files[0])
    process, sampling = ({}, {}) if how is None else (to_dict(how[0]), to_dict(how[1]))
    header = Header(
        net=net,
        model=to_dict(config),
        process=process,
        sampling=sampling,
        parents={} if clip is None else {"clip": clip.header.fingerprint},
        fingerprint=digest(file for file in files if not file.is_dir()),
        provenance={"source": where},
    )
    return Weights(where, header, lambda: taking(entries, tensors(), where, IGNORED))


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UnclipError(f"{folder}: {len(found)} files called {pattern}; expected one, as native Karlo has them")
    return found[0]
