"""Tiny nets with all weights away from zero (fresh U-Nets output nothing), and their conditioning."""

import dataclasses
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from unclip.models.decoder import Decoder, DecoderCond, DecoderConfig
from unclip.models.prior import Prior, PriorCond, PriorConfig
from unclip.models.unet import UNetConfig

D, L, B = 12, 6, 3
N = TypeVar("N", bound=nn.Module)
LENGTHS = torch.tensor([6, 3, 4])


def shaken(net: N) -> N:
    """The net in evaluation, its parameters moved by seeded noise."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    return net.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Seeded normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(seed: int = 1) -> dict[str, Tensor]:
    """Three texts of 6, 3 and 4 tokens in all the forms that the nets read."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "tokens": torch.randint(0, 50, (B, L), generator=rng),
        "text_hidden": torch.randn(B, L, 10, generator=rng),
        "text_mask": torch.arange(L) < LENGTHS[:, None],
        "text_emb": nn.functional.normalize(torch.randn(B, D, generator=rng)),
    }


def same_but_padding(cond, seed: int = 9):
    """The conditioning with other content behind each text's end."""
    hidden = torch.where(cond.text_mask[..., None], cond.text_hidden, draw(B, L, 10, seed=seed))
    return dataclasses.replace(cond, tokens=torch.where(cond.text_mask, cond.tokens, 7), text_hidden=hidden)


def trimmed(cond, rows: slice, length: int):
    """The conditioning of some rows, with texts cut to `length`."""
    short = {k: v[rows] for k, v in vars(cond).items() if isinstance(v, Tensor)}
    return type(cond)(
        **{k: v[:, :length] if k in ("tokens", "text_hidden", "text_mask") else v for k, v in short.items()}
    )


@pytest.fixture(params=["own", "hidden"])
def prior(request) -> Prior:
    size: dict[str, Any] = {"vocabulary": 50} if request.param == "own" else {"text_hidden": 10}
    torch.manual_seed(0)
    return shaken(Prior(PriorConfig(image_emb=D, width=16, depth=3, heads=2, text=request.param, context=L, **size)))


@pytest.fixture
def prior_cond() -> PriorCond:
    return PriorCond(**text())


@pytest.fixture(params=["own", "hidden", "none"])
def decoder(request) -> Decoder:
    size = {"own": {"vocabulary": 50, "text_depth": 2, "text_heads": 2}, "hidden": {"text_hidden": 10}, "none": {}}
    unet = UNetConfig(channels=16, multipliers=(1, 2), depth=1, attention=(1,), head_channels=8, patch=2)
    extras = {"pooled_text": request.param == "hidden", "draft": 8 if request.param == "hidden" else None}
    config = DecoderConfig(
        unet=unet, image_emb=D, text=request.param, text_width=16, context=L, **extras, **size[request.param]
    )
    torch.manual_seed(0)
    return shaken(Decoder(config))


@pytest.fixture
def decoder_cond() -> DecoderCond:
    return DecoderCond(image_emb=nn.functional.normalize(draw(B, D, seed=2)), **text())
