"""CLIP: open_clip's own numbers, the traps around them, and released weights from files."""

import copy
import json
import warnings
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from unclip.checkpoint import load_strictly, read_tensors, save
from unclip.clip import Clip, ClipConfig, build_net, export, normalise
from unclip.config import build, to_dict
from unclip.errors import UnclipError, UnclipWarning
from unclip.images import to_tensor
from unclip.interop.clips import open_clip_weights

from .systems import CAPTIONS, clip_config, write_clip

PROMPTS = [*CAPTIONS, "", "a zebra"]
FOREIGN: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.safetensors")


def unit(emb):
    return torch.nn.functional.normalize(emb, dim=-1)


def test_the_activation_has_no_default_and_matters(clip, tmp_path):
    values = to_dict(clip.config)
    del values["quick_gelu"]
    with pytest.raises(UnclipError, match="'quick_gelu' is missing"):
        build(ClipConfig, values, "clip")
    quick = write_clip(tmp_path / "quick.safetensors", quick_gelu=True)
    for one, name in ((clip, "GELU"), (quick, "QuickGELU")):
        modules = [module for path, module in one.net.named_modules() if path.endswith("mlp.gelu")]
        assert len(modules) == 3
        assert {type(module).__name__ for module in modules} == {name}
    assert quick.fingerprint == clip.fingerprint, "equal weights: only the config tells them apart"
    assert (quick.text(PROMPTS).emb - clip.text(PROMPTS).emb).abs().max() > 1e-4


def test_text_embeddings_and_states_are_open_clips(clip):
    ids, mask = clip.tokenizer(PROMPTS, clip.config.context)
    last = []
    hook = clip.net.transformer.register_forward_hook(lambda module, given, out: last.append(out))
    pooled = clip.net.encode_text(ids)
    hook.remove()
    text = clip.text(PROMPTS)
    assert torch.equal(text.emb, unit(pooled))
    assert torch.equal(text.hidden, clip.net.ln_final(last[0]))
    assert torch.equal(text.mask, mask)
    ends = text.hidden[torch.arange(len(PROMPTS)), mask.sum(dim=1) - 1]
    assert torch.allclose(unit(ends @ clip.net.text_projection), text.emb, atol=1e-6), "the end token is pooled"


def test_embeddings_are_of_unit_norm_unless_the_config_says_not(clip, tmp_path):
    raw = write_clip(tmp_path / "raw.safetensors", normalize=False)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    for plain, scaled in (
        (raw.text(PROMPTS).emb, clip.text(PROMPTS).emb),
        (raw.image_emb(images), clip.image_emb(images)),
    ):
        assert torch.allclose(scaled.norm(dim=-1), torch.ones(len(scaled)), atol=1e-5)
        assert (plain.norm(dim=-1) - 1).abs().min() > 1e-2
        assert torch.allclose(unit(plain), scaled, atol=1e-6)


def test_images_enter_as_open_clips_own_transform_makes_them(clip):
    picture = Image.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 50).convert("RGB")
    transform: Any = open_clip.image_transform(16, is_train=False)
    wanted = transform(picture)
    assert torch.allclose(normalise(to_tensor(picture)[None], clip.config)[0], wanted, atol=1e-5)
    assert torch.allclose(
        clip.image_emb(to_tensor(picture)[None]), unit(clip.net.encode_image(wanted[None])), atol=1e-5
    )


def test_images_of_any_size_give_their_centre_square(clip):
    wide = torch.zeros(1, 3, 32, 96)
    wide[..., 32:64] = torch.rand(1, 3, 32, 32)
    assert torch.allclose(clip.image_emb(wide), clip.image_emb(wide[..., 32:64]), atol=1e-6)


def test_a_prompt_beyond_77_tokens_is_cut_with_a_warning(tmp_path):
    values = clip_config().text
    whole = write_clip(tmp_path / "c.safetensors", text={key: values[key] for key in values if key != "context_length"})
    assert whole.config.context == 77
    with pytest.warns(UnclipWarning, match="90 tokens and 75 fit: cut off"):
        cut = whole.text(["cube " * 90])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cut.emb, whole.text(["cube " * 75]).emb)


def test_a_literal_end_of_text_does_not_end_the_prompt(clip):
    with pytest.warns(UnclipWarning, match="taken as text"):
        ended = clip.text(["<end_of_text> cube", "<end_of_text> cone"]).emb
    assert (ended[0] - ended[1]).abs().max() > 1e-3


def test_a_half_precision_file_is_the_same_clip(clip, tmp_path):
    path = tmp_path / "half.safetensors"
    save(path, read_tensors(clip.weights.where), clip.header, torch.float16)
    half = Clip(path)
    assert half.fingerprint == clip.fingerprint
    assert (half.text(PROMPTS).emb - clip.text(PROMPTS).emb).abs().max() < 1e-2


def test_reading_a_clip_moves_no_random_state_and_trains_nothing(clip):
    state = torch.get_rng_state()
    net = Clip(clip.weights.where).net
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vision": {"layerz": 1}}, "open_clip has no key 'layerz'"),
        ({"text": {"hight": 1}}, "open_clip has no key 'hight'"),
        ({"embed_dim": 0}, "embed_dim = 0"),
    ],
)
def test_a_config_that_no_clip_has_is_one_line(clip, changes, told):
    with pytest.raises(UnclipError, match=told):
        build(ClipConfig, to_dict(clip.config) | changes, "clip")


@pytest.mark.parametrize("changes", [{"heads": 5}, {"context_length": -1}])
def test_an_architecture_that_cannot_be_built_is_one_line(changes):
    with pytest.raises(UnclipError, match="open_clip cannot build"):
        build_net(clip_config(text={"context_length": 8, "width": 32, "heads": 4, "layers": 1} | changes))


def test_another_nets_file_is_no_clip(folder):
    with pytest.raises(UnclipError, match="holds a prior; expected a clip"):
        Clip(folder / "prior.safetensors")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """What others release: weights alone, or with open_clip's config beside them."""
    folder = tmp_path_factory.mktemp("released")
    registry, bundle = folder / "registry", folder / "bundle"
    registry.mkdir()
    bundle.mkdir()
    small = FOREIGN | {"text_cfg": FOREIGN["text_cfg"] | {"vocab_size": 600}}
    for name, values in {"pet": FOREIGN, "pet-quickgelu": FOREIGN | {"quick_gelu": True}, "pet-small": small}.items():
        (registry / f"{name}.json").write_text(json.dumps(values))
    open_clip.add_model_config(registry)
    torch.manual_seed(0)
    net = open_clip.CLIP(**copy.deepcopy(FOREIGN))
    torch.save(net.state_dict(), folder / "weights.pt")
    save_file(net.state_dict(), str(folder / "weights.safetensors"))
    save_file(net.state_dict() | {"token_embedding.weight": torch.zeros(600, 8)}, str(folder / "small.safetensors"))
    save_file(net.state_dict(), str(bundle / "open_clip_model.safetensors"))
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}
    config = {"model_cfg": FOREIGN | {"quick_gelu": True}, "preprocess_cfg": preprocess}
    (bundle / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "junk.pt").write_bytes(b"junk")
    (folder / "junk.safetensors").write_bytes(b"junk")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("source", "quick"),
    [
        ("bundle", True),
        ("pet-quickgelu:weights.safetensors", True),
        ("pet-quickgelu:weights.pt", True),
        ("pet+gelu:weights.safetensors", False),
    ],
)
def test_a_released_clip_becomes_a_checkpoint(released, tmp_path, source, quick):
    name, _, file = source.partition(":")
    clip = Clip(open_clip_weights(f"{name}:{released / file}" if file else str(released / name)))
    theirs = open_clip.CLIP(**copy.deepcopy(FOREIGN), quick_gelu=quick).eval()
    load_strictly(theirs, read_tensors(released / "weights.safetensors"), "weights")
    ids = open_clip.SimpleTokenizer(context_length=20)(PROMPTS)
    with torch.no_grad():
        assert torch.allclose(clip.text(PROMPTS).emb, theirs.encode_text(ids, normalize=True), atol=1e-6)
    assert clip.config.quick_gelu == quick
    assert (clip.config.mean == (0.5, 0.4, 0.3)) == (source == "bundle")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("pet:weights.safetensors", "a file does not tell its activation; write pet-quickgelu:FILE"),
        ("pet+gelu:junk.pt", "damaged, or no plain state dict"),
        ("pet+gelu:junk.safetensors", "damaged, or no plain state dict"),
        ("pet+gelu:nowhere.pt", "not a known tag or valid file path"),
        ("pet-small:small.safetensors", r"'token_embedding.weight' is \[600, 8\]"),
        ("empty", "config file missing"),
        ("ViT-B-32", "expected MODEL:TAG or MODEL:FILE"),
        ("ViT-Z-32:openai", "no architecture 'ViT-Z-32'"),
        ("ViT-B-32:openai", "write ViT-B-32-quickgelu:openai"),
        ("ViT-B-32-quickgelu:openai", "timm/vit_base_patch32_clip_224.openai: not wholly in the cache"),
    ],
)
def test_a_clip_that_cannot_be_had_is_one_line(released, tmp_path, monkeypatch, caplog, source, told):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as without a network
    name, _, file = source.partition(":")
    if (released / name).is_dir():
        source = str(released / name)
    elif "." in file:
        source = f"{name}:{released / file}"
    with pytest.raises(UnclipError, match=told) as caught:
        open_clip_weights(source)
    assert "\n" not in str(caught.value)
    assert not caplog.records
    assert not list(tmp_path.iterdir())


def test_a_clip_without_pictures_reads_texts_as_the_whole_one(clip, tmp_path):
    torch.manual_seed(0)
    config = clip_config(vision=None)
    net = build_net(config)
    net.load_state_dict({name: x for name, x in clip.net.state_dict().items() if not name.startswith("visual.")})
    export(net, config, tmp_path / "text.safetensors", {})
    reader = Clip(tmp_path / "text.safetensors")
    assert torch.equal(reader.text(["a red cube"]).emb, clip.text(["a red cube"]).emb)
    with pytest.raises(UnclipError, match="reads texts only"):
        reader.image_emb(torch.zeros(1, 3, 16, 16))


RESNET: dict[str, Any] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}


@pytest.mark.parametrize(
    ("vision", "layer", "path", "shape", "after"),
    [
        (None, 0, "transformer.resblocks.0", (2, 32, 2, 2), None),
        (RESNET, 0, "avgpool", (2, 8, 16, 16), "layer1"),
        (RESNET, 2, "layer2", (2, 64, 8, 8), "layer3"),
        (RESNET, 4, "layer4", (2, 256, 2, 2), "attnpool"),
    ],
)
def test_cells_are_what_a_block_of_the_picture_tower_makes_and_no_later_one_runs(
    tmp_path, vision, layer, path, shape, after
):
    changes = {} if vision is None else {"vision": vision}
    clip = write_clip(tmp_path / "clip.safetensors", **changes)
    images, made = torch.rand(2, 3, 16, 16) * 2 - 1, {}
    for name in filter(None, (path, after)):
        clip.net.visual.get_submodule(name).register_forward_hook(
            lambda _, given, out, name=name: made.update({name: out})
        )
    cells = clip.cells(images, layer)
    assert cells.shape == shape
    assert list(made) == [path]
    expected = made[path] if vision else made[path][:, 1:].mT.unflatten(-1, (2, 2))  # without the class token
    assert torch.equal(cells, expected)


def test_cells_that_are_not_there_are_refused(clip, tmp_path):
    for layer in (-1, 1):
        with pytest.raises(UnclipError, match=f"layer = {layer}, but its picture tower has 1 to read, from 0 on"):
            clip.cells(torch.zeros(1, 3, 16, 16), layer)
    blind = write_clip(tmp_path / "blind.safetensors", vision=None)
    with pytest.raises(UnclipError, match="reads texts only, and this needs what it sees in a picture"):
        blind.cells(torch.zeros(1, 3, 16, 16), 0)
