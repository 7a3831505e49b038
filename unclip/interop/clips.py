"""Released CLIPs as weights of ours."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from torch import Tensor

from unclip.checkpoint import Header, Lazy, Weights, load_strictly
from unclip.clip import ClipConfig, Triple, build_net
from unclip.config import to_dict
from unclip.errors import UnclipError
from unclip.interop import diffusers_names
from unclip.interop.entries import copied, taking
from unclip.interop.files import folder_tensors, kind, open_tensors
from unclip.interop.hub import CLIP_STEMS, await_answer, fetched
from unclip.interop.jsons import read_json
from unclip.interop.openai import open_openai
from unclip.interop.tokenizer_files import read_merges
from unclip.interop.transformers_configs import clip_config_of
from unclip.interop.weight_names import STEMS, chosen


def open_clip_weights(source: str) -> Weights:
    """A released CLIP as weights of ours. `source` is one of

    - "MODEL:TAG", one of open_clip's own pretrained tags (it downloads): "ViT-L-14-quickgelu:openai";
    - "MODEL:FILE", a local state dict of that architecture (safetensors, or a pickle of plain values), or OpenAI's own
      file, ViT-L-14.pt: "ViT-L-14-quickgelu:FILE";
    - a folder with open_clip_config.json and open_clip_model.safetensors.

    Raises UnclipError. Where an architecture exists with both activations, the name must match the weights: OpenAI's use
    QuickGELU, and no file says so, so a FILE needs the name that says it ("...-quickgelu" or "...+gelu").
    """
    tag: dict[str, Any] = {}
    if os.path.isdir(source):
        name, weights, tensors = f"local-dir:{source}", "", None
        if os.path.isfile(os.path.join(source, "open_clip_config.json")):  # without it open_clip says what is missing
            tensors = _folder(Path(source))
    else:
        name, _, weights = source.partition(":")
        name = _checked_name(name, weights, source)
        tag = open_clip.get_pretrained_cfg(name, weights)
        tensors = _file(weights) if os.path.isfile(weights) else _tagged(tag)
    net, settings = _built(source, name, weights, tensors is None)
    if tensors is not None:
        load_strictly(net, _fitted(tensors), f"CLIP {source!r}")
    preprocess = cast(dict[str, Any], net.visual.preprocess_cfg) | {k: tag[k] for k in ("mean", "std") if k in tag}
    made = ClipConfig(
        embed_dim=settings["embed_dim"],
        quick_gelu=settings.get("quick_gelu", False),
        vision=settings["vision_cfg"],
        text={key: value for key, value in settings["text_cfg"].items() if key != "vocab_size"},
        mean=cast(Triple, tuple(preprocess["mean"])),
        std=cast(Triple, tuple(preprocess["std"])),
    )
    with torch.device("meta"):  # before anything is written: weights that our CLIP could not take
        load_strictly(build_net(made), net.state_dict(), f"CLIP {source!r}")
    return Weights(source, Header(net="clip", model=to_dict(made), provenance={"source": source}), net.state_dict)


def transformers_weights(folder: Path) -> Weights:
    """A CLIP in a folder as transformers saves a CLIPModel, such as openai/clip-vit-large-patch14. Raises UnclipError."""
    config = clip_config_of(read_json(folder / "config.json"), read_merges(folder), folder)
    tensors = folder_tensors(folder)
    parts = {"text_": "text_encoder.", "vision_": "image_encoder.", "visual_": "image_encoder."}
    named = {next((p for start, p in parts.items() if name.startswith(start)), "") + name: name for name in tensors}
    renamed = Lazy({theirs: lambda _, name=name: tensors[name] for theirs, name in named.items()})
    entries = [copied(e.ours, e.ours) if e.ours == "logit_scale" else e for e in diffusers_names.clip_entries(config)]
    header = Header(net="clip", model=to_dict(config), provenance={"source": str(folder)})
    return Weights(str(folder), header, lambda: taking(entries, renamed, str(folder), diffusers_names.IGNORED))


def _built(source: str, name: str, weights: str, load: bool) -> tuple[open_clip.CLIP, dict[str, Any]]:
    """open_clip's net, with the weights of its tag where they are to be loaded, and its settings."""
    try:
        with _quiet():  # no file of weights is read by open_clip itself, other than those of its own tags
            net, _, _ = open_clip.create_model_and_transforms(
                name, pretrained=weights or None if load else None, load_weights=load, pretrained_text=load
            )
        settings = open_clip.get_model_config(name)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UnclipError(f"CLIP {source!r}: {' '.join(str(error).split())[:300]}") from None
    except Exception as error:  # noqa: BLE001 (a foreign file can fail in any way)
        raise UnclipError(f"CLIP {source!r}: damaged, or no plain state dict ({type(error).__name__})") from None
    if not isinstance(net, open_clip.CLIP) or settings is None:
        raise UnclipError(
            f"CLIP {source!r}: only open_clip's own two-tower CLIPs are supported, not {type(net).__name__}"
        )
    return net, settings


def _tagged(tag: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """The weights of a tag that lie in a repository of their own on the hub; None for others, which open_clip gets."""
    repo, _, file = tag.get("hf_hub", "").rpartition("/")
    if repo and not file:
        return _folder(fetched(repo))
    if tag.get("url"):
        await_answer(tag["url"])
    return None


def _folder(folder: Path) -> Mapping[str, Tensor]:
    """A folder's weights, open_clip's before those that it may hold for transformers."""
    ours = chosen([path.name for path in folder.iterdir()], CLIP_STEMS)
    return folder_tensors(folder, CLIP_STEMS if ours else STEMS)


def _file(path: str) -> Mapping[str, Tensor]:
    return open_openai(path) if kind(Path(path)) == "script" else open_tensors(path)


def _fitted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as open_clip's net has it: in full precision, without what training in parallel adds to the names."""
    single = {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}
    kept = {name.removeprefix("module."): tensor for name, tensor in single.items()}
    scale = kept.get("logit_scale")
    if scale is not None and scale.numel() == 1:  # some programs write it as [1]
        kept["logit_scale"] = scale.reshape(())
    return kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs, in its own words, the errors that it raises as well."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _checked_name(name: str, weights: str, source: str) -> str:
    """The architecture's name, once nothing about its activation is left to guess."""
    if not weights:
        raise UnclipError(f"CLIP {source!r}: expected MODEL:TAG or MODEL:FILE, such as ViT-L-14-quickgelu:openai")
    plain = name.removesuffix("+gelu")
    if plain not in open_clip.list_models():
        raise UnclipError(f"CLIP {source!r}: open_clip knows no architecture {plain!r}")
    if (open_clip.get_model_config(plain) or {}).get("custom_text"):  # before anything is downloaded
        raise UnclipError(f"CLIP {source!r}: only open_clip's own two-tower CLIPs are supported, and this is none")
    twin = f"{plain}-quickgelu" in open_clip.list_models()
    if os.path.isfile(weights):
        if twin and name.endswith("+gelu") and kind(Path(weights)) == "script":
            raise UnclipError(f"CLIP {source!r}: OpenAI's weights use QuickGELU; write {plain}-quickgelu:FILE")
        if twin and not name.endswith("+gelu"):
            raise UnclipError(
                f"CLIP {source!r}: a file does not tell its activation; write {plain}-quickgelu:FILE (OpenAI's weights)"
                f" or {plain}+gelu:FILE"
            )
    elif open_clip.get_pretrained_cfg(plain, weights).get("quick_gelu", False) and twin:
        raise UnclipError(f"CLIP {source!r}: these weights use QuickGELU; write {plain}-quickgelu:{weights}")
    return plain
