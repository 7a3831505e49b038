"""The transformer against PyTorch's own, and its cache against one pass."""

import torch
from torch import nn

from unclip.nn.attention import key_mask
from unclip.nn.transformer import Block, Transformer


@torch.no_grad()
def test_block_is_pytorchs_pre_ln_layer():
    torch.manual_seed(0)
    ours = Block(16, 4, 0.0)
    theirs = nn.TransformerEncoderLayer(16, 4, 64, activation="gelu", batch_first=True, norm_first=True).eval()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "mlp.0.",
        "linear2.": "mlp.2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = ours.state_dict()
    theirs.load_state_dict({a + part: state[b + part] for a, b in names.items() for part in ("weight", "bias")})
    x, real = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    q, k, v = ours.project(x)
    out = ours.update(x, q, (k, v), key_mask(real, causal=True))
    expected = theirs(x, src_mask=~torch.ones(5, 5).tril().bool(), src_key_padding_mask=~real, is_causal=False)
    assert torch.allclose(out[real], expected[real], atol=1e-5)


@torch.no_grad()
def test_cache_then_rest_is_one_pass():
    torch.manual_seed(0)
    net = Transformer(16, 3, 4).eval()
    x, real = torch.randn(2, 7, 16), torch.tensor([[True] * 7, [True] * 2 + [False] * 2 + [True] * 3])
    mask = key_mask(real, causal=True)
    for cut in (1, 4, 6):
        past = net.cache(x[:, :cut], mask[:, :, :cut, :cut])
        rest = net(x[:, cut:], mask[:, :, cut:], past)
        assert torch.allclose(rest[real[:, cut:]], net(x, mask)[:, cut:][real[:, cut:]], atol=1e-5)
