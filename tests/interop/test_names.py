"""Names of both layouts: against the released lists, against the libraries' own nets, and against each other."""

from dataclasses import replace

import pytest
import torch
from diffusers import PriorTransformer
from open_clip.model import CLIP as OpenClip

from unclip.clip import ClipConfig, build_net
from unclip.errors import UnclipError
from unclip.interop import diffusers_names, native_names
from unclip.interop.diffusers_configs import decoder_config, prior_config, upsampler_config
from unclip.interop.entries import given, taken
from unclip.interop.openai import SIZES
from unclip.models.prior import Prior

from .karlo import CLIP, DECODER, PRIOR, UPSAMPLER, config, random, rows, shape

STATS = {"clip_mean": (768,), "clip_std": (768,)}
FOLDERS = {"prior": "", "decoder": "decoder.", "sr_first": "super_res_first.", "sr_last": "super_res_last."}
PARTS = ["prior", "decoder", "upsampler"]
FILES = {"prior": ["prior"], "decoder": ["decoder"], "upsampler": ["sr_first", "sr_last"]}


def entries(dialect, part, configured):
    return getattr(dialect, f"{part}_entries")(configured)


def released(part):
    if part == "prior":
        return prior_config(config("prior"))
    if part == "decoder":
        return decoder_config(config("decoder"), config("text_proj"))
    return upsampler_config(config("super_res_first"), config("super_res_last"))


def foreign(name: str, file: str) -> str:
    """A diffusers name of the lists as ours says it: "text_proj:x" is "text_proj.x", others get their folder."""
    return name.replace(":", ".") if ":" in name else FOLDERS[file] + name


def lists(part):
    """The released shapes by name: native ones, diffusers' ones."""
    native, diffusers = {}, {}
    for file in FILES[part]:
        for name, size, _, others in rows(file):
            native[name] = shape(size)
            for other in others.split(" ; "):
                name, size = other.split(" ", 1)
                diffusers[foreign(name, file)] = shape(size)
    if part == "prior":
        native |= STATS
        diffusers |= {name: (1, *size) for name, size in STATS.items()}
    return native, diffusers


@pytest.mark.parametrize("part", PARTS)
def test_every_released_tensor_has_its_place_and_shape(part):
    for dialect, shapes in zip((native_names, diffusers_names), lists(part), strict=True):
        found = entries(dialect, part, released(part))
        source = {name: torch.empty(size, device="meta") for name, size in shapes.items()}
        back = given(found, taken(found, source, part))
        assert {name: tuple(tensor.shape) for name, tensor in back.items()} == shapes


@pytest.mark.parametrize(
    ("part", "native", "diffusers"), [("prior", 258, 338), ("decoder", 595, 727), ("upsampler", 816, 816)]
)
def test_released_counts(part, native, diffusers):
    """The lists are whole: the numbers of tensors in the released files."""
    assert tuple(map(len, lists(part))) == (native, diffusers)


@pytest.mark.parametrize(("width", "values"), [(768, 1022028544 + 2 * 768), (1280, 1026225920)])
def test_kandinskys_priors_have_as_many_values_as_they_were_released_with(width, values):
    """2.1 on ViT-L/14, 2.2 on ViT-bigG/14; and each of diffusers' tensors has its place."""
    json = {key: value for key, value in config("prior").items() if not key.startswith("_")} | {"embedding_dim": width}
    configured = prior_config(json)
    with torch.device("meta"):
        ours, theirs = Prior(configured), PriorTransformer.from_config(json)
    assert sum(tensor.numel() for tensor in ours.state_dict().values()) == values
    made = taken(diffusers_names.prior_entries(configured), theirs.state_dict(), "prior")
    assert {name: x.shape for name, x in made.items()} == {name: x.shape for name, x in ours.state_dict().items()}


SMALL = {"prior": PRIOR, "decoder": DECODER, "upsampler": UPSAMPLER, "clip": CLIP}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("part", SMALL)
@pytest.mark.parametrize("dialect", [native_names, diffusers_names])
def test_there_and_back_changes_no_bit(dialect, part, dtype):
    found = entries(dialect, part, SMALL[part])
    ours = {name: x.to(dtype) for name, x in random({entry.ours: entry.shape for entry in found}).items()}
    theirs = given(found, ours)
    assert len(theirs) == sum(len(entry.theirs) for entry in found), "two tensors of one name"
    back = taken(found, theirs, part)
    for name, tensor in ours.items():
        if name != "logit_scale" or dialect is native_names:
            assert back[name].dtype == dtype
            assert torch.equal(back[name], tensor)


def split(tensor: torch.Tensor, parts: int, head: int) -> list[torch.Tensor]:
    """[head][part][channel] -> the parts, without einops."""
    blocks = (tensor[..., 0] if tensor.ndim == 3 else tensor).split(head)
    return [torch.cat(blocks[part::parts]) for part in range(parts)]


@pytest.mark.parametrize("part", PARTS)
def test_both_layouts_of_one_net_are_related_as_the_conversion_has_it(part):
    """By the released conversion's own list of operations, applied to small tensors of the same names."""
    native, diffusers = (entries(dialect, part, SMALL[part]) for dialect in (native_names, diffusers_names))
    ours = random({entry.ours: entry.shape for entry in native})
    source, expected, made = given(native, ours), given(diffusers, ours), {}
    for file in FILES[part]:
        for name, _, operation, others in rows(file):
            names = [foreign(other.split(" ")[0], file) for other in others.split(" ; ")]
            if operation.startswith("deinterleave"):
                values = split(source[name], len(names), 8)
            else:
                values = [source[name][..., 0] if operation.startswith("squeeze") else source[name]]
            made |= zip(names, values, strict=True)
    if part == "prior":
        made |= {name: source[name][None] for name in STATS}
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


@pytest.mark.parametrize("dialect", [native_names, diffusers_names])
@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_file_is_refused_by_name(dialect, part):
    found = entries(dialect, part, SMALL[part])
    theirs = given(found, random({entry.ours: entry.shape for entry in found}))
    name = found[0].theirs[0]
    with pytest.raises(UnclipError, match=f"file: 1 missing .* '{name}'"):
        taken(found, {key: value for key, value in theirs.items() if key != name}, "file")
    with pytest.raises(UnclipError, match=r"file: 1 extra .* 'model\.more'"):
        taken(found, theirs | {"model.more": theirs[name]}, "file")
    for other in (theirs[name][..., :-1], theirs[name][None]):
        with pytest.raises(UnclipError, match=f"file: '{name}' is "):
            taken(found, theirs | {name: other}, "file")


@pytest.mark.parametrize("dialect", [native_names, diffusers_names])
def test_a_net_that_the_layout_cannot_hold_is_refused(dialect):
    with pytest.raises(UnclipError, match="Prior: 'null_text' has no place in this layout"):
        dialect.prior_entries(replace(PRIOR, null="learned"))
    with pytest.raises(UnclipError, match=r"Upsampler: 'level\.mlp\.0\.bias' has no place"):
        dialect.upsampler_entries(replace(UPSAMPLER, level=True))
    with pytest.raises(UnclipError, match=r"Decoder: 'text_emb\.bias' is asked for"):
        dialect.decoder_entries(replace(DECODER, pooled_text=False))


def test_without_a_last_net_there_are_no_names_of_one():
    one = replace(UPSAMPLER, last_until=None)
    for dialect, prefix in ((native_names, "model_first_steps."), (diffusers_names, "super_res_first.")):
        assert all(name.startswith(prefix) for entry in dialect.upsampler_entries(one) for name in entry.theirs)


def text_only(whole: ClipConfig) -> ClipConfig:
    return replace(whole, vision=None)


def test_openai_names_are_open_clips_own():
    net = build_net(CLIP)
    source = {**net.state_dict(), **{name: torch.tensor(7) for name in SIZES}}
    ours = taken(native_names.clip_entries(CLIP), source, "ViT-L-14.pt", SIZES)
    assert ours.keys() == net.state_dict().keys()
    few = native_names.clip_entries(text_only(CLIP))
    ignored = (*SIZES, "visual.*")
    assert not any(name.startswith("visual.") for name in taken(few, source, "ViT-L-14.pt", ignored))


@pytest.mark.parametrize("whole", [True, False])
def test_transformers_towers_load_ours_and_say_the_same(whole):
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from unclip.interop.transformers_configs import clip_json

    configured = CLIP if whole else text_only(CLIP)
    net = build_net(configured).eval()
    net.load_state_dict(random({name: tuple(x.shape) for name, x in net.state_dict().items()}))
    theirs = given(diffusers_names.clip_entries(configured), net.state_dict())
    texts, pictures = clip_json(configured)
    towers = {"text_encoder.": CLIPTextModelWithProjection(CLIPTextConfig(**texts))}
    if pictures is not None:
        towers["image_encoder."] = CLIPVisionModelWithProjection(CLIPVisionConfig(**pictures))
    assert whole == (pictures is not None)
    for prefix, tower in towers.items():
        tower.eval().load_state_dict({k.removeprefix(prefix): x for k, x in theirs.items() if k.startswith(prefix)})
    vocabulary = texts["vocab_size"]
    ids = torch.tensor(
        [[vocabulary - 2, 5, 9, vocabulary - 1, 0, 0, 0], [vocabulary - 2, vocabulary - 1, 0, 0, 0, 0, 0]]
    )
    assert isinstance(net, OpenClip)
    with torch.no_grad():
        torch.testing.assert_close(net.encode_text(ids), towers["text_encoder."](ids).text_embeds)
        if whole:
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            torch.testing.assert_close(net.encode_image(x), towers["image_encoder."](x).image_embeds)
    old = theirs | {"text_encoder.text_model.embeddings.position_ids": torch.arange(7)[None]}
    back = taken(diffusers_names.clip_entries(configured), old, "hub", diffusers_names.IGNORED)
    assert back["logit_scale"].item() == pytest.approx(2.6593, abs=1e-4)
    assert all(torch.equal(back[name], x) for name, x in net.state_dict().items() if name != "logit_scale")
