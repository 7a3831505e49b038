"""CLIP embeddings of a batch, stored in its shards or computed on the fly; and what a config takes from its CLIP."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stages.data import Batch, DataConfig
from unclip.clip import Clip, Text
from unclip.conditioning import Prompts
from unclip.config import config
from unclip.errors import UnclipError, UnclipWarning


@config
class ClipSource:
    """The CLIP a stage learns the embeddings of. "stored": its embeddings lie in the shards (tools/embed put them there)."""

    path: str
    embeddings: Literal["stored", "computed"] = "computed"


def open_clip(source: ClipSource, data: DataConfig, device: torch.device | str) -> Clip:
    """The CLIP of a run. Raises UnclipError when stored embeddings are wanted that this CLIP did not make."""
    clip = Clip(source.path, device)
    if source.embeddings == "stored":
        for folder in filter(None, (data.shards, data.validation)):
            index = Path(folder, "index.json")
            made_by = json.loads(index.read_text(encoding="utf-8")).get("clip") if index.is_file() else None
            if made_by != clip.fingerprint:
                raise UnclipError(
                    f"{folder}: its embeddings are of CLIP {str(made_by)[:12]}, {source.path} is {clip.fingerprint[:12]};"
                    f' run python -m tools.embed with this CLIP, or set clip.embeddings = "computed"'
                )
    return clip


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config with what follows from its CLIP filled in where [model] leaves it open: dimension, vocabulary, states."""
    path, model = values.get("clip", {}).get("path"), dict(values.get("model", {}))
    if path is None:
        return dict(values)  # validation will say what is missing
    clip = Clip(path)
    model.setdefault("image_emb", clip.config.embed_dim)
    if model.get("text") == "own":
        model.setdefault("vocabulary", clip.tokenizer.vocabulary)
    if model.get("text") == "hidden":
        model.setdefault("text_hidden", clip.config.text_width)
    if model.get("text") in ("own", "hidden"):
        model.setdefault("context", clip.config.context)
    return {**values, "model": model}


def image_emb(clip: Clip, source: ClipSource, batch: Batch) -> Float[Tensor, "b d"]:
    """The image embeddings of a batch. Raises UnclipError when they should be stored and are not."""
    if source.embeddings == "computed":
        assert batch.images is not None
        return clip.image_emb(batch.images)
    if batch.image_emb is None:
        raise UnclipError('clip.embeddings = "stored", but the shards hold none; run python -m tools.embed on them')
    return batch.image_emb


def prompts(clip: Clip, source: ClipSource, batch: Batch, net: nn.Module) -> Prompts:
    """The captions of a batch and what CLIP makes of them; states are computed only for a net that reads them."""
    needs_states = getattr(net.config, "text", "none") == "hidden"
    if source.embeddings == "stored" and batch.text_emb is not None:
        if not needs_states:
            return Prompts(batch.captions, Text(batch.text_emb, None, None))
        if batch.text_hidden is not None:
            return Prompts(batch.captions, Text(batch.text_emb, batch.text_hidden, batch.text_mask))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnclipWarning)  # long captions are no news in training data
        return Prompts(batch.captions, clip.text(batch.captions))
