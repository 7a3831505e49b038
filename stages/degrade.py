"""What the low-res image suffers while an upsampler is trained; every draw is per sample.

Images are float32 NCHW in [-1, 1], and randomness comes from a torch.Generator on any device, so that the same
generator state gives the same result. Nothing is changed in place.
"""

import io
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unclip.config import Positive, PositiveFloat, Share, config
from unclip.errors import UnclipError
from unclip.images import to_pil, to_tensor
from unclip.noise import augmented


@config
class DegradeConfig:
    """How the low-res image is corrupted (arXiv 2204.06125, section 2.1).

    kind: "none"; "blur", Gaussian with `kernel` and `sigma` (a number, or the range of a uniform draw per sample);
    "bsr", the light variant of arXiv 2103.14006 that LDM ships. probability: the share of the samples that suffer it;
    None: half of them for blur, as in arXiv 2106.15282, all for bsr.
    noise_level: the highest level of noise-conditioning augmentation, 0 for none; see `add_noise`.
    """

    kind: Literal["none", "blur", "bsr"] = "none"
    probability: Share | None = None
    sigma: PositiveFloat | tuple[PositiveFloat, PositiveFloat] = 0.6
    kernel: Positive = 3
    noise_level: Share = 0.0

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        if isinstance(self.sigma, tuple) and self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma must be a range from low to high, not {list(self.sigma)}")

    @property
    def share(self) -> float:
        """The share of the samples that are corrupted."""
        usual = {"none": 0.0, "blur": 0.5, "bsr": 1.0}[self.kind]
        return usual if self.probability is None else self.probability


def low_res(
    target: Float[Tensor, "b c h w"],
    scale: int,
    config: DegradeConfig,
    rng: torch.Generator,
    level: float | None = None,
) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, " b"] | None]:
    """`target` made `scale` times smaller and corrupted, and the noise level of each sample (None: none was asked for).

    Levels are drawn uniformly from [0, config.noise_level]; in evaluation `level` fixes them for all. Noise leads
    out of [-1, 1]. Raises UnclipError when `scale` does not divide the sides.
    """
    height, width = target.shape[-2:]
    if height % scale or width % scale:
        raise UnclipError(f"an image of {height} x {width} cannot be made {scale} times smaller; use sides it divides")
    # the mean over scale x scale pixels, which needs no neighbour: a crop's low-res is the crop of the low-res
    low = F.avg_pool2d(target, scale)
    if config.kind == "bsr":
        pairs = zip(target, low, strict=True)
        low = torch.cat([_maybe_bsr(image, clean, scale, config, rng) for image, clean in pairs])
    if config.kind == "blur":
        low = _maybe_blur(low, config, rng)
    if level is not None:
        levels = torch.full((len(low),), level, device=low.device)
    elif config.noise_level > 0:
        levels = _uniform(rng, 0.0, config.noise_level, len(low)).to(low.device)
    else:
        return low, None
    return add_noise(low, levels, rng), levels


def random_crop(
    images: Float[Tensor, "b c h w"], size: int, rng: torch.Generator, align: int = 1
) -> Float[Tensor, "b c size size"]:
    """A square of each sample at a place of its own, whose corner is a multiple of `align` (an upsampler's scale).

    Raises UnclipError when the images are smaller than `size`.
    """
    height, width = images.shape[-2:]
    if size > min(height, width):
        raise UnclipError(
            f"a crop of {size} pixels does not fit into images of {height} x {width}; lower the crop size"
        )
    tops = (_integers(rng, 0, (height - size) // align, len(images)) * align).tolist()
    lefts = (_integers(rng, 0, (width - size) // align, len(images)) * align).tolist()
    places = zip(images, tops, lefts, strict=True)
    return torch.stack([x[:, i : i + size, j : j + size] for x, i, j in places])


def add_noise(
    images: Float[Tensor, "b c h w"], level: Float[Tensor, " b"], rng: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """`unclip.noise.augmented`, with noise from `rng`."""
    eps = torch.randn(images.shape, generator=rng, device=rng.device).to(images.device)
    return augmented(images, level, eps)


def gaussian_blur(
    images: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"], kernel: int = 3
) -> Float[Tensor, "b c h w"]:
    """Each sample blurred with its own `sigma` (pixels), by an odd `kernel`, mirrored at the border."""
    offsets = torch.arange(kernel, device=images.device) - (kernel - 1) / 2
    line = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)
    return _filter(images, line[:, :, None] * line[:, None, :])


def _maybe_blur(images: Tensor, config: DegradeConfig, rng: torch.Generator) -> Tensor:
    low, high = config.sigma if isinstance(config.sigma, tuple) else (config.sigma, config.sigma)
    chosen = _uniform(rng, 0.0, 1.0, len(images)).to(images.device) < config.share
    sigma = _uniform(rng, low, high, len(images)).to(images.device)
    return torch.where(chosen[:, None, None, None], gaussian_blur(images, sigma, config.kernel), images)


def _maybe_bsr(image: Tensor, clean: Tensor, scale: int, config: DegradeConfig, rng: torch.Generator) -> Tensor:
    return bsr(image[None], scale, rng) if _chance(rng, config.share) else clean[None]


def bsr(image: Float[Tensor, "1 3 h w"], scale: int, rng: torch.Generator) -> Float[Tensor, "1 3 h2 w2"]:
    """One image `scale` times smaller, degraded as in BSRGAN (arXiv 2103.14006), LDM's light variant.

    Blur, a resize to a random size, a resize to the final size, noise and JPEG come in random order, except that the
    two resizes keep theirs; a last JPEG always follows. Values are clipped to [-1, 1].
    """
    height, width = image.shape[-2] // scale, image.shape[-1] // scale
    if scale == 4 and _chance(rng, 0.25):
        image, scale = _resize(image, 0.5, rng), 2
    steps: list[Callable[[Tensor], Tensor]] = [
        lambda x: _bsr_blur(x, scale, rng),
        lambda x: _bsr_shrink(x, scale, rng),
        lambda x: _resize(x, (height, width), rng),
        lambda x: _bsr_noise(x, rng),
        lambda x: _jpeg(x, rng) if _chance(rng, 0.9) else x,
    ]
    sequence = torch.randperm(len(steps), generator=rng, device=rng.device).tolist()
    first, second = sorted((sequence.index(1), sequence.index(2)))
    sequence[first], sequence[second] = 1, 2
    for k in sequence:
        image = steps[k](image)
    return _jpeg(image, rng)


def _bsr_blur(image: Tensor, scale: int, rng: torch.Generator) -> Tensor:
    """An isotropic or an anisotropic Gaussian, small: this is the light variant's range."""
    if _chance(rng, 0.5):
        half = int(_integers(rng, 2, 6, 1))
        variances, angle = _uniform(rng, 0.0, (4 + scale) / 4, 2), float(_uniform(rng, 0.0, math.pi, 1))
    else:
        half = int(_integers(rng, 2, 3, 1))
        variances, angle = _uniform(rng, 0.0, (2 + 0.2 * scale) / 4, 1).square().expand(2), 0.0
    return _filter(image, _kernel(image, half, variances, angle))


def _bsr_shrink(image: Tensor, scale: int, rng: torch.Generator) -> Tensor:
    """A random resize, or a wide blur and every scale-th pixel."""
    if _chance(rng, 0.8):
        return _resize(image, 1 / float(_uniform(rng, 1.0, 2.0 * scale, 1)), rng)
    variances = _uniform(rng, 0.1, 0.6 * scale, 1).square().expand(2)
    # the shift centres the blur on the block of pixels that the kept one, its first, stands for
    return _filter(image, _kernel(image, 12, variances, 0.0, shift=(scale - 1) / 2))[..., ::scale, ::scale]


def _bsr_noise(image: Tensor, rng: torch.Generator) -> Tensor:
    """Coloured or grey noise of 1 to 2 grey levels."""
    std = int(_integers(rng, 1, 2, 1)) * 2 / 255
    channels = 3 if _chance(rng, 0.5) else 1
    noise = torch.randn((1, channels, *image.shape[-2:]), generator=rng, device=rng.device)
    return (image + std * noise.to(image.device)).clamp(-1, 1)


def _resize(image: Tensor, size: float | tuple[int, int], rng: torch.Generator) -> Tensor:
    """`image` resized to `size`, or by that factor, with a random one of three interpolations; none is antialiased."""
    if not isinstance(size, tuple):
        size = max(1, int(image.shape[-2] * size)), max(1, int(image.shape[-1] * size))
    mode = ("bilinear", "bicubic", "area")[int(_integers(rng, 0, 2, 1))]
    return F.interpolate(image, size=size, mode=mode).clamp(-1, 1)


def _jpeg(image: Tensor, rng: torch.Generator) -> Tensor:
    file = io.BytesIO()  # Pillow's: torchvision's encoder is deprecated since 0.29
    to_pil(image[0]).save(file, "JPEG", quality=int(_integers(rng, 80, 95, 1)))
    return to_tensor(Image.open(file))[None].to(image)


def _kernel(image: Tensor, half: int, variances: Tensor, angle: float, shift: float = 0.0) -> Tensor:
    """A Gaussian [1, k, k] of size 2 half + 1 (less for a tiny `image`), its two axes turned by `angle`; sums to 1."""
    half = min(half, min(image.shape[-2:]) - 1)  # mirroring can give no more
    offsets = torch.arange(-half, half + 1) - shift
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    a, b = variances.cpu().clamp(min=1e-4)
    return torch.softmax((-0.5 * (u**2 / a + v**2 / b)).flatten(), dim=0).view(1, *y.shape).to(image)


def _filter(images: Tensor, kernels: Tensor) -> Tensor:
    """Each sample convolved with its own kernel, [b, k, k]."""
    half, channels = kernels.shape[-1] // 2, images.shape[1]
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    weights = repeat(kernels, "b i j -> (b c) 1 i j", c=channels)
    out = F.conv2d(rearrange(padded, "b c h w -> 1 (b c) h w"), weights, groups=len(weights))
    return rearrange(out, "1 (b c) h w -> b c h w", c=channels)


def _uniform(rng: torch.Generator, low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng, device=rng.device)


def _integers(rng: torch.Generator, low: int, high: int, count: int) -> Tensor:
    """Whole numbers from `low` to `high` inclusive."""
    return torch.randint(low, high + 1, (count,), generator=rng, device=rng.device)


def _chance(rng: torch.Generator, probability: float) -> bool:
    return float(_uniform(rng, 0.0, 1.0, 1)) < probability
