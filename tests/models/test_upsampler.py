"""The upsampler: any size, its level, and which low-resolution picture it reads."""

import dataclasses

import pytest
import torch

from unclip.errors import UnclipError
from unclip.images import resize
from unclip.models.unet import UNetConfig
from unclip.models.upsampler import Upsampler, UpsamplerCond, UpsamplerConfig, UpsamplerPrepared, restore, standardise

from .conftest import draw, shaken

T = torch.tensor([900, 20])


def build(**changes) -> Upsampler:
    unet = UNetConfig(channels=8, multipliers=(1, 2), depth=1, scale_shift=False)
    torch.manual_seed(0)
    return shaken(Upsampler(UpsamplerConfig(**{"unet": unet, "size": 16, **changes})))


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (8, 24)])
def test_any_size(size):
    net = build()
    x, low = draw(2, 3, *size), draw(2, 3, size[0] // 4, size[1] // 4, seed=1)
    cond = UpsamplerCond(low_res=low)
    out = net(x, T, cond)
    assert out.shape == x.shape
    assert torch.equal(net(x, T, net.prepare(cond)), out)
    assert torch.equal(net.prepare(cond).low_res, resize(low, size))
    assert torch.allclose(net(x[1:], T[1:], UpsamplerCond(low_res=low[1:])), out[1:], atol=1e-5)
    assert (net(x, T, UpsamplerCond(low_res=-low)) - out).abs().max() > 1e-2


@torch.no_grad()
def test_shift_equivariance():
    """The net is convolutional: with circular borders, shifting the pictures shifts the output."""
    net = build()
    x, low = draw(1, 3, 16, 16), draw(1, 3, 4, 4, seed=1)
    large = net.prepare(UpsamplerCond(low_res=low)).low_res
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d) and module.padding != (0, 0):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [1, 1, 1, 1]
    still = net(x, T[:1], UpsamplerPrepared(large, None))
    moved = net(x.roll((2, 4), (2, 3)), T[:1], UpsamplerPrepared(large.roll((2, 4), (2, 3)), None))
    assert torch.allclose(moved, still.roll((2, 4), (2, 3)), atol=1e-4)


@torch.no_grad()
def test_level_is_heard_per_sample():
    net = build(level=True, learned_variance=True)
    x, low = draw(2, 3, 16, 16), draw(2, 3, 4, 4, seed=1)
    clean = net(x, T, UpsamplerCond(low_res=low))
    assert clean.shape == (2, 6, 16, 16)
    assert torch.equal(net(x, T, UpsamplerCond(low_res=low, level=torch.zeros(2))), clean)
    noised = net(x, T, UpsamplerCond(low_res=low, level=torch.tensor([0.0, 0.3])))
    assert torch.allclose(noised[0], clean[0], atol=1e-6)
    assert (noised[1] - clean[1]).abs().max() > 1e-2


def test_every_parameter_learns_and_inputs_stay():
    net = build(level=True)
    x, low = draw(2, 3, 16, 16), draw(2, 3, 4, 4, seed=1)
    net(x, T, UpsamplerCond(low_res=low, level=T)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert torch.equal(x, draw(2, 3, 16, 16))
    assert torch.equal(low, draw(2, 3, 4, 4, seed=1))


def test_user_mistakes():
    net = build()
    low = draw(2, 3, 4, 4)
    with pytest.raises(UnclipError, match="level"):
        net.prepare(UpsamplerCond(low_res=low, level=T))
    with pytest.raises(UnclipError, match="2x3x16x16"):
        net(draw(2, 3, 32, 32), T, UpsamplerCond(low_res=low))
    with pytest.raises(UnclipError, match="multiples of 2"):
        net(draw(2, 3, 12, 5), T, UpsamplerPrepared(draw(2, 3, 12, 5), None))
    attending = UNetConfig(channels=8, multipliers=(1, 2), depth=1, attention=(1,), head_channels=8)
    for wrong in ({"unet": attending}, {"size": 18}):
        with pytest.raises(ValueError, match=r"attention|multiple"):
            UpsamplerConfig(**{"unet": net.config.unet, "size": 16, **wrong})


def test_a_residual_is_what_the_enlarged_picture_lacks():
    config = UpsamplerConfig(unet=UNetConfig(channels=8, multipliers=(1,), depth=1), size=16, residual=0.1)
    image, low = 2 * torch.rand(2, 3, 16, 16) - 1, 2 * torch.rand(2, 3, 4, 4) - 1
    x = standardise(config, image, low)
    torch.testing.assert_close(0.1 * x, image - resize(low, 16))
    torch.testing.assert_close(restore(config, x, low), image)
    assert torch.equal(restore(config, torch.zeros_like(x), low), resize(low, 16).clamp(-1, 1))
    plain = dataclasses.replace(config, residual=None)
    assert standardise(plain, image, low) is image
    assert torch.equal(restore(plain, 2 * image, low), (2 * image).clamp(-1, 1))


@torch.no_grad()
def test_a_second_net_serves_the_last_times():
    net = build(last_until=20)
    x, cond = draw(2, 3, 16, 16), UpsamplerCond(low_res=draw(2, 3, 4, 4, seed=1))
    assert net.last is not None
    assert {name for name, _ in net.last.named_parameters()} == {name for name, _ in net.unet.named_parameters()}
    late, early = net(x, torch.tensor([20, 3]), cond), net(x, torch.tensor([21, 900]), cond)
    mixed = net(x, torch.tensor([21, 3]), cond)
    assert torch.allclose(mixed, torch.stack([early[0], late[1]]), atol=1e-6)
    for part in net.unet.parameters():
        part.zero_()
    assert torch.equal(net(x, torch.tensor([20, 3]), cond), late)
    assert not net(x, torch.tensor([21, 900]), cond).any()
