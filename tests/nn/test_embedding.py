"""The sinusoid against diffusers', in ADM's order."""

import torch
from diffusers.models.embeddings import get_timestep_embedding

from unclip.nn.embedding import sinusoid


def test_sinusoid_is_cosines_then_sines():
    t = torch.tensor([0, 1, 37, 999])
    expected = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(sinusoid(t, 32), expected, atol=1e-5)
    assert sinusoid(torch.zeros(1), 4).tolist() == [[1, 1, 0, 0]]


def test_neighbouring_times_differ_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        a, b = sinusoid(torch.tensor([999, 1000]), 64)
    assert (a - b).abs().max() > 0.1
