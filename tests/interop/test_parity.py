"""Released pipelines drawn here, against diffusers' own runs of them: every net call, and whole runs.

Whole runs are compared in float64 on both sides, from the same generators: float32 rounding is amplified by guidance 8
through random nets. Ours is `arithmetic="diffusers"`, by the very API that draws pictures.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.conditioning import Prompts, decoder_cond, prior_cond, read
from unclip.errors import UnclipError
from unclip.images import to_tensor
from unclip.models.upsampler import UpsamplerCond
from unclip.priors import DiffusionPrior
from unclip.system import UnCLIP

from . import pipelines

PROMPTS = ["a red cube on top of a blue cube", "the cat!", "a dog"]
SEEDS = [3, 4, 5]


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def drawn(system: UnCLIP, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, small pictures and final pictures (not rounded) of the prompts."""
    last: dict[str, Tensor] = {}
    found = list(
        system.generate(PROMPTS, SEEDS, batch=3, on_step=lambda stage, step: last.update({stage: step.x}), **settings)
    )
    return torch.stack([one.image_emb for one in found]), last["decoder"].clamp(-1, 1), last["upsampler-64"]


@pytest.mark.parametrize("steps", [2, 25])
@pytest.mark.parametrize("guidance", [(4.0, 8.0), (1.0, 1.0)])
def test_whole_runs_in_float64(text_pipeline: Any, karlo: Path, steps: int, guidance: tuple[float, float]) -> None:
    counts = (steps, steps, min(steps, 7))
    theirs = pipelines.reference_run(text_pipeline, PROMPTS, generators(), counts, guidance, torch.float64)
    system = UnCLIP.from_pretrained(karlo, "cpu", "float64", arithmetic="diffusers")
    settings = {"prior_steps": steps, "steps": steps, "upsampler_steps": min(steps, 7)}
    emb, small, image = drawn(system, prior_guidance=guidance[0], guidance=guidance[1], **settings)
    for mine, other in ((emb, theirs.embedding), (small, theirs.small), (image, theirs.image)):
        assert mine.dtype == torch.float64
        assert relative(mine, other) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 25])
@pytest.mark.parametrize("guidance", [(4.0, 8.0), (1.0, 1.0)])
def test_whole_runs_in_float32_differ_by_rounding(
    text_pipeline: Any, karlo: Path, steps: int, guidance: tuple[float, float]
) -> None:
    """Which random nets amplify: where by more than 1e-2, no more than twice what last bits of the weights do.

    docs/karlo.md reports by how much.
    """
    counts = (steps, steps, min(steps, 7))
    theirs = pipelines.reference_run(text_pipeline, PROMPTS, generators(), counts, guidance, torch.float32)
    settings: dict[str, Any] = {"prior_steps": steps, "steps": steps, "upsampler_steps": counts[2]}
    settings |= {"prior_guidance": guidance[0], "guidance": guidance[1]}
    system = UnCLIP.from_pretrained(karlo, "cpu", "float32", arithmetic="diffusers")
    emb, small, image = drawn(system, **settings)
    assert relative(emb, theirs.embedding) <= 1e-5
    assert relative(small, theirs.small) <= 1e-4
    rounded = [drawn(nudged(karlo, seed), **settings)[2] for seed in range(4)]
    assert relative(image, theirs.image) <= max(1e-2, 2 * max(relative(image, other) for other in rounded))


def nudged(folder: Path, seed: int) -> UnCLIP:
    """The system with every weight of its nets one float32 rounding up or down."""
    system, rng = UnCLIP.from_pretrained(folder, "cpu", "float32", arithmetic="diffusers"), torch.Generator()
    rng.manual_seed(seed)
    assert isinstance(system.prior, DiffusionPrior)
    for net in (system.prior.stage.net, system.decoder.net, *(stage.net for stage in system.upsamplers)):
        for weight in net.parameters():
            up = torch.randint(0, 2, weight.shape, generator=rng) * 2 - 1
            weight.data.mul_(1 + up * torch.finfo(torch.float32).eps)
    return system


def picture() -> Image.Image:
    """Of the size that the small CLIP sees, so that no resizing differs."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))


@pytest.mark.parametrize(("steps", "guidance"), [(2, 8.0), (2, 1.0), (25, 8.0), (25, 1.0)])
def test_variations_in_float64(
    variation_pipeline: Any, variations: Path, monkeypatch: pytest.MonkeyPatch, steps: int, guidance: float
) -> None:
    """From the embedding that they computed: both sides prepare pictures in float32, each with roundings of its own."""
    counts = (steps, min(steps, 7))
    given = [picture()] * len(SEEDS)
    theirs = pipelines.variation_run(variation_pipeline, given, generators(), counts, guidance, torch.float64)
    system = UnCLIP.from_pretrained(variations, "cpu", "float64", arithmetic="diffusers")
    assert relative(system.clip.image_emb(to_tensor(picture())[None]), theirs.embedding[:1]) <= 1e-6
    monkeypatch.setattr(system.clip, "image_emb", lambda _: theirs.embedding[:1])
    last: dict[str, Tensor] = {}
    settings: dict[str, Any] = {"steps": counts[0], "upsampler_steps": counts[1], "guidance": guidance}
    settings["on_step"] = lambda stage, step: last.update({stage: step.x})
    found = list(system.vary(picture(), seeds=SEEDS, batch=3, **settings))
    assert relative(last["decoder"].clamp(-1, 1), theirs.small) <= 1e-5
    assert relative(last["upsampler-64"], theirs.image) <= 1e-5
    assert np.abs(np.stack([np.asarray(one.image) for one in found]) / 255 - theirs.pictures).max() <= 1 / 255


def test_a_single_step_works_which_crashes_there(karlo: Path) -> None:
    system = UnCLIP.from_pretrained(karlo, "cpu", arithmetic="diffusers")
    made = next(system.generate("a dog", [0], prior_steps=1, steps=1, upsampler_steps=1))
    assert made.image.size == (64, 64)


def test_without_a_prior_texts_are_refused_in_one_line(variations: Path) -> None:
    system = UnCLIP.from_pretrained(variations, "cpu")
    with pytest.raises(UnclipError, match="has no prior to draw from a text; give it a picture"):
        system.generate("a dog", [0])  # before the first is asked for
    with pytest.raises(UnclipError, match="has no prior to draw from a text"):
        system.interpolate(picture(), "a dog", frames=2)


def test_without_a_picture_tower_pictures_are_refused_in_one_line(karlo: Path) -> None:
    system = UnCLIP.from_pretrained(karlo, "cpu")
    for ask in (lambda: system.vary(picture()), lambda: system.generate("a dog", [0], best_of=2)):
        with pytest.raises(
            UnclipError, match=r"this CLIP reads texts only, and .* needs its picture tower; add"
        ) as refused:
            ask()
        assert "\n" not in str(refused.value)
    assert system.generate("a dog", [0], init=torch.zeros(32)).plan


def test_every_net_call_in_float32(text_pipeline: Any, variation_pipeline: Any, karlo: Path, variations: Path) -> None:
    """Each net by itself, under inputs as the pipelines give them."""
    ours, others = (UnCLIP.from_pretrained(where, "cpu", arithmetic="diffusers") for where in (karlo, variations))
    assert isinstance(ours.prior, DiffusionPrior)
    told, empty = read(ours.clip, PROMPTS), read(ours.clip, [""] * 3)
    found = theirs_text(text_pipeline, PROMPTS)
    assert relative(told.text.emb, found.text_embeds) <= 1e-5
    assert told.text.hidden is not None
    assert relative(told.text.hidden, found.last_hidden_state) <= 1e-5
    pixels = to_tensor(picture())[None]
    seen = variation_pipeline.feature_extractor(picture(), return_tensors="pt").pixel_values
    assert relative(others.clip.image_emb(pixels), variation_pipeline.image_encoder(seen).image_embeds) <= 1e-5
    rng = torch.Generator().manual_seed(0)
    z, x, big = (torch.randn(3, *shape, generator=rng) for shape in ((32,), (3, 16, 16), (3, 64, 64)))
    for t in (0, 499, 999):
        times = torch.full((3,), t)
        prior = prior_cond(ours.prior.stage.net, ours.clip, told)
        mine = ours.prior.stage.net(z, times, prior)
        other = text_pipeline.prior(z, t, told.text.emb, told.text.hidden, told.text.mask).predicted_image_embedding
        assert relative(mine, other) <= 1e-5
        for keep in (True, False):
            cond = decoder_cond(ours.decoder.net, ours.clip, told, z, *[torch.full((3,), keep)] * 2)
            assert (
                relative(
                    ours.decoder.net(x, times, cond),
                    theirs_decoder(text_pipeline, x, t, z, told if keep else empty, keep),
                )
                <= 1e-5
            )
        low = torch.randn(3, 3, 16, 16, generator=rng)
        large = F.interpolate(low, size=(64, 64), mode="bicubic", align_corners=False, antialias=True)
        net = text_pipeline.super_res_last if t == 0 else text_pipeline.super_res_first
        mine = ours.upsamplers[0].net(big, times, UpsamplerCond(low_res=low))
        assert relative(mine, net(torch.cat([big, large], dim=1), t).sample) <= 1e-5


def theirs_text(pipeline: Any, prompts: list[str]) -> Any:
    kwargs = {"padding": "max_length", "max_length": pipeline.tokenizer.model_max_length, "return_tensors": "pt"}
    return pipeline.text_encoder(pipeline.tokenizer(prompts, **kwargs).input_ids)


def theirs_decoder(pipeline: Any, x: Tensor, t: int, emb: Tensor, told: Prompts, keep: bool) -> Tensor:
    """The decoder's output with an embedding and a text, or without either."""
    proj = pipeline.text_proj
    image = emb if keep else proj.learned_classifier_free_guidance_embeddings.expand(len(emb), -1)
    hidden, additive = proj(
        image_embeddings=image,
        prompt_embeds=told.text.emb,
        text_encoder_hidden_states=told.text.hidden,
        do_classifier_free_guidance=False,
    )
    assert told.text.mask is not None
    mask = F.pad(told.text.mask, (proj.clip_extra_context_tokens, 0), value=True)
    return pipeline.decoder(x, t, hidden, class_labels=additive, attention_mask=mask).sample
