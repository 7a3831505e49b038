"""Configs there and back, against diffusers' own nets, and what is refused."""

from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

from unclip.errors import UnclipError
from unclip.interop import diffusers_names
from unclip.interop.diffusers_configs import (
    decoder_config,
    decoder_json,
    prior_config,
    prior_json,
    upsampler_config,
    upsampler_json,
)
from unclip.interop.entries import given
from unclip.interop.transformers_configs import clip_config, clip_json
from unclip.models.decoder import Decoder, DecoderCond
from unclip.models.prior import Prior, PriorCond
from unclip.models.upsampler import Upsampler, UpsamplerCond

from .karlo import CLIP, DECODER, PRIOR, UPSAMPLER, config, random

B, L, D = 2, 7, 6


def plain(json):
    """The keys of a config that say something."""
    return {key: value for key, value in json.items() if not key.startswith("_")}


def shaken(net):
    """A net with all tensors away from their beginnings, and its state."""
    state = random({name: tuple(x.shape) for name, x in net.state_dict().items()})
    net.load_state_dict(state)
    return net.eval()


def theirs(kind, json, tensors, prefix=""):
    """Their net of this config with these tensors, strictly."""
    net = kind(**plain(json)).eval()
    net.load_state_dict({name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)})
    return net


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_released_configs_there_and_back():
    """Also key by key: what we write is what was released."""
    assert plain(prior_json(prior_config(config("prior")))) == plain(config("prior"))
    decoder, proj = decoder_json(decoder_config(config("decoder"), config("text_proj")))
    assert (plain(decoder), plain(proj)) == (plain(config("decoder")), plain(config("text_proj")))
    first, last = upsampler_json(upsampler_config(config("super_res_first"), config("super_res_last")))
    assert plain(first) == plain(last) == plain(config("super_res_first"))
    assert upsampler_json(upsampler_config(config("super_res_first")))[1] is None


def test_small_configs_there_and_back():
    assert prior_config(prior_json(PRIOR)) == PRIOR
    assert decoder_config(*decoder_json(DECODER), context=L) == DECODER
    assert upsampler_config(*upsampler_json(UPSAMPLER), scale=2) == UPSAMPLER
    for clip in (CLIP, replace(CLIP, vision=None)):
        assert clip_config(*clip_json(clip), merges=CLIP.merges) == clip


@pytest.mark.parametrize(
    ("ours", "their", "fixed"),
    [
        ("PRIOR", diffusers.PriorTransformer, "PRIOR_REQUIRED"),
        ("CONDITION", diffusers.UNet2DConditionModel, "CONDITION_REQUIRED"),
        ("UNCONDITIONAL", diffusers.UNet2DModel, "UNCONDITIONAL_REQUIRED"),
    ],
)
def test_missing_keys_have_diffusers_defaults(ours, their, fixed):
    import inspect

    from unclip.interop import diffusers_configs

    table = getattr(diffusers_configs, ours) | getattr(diffusers_configs, fixed)
    parameters = inspect.signature(their.__init__).parameters
    assert table.keys() == parameters.keys() - {"self"}
    for key, value in table.items():
        if value not in ("", [""], [0]):  # those that have no default that we could read
            assert value == parameters[key].default, key


def test_kandinskys_priors_are_priors():
    small = {"_class_name": "PriorTransformer", "_diffusers_version": "0.17.0.dev0"}
    assert prior_config(small) == prior_config(config("prior"))
    assert prior_config(small | {"embedding_dim": 1280}).image_emb == 1280
    assert prior_config(small | {"embedding_dim": 1280, "clip_embed_dim": 1280}).text_hidden == 1280


def test_their_prior_says_what_ours_does():
    ours = shaken(Prior(PRIOR))
    tensors = given(diffusers_names.prior_entries(PRIOR), ours.state_dict())
    net = theirs(diffusers.PriorTransformer, prior_json(PRIOR), tensors)
    x, emb, hidden = draw(B, D), draw(B, D, seed=1), draw(B, L, D, seed=2)
    mask = torch.arange(L) < torch.tensor([[3], [7]])
    t = torch.tensor([5, 700])
    with torch.no_grad():
        expected = net(x, t, emb, hidden, mask).predicted_image_embedding
        out = ours(x, t, PriorCond(text_emb=emb, text_hidden=hidden, text_mask=mask))
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.restore(x), net.post_process_latents(x))


def test_their_decoder_says_what_ours_does():
    ours = shaken(Decoder(DECODER))
    tensors = given(diffusers_names.decoder_entries(DECODER), ours.state_dict())
    unet_json, proj_json = decoder_json(DECODER)
    unet = theirs(diffusers.UNet2DConditionModel, unet_json, tensors, "decoder.")
    project = theirs(UnCLIPTextProjModel, proj_json, tensors, "text_proj.")
    x, image, emb, hidden = draw(B, 3, 16, 16), draw(B, D), draw(B, D, seed=1), draw(B, L, D, seed=2)
    mask, t = torch.arange(L) < torch.tensor([[3], [7]]), torch.tensor([5, 700])
    with torch.no_grad():
        context, labels = project(
            image_embeddings=image,
            prompt_embeds=emb,
            text_encoder_hidden_states=hidden,
            do_classifier_free_guidance=False,
        )
        padded = torch.nn.functional.pad(mask, (4, 0), value=True)
        expected = unet(x, t, context, class_labels=labels, attention_mask=padded).sample
        out = ours(x, t, DecoderCond(image_emb=image, text_hidden=hidden, text_mask=mask, text_emb=emb))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_their_upsamplers_say_what_ours_does():
    ours = shaken(Upsampler(UPSAMPLER))
    tensors = given(diffusers_names.upsampler_entries(UPSAMPLER), ours.state_dict())
    first_json, last_json = upsampler_json(UPSAMPLER)
    first = theirs(diffusers.UNet2DModel, first_json, tensors, "super_res_first.")
    last = theirs(diffusers.UNet2DModel, last_json, tensors, "super_res_last.")
    x, cond = draw(B, 3, 32, 32), UpsamplerCond(low_res=draw(B, 3, 16, 16, seed=1))
    pixels = torch.cat([x, ours.prepare(cond).low_res], dim=1)
    with torch.no_grad():
        for net, time in ((first, 500), (first, 1), (last, 0)):
            t = torch.full((B,), time)
            torch.testing.assert_close(ours(x, t, cond), net(pixels, t).sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("read", "change", "message"),
    [
        ("prior", {"added_emb_type": None}, "prior/config.json: added_emb_type = None; expected 'prd'"),
        ("prior", {"norm_in_type": "layer"}, "prior/config.json: norm_in_type = 'layer'; expected None"),
        ("prior", {"clip_embed_dim": 5}, "prior/config.json: clip_embed_dim = 5; expected 768"),
        ("prior", {"num_layers": "20"}, "prior/config.json: num_layers = '20'; expected a int"),
        ("prior", {"rotary": True}, "prior/config.json: rotary = True: unknown; our net does not have such a part"),
        ("decoder", {"class_embed_type": None}, "decoder/config.json: class_embed_type = None; expected"),
        ("decoder", {"in_channels": 4}, "decoder/config.json: in_channels, out_channels = (4, 6); expected 3,"),
        ("decoder", {"norm_eps": 1e-6}, "decoder/config.json: norm_eps = 1e-06; expected 1e-05"),
        ("decoder", {"cross_attention_dim": 8}, "text_proj/config.json: cross_attention_dim = 1536; expected 8"),
        ("decoder", {"mid_block_type": "UNetMidBlock2D"}, "decoder/config.json: mid_block_type = 'UNetMidBlock2D'"),
        ("decoder", {"down_block_types": ["DownBlock2D"] * 4}, "decoder/config.json: down_block_types = 'DownBlock2D'"),
        ("decoder", {"up_block_types": ["UpBlock2D"] * 4}, "decoder/config.json: up_block_types = ['UpBlock2D',"),
        ("decoder", {"block_out_channels": [8, 12]}, "decoder/config.json: block_out_channels = [8, 12]; expected"),
        ("upsampler", {"add_attention": True}, "super_res_first/config.json: add_attention = True; expected False"),
        ("upsampler", {"out_channels": 4}, "super_res_first/config.json: in_channels, out_channels = (6, 4)"),
        (
            "upsampler",
            {"layers_per_block": 2},
            "super_res_last/config.json: describes another net than super_res_first",
        ),
    ],
)
def test_what_our_nets_cannot_do_is_refused(read, change, message):
    calls = {
        "prior": lambda: prior_config(config("prior") | change),
        "decoder": lambda: decoder_config(config("decoder") | change, config("text_proj")),
        "upsampler": lambda: upsampler_config(config("super_res_first") | change, config("super_res_last")),
    }
    with pytest.raises(UnclipError) as caught:
        calls[read]()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prior_json(replace(PRIOR, null="learned")), "prior: null = 'learned'; expected 'empty'"),
        (lambda: prior_json(replace(PRIOR, text_scale=2.0)), "prior: text_scale = 2.0; expected 1.0"),
        (lambda: decoder_json(replace(DECODER, image_scale=None)), "decoder: image_scale = None; expected 1.0"),
        (lambda: decoder_json(replace(DECODER, draft=8)), "decoder: draft = 8; expected None"),
        (
            lambda: decoder_json(replace(DECODER, unet=replace(DECODER.unet, groups=None))),
            "decoder: unet: groups = None; expected a number",
        ),
        (
            lambda: upsampler_json(replace(UPSAMPLER, unet=replace(UPSAMPLER.unet, patch=2))),
            "upsampler: unet: patch = 2; expected 1",
        ),
        (
            lambda: decoder_json(replace(DECODER, unet=replace(DECODER.unet, depth=(3, 3, 3, 2)))),
            "decoder: unet: depth = [3, 3, 3, 2]; expected one number for all levels",
        ),
        (lambda: upsampler_json(replace(UPSAMPLER, last_until=40)), "upsampler: last_until = 40; expected 0 or none"),
        (lambda: clip_json(replace(CLIP, text=CLIP.text | {"qk_norm": True})), "clip: text: qk_norm = True; expected"),
    ],
)
def test_what_their_configs_cannot_say_is_refused(call, message):
    with pytest.raises(UnclipError) as caught:
        call()
    assert str(caught.value).startswith(message)


LARGE = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768, "num_attention_heads": 12}
PICTURES = {"hidden_size": 1664, "intermediate_size": 8192, "num_attention_heads": 16, "projection_dim": 768}


def test_clips_of_the_hub():
    """Old files say eos 2, and hold keys of every transformers config."""
    clip = clip_config(LARGE | {"eos_token_id": 2, "torch_dtype": "float32", "pad_token_id": 1})
    assert (clip.embed_dim, clip.quick_gelu, clip.vision, clip.normalize) == (768, True, None, False)
    assert clip.text == {"width": 768, "layers": 12, "heads": 12, "context_length": 77}
    vision = clip_config(LARGE, PICTURES).vision
    assert vision is not None
    assert (vision["head_width"], int(1664 * vision["mlp_ratio"])) == (104, 8192)


@pytest.mark.parametrize(
    ("text", "vision", "message"),
    [
        (
            {"hidden_act": "relu"},
            None,
            "text_encoder/config.json: hidden_act = 'relu'; expected 'quick_gelu' or 'gelu'",
        ),
        ({"vocab_size": 9}, None, "text_encoder/config.json: vocab_size = 9; expected 49408"),
        ({"model_type": "bert"}, None, "text_encoder/config.json: model_type = 'bert'; expected 'clip_text_model'"),
        ({"layer_norm_eps": 1e-6}, None, "text_encoder/config.json: layer_norm_eps = 1e-06; expected 1e-05"),
        ({}, {"hidden_act": "gelu"}, "image_encoder/config.json: hidden_act = 'gelu'; expected 'quick_gelu'"),
        ({}, {"projection_dim": 4}, "image_encoder/config.json: projection_dim = 4; expected 768"),
    ],
)
def test_other_clips_are_refused(text, vision, message):
    with pytest.raises(UnclipError) as caught:
        clip_config(LARGE | text, None if vision is None else PICTURES | vision)
    assert str(caught.value) == message
