"""CLIP embeddings of a batch, stored in its shards or computed on the fly; and what a config takes from its CLIP."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stages.data import Batch, DataConfig
from stages.shards import INDEX, find
from unclip.clip import Clip, Text
from unclip.conditioning import Prompts
from unclip.config import config
from unclip.errors import UnclipError
from unclip.models.decoder import Decoder
from unclip.models.draft import Draft
from unclip.models.prior import Prior


@config
class ClipSource:
    """The CLIP a stage learns the embeddings of. "stored": they lie in the shards, where tools/embed put them."""

    path: str
    embeddings: Literal["stored", "computed"] = "computed"


def open_clip(source: ClipSource, data: DataConfig, device: torch.device | str) -> Clip:
    """The CLIP of a run. Raises UnclipError when stored embeddings are wanted that this CLIP did not make."""
    clip = Clip(source.path, device)
    seen = clip.config.image_size
    if source.embeddings == "computed" and data.image_size is not None and data.image_size < seen:
        raise UnclipError(
            f"data.image_size = {data.image_size}, but CLIP is to see {seen} px of the same pictures; raise it, or store the"
            " embeddings first (python -m tools.embed)"
        )
    if source.embeddings == "stored":
        found = find(data.shards, "data.shards").paths
        found += find(data.validation, "data.validation").paths if data.validation else ()
        for folder in sorted({path.parent for path in found}):
            index = folder / INDEX
            made_by = json.loads(index.read_text(encoding="utf-8")).get("clip") if index.is_file() else None
            if made_by != clip.fingerprint:
                held = f"its embeddings are of CLIP {made_by[:12]}" if made_by else "it holds no embeddings"
                raise UnclipError(
                    f"{folder}: {held}, {source.path} is CLIP {clip.fingerprint[:12]};"
                    f' run python -m tools.embed with this CLIP, or set clip.embeddings = "computed"'
                )
    return clip


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config, where [model] leaves open what follows from its CLIP filled in: dimension, vocabulary, states.

    Raises UnclipError when [model] says otherwise than the CLIP.
    """
    source, model = values.get("clip"), values.get("model", {})
    if not isinstance(model, Mapping):
        return dict(values)  # validation will say what is wrong
    if not isinstance(source, Mapping) or not isinstance(source.get("path"), str):
        raise UnclipError("clip.path is missing; give the checkpoint of the CLIP whose embeddings are learned")
    clip = Clip(source["path"])
    follows = {"image_emb": clip.config.embed_dim}
    if model.get("text") == "own":
        follows["vocabulary"] = clip.tokenizer.vocabulary
    if model.get("text") == "hidden":
        follows["text_hidden"] = clip.config.text_width
    made = followed(model, follows, source["path"])
    if model.get("text") in ("own", "hidden"):
        made = {"context": clip.config.context} | made
    return {**values, "model": made}


def followed(model: Mapping[str, Any], follows: Mapping[str, Any], path: str) -> dict[str, Any]:
    """[model] with what follows from the CLIP at `path`. Raises UnclipError when it says otherwise."""
    for key, value in follows.items():
        if model.get(key, value) != value:
            raise UnclipError(f"model.{key} = {model[key]}, but {path} has {value}; leave the key out")
    return {**follows, **model}


def image_emb(clip: Clip, source: ClipSource, batch: Batch) -> Float[Tensor, "b d"]:
    """The image embeddings of a batch. Raises UnclipError when they should be stored and are not."""
    if source.embeddings == "computed":
        assert batch.images is not None
        return clip.image_emb(batch.images)
    if batch.image_emb is None:
        raise UnclipError('clip.embeddings = "stored", but the shards hold none; run python -m tools.embed on them')
    return batch.image_emb


def prompts(clip: Clip, source: ClipSource, batch: Batch, net: Prior | Decoder | Draft) -> Prompts:
    """The captions of a batch and what CLIP makes of them; states are computed only for a net that reads them."""
    needs_states = getattr(net.config, "text", "none") == "hidden"
    if source.embeddings == "stored" and batch.text_emb is not None:
        if not needs_states:
            return Prompts(batch.captions, Text(batch.text_emb, None, None))
        if batch.text_hidden is not None:
            return Prompts(batch.captions, Text(batch.text_emb, batch.text_hidden, batch.text_mask))
    return Prompts(batch.captions, clip.text(batch.captions))
