"""That the independent side of these tests is itself sound: pictures not saturated, files as released, tokens as ours."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import diffusers.pipelines
import numpy as np
import pytest
import torch
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated import unclip as deprecated
from PIL import Image

from unclip.tokenizer import Tokenizer

from . import karlo_native, karlo_nets, pipelines

KEYS = Path(__file__).with_name("keys")
PROMPTS = ["a photo of a cat", "the red sphere"]


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return pipelines.text_to_image()


@pytest.fixture(scope="module")
def run(pipeline: Any) -> pipelines.Reference:
    return pipelines.reference_run(pipeline, PROMPTS, generators())


def test_pictures_are_not_saturated(run: pipelines.Reference) -> None:
    assert (run.small.abs() < 0.99).double().mean() > 0.7
    assert ((run.pictures > 0.005) & (run.pictures < 0.995)).mean() > 0.9
    assert run.embedding.std() > 0.3
    assert run.small.std() > 0.2
    assert (run.small[0] - run.small[1]).abs().mean() > 0.1
    shown = (run.image * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(shown, run.pictures)


def test_the_prompt_matters(pipeline: Any, run: pipelines.Reference) -> None:
    other = pipelines.reference_run(pipeline, ["a bird", "the sea"], generators())
    assert (other.embedding - run.embedding).abs().mean() > 0.05
    assert (other.small - run.small).abs().mean() > 0.02


def test_every_tensor_is_random(pipeline: Any) -> None:
    for name, part in pipeline.components.items():
        for key, weights in part.named_parameters() if isinstance(part, torch.nn.Module) else ():
            assert weights.numel() == 1 or weights.std() > 1e-4, (name, key)
    assert (pipeline.prior.clip_std > 0).all()


def test_float64_is_float32_but_for_rounding_and_leaves_no_trace(pipeline: Any) -> None:
    latents: dict[str, Any] = {
        "prior_latents": torch.zeros(2, karlo_nets.EMBEDDING),
        "decoder_latents": torch.zeros(2, 3, karlo_nets.SMALL, karlo_nets.SMALL),
        "super_res_latents": torch.zeros(2, 3, karlo_nets.LARGE, karlo_nets.LARGE),
    }
    double: dict[str, Any] = {name: value.double() for name, value in latents.items()}
    before = {key: value.clone() for key, value in pipeline.decoder.state_dict().items()}
    run = pipelines.reference_run(pipeline, PROMPTS, generators(), (2, 2, 2), dtype=torch.float64, **double)
    assert {run.text.dtype, run.embedding.dtype, run.small.dtype, run.image.dtype} == {torch.float64}
    assert all(torch.equal(value, before[key]) for key, value in pipeline.decoder.state_dict().items())
    single = pipelines.reference_run(pipeline, PROMPTS, generators(), (2, 2, 2), **latents)
    torch.testing.assert_close(single.text.double(), run.text, atol=1e-4, rtol=1e-4)
    assert "step" not in vars(pipeline.decoder_scheduler)


def test_a_run_is_quick(pipeline: Any) -> None:
    start = time.process_time()  # the machine may be busy
    pipelines.reference_run(pipeline, PROMPTS[:1], torch.Generator().manual_seed(0))
    assert time.process_time() - start < 10


def test_a_variation_depends_on_its_picture_and_takes_embeddings() -> None:
    pipeline = pipelines.image_variation()
    noise = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    run = pipelines.variation_run(pipeline, pictures, generators(), (3, 2))
    assert (run.embedding[0] - run.embedding[1]).abs().mean() > 0.02
    again = pipelines.variation_run(pipeline, run.embedding, generators(), (3, 2))
    assert torch.equal(again.image, run.image)


@pytest.mark.parametrize("spelling", ["unclip", "diffusers"])
@pytest.mark.parametrize("pickles", [False, True])
def test_a_folder_opens_in_diffusers(
    pipeline: Any, spelling: Any, pickles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipelines.save(pipeline, tmp_path, spelling, pickles)
    released = pipelines.LAYOUTS / f"karlo-{spelling}" / "model_index.json"
    assert (folder / "model_index.json").read_bytes() == released.read_bytes()
    assert len(list(folder.rglob("*.bin"))) == (6 if pickles else 0)
    assert len(list(folder.rglob("*.safetensors"))) == (0 if pickles else 6)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".json", ".txt")}
    frozen = {path.relative_to(released.parent).as_posix() for path in released.parent.rglob("*.json")}
    assert names == frozen | {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    if spelling == "unclip":
        monkeypatch.setattr(diffusers.pipelines, "unclip", deprecated, raising=False)  # else diffusers does not find it
        loaded = diffusers.UnCLIPPipeline.from_pretrained(folder, use_safetensors=not pickles)
        for name in ("prior", "decoder", "text_proj", "text_encoder", "super_res_first", "super_res_last"):
            state = getattr(loaded, name).state_dict()
            for key, value in getattr(pipeline, name).state_dict().items():
                assert torch.equal(state[key], value), (name, key)
        assert (
            loaded.tokenizer(pipelines.SENTENCES[0]).input_ids == pipeline.tokenizer(pipelines.SENTENCES[0]).input_ids
        )


@pytest.mark.parametrize(
    ("layout", "size"), [("karlo-unclip", 734), ("karlo-diffusers", 737), ("karlo-image-variations", 780)]
)
def test_frozen_indices_have_the_released_sizes(layout: str, size: int) -> None:
    assert (pipelines.LAYOUTS / layout / "model_index.json").stat().st_size == size
    for path in (pipelines.LAYOUTS / layout).rglob("*scheduler_config.json"):
        assert "beta_schedule" not in json.loads(path.read_text(encoding="utf-8"))


def test_native_files_are_plain_values(pipeline: Any, tmp_path: Path) -> None:
    folder = pipelines.native(pipeline, tmp_path)
    loaded = {path.name: torch.load(path, weights_only=True) for path in folder.iterdir()}
    assert set(loaded) == {pipelines.PRIOR, pipelines.DECODER, pipelines.UPSAMPLERS, pipelines.STATISTICS}
    mean, deviation = loaded[pipelines.STATISTICS]
    assert torch.equal(mean, pipeline.prior.clip_mean[0])
    assert torch.equal(deviation, pipeline.prior.clip_std[0])
    state = loaded[pipelines.PRIOR]["state_dict"]
    packed = state["model.transformer.resblocks.1.attn.c_qkv.weight"].view(6, 3, 8, 48)
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        theirs = getattr(pipeline.prior.transformer_blocks[1].attn1, name).weight
        assert torch.equal(packed[:, i].reshape(48, 48), theirs)
    assert {key.split(".")[0] for key in loaded[pipelines.UPSAMPLERS]["state_dict"]} == {
        "model_first_steps",
        "model_last_step",
    }


def test_native_names_and_shapes_at_the_released_size_are_the_key_maps() -> None:
    def meta(name: str, kind: Any) -> Any:
        with torch.device("meta"):
            return kind.from_config(karlo_nets.released(name))

    decoder, text = meta("decoder", UNet2DConditionModel), meta("text_proj", karlo_nets.UnCLIPTextProjModel)
    upsampler = meta("super_res_first", UNet2DModel)
    states = {
        "prior": karlo_native.native_prior(meta("prior", PriorTransformer)),
        "decoder": karlo_native.native_decoder(decoder, text),
        "sr_first": karlo_native.native_upsampler(upsampler, "model_first_steps"),
        "sr_last": karlo_native.native_upsampler(upsampler, "model_last_step"),
    }
    for name, state in states.items():
        lines = gzip.decompress((KEYS / f"{name}.tsv.gz").read_bytes()).decode().splitlines()[1:]
        assert {tuple(line.split("\t")[:2]) for line in lines} == {
            (key, str(tuple(value.shape))) for key, value in state.items()
        }


def test_tokens_are_ours_except_for_the_pad_token(pipeline: Any) -> None:
    ours = Tokenizer(merges=pipelines.MERGES)
    assert ours.vocabulary == pipelines.VOCABULARY == len(pipeline.tokenizer)
    for text in pipelines.SENTENCES:
        ids, mask = ours([text], 77)
        theirs = pipeline.tokenizer([text], padding="max_length", max_length=77, return_tensors="pt")
        assert torch.equal(ids, theirs.input_ids), text
        assert torch.equal(mask, theirs.attention_mask.bool()), text
    assert ours(["cat!"], 77)[0].tolist()[0].count(256) == 1
    assert 256 not in pipeline.tokenizer("cat!").input_ids
    assert 0 in pipeline.tokenizer("cat!").input_ids


@pytest.mark.parametrize("steps", [2, 7, 25, 50])
def test_the_native_tables_are_diffusers_in_float64(steps: int) -> None:
    theirs = UnCLIPScheduler()
    theirs.set_timesteps(steps)
    tables = pipelines.native_schedule(steps)
    kept = theirs.timesteps.flip(0)
    assert tables["timesteps"].tolist() == kept.tolist()
    np.testing.assert_allclose(tables["alphas_cumprod"], theirs.alphas_cumprod[kept], rtol=1e-4)
    assert tables["posterior_mean_coef1"][0] == 1.0  # float32 tables give 0.99947
    for i in range(1, steps):
        variance = theirs._get_variance(int(kept[i]), prev_timestep=int(kept[i - 1]))
        np.testing.assert_allclose(np.exp(0.5 * tables["posterior_log_variance_clipped"][i]), variance, rtol=1e-3)
