"""The shipped weights: each stage draws its golden, prompts read back right, and strangers are told of."""

from pathlib import Path

import pytest
import torch

from tools.evaluate.judge import Verdict, judge
from tools.reader import open_reader, read
from tools.world.captions import Caption, Claim
from tools.world.relations import Relation
from unclip.errors import UnclipWarning
from unclip.folder import located
from unclip.images import to_tensor
from unclip.system import UnCLIP

from . import demo_goldens as golden

GREY = 2 / 255  # one grey level
READER = located("demo") / "reader.safetensors"
BLUE_BALL, RED_CUBE = Claim(colour="blue", shape="sphere"), Claim(colour="red", shape="cube")
CAPTIONS = (
    Caption("a large red cube", ((0, Claim(colour="red", shape="cube", size="large")),), 1),
    Caption("a yellow cone on a white floor", ((0, Claim(colour="yellow", shape="cone")),), 1, floor="white"),
    Caption("a drawing of a green cylinder", ((0, Claim(colour="green", shape="cylinder")),), 1, style="drawing"),
    Caption("a blue sphere", ((0, BLUE_BALL),), 1),
    Caption(
        "a red cube to the left of a blue sphere", ((0, RED_CUBE), (1, BLUE_BALL)), 2, Relation(0, "left of", 1)
    ),
)  # fmt: skip


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


def test_prompts_read_back_right(demo):
    """Of four pictures of each of five prompts, unpicked, most show all that was asked for."""
    words = [caption.text for caption in CAPTIONS for _ in range(4)]
    drawn = list(demo.generate(words, list(range(4)) * len(CAPTIONS), batch=20, size=64))
    readings, _ = read(open_reader(READER), torch.stack([to_tensor(picture.image) for picture in drawn]))
    right = [
        judge(caption, reading)["caption"] is Verdict.RIGHT
        for caption, reading in zip([c for c in CAPTIONS for _ in range(4)], readings, strict=True)
    ]
    by_prompt = {c.text: sum(right[4 * k : 4 * k + 4]) for k, c in enumerate(CAPTIONS)}
    assert all(number >= 2 for number in by_prompt.values()), by_prompt


def test_a_prompt_from_outside_its_world_still_draws(demo):
    with pytest.warns(UnclipWarning, match=r"the demo weights know only the demo world .* not 'corgi', 'beach'"):
        (picture,) = demo.generate("a corgi on the beach", [0], size=64)
    assert picture.image.size == (64, 64)


def test_the_weights_are_small():
    files = sorted(Path(located("demo")).glob("*.safetensors"))
    assert len(files) == 6
    sizes = {file.name: file.stat().st_size for file in files}
    assert max(sizes.values()) <= 15e6, sizes
    assert sum(sizes.values()) <= 48e6, sizes
