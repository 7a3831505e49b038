"""A system on disk: what does not fit together is refused, and what its file says is done."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import unclip
from unclip.checkpoint import read_header, read_tensors, save
from unclip.errors import UnclipError, UnclipWarning
from unclip.images import resize
from unclip.models.prior import Prior, PriorConfig
from unclip.places import located
from unclip.system import UnCLIP
from unclip.tokenizer import used_merges

from .systems import CONTEXT, D, write_clip, write_stage, write_upsampler
from .test_system import PROMPT, apart, draw


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the system that may be spoilt."""
    return shutil.copytree(folder, tmp_path / "copy")


def add_line(copy, line):
    file = copy / "system.toml"
    file.write_text(f"{line}\n{file.read_text()}")


def refused(copy, told):
    with pytest.raises(UnclipError, match=told) as caught:
        UnCLIP.from_pretrained(copy, "cpu")
    assert str(caught.value).startswith(str(copy))
    assert "\n" not in str(caught.value)


def test_a_system_that_mixes_clips_is_refused_unless_that_is_wanted(copy, system):
    write_clip(copy / "clip.safetensors", seed=1)
    refused(copy, r"the prior was trained on CLIP \w+ but the system's CLIP is \w+; .* allow_mixed_clip = true")
    add_line(copy, "allow_mixed_clip = true")
    assert apart(draw(UnCLIP.from_pretrained(copy, "cpu"))[0], draw(system)[0]) > 8


@pytest.mark.parametrize("name", ["prior", "decoder"])
def test_a_stage_that_does_not_name_its_clip_is_refused_unless_that_is_wanted(copy, name):
    path = copy / f"{name}.safetensors"
    save(path, read_tensors(path), dataclasses.replace(read_header(path), parents={}))
    refused(copy, f"the {name} does not say which CLIP it was trained on; .* allow_mixed_clip = true")
    add_line(copy, "allow_mixed_clip = true")
    UnCLIP.from_pretrained(copy, "cpu")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"embed_dim": 8}, "disagree on the embedding's size"),
        ({"merges": used_merges(["other words altogether"])}, "the prior was made for vocabulary = 552"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused_even_then(copy, changes, told):
    write_clip(copy / "clip.safetensors", **changes)
    add_line(copy, "allow_mixed_clip = true")
    refused(copy, told)


def test_a_clip_that_gives_more_tokens_than_a_stage_reads_is_refused(copy, system):
    path = copy / "prior.safetensors"
    config = PriorConfig(image_emb=D, width=32, depth=2, heads=2, text="hidden", text_hidden=32, context=CONTEXT - 1)
    write_stage(path, Prior(config), {"predicts": "x0"}, {"steps": 3}, {"clip": system.clip.fingerprint})
    refused(copy, f"the prior reads at most {CONTEXT - 1} tokens, but this CLIP gives {CONTEXT}")


def test_a_resaved_clip_is_the_same_clip(copy, system):
    path = copy / "clip.safetensors"
    save(path, read_tensors(path), read_header(path), torch.float16)
    assert UnCLIP.from_pretrained(copy, "cpu").clip.fingerprint == system.clip.fingerprint


@pytest.mark.parametrize("order", [["256", "64"], ["256"], ["64", "64"]])
def test_upsamplers_that_do_not_follow_each_other_are_refused(copy, order):
    files = ", ".join(f'"upsampler-{size}.safetensors"' for size in order)
    (copy / "system.toml").write_text(f'name = "x"\nupsamplers = [{files}]\n')
    refused(copy, "an upsampler makes 256 px from 64, but gets 16|an upsampler makes 64 px from 16, but gets 64")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sizes = [1]", "unknown key 'sizes'"),
        ("candidates = 0", "candidates = 0: input should be greater than 0"),
        ('prior = "pior.safetensors"', "pior.safetensors: no such file"),
        ('prior = "decoder.safetensors"', "decoder.safetensors: holds a decoder; expected a prior"),
        ("sampling.decoder.stepz = 3", "sampling of decoder: unknown key 'stepz'; did you mean 'steps'?"),
        ("sampling.decoder.eta = 2", "sampling of decoder: eta = 2: input should be less than or equal to 1"),
        (
            "sampling.prior.interval = [0.9, 0.1]",
            "interval = \\[0.9, 0.1\\]: expected two shares of T, the lower one first",
        ),
        ("sampling.upsamplers = [{steps = 1}]", "1 sampling.upsamplers for 2 upsamplers"),
        ("sampling.prior.shrink = 0.2", "the prior: sampling.shrink = 0.2: is for upsamplers that draw a residual"),
        ("sampling.decoder.shrink = 0.2", "the decoder: sampling.shrink = 0.2: is for upsamplers that draw a residual"),
        (
            "sampling.upsamplers = [{}, {shrink = 0.2}]",
            "the upsampler-256: sampling.shrink = 0.2: is for upsamplers that draw a residual",
        ),
        ("variations.guidance = -1", "variations.guidance = -1: input should be greater than or equal to 0"),
        ("variations.stepz = 3", "unknown key 'variations.stepz'"),
    ],
)
def test_a_system_file_with_a_mistake_is_refused(copy, line, told):
    add_line(copy, line)
    refused(copy, told)


@pytest.mark.parametrize("name", ["clip", "prior", "decoder", "upsampler-256"])
def test_a_part_that_is_cut_short_is_refused(copy, name):
    path = copy / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(copy, "damaged, cut short")


@dataclasses.dataclass
class Conditions:
    """A hook that collects what a net is told."""

    seen: list

    def __call__(self, net, given):
        self.seen.append(given[2])


def test_an_upsampler_trained_under_noise_gets_the_noise_that_its_sampling_names(copy):
    write_upsampler(copy, 64, 3, level=True)
    made = {}
    for level in (0.0, 0.5):
        (copy / "system.toml").write_text(
            f'name = "x"\nupsamplers = ["upsampler-64.safetensors"]\nsampling.upsamplers = [{{level = {level}}}]\n'
        )
        noisy = UnCLIP.from_pretrained(copy, "cpu")
        seen = []
        hook = noisy.upsamplers[0].net.register_forward_pre_hook(Conditions(seen))
        together = draw(noisy, [PROMPT] * 2, (3, 4), size=64)
        hook.remove()
        made[level] = draw(noisy, [PROMPT], (4,), size=64)[0]
        assert apart(made[level], together[1]) <= 1, "its noise, too, is the picture's own"
        assert len({id(one) for one in seen}) == 1, "noised once, and not anew at every step"
    assert apart(made[0.0], made[0.5]) > 8


def test_a_system_file_may_recommend_other_sampling(copy):
    add_line(copy, "sampling = {decoder = {steps = 2}, prior = {steps = 5}, upsamplers = [{}, {steps = 6}]}")
    made = UnCLIP.from_pretrained(copy, "cpu")
    assert made.generate("a cube", [0]).plan == {"prior": 10, "decoder": 2, "upsampler-64": 3, "upsampler-256": 6}
    assert made.decoder.sampling.guidance == 2.0, "what it does not name stays"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "fpga"}, "this machine has"),
        ({"device": "nonsense"}, "expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "this machine has"),
        ({"dtype": "int8"}, "expected auto, float32, bfloat16, float16"),
    ],
)
def test_a_device_or_precision_that_is_not_there_is_refused(folder, arguments, told):
    with pytest.raises(UnclipError, match=told):
        UnCLIP.from_pretrained(folder, **arguments)


def test_a_folder_without_a_system_is_refused(tmp_path):
    refused(tmp_path, "no system there; expected a folder with system.toml")


def test_a_system_says_what_it_knows_and_warns_of_the_rest(copy):
    add_line(copy, 'subject = "solids"\nwords = ["a", "red", "cube"]')
    made = UnCLIP.from_pretrained(copy, "cpu")
    told = "the random weights know only solids, not 'corgi', 'beach'; for other subjects give other weights"
    with pytest.warns(UnclipWarning, match=told) as caught:
        draw(made, ["A red corgi!", "a beach"], (0, 1))
    assert len(caught) == 1
    draw(made, "A RED cube.")  # warnings are errors in these tests


def test_the_demo_is_shipped_under_its_name():
    assert located("demo") == Path(unclip.__file__).parent / "demo"
    assert located("./demo") == Path("demo")


def test_an_upsampler_of_residuals_adds_them_to_the_enlarged_picture(copy):
    write_upsampler(copy, 64, 3, residual=1e-6)
    small, large = (draw(UnCLIP.from_pretrained(copy, "cpu"), size=size)[0] for size in (16, 64))
    enlarged = resize(torch.tensor(small).permute(2, 0, 1)[None].float(), 64)[0].permute(1, 2, 0).clamp(0, 255)
    assert apart(large, enlarged.numpy()) <= 2
