"""The decoder: what its conditioning may and may not change."""

import dataclasses

import pytest
import torch

from unclip.errors import UnclipError
from unclip.models.decoder import Decoder, DecoderCond, DecoderConfig
from unclip.models.unet import UNetConfig

from .conftest import B, D, draw, same_but_padding, shaken, text, trimmed

T = torch.tensor([1000, 400, 3])
IMAGE, TEXT = torch.tensor([True, False, False]), torch.tensor([False, True, False])


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance


@pytest.fixture
def x():
    return draw(B, 3, 8, 8)


@torch.no_grad()
def test_padding_changes_nothing(decoder, decoder_cond, x):
    out = decoder(x, T, decoder_cond)
    assert out.shape == (B, 6, 8, 8)
    assert torch.equal(decoder(x, T, same_but_padding(decoder_cond)), out)
    assert close(decoder(x[1:2], T[1:2], trimmed(decoder_cond, slice(1, 2), 3)), out[1:2])
    if decoder.text is not None:
        unmasked = dataclasses.replace(decoder_cond, text_mask=None)
        assert not close(decoder(x, T, unmasked)[1], out[1], 1e-3), "the padding would have changed something"


@torch.no_grad()
def test_neighbours_and_repetition_change_nothing(decoder, decoder_cond, x):
    out = decoder(x, T, decoder_cond)
    assert torch.equal(decoder(x, T, decoder_cond), out)
    for k in range(B):
        assert close(decoder(x[k : k + 1], T[k : k + 1], trimmed(decoder_cond, slice(k, k + 1), 6)), out[k : k + 1])


@torch.no_grad()
def test_image_and_text_are_dropped_independently_per_sample(decoder, decoder_cond, x):
    """Rows keep: 0 the image, 1 the text, 2 neither."""
    cond = dataclasses.replace(decoder_cond, keep_image=IMAGE, keep_text=TEXT)
    other_image = dataclasses.replace(cond, image_emb=draw(B, D, seed=8))
    mask = torch.ones(B, 6, dtype=torch.bool)
    other_text = dataclasses.replace(cond, **{**text(seed=8), "text_mask": mask})
    out, image, words = decoder(x, T, cond), decoder(x, T, other_image), decoder(x, T, other_text)
    assert torch.equal(image[1:], out[1:])
    assert not close(image[0], out[0], 1e-2)
    assert torch.equal(words[[0, 2]], out[[0, 2]])
    assert close(words[1], out[1], 0) == (decoder.text is None)
    flipped = decoder(-x, T, cond)
    assert not close(flipped[2], out[2], 1e-2), "x_t must matter in the null branch"


@torch.no_grad()
def test_image_tokens_and_added_embedding_both_carry_the_image(decoder, decoder_cond, x):
    out = decoder(x, T, decoder_cond)
    for part in (decoder.image, decoder.image_tokens):
        weight = part.weight.clone()
        part.weight.zero_()
        assert not close(decoder(x, T, decoder_cond), out, 1e-3)
        part.weight.copy_(weight)
    assert decoder.prepare(decoder_cond).context[0][0].shape[2] == 4 + (6 if decoder.text is not None else 0)


@torch.no_grad()
def test_a_trained_net_can_be_given_a_draft(decoder_cond):
    """At first it changes nothing; then it says where what is."""
    unet = UNetConfig(channels=16, multipliers=(1, 2), depth=1, attention=(1,), head_channels=16, patch=2)
    config = DecoderConfig(unet=unet, image_emb=D, text="none", text_width=8)
    old, new = shaken(Decoder(config)), Decoder(dataclasses.replace(config, draft=8))
    own, trained = new.state_dict(), old.state_dict()
    fresh = {
        name.split(".")[0] if name.startswith("draft") else name.rpartition(".")[0]
        for name in own.keys() - trained.keys()
    }
    assert fresh == {"draft", "unet.hint", "unet.hint_bypass"}  # what run.fresh is to name
    new.load_state_dict(own | trained)
    x = draw(B, 3, 32, 32)
    before, draft = old(x, T, decoder_cond), new.prepare(decoder_cond).draft
    assert torch.equal(new(x, T, decoder_cond), before)
    assert new.unet.hint is not None
    assert new.unet.hint_bypass is not None
    assert draft is not None
    new.unet.hint_bypass.bias.fill_(1.0)  # all output channels see the sum of the draft's
    shown = torch.nn.functional.interpolate(draft.sum(dim=1, keepdim=True), (32, 32), mode="bilinear")
    after = new(x, T, decoder_cond)
    assert close(after - before, shown.expand_as(after), 1e-4)
    new.unet.hint.weight.fill_(0.1)
    assert not close(new(x, T, decoder_cond), after, 1e-3)


@torch.no_grad()
def test_prepared_once_serves_every_step(decoder, decoder_cond, x):
    cond = dataclasses.replace(decoder_cond, keep_image=IMAGE, keep_text=TEXT)
    ready = decoder.prepare(cond)
    for t in (T, T - 1):
        assert torch.equal(decoder(x, t, ready), decoder(x, t, cond))


def test_inputs_are_never_mutated(decoder, decoder_cond, x):
    cond = dataclasses.replace(decoder_cond, keep_image=IMAGE, keep_text=TEXT)
    before = {k: v.clone() for k, v in vars(cond).items()}
    decoder(x, T, cond)
    assert torch.equal(x, draw(B, 3, 8, 8))
    assert all(torch.equal(v, before[k]) for k, v in vars(cond).items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(decoder, decoder_cond, x, checkpointing):
    config = dataclasses.replace(
        decoder.config, unet=dataclasses.replace(decoder.config.unet, checkpointing=checkpointing)
    )
    net = Decoder(config)
    net.load_state_dict(decoder.state_dict())
    cond = dataclasses.replace(decoder_cond, keep_image=IMAGE, keep_text=TEXT)
    net(x, T, cond).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    decoder(x, T, cond).square().mean().backward()
    for a, b in zip(net.parameters(), decoder.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


@torch.no_grad()
def test_bfloat16_autocast_stays_close(decoder, decoder_cond, x):
    out = decoder(x, T, decoder_cond)
    with torch.autocast("cpu", torch.bfloat16):
        low = decoder(x, T, decoder.prepare(decoder_cond))
    assert 0 < (low - out).std() < 0.05 * out.std()


def test_fresh_net_predicts_zero():
    unet = UNetConfig(channels=16, multipliers=(1, 2), depth=1, attention=(1,), head_channels=16)
    net = Decoder(DecoderConfig(unet=unet, image_emb=D, text="none", text_width=8, learned_variance=False))
    out = net(draw(1, 3, 8, 8), T[:1], DecoderCond(image_emb=draw(1, D)))
    assert out.shape == (1, 3, 8, 8)
    assert not out.any()


def test_user_mistakes(decoder_cond):
    unet = UNetConfig(channels=16, multipliers=(1, 2), depth=1, attention=(1,), head_channels=16)
    good = {"unet": unet, "image_emb": D, "text": "hidden", "text_hidden": 10, "text_width": 8}
    for wrong, message in (
        ({"unet": dataclasses.replace(unet, attention=())}, "attention"),
        ({"text_hidden": None}, "text_hidden"),
        ({"text": "own"}, "vocabulary"),
        ({"text": "own", "vocabulary": 9, "text_depth": 1, "text_heads": 3}, "multiple"),
    ):
        with pytest.raises(ValueError, match=message):
            DecoderConfig(**{**good, **wrong})
    net = Decoder(DecoderConfig(**good, pooled_text=True, null_text="empty"))
    with pytest.raises(UnclipError, match="empty caption"):
        net.prepare(dataclasses.replace(decoder_cond, keep_text=TEXT))
    with pytest.raises(UnclipError, match="text_emb"):
        net.prepare(dataclasses.replace(decoder_cond, text_emb=None))
    with pytest.raises(UnclipError, match="text_hidden"):
        net.prepare(dataclasses.replace(decoder_cond, text_hidden=None))
