"""An upsampler (2204.06125, section 2.1): from a picture to one of `scale` times its side. No text, no attention."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from unclip.config import Natural, Positive, PositiveFloat, config
from unclip.errors import UnclipError
from unclip.images import resize
from unclip.models.unet import UNet, UNetConfig
from unclip.nn.embedding import TimeEmbedding


@config
class UpsamplerConfig:
    """The shape of an upsampler; `size` is the side of the pictures it makes (training crops are smaller)."""

    unet: UNetConfig
    size: Positive
    scale: Positive = 4
    learned_variance: bool = False
    level: bool = False
    """The net is told how much noise its low-res picture suffered (noise-conditioning augmentation, 2106.15282)."""
    residual: PositiveFloat | None = None
    """Diffuse not the picture but what its enlarged low-res version lacks, divided by this, its standard deviation.

    Whatever the net gets wrong, grain above all, is then that much smaller. None: diffuse the picture, as the paper does.
    """
    last_until: Natural | None = None
    """A second U-Net of the same shape, `last`, serves the times up to this one, as the net is told them (Karlo: 0)."""

    def __post_init__(self):
        if self.unet.attention:
            raise ValueError(
                "unet.attention must be empty: an upsampler is convolutional, to run at sizes it never saw"
            )
        if self.size % self.scale:
            raise ValueError(f"size = {self.size} is no multiple of scale = {self.scale}")


@dataclass(frozen=True, eq=False)
class UpsamplerCond:
    """The picture to enlarge; `level` in [0, 1] is the standard deviation of the noise it was given, None: not any."""

    low_res: Float[Tensor, "b 3 h w"]
    level: Num[Tensor, " b"] | None = None


@dataclass(frozen=True, eq=False)
class UpsamplerPrepared:
    """The enlarged low-resolution picture, and what the time embedding gains from its noise level."""

    low_res: Float[Tensor, "b 3 h w"]
    emb: Float[Tensor, "b e"] | None


class Upsampler(nn.Module):
    """A U-Net over [x ; low_res enlarged bicubically]; fully convolutional, so any size that its levels can halve."""

    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet, 6, 6 if config.learned_variance else 3)
        self.last = None if config.last_until is None else UNet(config.unet, 6, 6 if config.learned_variance else 3)
        self.level = TimeEmbedding(config.unet.channels, self.unet.emb_width) if config.level else None

    def forward(
        self, x: Float[Tensor, "b 3 h w"], t: Num[Tensor, " b"], cond: UpsamplerCond | UpsamplerPrepared
    ) -> Float[Tensor, "b c h w"]:
        """The net's output for x at time t: 3 channels of prediction, then 3 of variance if that is learned."""
        ready = cond if isinstance(cond, UpsamplerPrepared) else self.prepare(cond)
        if x.shape != ready.low_res.shape:
            given, low = "x".join(map(str, x.shape)), "x".join(map(str, ready.low_res.shape))
            raise UnclipError(f"a picture of {given} does not match low_res, which is {low} when enlarged")
        x = torch.cat([x, ready.low_res.to(x.dtype)], dim=1)
        if self.last is None or self.config.last_until is None:
            return self.unet(x, t, ready.emb)
        late = t <= self.config.last_until
        if late.all() or not late.any():  # as when sampling, where all of a batch are at one time
            return (self.last if late.all() else self.unet)(x, t, ready.emb)
        out = self.unet(x, t, ready.emb)
        return torch.where(late[:, None, None, None], self.last(x, t, ready.emb), out)

    def prepare(self, cond: UpsamplerCond) -> UpsamplerPrepared:
        """Everything that ignores x and t: low_res enlarged (bicubic, antialiased) and the level's embedding."""
        if cond.level is not None and self.level is None:
            raise UnclipError("a noise level was given to an upsampler that was built without one (level = false)")
        level = cond.level if cond.level is not None else cond.low_res.new_zeros(len(cond.low_res))
        # the sinusoid is made for times up to about 1000
        emb = self.level(level * 1000) if self.level is not None else None
        return UpsamplerPrepared(enlarged(self.config, cond.low_res), emb)


def standardise(
    config: UpsamplerConfig, image: Float[Tensor, "b 3 h w"], low_res: Float[Tensor, "b 3 h2 w2"]
) -> Float[Tensor, "b 3 h w"]:
    """A picture as an upsampler of this config diffuses it: itself, or what low_res lacks of it (`residual`)."""
    return image if config.residual is None else (image - enlarged(config, low_res)) / config.residual


def restore(
    config: UpsamplerConfig, x: Float[Tensor, "b 3 h w"], low_res: Float[Tensor, "b 3 h2 w2"]
) -> Float[Tensor, "b 3 h w"]:
    """The picture of a finished diffusion, the inverse of `standardise`; clipped to [-1, 1]."""
    image = x if config.residual is None else enlarged(config, low_res) + config.residual * x
    return image.clamp(-1, 1)


def enlarged(config: UpsamplerConfig, low_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
    """low_res at the size of the picture (bicubic, antialiased)."""
    height, width = low_res.shape[-2:]
    return resize(low_res, (height * config.scale, width * config.scale))
