"""Nets on the shelf: in memory or not, rounded or not, they compute the same."""

import pytest
import torch

from unclip.checkpoint import Weights, read_tensors, weights
from unclip.errors import UnclipError
from unclip.loading import Shelf, held
from unclip.models.decoder import Decoder
from unclip.models.upsampler import Upsampler
from unclip.system import UnCLIP

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def decoder(folder) -> Weights:
    return weights(folder / "decoder.safetensors")


def pixels(system: UnCLIP) -> torch.Tensor:
    made = system.generate(["a red cube", "a large green sphere"], [0, 1], size=64)
    return torch.stack([torch.frombuffer(bytearray(one.image.tobytes()), dtype=torch.uint8) for one in made])


def test_one_at_a_time_draws_the_same(folder):
    usual, frugal = (UnCLIP.from_pretrained(folder, "cpu", low_memory=low) for low in (False, True))
    nets = [frugal.prior.stage.net, frugal.decoder.net, *(stage.net for stage in frugal.upsamplers)]
    assert all(next(net.parameters()).is_meta for net in nets)
    assert torch.equal(pixels(frugal), pixels(usual))
    assert [next(net.parameters()).is_meta for net in nets] == [True, True, False, True]  # 64 px is the third net's
    assert "net" not in vars(frugal.clip)
    frugal.clip.text(["a red cube"])
    assert all(next(net.parameters()).is_meta for net in nets)
    assert frugal.decoder.device == CPU
    latent = frugal.invert(next(frugal.generate("a red cube", [0], size=64)).image, steps=2)
    assert latent.x_T.isfinite().all()


def test_convolutions_lie_with_channels_innermost(decoder):
    net = Shelf(CPU).net(decoder, Decoder)
    wide = [p for p in net.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert wide
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in wide)


def test_a_net_is_read_again_only_when_another_was_called(decoder, folder):
    reads = []

    def counted(found: Weights) -> Weights:
        return Weights(found.where, found.header, lambda: reads.append(found.where) or read_tensors(found.where))

    shelf = Shelf(CPU, low_memory=True)
    one = shelf.net(counted(decoder), Decoder)
    two = shelf.net(counted(weights(folder / "upsampler-64.safetensors")), Upsampler)
    for net in (one, one, two, two, one):
        shelf.fetch(net)
    assert reads == [decoder.where, str(folder / "upsampler-64.safetensors"), decoder.where]


def test_rounded_weights_compute_what_autocast_computes(decoder):
    whole, rounded = Shelf(CPU).net(decoder, Decoder), Shelf(CPU, torch.bfloat16).net(decoder, Decoder)
    assert rounded.unet.entry.weight.dtype == torch.bfloat16
    assert rounded.unet.norm.weight.dtype == torch.float32
    emb = torch.linspace(-1, 1, 2 * whole.unet.emb_width).reshape(2, -1)
    pictures = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outs = [net.unet(pictures, torch.tensor([3, 900]), emb) for net in (whole, rounded)]
    assert torch.equal(*outs)


def test_what_a_plan_says_is_what_is_kept(decoder):
    lying = Shelf(CPU, low_memory=True).net(decoder, Decoder)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        state = Shelf(CPU, dtype).net(decoder, Decoder).state_dict()
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        assert held(lying, dtype) == (sum(tensor.numel() for tensor in state.values()), size)


def test_another_nets_weights_are_refused(decoder):
    with pytest.raises(UnclipError, match="holds a decoder; expected a upsampler"):
        Shelf(CPU).net(decoder, Upsampler)
    read = decoder.read
    less = Weights("x", decoder.header, lambda: {k: v for k, v in read().items() if k != "unet.norm.weight"})
    with pytest.raises(UnclipError, match="1 missing tensor"):
        Shelf(CPU).net(less, Decoder)
