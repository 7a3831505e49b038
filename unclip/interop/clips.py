"""Released CLIPs, made into checkpoints of ours."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import open_clip
import torch

from unclip.checkpoint import load_strictly
from unclip.clip import ClipConfig, Triple, build_net, export
from unclip.errors import UnclipError


def import_open_clip(source: str, path: str | Path) -> None:
    """Turns a released CLIP into a checkpoint at `path`. `source` is one of

    - "MODEL:TAG", one of open_clip's own pretrained tags (it downloads): "ViT-L-14-quickgelu:openai";
    - "MODEL:FILE", a local state dict of that architecture (safetensors, or a weights-only pickle by torch's rule);
    - a folder with open_clip_config.json and open_clip_model.safetensors.

    Raises UnclipError. Where an architecture exists with both activations, the name must match the weights: OpenAI's use
    QuickGELU, and no file says so, so a FILE needs the name that says it ("...-quickgelu" or "...+gelu").
    """
    if os.path.isdir(source):
        name, weights, label = f"local-dir:{source}", None, source
    else:
        name, _, weights = source.partition(":")
        name, label = _checked_name(name, weights, source), source
    try:
        with _quiet():
            net, _, _ = open_clip.create_model_and_transforms(name, pretrained=weights or None)
        settings = open_clip.get_model_config(name)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UnclipError(f"CLIP {source!r}: {' '.join(str(error).split())[:300]}") from None
    except Exception as error:  # noqa: BLE001 (a foreign file can fail in any way)
        raise UnclipError(f"CLIP {source!r}: damaged, or no plain state dict ({type(error).__name__})") from None
    if not isinstance(net, open_clip.CLIP) or settings is None:
        raise UnclipError(
            f"CLIP {source!r}: only open_clip's own two-tower CLIPs are supported, not {type(net).__name__}"
        )
    preprocess = cast(dict[str, Any], net.visual.preprocess_cfg)
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
    export(net, made, path, {"source": label})


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
    twin = f"{plain}-quickgelu" in open_clip.list_models()
    if os.path.isfile(weights):
        if twin and not name.endswith("+gelu"):
            raise UnclipError(
                f"CLIP {source!r}: a file does not tell its activation; write {plain}-quickgelu:FILE (OpenAI's weights)"
                f" or {plain}+gelu:FILE"
            )
    elif open_clip.get_pretrained_cfg(plain, weights).get("quick_gelu", False) and twin:
        raise UnclipError(f"CLIP {source!r}: these weights use QuickGELU; write {plain}-quickgelu:{weights}")
    return plain
