"""Released weights as systems of ours: every manipulation, priors alone, and folders that are damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.checkpoint import read_header
from unclip.errors import UnclipError
from unclip.interop.native_configs import NativeShape
from unclip.interop.released import native_box
from unclip.interop.systems import found
from unclip.interop.writing import convert
from unclip.interop.writing_native import write_native
from unclip.system import UnCLIP

from . import pipelines

FEW: dict[str, Any] = {"steps": 3, "upsampler_steps": 2}


@pytest.fixture(scope="module")
def folder(karlo: Path, variations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text pipeline with the picture tower of the variations' beside it."""
    made = tmp_path_factory.mktemp("whole") / "karlo"
    shutil.copytree(karlo, made)
    shutil.copytree(variations / "image_encoder", made / "image_encoder")
    return made


@pytest.fixture(scope="module", params=["own", "diffusers", "native"])
def system(request: pytest.FixtureRequest, folder: Path) -> UnCLIP:
    return UnCLIP.from_pretrained(folder, "cpu", arithmetic=request.param)


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "make",
    [
        lambda system: system.generate("a dog", [0], prior_steps=2, **FEW),
        lambda system: system.vary(picture(), n=2, **FEW),
        lambda system: system.vary(picture(), n=1, eta=0.5, **FEW),
        lambda system: system.interpolate(picture(), "a dog", frames=2, noise="fixed", prior_steps=2, **FEW),
        lambda system: system.interpolate(picture(), picture(1), frames=2, **FEW),
        lambda system: system.blend([picture(), "a dog"], [1.0, 2.0], n=1, prior_steps=2, **FEW),
        lambda system: system.text_diff(picture(), to="a cat", source_text="a dog", theta=0.3, **FEW),
        lambda system: system.reconstruct(picture(), **FEW),
        lambda system: system.inpaint(
            picture(), Image.new("L", (30, 40), 255), "a dog", n=1, rounds=1, prior_steps=2, **FEW
        ),
    ],
)
def test_everything_that_the_latent_allows(system: UnCLIP, make: Callable[[UnCLIP], Any]) -> None:
    made = list(make(system))
    assert made
    assert all(one.image.size == (64, 64) for one in made)


@pytest.mark.parametrize("arithmetic", ["own", "diffusers", "native"])
def test_a_picture_is_the_same_alone_and_in_a_batch(folder: Path, arithmetic: Any) -> None:
    """In float64: random nets amplify what the batch's size changes in the last bit of float32."""
    system = UnCLIP.from_pretrained(folder, "cpu", "float64", arithmetic=arithmetic)
    settings = FEW | {"prior_steps": 2}
    together = list(system.generate(["a dog", "a cat"], [1, 2], batch=2, **settings))
    alone = next(system.generate("a cat", [2], **settings))
    assert together[1].image.tobytes() == alone.image.tobytes()


def test_a_prior_alone_is_converted_and_draws_nothing(folder: Path, tmp_path: Path) -> None:
    """As Kandinsky's priors are released: the same transformer under another index."""
    for part in ("prior", "text_encoder", "image_encoder", "tokenizer"):
        shutil.copytree(folder / part, tmp_path / "kandinsky" / part)
    shutil.copytree(folder / "prior_scheduler", tmp_path / "kandinsky" / "scheduler")
    index = tmp_path / "kandinsky" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "KandinskyPriorPipeline", "prior": ["diffusers", "PriorTransformer"]}))
    with pytest.raises(UnclipError, match="a prior alone; convert it"):
        UnCLIP.from_pretrained(tmp_path / "kandinsky", "cpu")
    convert(found(tmp_path / "kandinsky"), tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["clip.safetensors", "prior.safetensors"]
    header = read_header(tmp_path / "ours" / "prior.safetensors")
    assert header.parents == {"clip": read_header(tmp_path / "ours" / "clip.safetensors").fingerprint}
    convert(found(folder), tmp_path / "karlo")
    shutil.copy(tmp_path / "ours" / "prior.safetensors", tmp_path / "karlo" / "prior.safetensors")
    next(UnCLIP.from_pretrained(tmp_path / "karlo", "cpu").generate("a dog", [0], prior_steps=2, **FEW))


@pytest.mark.parametrize("spelling", ["unclip", "diffusers"])
def test_either_spelling_of_the_index_opens(text_pipeline: Any, tmp_path: Path, spelling: Any) -> None:
    """As released, and as diffusers has written it since 0.38, which itself opens neither."""
    pipelines.save(text_pipeline, tmp_path / "karlo", spelling=spelling)
    index = json.loads((tmp_path / "karlo" / "model_index.json").read_text())
    assert index["text_proj"] == [spelling, "UnCLIPTextProjModel"]
    assert UnCLIP.from_pretrained(tmp_path / "karlo", "cpu").sizes == (16, 64)


def test_half_precision_weights_draw_on_the_cpu(folder: Path) -> None:
    system = UnCLIP.from_pretrained(folder, "cpu", "bfloat16", low_memory=True)
    assert next(system.generate("a dog", [0], prior_steps=2, **FEW)).image.size == (64, 64)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / "prior" / "config.json").unlink(), "prior/config.json: no such file"),
        (lambda root: (root / "model_index.json").write_text("{"), "model_index.json: no readable JSON"),
        (
            lambda root: (root / "model_index.json").write_text('{"_class_name": "X"}'),
            "_class_name = 'X'; expected one of",
        ),
        (
            lambda root: cut(root / "decoder" / "diffusion_pytorch_model.safetensors"),
            "diffusion_pytorch_model.safetensors",
        ),
        (lambda root: edit(root / "prior" / "config.json", "num_layers", 3), "missing tensor"),
        (lambda root: edit(root / "prior" / "config.json", "added_emb_type", None), "added_emb_type = None"),
        (lambda root: shutil.rmtree(root / "super_res_last"), "super_res_last/config.json: no such file"),
    ],
)
def test_damaged_folders_are_one_line(folder: Path, tmp_path: Path, damage: Callable[[Path], Any], told: str) -> None:
    shutil.copytree(folder, tmp_path / "karlo")
    damage(tmp_path / "karlo")
    with pytest.raises(UnclipError) as refused:
        UnCLIP.from_pretrained(tmp_path / "karlo", "cpu")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def test_more_steps_reconstruct_better(folder: Path) -> None:
    """As they do not where an estimate of x0 is predicted noise divided by next to nothing (`Stage.times`)."""
    system = UnCLIP.from_pretrained(folder, "cpu")
    smooth = picture().resize((16, 16)).resize((64, 64), Image.Resampling.BICUBIC)
    small = np.asarray(smooth.resize((16, 16), Image.Resampling.BICUBIC), float)
    errors = [
        float(np.square(np.asarray(next(system.reconstruct(smooth, steps=steps, size=16)).image, float) - small).mean())
        for steps in (25, 100)
    ]
    assert errors[1] < errors[0] < 255**2 / 10**1.2  # 12 dB: random nets, at 25 steps


def test_pictures_are_seen_as_the_feature_extractor_says(variations: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(variations, tmp_path / "variations")
    told = whole / "feature_extractor" / "preprocessor_config.json"
    edit(told, "image_mean", [0.5, 0.4, 0.3])
    edit(told, "image_std", [0.2, 0.2, 0.1])
    model = found(whole).clip.header.model
    assert (tuple(model["mean"]), tuple(model["std"])) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    edit(told, "crop_size", {"height": 28, "width": 56})
    with pytest.raises(UnclipError, match=r"preprocessor_config\.json: crop_size = .*; expected 28") as refused:
        found(whole)
    assert "\n" not in str(refused.value)


def test_native_files_say_what_the_folder_says(folder: Path, tmp_path: Path) -> None:
    shape = NativeShape(head_channels=8, clip_head_channels=8, size=16, upsampled=64)
    (tmp_path / "native").mkdir()
    write_native(found(folder), tmp_path / "native", None, shape)
    one, other = native_box(tmp_path / "native", shape), found(folder, "native")
    for mine, theirs in (
        (one.prior, other.prior),
        (one.decoder, other.decoder),
        (one.upsamplers[0], other.upsamplers[0]),
    ):
        assert mine is not None
        assert theirs is not None
        assert mine.header.model == theirs.header.model
        assert mine.header.process == theirs.header.process
        assert mine.header.sampling == theirs.header.sampling
    (tmp_path / "native" / "ViT-L-14.safetensors").unlink()
    with pytest.raises(UnclipError, match=r"OpenAI's CLIP is missing; put ViT-L-14\.pt or"):
        native_box(tmp_path / "native", shape)


def test_a_recipe_of_another_arithmetic_is_refused(folder: Path) -> None:
    systems: dict[Any, UnCLIP] = {
        kind: UnCLIP.from_pretrained(folder, "cpu", arithmetic=kind) for kind in ("own", "diffusers", "native")
    }
    for kind, system in systems.items():
        recipe = next(system.generate("a dog", [0], prior_steps=2, **FEW)).recipe
        for other, one in systems.items():
            if other == kind:
                assert next(one.replay(recipe)).image.size == (64, 64)
            else:
                with pytest.raises(UnclipError, match=r"samples otherwise \(.*noise.*--arithmetic"):
                    one.replay(recipe)


def test_the_schedulers_are_written_as_they_were_read(folder: Path, tmp_path: Path) -> None:
    """Ours has another clamp of the prior's estimates than the scheduler's config."""
    convert(found(folder), tmp_path / "ours")
    convert(found(tmp_path / "ours"), tmp_path / "again", "diffusers")
    for name in ("prior", "decoder", "super_res"):
        was, now = (
            json.loads((root / f"{name}_scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
            for root in (folder, tmp_path / "again")
        )
        assert {key: value for key, value in was.items() if key in now and not key.startswith("_")} == {
            key: value for key, value in now.items() if not key.startswith("_")
        }


def test_half_precision_stays_half(folder: Path, tmp_path: Path) -> None:
    convert(found(folder), tmp_path / "half", dtype=torch.float16)
    convert(found(tmp_path / "half"), tmp_path / "again")
    for name in ("decoder.safetensors", "clip.safetensors"):
        assert (tmp_path / "again" / name).stat().st_size == (tmp_path / "half" / name).stat().st_size
