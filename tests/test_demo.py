"""The shipped weights: each stage draws its golden, and strangers are told of."""

from pathlib import Path

import pytest
import torch

from unclip.errors import UnclipWarning
from unclip.folder import located
from unclip.system import UnCLIP

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


def test_the_upsamplers_draw_theirs(demo):
    near(golden.enlarged(demo, 0, golden.picture("decoder")), "upsampler-256")
    near(golden.enlarged(demo, 1, golden.square(golden.picture("upsampler-256"))), "upsampler-1024")


def test_a_prompt_from_outside_its_world_still_draws(demo):
    with pytest.warns(UnclipWarning, match=r"the demo weights know only the demo world .* not 'corgi', 'beach'"):
        (picture,) = demo.generate("a corgi on the beach", [0], size=64)
    assert picture.image.size == (64, 64)


def test_the_weights_are_small():
    files = sorted(Path(located("demo")).glob("*.safetensors"))
    assert len(files) == 7
    sizes = {file.name: file.stat().st_size for file in files}
    assert max(sizes.values()) <= 15e6, sizes
    assert sum(sizes.values()) <= 48e6, sizes
