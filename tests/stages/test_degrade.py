"""What degradations promise: per sample, repeatable, aligned, and the numbers the papers give."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from stages.degrade import DegradeConfig, add_noise, gaussian_blur, low_res, random_crop
from unclip.config import build
from unclip.errors import UnclipError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=generator(7)) * 2 - 1


@pytest.mark.parametrize("kernel", [3, 7])
def test_blur_is_the_reference_convolution_for_each_sigma(kernel: int) -> None:
    x = images(3, 16)
    sigmas = [0.6, 1.3, 0.2]
    expected = torch.cat(
        [tv.gaussian_blur(x[k : k + 1], [kernel, kernel], [sigma, sigma]) for k, sigma in enumerate(sigmas)]
    )
    torch.testing.assert_close(gaussian_blur(x, torch.tensor(sigmas), kernel), expected, atol=1e-6, rtol=0)


def test_blur_is_drawn_per_sample() -> None:
    x = images(64, 16)
    clean, _ = low_res(x, 2, DegradeConfig(), generator())
    low, level = low_res(x, 2, DegradeConfig(kind="blur", probability=0.3), generator())
    changed = (low != clean).flatten(1).any(1)
    assert level is None
    assert 10 <= changed.sum() <= 30
    blurred = gaussian_blur(clean, torch.full((64,), 0.6))
    torch.testing.assert_close(low, torch.where(changed[:, None, None, None], blurred, clean))
    ranged, _ = low_res(
        x[:1].expand(8, -1, -1, -1), 2, DegradeConfig(kind="blur", probability=1.0, sigma=(0.4, 2)), generator()
    )
    assert len({float(image.std()) for image in ranged}) == 8


@pytest.mark.parametrize("scale", [2, 4])
def test_bsr_differs_per_sample_keeps_the_picture_and_stays_in_range(scale: int) -> None:
    ramp = torch.linspace(-0.8, 0.8, 64).expand(24, 3, 64, 64)
    low, _ = low_res(ramp, scale, DegradeConfig(kind="bsr"), generator())
    assert low.shape == (24, 3, 64 // scale, 64 // scale)
    assert low.min() >= -1
    assert low.max() <= 1
    assert low.dtype == torch.float32
    assert len({image.numpy().tobytes() for image in low}) == 24
    clean, _ = low_res(ramp, scale, DegradeConfig(), generator())
    assert not torch.equal(low, clean)
    # nothing is shifted: away from the border a blurred ramp is the ramp
    inner = (low - clean)[..., 4:-4, 4:-4]
    assert inner.mean(dim=(1, 2, 3)).abs().max() < 0.06
    assert inner.mean().abs() < 0.01


def test_bsr_can_leave_a_share_of_the_samples_clean() -> None:
    x = images(64, 16)
    clean, _ = low_res(x, 2, DegradeConfig(), generator())
    low, _ = low_res(x, 2, DegradeConfig(kind="bsr", probability=0.3), generator())
    assert 10 <= (low != clean).flatten(1).any(1).sum() <= 30


@pytest.mark.parametrize("kind", ["none", "blur", "bsr"])
def test_the_generator_decides_everything_and_the_target_is_left_alone(kind: str) -> None:
    x = images(4, 16)
    before, state = x.clone(), torch.get_rng_state()
    config = build(DegradeConfig, {"kind": kind, "noise_level": 0.4, "sigma": [0.4, 0.8]}, "test")
    (a, level), (b, _), (c, _) = (low_res(x, 4, config, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert level is not None
    assert level.shape == (4,)
    assert len(set(level.tolist())) == 4


def test_noise_level_is_the_standard_deviation_and_preserves_variance() -> None:
    x = torch.randn(3, 3, 128, 128, generator=generator(1))
    level = torch.tensor([0.0, 0.6, 1.0])
    noisy = add_noise(x, level, generator(2))
    assert torch.equal(noisy[0], x[0])
    noise = noisy[1] - 0.8 * x[1]
    assert abs(float(noise.std()) - 0.6) < 0.01
    assert abs(float(noisy.std()) - 1) < 0.02
    assert abs(float((noisy[2] * x[2]).mean())) < 0.02


def test_levels_are_uniform_up_to_the_limit_or_fixed() -> None:
    x = images(2000, 2)
    _, drawn = low_res(x, 2, DegradeConfig(noise_level=0.5), generator())
    assert drawn is not None
    assert drawn.min() >= 0
    assert 0.48 < drawn.max() <= 0.5
    assert abs(drawn.mean() - 0.25) < 0.02
    low, fixed = low_res(x, 2, DegradeConfig(), generator(), level=0.2)
    clean, _ = low_res(x, 2, DegradeConfig(), generator())
    assert fixed is not None
    assert torch.equal(fixed, torch.full((2000,), 0.2))
    assert abs(float((low - 0.96**0.5 * clean).std()) - 0.2) < 0.01


def test_crops_are_per_sample_aligned_and_match_their_low_res() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    x = torch.stack([rows, columns, rows * 32 + columns]).expand(200, 3, 32, 32)
    crops = random_crop(x, 8, generator(), align=4)
    corners = crops[:, :2, 0, 0]
    assert crops.shape == (200, 3, 8, 8)
    assert (corners % 4 == 0).all()
    assert len({tuple(corner) for corner in corners.tolist()}) == 49  # every place, the last row and column too
    whole, _ = low_res(x, 4, DegradeConfig(), generator())
    low, _ = low_res(crops, 4, DegradeConfig(), generator())
    for k, (top, left) in enumerate((corners / 4).long().tolist()):
        torch.testing.assert_close(low[k], whole[k, :, top : top + 2, left : left + 2])
    assert torch.equal(random_crop(x, 32, generator()), x)


def test_impossible_requests_are_one_line() -> None:
    with pytest.raises(UnclipError, match="30 x 30 cannot be made 4 times smaller"):
        low_res(images(1, 30), 4, DegradeConfig(), generator())
    with pytest.raises(UnclipError, match="a crop of 64 pixels does not fit into images of 32 x 32"):
        random_crop(images(1, 32), 64, generator())
    for values in ({"kernel": 4}, {"sigma": [2.0, 1.0]}, {"sigma": 0.0}, {"noise_level": 1.5}):
        with pytest.raises(UnclipError, match=next(iter(values))):
            build(DegradeConfig, values, "test")
