"""Pipelines as folders of the released layout: old file names, old configs, either spelling of text_proj's library."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from .karlo_tokens import LAYOUTS, tokenizer_files

Spelling = Literal["unclip", "diffusers"]
TOWERS = {"text_encoder": "text_model", "image_encoder": "vision_model"}  # transformers' parts: other file names


def save(pipeline: Any, folder: Path, spelling: Spelling = "unclip", pickles: bool = False) -> Path:
    """Write `pipeline` into `folder` as safetensors, or as pickles; gives `folder`.

    Each JSON has exactly the keys of the released file, with this pipeline's sizes. As of old, the towers' files
    hold their position_ids.
    """
    folder = Path(folder)
    layout = LAYOUTS / ("karlo-unclip" if hasattr(pipeline, "prior") else "karlo-image-variations")
    folder.mkdir(parents=True, exist_ok=True)
    index = json.loads((layout / "model_index.json").read_text(encoding="utf-8"))
    index["text_proj"][0] = spelling
    _write(folder / "model_index.json", index)
    for name in index:
        if name.startswith("_"):
            continue
        if name == "tokenizer":
            tokenizer_files(folder / name)
            continue
        part = getattr(pipeline, name)
        (config,) = (layout / name).iterdir()
        _write(folder / name / config.name, _config(part, json.loads(config.read_text(encoding="utf-8"))))
        if isinstance(part, torch.nn.Module):
            _weights(name, part, folder / name, pickles)
    return folder


def _config(part: Any, template: dict[str, Any]) -> dict[str, Any]:
    """The released file's keys with this part's values; what the part does not know stays."""
    told = part if hasattr(part, "to_dict") else part.config
    own = told.to_dict() if hasattr(told, "to_dict") else dict(told)
    if hasattr(own.get("resample"), "value"):
        own["resample"] = own["resample"].value
    frozen = {"architectures", "transformers_version", "image_processor_type"}
    return {
        key: value if key.startswith("_") or key in frozen else own.get(key, value) for key, value in template.items()
    }


def _weights(name: str, part: torch.nn.Module, folder: Path, pickles: bool) -> None:
    state: dict[str, Tensor] = {key: tensor.contiguous() for key, tensor in part.state_dict().items()}
    stem = "diffusion_pytorch_model"
    if tower := TOWERS.get(name):
        stem = "pytorch_model" if pickles else "model"
        positions = len(state[f"{tower}.embeddings.position_embedding.weight"])
        state[f"{tower}.embeddings.position_ids"] = torch.arange(positions)[None]
    if pickles:
        torch.save(state, folder / f"{stem}.bin")
    else:
        save_file(state, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
