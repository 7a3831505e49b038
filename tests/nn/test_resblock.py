"""The blocks against diffusers' and against the formula."""

from typing import TypeVar

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from unclip.nn.resblock import AttentionBlock, ResBlock, group_norm

N = TypeVar("N", bound=nn.Module)


def randomised(net: N) -> N:
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


@torch.no_grad()
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize(("resize", "out"), [(None, 24), ("up", 16), ("down", 16), (None, 16)])
def test_resblock_is_diffusers(scale_shift, resize, out):
    ours = randomised(ResBlock(16, out, 12, scale_shift=scale_shift, groups=4, resize=resize))
    theirs = ResnetBlock2D(
        in_channels=16,
        out_channels=out,
        temb_channels=12,
        groups=4,
        eps=1e-5,
        non_linearity="silu",
        time_embedding_norm="scale_shift" if scale_shift else "default",
        up=resize == "up",
        down=resize == "down",
    )
    state = {
        k.replace("emb.", "time_emb_proj.").replace("skip.", "conv_shortcut."): v for k, v in ours.state_dict().items()
    }
    theirs.load_state_dict(state)
    x, emb = torch.randn(2, 16, 4, 4), torch.randn(2, 12)
    assert torch.allclose(ours(x, nn.functional.silu(emb)), theirs(x, emb), atol=1e-5)


@torch.no_grad()
def test_attention_reads_context_and_pixels():
    net = randomised(AttentionBlock(8, 4, context_width=6, groups=2))
    x, context = torch.randn(2, 8, 3, 2), torch.randn(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False]])
    assert net.context_kv is not None
    q, k, v = net.qkv(net.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=2)
    ck, cv = net.context_kv(context).chunk(2, dim=2)
    k, v = torch.cat([ck, k], 1), torch.cat([cv, v], 1)
    seen = torch.cat([mask, torch.ones(2, 6, dtype=torch.bool)], 1)[:, None]
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = (q[..., part] @ k[..., part].transpose(1, 2) / 2).masked_fill(~seen, -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    expected = x + net.out(torch.cat(heads, 2)).transpose(1, 2).reshape(x.shape)
    assert torch.allclose(net(x, net.context(context), mask), expected, atol=1e-5)


def test_blocks_start_as_identity():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(ResBlock(16, 16, 8)(x, torch.randn(2, 8)), x)
    assert torch.equal(AttentionBlock(16, 8)(x), x)


def test_groups():
    assert [group_norm(c).num_groups for c in (320, 128, 64, 48, 16, 2)] == [32, 32, 16, 12, 4, 1]
    assert group_norm(64, 32).num_groups == 32
