"""Arithmetic on the sphere against what is known of it, and latents that survive a file."""

import math

import pytest
import torch

from unclip.errors import UnclipError
from unclip.latents import Latent, Pca, blend, difference, fit_pca, slerp, towards


def unit(*shape, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def angle(a, b):
    return torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)) * 2


def test_slerp_turns_evenly_and_keeps_the_length():
    a, b = unit(5, 8), unit(5, 8, seed=1)
    for share in (0.0, 0.25, 0.5, 1.0):
        x = slerp(a, b, share)
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(5).double())
        torch.testing.assert_close(angle(a, x), share * angle(a, b), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))


def test_slerp_in_the_plane():
    x = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), 0.5)
    torch.testing.assert_close(x, 2 * torch.tensor([math.sqrt(0.5), math.sqrt(0.5)]))  # lengths change evenly


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_of_equal_and_of_opposite_vectors_is_finite(sign):
    a = unit(3, 6).float()
    x = slerp(a, sign * a, 0.5)
    assert x.isfinite().all()
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(slerp(a, sign * a, 0.0), a)


def test_a_difference_has_length_1_and_turns_an_embedding_by_its_angle():
    z, way = unit(4), difference(unit(4, seed=1), unit(4, seed=2))
    assert way.norm().item() == pytest.approx(1)
    turned = towards(3 * z, way, 0.4)
    assert turned.norm().item() == pytest.approx(3)
    torch.testing.assert_close(angle(z, turned / 3), 0.4 * angle(z, way), atol=1e-7, rtol=1e-6)


def test_equal_texts_have_no_difference():
    with pytest.raises(UnclipError, match="same CLIP embedding"):
        difference(unit(4), unit(4))


def test_a_blend_of_two_is_their_slerp_and_knows_no_order():
    embs = unit(3, 7)
    torch.testing.assert_close(blend(embs[:2], [1.0, 3.0]), slerp(embs[0], embs[1], 0.75), atol=1e-9, rtol=1e-9)
    one, other = blend(embs, [1.0, 2.0, 3.0]), blend(embs.flip(0), [3.0, 2.0, 1.0])
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(blend(embs, [0.0, 1.0, 0.0]), embs[1])


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(UnclipError, match="weight"):
        blend(unit(2, 4), weights)


def test_pca_finds_the_axes_of_the_data():
    axes = torch.linalg.qr(unit(6, 6))[0]
    scale = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1, 0.01]).double()
    rng = torch.Generator().manual_seed(3)
    data = 0.7 + torch.randn(20000, 6, dtype=torch.float64, generator=rng) * scale @ axes.T
    pca = fit_pca(len(data), data.sum(dim=0), data.T @ data)
    torch.testing.assert_close(pca.variances.double(), scale**2, rtol=0.05, atol=1e-4)
    assert (pca.components.double() @ axes).abs().diagonal().min() > 0.99
    some = data[:5].float()
    errors = [(pca.project(some, k) - some).norm().item() for k in range(7)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
    with pytest.raises(UnclipError, match="components = 7: expected 0 to 6"):
        pca.project(some, 7)


def test_a_latent_survives_its_file(tmp_path):
    latent = Latent(unit(8).float(), torch.randn(3, 4, 4), "a cube", {"clip": "ab", "decoder": "cd"})
    latent.save(tmp_path / "x.safetensors")
    again = Latent.load(tmp_path / "x.safetensors")
    assert torch.equal(again.image_emb, latent.image_emb)
    assert torch.equal(again.x_T, latent.x_T)
    assert (again.prompt, again.weights) == (latent.prompt, latent.weights)


def test_other_files_are_no_latents(tmp_path, folder):
    pca = Pca(torch.zeros(4), torch.eye(4), torch.ones(4))
    pca.save(tmp_path / "pca.safetensors", "ab")
    with pytest.raises(UnclipError, match="holds a pca; expected a latent"):
        Latent.load(tmp_path / "pca.safetensors")
    with pytest.raises(UnclipError, match="holds a prior; expected a pca"):
        Pca.load(folder / "prior.safetensors")
