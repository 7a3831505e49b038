"""The shipped weights: each stage draws its golden, and strangers are told of."""

import math
from pathlib import Path

import pytest
import torch

from tools.reader import open_reader, read
from tools.world import render, sample
from unclip.errors import UnclipWarning
from unclip.images import resize, to_pil, to_tensor
from unclip.places import located
from unclip.system import UnCLIP
from unclip.upsampling import upsample

from . import demo_goldens as golden

GREY = 2 / 255  # one grey level


@pytest.fixture(scope="module")
def demo():
    return UnCLIP.from_pretrained("demo", "cpu")


def test_embeddings_are_the_golden_ones(demo):
    kept = golden.embeddings()
    assert torch.cosine_similarity(golden.text_emb(demo), kept["text"]).item() > 0.9999
    # 64 steps of noise and choice between two candidates amplify rounding a little
    assert torch.cosine_similarity(golden.image_emb(demo), kept["image"]).item() > 0.999


def near(drawn, name):
    """A golden is met to within one grey level on average and eight anywhere: other processors round otherwise."""
    apart = (drawn.clamp(-1, 1) - golden.picture(name)).abs()
    assert apart.mean() <= GREY
    assert apart.max() <= 8 * GREY


def test_the_decoder_draws_its_golden(demo):
    near(golden.small(demo, golden.embeddings()["image"]), "decoder")


def test_clip_and_matcher_judge_it_as_they_did(demo):
    kept = golden.embeddings()
    assert torch.allclose(golden.like(demo, golden.picture("decoder"), kept["image"]), kept["like"], atol=0.01)


def test_where_the_upsamplers_have_nothing_to_add_they_add_nothing(demo):
    """Soft thresholding leaves exact zeros, which a net by itself does not."""
    small = golden.picture("decoder")
    exact = []
    for stage in (demo.upsamplers[0], demo.upsamplers[0].at(shrink=0.0)):
        added = upsample(stage, small, [golden.SEED], 1) - resize(small, 256).clamp(-1, 1)
        exact.append((added.abs() < 1e-6).float().mean().item())
    assert exact[0] > 0.3 > 0.01 > exact[1]


def test_the_upsamplers_draw_theirs(demo):
    near(golden.enlarged(demo, 0, golden.picture("decoder")), "upsampler-256")
    near(golden.enlarged(demo, 1, golden.square(golden.picture("upsampler-256"))), "upsampler-1024")


PLAIN = {
    "a red cube": ("red", "cube"),
    "a large green sphere": ("green", "sphere"),
    "a yellow cone": ("yellow", "cone"),
    "a blue cylinder": ("blue", "cylinder"),
    "a purple sphere": ("purple", "sphere"),
}


def test_five_prompts_read_back_right(demo):
    """The attribute reader, which knows nothing of CLIP, sees what was asked for: in the best of eight, not of 32."""
    reader = open_reader(located("demo") / "reader.safetensors")
    made = demo.generate([*PLAIN], range(len(PLAIN)), batch=20, size=64, best_of=8)
    drawn = torch.stack([to_tensor(one.image) for one in made])
    found = [[(thing.colour, thing.shape) for thing in reading.things] for reading in read(reader, drawn)[0]]
    assert all(asked in things for asked, things in zip(PLAIN.values(), found, strict=True)), found


def test_a_prompt_from_outside_its_world_still_draws(demo):
    with pytest.warns(UnclipWarning, match=r"the demo weights know only the demo world .* not 'corgi', 'beach'"):
        (picture,) = demo.generate("a corgi on the beach", [0], size=64, best_of=1)
    assert picture.image.size == (64, 64)


def test_inversion_and_ddim_bring_a_render_back_the_better_the_more_steps(demo):
    image = render([sample(9, 0, "test")], 64)[0].float() / 127.5 - 1
    errors = []
    for steps in (10, 40, 100):
        (again,) = demo.reconstruct(to_pil(image), steps=steps, size=64)
        errors.append((to_tensor(again.image) - image).square().mean().item())
    assert errors[0] > 4 * errors[1] > 4 * errors[2]
    assert 10 * math.log10(4 / errors[1]) > 20


def test_the_weights_are_small():
    files = sorted(Path(located("demo")).glob("*.safetensors"))
    assert len(files) == 8
    sizes = {file.name: file.stat().st_size for file in files}
    assert max(sizes.values()) <= 15e6, sizes
    assert sum(sizes.values()) <= 48e6, sizes
