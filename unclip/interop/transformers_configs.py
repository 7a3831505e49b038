"""The config of our CLIP and the JSON configs of transformers' two towers."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from unclip.clip import TOWERS, ClipConfig
from unclip.config import build, to_dict
from unclip.interop.jsons import Json, check, read, read_json, refuse
from unclip.tokenizer import Tokenizer

TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}
REQUIRED = {"layer_norm_eps": 1e-5}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
FILES = ("text_encoder/config.json", "image_encoder/config.json")
LEGACY_END = 2  # an eos_token_id of old configs: take the state at the highest id, as open_clip always does


def clip_config(
    text: Json, vision: Json | None = None, merges: tuple[str, ...] | None = None, files: tuple[str, str] = FILES
) -> ClipConfig:
    """The CLIP that the configs of a text tower and, if there is one, a vision tower describe; not normalising.

    `merges` are its tokenizer's, where they are not all of CLIP's; `files` are the configs' names, for messages.
    Keys that do not shape the towers (those of every transformers config) are ignored. Raises UnclipError.
    """
    where, other = files
    t = _read(text, where, TEXT, "clip_text_model")
    vocabulary = Tokenizer(merges).vocabulary
    check(where, {"vocab_size": vocabulary}, t)
    if t["eos_token_id"] not in (LEGACY_END, vocabulary - 1):
        refuse(where, "eos_token_id", t["eos_token_id"], f"{vocabulary - 1}, or {LEGACY_END} in old files")
    ours: dict[str, Any] = {"embed_dim": t["projection_dim"], "quick_gelu": ACTIVATIONS[t["hidden_act"]]}
    ours |= {"vision": None, "merges": merges, "normalize": False}
    ours["text"] = _tower(t, where) | {"context_length": t["max_position_embeddings"]}
    ours["text"] |= {"heads": t["num_attention_heads"]}
    if vision is not None:
        v = _read(vision, other, VISION, "clip_vision_model", num_channels=3)
        check(other, {"projection_dim": t["projection_dim"], "hidden_act": t["hidden_act"]}, v)
        ours["vision"] = _tower(v, other) | {"image_size": v["image_size"], "patch_size": v["patch_size"]}
        ours["vision"] |= {"head_width": v["hidden_size"] // v["num_attention_heads"]}
    return build(ClipConfig, ours, where)


def clip_config_of(json: Json, merges: tuple[str, ...] | None, folder: Path) -> ClipConfig:
    """The CLIP, normalising as ours do, that the one config of a CLIPModel describes. Raises UnclipError."""
    where = str(folder / "config.json")
    check(where, {"model_type": "clip"}, {"model_type": None, **json})
    text, vision = (_told(json, name, where) for name in ("text", "vision"))
    made = clip_config(text, vision, merges, (f"{where}: text_config", f"{where}: vision_config"))
    return processed(build(ClipConfig, to_dict(made) | {"normalize": True}, where), folder)


def processed(clip: ClipConfig, folder: Path) -> ClipConfig:
    """The CLIP with the mean and the deviation of pictures that a folder's `preprocessor_config.json`, if any, tells.

    Raises UnclipError where that prepares pictures of another size than the picture tower's.
    """
    file = folder / "preprocessor_config.json"
    json = read_json(file) if file.is_file() else {}
    crop = json.get("crop_size", clip.image_size)
    sides = set(crop.values()) if isinstance(crop, dict) else {crop}
    if sides != {clip.image_size}:
        refuse(str(file), "crop_size", crop, str(clip.image_size))
    told = {ours: json[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in json}
    return build(ClipConfig, to_dict(clip) | told, str(file)) if told else clip


def _told(json: Json, name: str, where: str) -> dict[str, Any]:
    """What the config of a CLIPModel says of a tower."""
    told: dict[str, Any] = {}
    # old files tell a tower's values in the second of these, new ones in the first
    for key in (f"{name}_config", f"{name}_config_dict"):
        value = json.get(key) or {}
        if not isinstance(value, dict):
            refuse(where, key, value, "an object")
        told |= value
    return told | {"model_type": f"clip_{name}_model", "projection_dim": json.get("projection_dim", 512)}


def clip_json(config: ClipConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The configs of the text tower and, if there is one, the vision tower of a CLIP. Raises UnclipError."""
    if config.normalize:
        refuse("clip", "normalize", True, "false, which this layout always has")
    t = _plain(config.text, TOWERS["text"](), "text", ("context_length", "width", "heads", "layers", "mlp_ratio"))
    text = {"model_type": "clip_text_model", "vocab_size": Tokenizer(config.merges).vocabulary}
    text |= _tower_json(t, config) | {"num_attention_heads": t["heads"]}
    text |= {"max_position_embeddings": t["context_length"]}
    # the ids at which the sequence starts and ends are the vocabulary's last two
    text |= {"bos_token_id": text["vocab_size"] - 2, "eos_token_id": text["vocab_size"] - 1}
    if config.vision is None:
        return text, None
    keys = ("image_size", "patch_size", "width", "head_width", "layers", "mlp_ratio")
    v = _plain(config.vision, TOWERS["vision"](), "vision", keys)
    vision = {"model_type": "clip_vision_model", "num_channels": 3, "image_size": v["image_size"]}
    vision |= _tower_json(v, config) | {"num_attention_heads": v["width"] // v["head_width"]}
    return text, vision | {"patch_size": v["patch_size"]}


def _read(json: Json, where: str, defaults: Json, kind: str, **required: Any) -> dict[str, Any]:
    shaping = defaults.keys() | REQUIRED.keys() | required.keys() | {"model_type"}
    known = {key: value for key, value in json.items() if key in shaping}
    values = read(known, where, defaults, REQUIRED | required | {"model_type": kind})
    if values["hidden_act"] not in ACTIVATIONS:
        refuse(where, "hidden_act", values["hidden_act"], " or ".join(map(repr, ACTIVATIONS)))
    width, heads = values["hidden_size"], values["num_attention_heads"]
    if width < 1 or heads < 1 or width % heads:
        refuse(where, "hidden_size, num_attention_heads", (width, heads), "a multiple and its divisor")
    return values


def _tower(v: Json, where: str) -> dict[str, Any]:
    """What open_clip's two tower configs share."""
    width, inner = v["hidden_size"], v["intermediate_size"]
    tower = {"width": width, "layers": v["num_hidden_layers"]}
    if inner == 4 * width:
        return tower
    ratio = next((r for r in (inner / width, (inner + 0.5) / width) if int(width * r) == inner), None)
    if ratio is None:
        refuse(where, "intermediate_size", inner, "a width that open_clip's mlp_ratio can express")
    return tower | {"mlp_ratio": ratio}


def _tower_json(v: Json, config: ClipConfig) -> dict[str, Any]:
    activation = "quick_gelu" if config.quick_gelu else "gelu"
    shape = {"hidden_size": v["width"], "intermediate_size": int(v["width"] * v["mlp_ratio"])}
    shape |= {"projection_dim": config.embed_dim, "num_hidden_layers": v["layers"]}
    return shape | {"hidden_act": activation, "layer_norm_eps": 1e-5}


def _plain(given: Json, defaults: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """All values of a tower's config, once it has none but `keys` that differ from open_clip's defaults."""
    values = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    for key, value in given.items():
        if key not in keys and value != values[key] and key not in ("vocab_size", "output_tokens"):
            refuse(f"clip: {where}", key, value, f"{values[key]!r}, which this layout always has")
    return values | dict(given)
