"""The U-Net's layout, and that a small folded one learns."""

from typing import Any

import pytest
import torch

from unclip.config import build, to_dict
from unclip.models.unet import UNet, UNetConfig

from .conftest import draw, shaken


def karlo(**changes) -> UNetConfig:
    return UNetConfig(**{"channels": 320, "multipliers": (1, 2, 3, 4), "depth": 3, "attention": (1, 2, 3), **changes})


def channels(layers: Any) -> list[tuple[int, int, bool]]:
    return [(x.res.conv1.in_channels, x.res.conv1.out_channels, x.attention is not None) for x in layers]


def test_channel_table_is_karlos():
    with torch.device("meta"):
        net = UNet(karlo(), 3, 6, 1536)
    a, b, c, d = 320, 640, 960, 1280
    down = [(a, a, False)] * 4 + [(a, b, True), (b, b, True), (b, b, True), (b, b, False)]
    down += [(b, c, True), (c, c, True), (c, c, True), (c, c, False), (c, d, True), (d, d, True), (d, d, True)]
    assert channels(net.down) == down
    assert [x.res.resize for x in net.down if x.res.resize] == ["down"] * 3
    assert channels(net.middle) == [(d, d, True), (d, d, False)]
    up = [(2560, d), (2560, d), (2560, d), (2240, d), (2240, c), (1920, c), (1920, c), (1600, c)]
    up += [(1600, b), (1280, b), (1280, b), (960, b), (960, a), (640, a), (640, a), (640, a)]
    assert channels(net.up) == [(*pair, k < 12) for k, pair in enumerate(up)]
    assert [k for k, x in enumerate(net.up) if x.resize is not None] == [3, 7, 11]


def test_levels_may_differ_in_depth():
    config = UNetConfig(channels=36, multipliers=(1, 2, 3), depth=(2, 1, 3), attention=(2,), head_channels=36)
    assert build(UNetConfig, to_dict(config), "header") == config
    with torch.device("meta"):
        net = UNet(config, 3, 3)
    a, b, c = 36, 72, 108
    down = [(a, a, False)] * 3 + [(a, b, False), (b, b, False), (b, c, True), (c, c, True), (c, c, True)]
    assert channels(net.down) == down
    up = [(c + c, c)] * 3 + [(c + b, c), (c + b, b), (b + a, b), (b + a, a), (a + a, a), (a + a, a)]
    assert channels(net.up) == [(*pair, k < 4) for k, pair in enumerate(up)]
    assert [k for k, x in enumerate(net.up) if x.resize is not None] == [3, 5]


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2])
def test_time_context_and_mask_matter_and_size_is_free(patch):
    config = UNetConfig(channels=16, multipliers=(1, 2), depth=1, attention=(0,), head_channels=8, patch=patch)
    net = shaken(UNet(config, 3, 3, 8))
    x, t, tokens = draw(2, 3, 8, 16), torch.tensor([5, 9]), draw(2, 4, 8, seed=1)
    keys, mask = net.context(tokens), torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    out = net(x, t, None, keys, mask)
    assert out.shape == x.shape
    assert (net(x, t + 1, None, keys, mask) - out).abs().max() > 1e-3
    more = net(x, t, None, keys, torch.ones(2, 4, dtype=torch.bool))
    assert torch.allclose(more[0], out[0], atol=1e-5)
    assert (more[1] - out[1]).abs().max() > 1e-3
    assert torch.allclose(more, net(x, t, None, keys), atol=1e-5)
    wide = net.to(memory_format=torch.channels_last)
    assert torch.allclose(wide(x.contiguous(memory_format=torch.channels_last), t, None, keys, mask), out, atol=1e-4)


def test_a_small_folded_net_learns_to_denoise_flat_pictures():
    """Noise is what differs from one flat colour; without the bypass the loss is 0.43 here."""
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=32, multipliers=(1, 2), depth=1, patch=2), 3, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for step in range(50):
        colour = (2 * torch.rand(8, 3, 1, 1) - 1).expand(-1, -1, 8, 8)
        eps = torch.randn(8, 3, 8, 8)
        loss = (net(0.8 * colour + 0.6 * eps, torch.full((8,), 300)) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert step > 0 or losses[0] == pytest.approx(1, abs=0.2)
    assert sum(losses[-10:]) / 10 < 0.25


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"multipliers": ()}, "empty"),
        ({"channels": 33}, "even"),
        ({"attention": (4,)}, "beyond"),
        ({"head_channels": 48}, "does not divide"),
        ({"groups": 30}, "groups"),
        ({"depth": (1, 2)}, r"depth = \[1, 2\]: expected one number, or one for each of 4 levels"),
    ],
)
def test_impossible_configs(wrong, message):
    with pytest.raises(ValueError, match=message):
        karlo(**wrong)
