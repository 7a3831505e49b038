"""CLIPs alone in transformers' folders, and what `unclip convert` makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from unclip.checkpoint import read_header
from unclip.clip import Clip
from unclip.errors import UnclipError
from unclip.images import to_tensor
from unclip.interop import clips
from unclip.interop.clips import transformers_weights
from unclip.interop.systems import found_clip

from . import pipelines

SIDE = 28
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SHAPE | {"hidden_size": 32, "intermediate_size": 96, "vocab_size": pipelines.VOCABULARY}
TEXT |= {"bos_token_id": pipelines.VOCABULARY - 2, "eos_token_id": pipelines.VOCABULARY - 1, "pad_token_id": 0}
VISION = SHAPE | {"hidden_size": 48, "intermediate_size": 192, "image_size": SIDE, "patch_size": 7}


def model(activation: str) -> Any:
    """A random CLIPModel, its norms, biases and scale too; what its config says of the towers' own outputs is ignored."""
    act = {"hidden_act": activation}
    torch.manual_seed(0)
    net = CLIPModel(CLIPConfig(text_config=TEXT | act, vision_config=VISION | act, projection_dim=24)).eval()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if weights.ndim < 2:
                start = 1.0 if name.endswith("norm.weight") else 0.0
                weights.copy_(start + 0.3 * torch.randn(weights.shape, generator=rng))
    net.logit_scale.data.fill_(3.25)
    return net


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model, and its folder as transformers saves it."""
    net, folder = model(request.param), tmp_path_factory.mktemp("clip")
    net.save_pretrained(folder)
    pipelines.tokenizer_files(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return net, folder


def pixels() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def differences(net: Any, clip: Clip) -> tuple[float, float]:
    """The largest differences of text and picture embeddings."""
    prompts = list(pipelines.SENTENCES)
    ids = pipelines.tokenizer()(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    picture = torch.from_numpy(np.asarray(pixels(), np.float32) / 255).permute(2, 0, 1)[None]
    seen = (picture - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        out = net(input_ids=ids["input_ids"], pixel_values=seen)
    text, image = clip.text(prompts).emb, clip.image_emb(to_tensor(pixels())[None])
    return float((text - out.text_embeds).abs().max()), float((image - out.image_embeds).abs().max())


def test_a_clip_of_transformers_embeds_the_same(theirs: tuple[Any, Path]) -> None:
    net, folder = theirs
    found = found_clip(str(folder))
    assert found is not None
    clip = Clip(found)
    assert max(differences(net, clip)) <= 1e-5
    assert clip.net.logit_scale.item() == 3.25, "the trained one, which the towers alone do not keep"
    assert (clip.config.mean, clip.config.std) == (MEAN, STD)
    assert clip.config.merges == pipelines.MERGES


def test_the_old_spelling_of_a_config_counts(theirs: tuple[Any, Path], tmp_path: Path) -> None:
    net, folder = theirs
    link(folder, tmp_path)
    told = json.loads((folder / "config.json").read_text())
    old = {f"{name}_config_dict": told[f"{name}_config"] for name in ("text", "vision")}
    wrong = {f"{name}_config": {"num_hidden_layers": 7, "hidden_act": "gelu_new"} for name in ("text", "vision")}
    (tmp_path / "config.json").write_text(json.dumps(told | wrong | old))
    assert max(differences(net, Clip(transformers_weights(tmp_path)))) <= 1e-5


def test_convert_writes_one_file_in_the_precision_that_was_asked_for(
    theirs: tuple[Any, Path], cli: Callable[..., Any], tmp_path: Path
) -> None:
    net, folder = theirs
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert cli("convert", folder, whole) == (0, f"{whole}\n", "")
    assert cli("convert", folder, half, "--dtype", "float16") == (0, f"{half}\n", "")
    for file, dtype in ((whole, torch.float32), (half, torch.float16)):
        assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    assert read_header(half).fingerprint == read_header(whole).fingerprint != ""
    assert read_header(half).provenance == {"source": str(folder)}
    assert max(differences(net, Clip(whole))) <= 1e-5
    assert max(differences(net, Clip(half))) <= 1e-2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["new"], "new: a CLIP becomes one file; give a name that ends in .safetensors"),
        (["new.safetensors", "--to", "diffusers"], "--to diffusers: of whole systems"),
        (["full.safetensors"], "full.safetensors: exists already; give another name"),
    ],
)
@pytest.mark.parametrize("tag", [True, False])
def test_what_a_clip_cannot_become_is_one_line(
    theirs: tuple[Any, Path],
    cli: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tag: bool,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clips, "fetched", None)  # nothing is downloaded
    (tmp_path / "full.safetensors").write_text("mine")
    code, out, err = cli("convert", "ViT-L-14-quickgelu:openai" if tag else theirs[1], *words)
    assert (code, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full.safetensors"]
    assert (tmp_path / "full.safetensors").read_text() == "mine"


def edit(folder: Path, *path: str, value: Any) -> None:
    file = folder / "config.json"
    told = json.loads(file.read_text())
    inner = told
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.unlink()
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: edit(root, "model_type", value="siglip"), "config.json: model_type = 'siglip'; expected 'clip'"),
        (lambda root: edit(root, "text_config", value=[1]), "config.json: text_config = [1]; expected an object"),
        (
            lambda root: edit(root, "text_config", "hidden_act", value="relu"),
            "config.json: text_config: hidden_act = 'relu'",
        ),
        (
            lambda root: edit(root, "vision_config", "patch_size", value="7"),
            "config.json: vision_config: patch_size = '7'",
        ),
        (lambda root: edit(root, "text_config", "num_hidden_layers", value=3), "missing tensor(s)"),
        (lambda root: edit(root, "vision_config", "hidden_size", value=96), "would make our 'visual."),
        (lambda root: (root / "merges.txt").unlink(), "vocab_size = 898; expected 49408"),
        (lambda root: (root / "model.safetensors").unlink(), "no weights in this folder"),
    ],
)
def test_damaged_folders_are_one_line(
    theirs: tuple[Any, Path], tmp_path: Path, damage: Callable[[Path], Any], told: str
) -> None:
    link(theirs[1], tmp_path)
    damage(tmp_path)
    with pytest.raises(UnclipError) as refused:
        dict(transformers_weights(tmp_path).read())
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path))


def link(folder: Path, target: Path) -> None:
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    (target / "config.json").unlink()
    (target / "config.json").write_text((folder / "config.json").read_text())
