"""Guidance, thresholding and switching of denoisers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unclip.diffusion.guidance import clipped, dynamic_threshold, guided, plain, shrunk
from unclip.diffusion.process import Denoised, Process, ProcessConfig
from unclip.errors import UnclipError


class Net:
    """Depends on everything it is given and remembers with which conditioning it was called."""

    def __init__(self, channels: int) -> None:
        self.channels, self.seen = channels, []

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        assert t.shape == (len(x),)
        assert t.dtype == torch.long
        self.seen.append(cond)
        out = torch.cat([x * cond + t.reshape(-1, 1) / 1000, (x + cond).sin()], dim=1)
        return out[:, : self.channels]


X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PROCESS = Process(ProcessConfig(predicts="v", variance="learned"))


def test_scale_one_is_the_conditional_net_and_scale_zero_the_unconditional_one():
    for scale, cond in ((1.0, 0.7), (0.0, 0.2)):
        net = Net(6)
        estimate = guided(net, PROCESS, 0.7, 0.2, scale)(X, 300)
        assert net.seen == [cond]
        alone = plain(Net(6), PROCESS, cond)(X, 300)
        assert torch.equal(estimate.x0, alone.x0)
        assert estimate.var_frac is not None
        assert alone.var_frac is not None
        assert torch.equal(estimate.var_frac, alone.var_frac)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 4.0])
def test_guidance_extrapolates_the_prediction_and_leaves_the_variance(scale):
    estimate = guided(Net(6), PROCESS, 0.7, 0.2, scale)(X, 300)
    cond, uncond = plain(Net(6), PROCESS, 0.7)(X, 300), plain(Net(6), PROCESS, 0.2)(X, 300)
    # the reading is linear, so what holds of v holds of x0
    torch.testing.assert_close(estimate.x0, uncond.x0 + scale * (cond.x0 - uncond.x0), rtol=0, atol=1e-12)
    assert estimate.var_frac is not None
    assert cond.var_frac is not None
    assert torch.equal(estimate.var_frac, cond.var_frac)


def test_guidance_needs_no_variance_channels():
    process = Process(ProcessConfig())
    estimate = guided(Net(3), process, 0.7, 0.2, 3.0)(X, 300)
    cond, uncond = Net(3)(X, torch.full((4,), 300), 0.7), Net(3)(X, torch.full((4,), 300), 0.2)
    expected = process.schedule.x0(uncond + 3 * (cond - uncond), X, 300)
    torch.testing.assert_close(estimate.x0, expected, rtol=1e-12, atol=0)


def test_guidance_holds_inside_its_interval_only():
    net = Net(6)
    denoise = guided(net, PROCESS, 0.7, 0.2, 3.0, interval=(0.2, 0.6))
    for t, calls in ((199, 1), (200, 2), (600, 2), (601, 1)):
        net.seen.clear()
        estimate = denoise(X, t)
        assert len(net.seen) == calls
        same = torch.equal(estimate.x0, plain(Net(6), PROCESS, 0.7)(X, t).x0)
        assert same == (calls == 1)
    for wrong in ((0.5, 0.5), (-0.1, 0.5), (0.2, 1.1)):
        with pytest.raises(UnclipError, match="interval"):
            guided(net, PROCESS, 0.7, 0.2, 3.0, interval=wrong)


def test_the_net_hears_its_own_time():
    heard = []

    def net(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        heard.append(t.tolist())
        return x

    plain(net, Process(ProcessConfig(time_offset=1)), None)(X, 1000)
    assert heard == [[999] * 4]


def test_thresholds():
    x0 = torch.tensor([[0.2, -3.0, 0.5, 1.0], [0.1, -0.2, 0.3, 0.9]], dtype=torch.float64)
    var_frac = torch.rand(2, 4, dtype=torch.float64)

    def denoise(x: Tensor, t: int) -> Denoised:
        return Denoised(x0, var_frac=var_frac)

    static = clipped(denoise)(x0, 5)
    assert static.x0.tolist() == [[0.2, -1.0, 0.5, 1.0], [0.1, -0.2, 0.3, 0.9]]
    dynamic = dynamic_threshold(denoise, percentile=1.0)(x0, 5)
    expected = torch.stack([x0[0] / 3, x0[1]])  # each row by itself, and none is stretched
    torch.testing.assert_close(dynamic.x0, expected, rtol=1e-12, atol=0)
    middle = dynamic_threshold(denoise, percentile=2 / 3, limit=0.5)(x0, 5)  # third of four values: 1.0 and 0.3
    torch.testing.assert_close(middle.x0, torch.stack([x0[0].clamp(-1, 1) / 2, x0[1].clamp(-0.5, 0.5)]))
    assert static.var_frac is var_frac
    assert dynamic.var_frac is var_frac


def test_shrinking_brings_what_is_small_to_zero_and_the_rest_nearer():
    x0, var_frac = torch.tensor([[0.05, -0.3, 2.0, -0.1]]), torch.rand(1, 4)
    found = shrunk(lambda x, t: Denoised(x0, var_frac=var_frac), 0.1)(x0, 5)
    torch.testing.assert_close(found.x0, torch.tensor([[0.0, -0.2, 1.9, 0.0]]))
    assert found.var_frac is var_frac


def test_shrinking_finds_sparse_numbers_under_noise():
    """The solved problem (10.1109/18.382009): of n numbers, few of them not 0, under noise of deviation s, sqrt(2 log n) s."""
    rng = torch.Generator().manual_seed(0)
    truth = 5 * (torch.rand(1, 10_000, generator=rng) < 0.01)
    seen = truth + 0.3 * torch.randn(truth.shape, generator=rng)
    found = shrunk(lambda x, t: Denoised(seen), 0.3 * math.sqrt(2 * math.log(10_000)))(seen, 5).x0
    assert (found[truth == 0] != 0).sum() <= 5
    assert (found - truth).square().mean() < (seen - truth).square().mean() / 4


def test_dynamic_threshold_takes_pictures_of_any_size():
    big = torch.full((6, 3, 1024, 1024), 2.0)  # more numbers than torch.quantile takes at once
    assert dynamic_threshold(lambda x, t: Denoised(x))(big, 5).x0.max() == 1
