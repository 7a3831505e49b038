"""What the latent pair allows, on random nets: the ends of every path are what they should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.errors import UnclipError
from unclip.latents import Latent, Pca
from unclip.settings import Settings
from unclip.sources import source

from .systems import CAPTIONS, SIZES, D

SMALL = {"size": SIZES[0], "steps": 20}


def pixels(picture):
    return np.array(getattr(picture, "image", picture)).astype(int)


def apart(a, b):
    return np.abs(pixels(a) - pixels(b)).max()


def test_reconstruct_is_invert_and_decode(system, pictures):
    (one,) = system.reconstruct(pictures[0], **SMALL)
    assert apart(one, system.decode(system.invert(pictures[0], steps=20), **SMALL)) == 0


def test_variations_go_from_the_picture_to_only_its_embedding(system, pictures):
    (again,) = system.reconstruct(pictures[0], **SMALL)
    (same,) = system.vary(pictures[0], seeds=[5], strength=0.0, **SMALL)
    assert apart(same, again) == 0
    fresh = list(system.vary(pictures[0], seeds=[5, 6], **SMALL))
    assert apart(*fresh) > 8
    assert torch.equal(fresh[0].image_emb, fresh[1].image_emb)
    (near,) = system.vary(pictures[0], seeds=[5], strength=0.1, **SMALL)
    (noisy,) = system.vary(pictures[0], seeds=[5], eta=0.5, **SMALL)
    assert apart(near, again) > 0
    assert apart(noisy, again) > 0
    assert np.abs(pixels(near) - pixels(again)).mean() < np.abs(pixels(fresh[0]) - pixels(again)).mean()


def test_a_system_says_how_its_variations_are_drawn_from_fresh_noise(system, pictures):
    variations = Settings(guidance=1.25, best_of=1, eta=0.5, negative="a cone")
    own = replace(system, config=replace(system.config, best_of=3, variations=variations))

    def drawn(**drawing):
        made = own.vary(pictures[0], n=1, batch=1, **SMALL, **drawing)
        return next(made).recipe["settings"], made.plan["decoder"]

    fresh, plan = drawn()
    assert (fresh["guidance"], fresh["best_of"], plan) == (1.25, 1, 20)
    assert (fresh["eta"], fresh["negative"]) == (0.5, "a cone")
    assert drawn(guidance=None, best_of=None, negative="")[0] == fresh, "left open"
    told, plan = drawn(guidance=2.0, best_of=2)
    assert (told["guidance"], told["best_of"], plan) == (2.0, 2, 40)
    assert (
        own.reconstruct(pictures[0], steps=None).plan
        == own.reconstruct(pictures[0]).plan
        != own.reconstruct(pictures[0], steps=9).plan
    )
    assert drawn(eta=0.5)[0]["guidance"] == 1.0, "along the picture's own noise it stays faithful"
    (other,) = own.generate(CAPTIONS[0], [1], **SMALL)
    assert (other.recipe["settings"]["guidance"], other.recipe["settings"]["best_of"]) == (
        system.decoder.sampling.guidance,
        3,
    )


@pytest.mark.parametrize("noise", ["inverted", "fixed"])
def test_interpolations_end_at_their_ends(system, pictures, noise):
    way = list(system.interpolate(*pictures, frames=5, noise=noise, seed=3, **SMALL))
    assert len(way) == 5
    if noise == "inverted":
        ends = [next(system.reconstruct(one, **SMALL)) for one in pictures]
    else:
        ends = [next(system.vary(one, seeds=[3], **SMALL)) for one in pictures]
    assert apart(way[0], ends[0]) <= 1
    assert apart(way[-1], ends[1]) <= 1
    first = way[0].image_emb
    cosines = [torch.cosine_similarity(one.image_emb, first, dim=0).item() for one in way]
    assert cosines == sorted(cosines, reverse=True)


def test_texts_are_ends_and_blends_too(system, pictures):
    way = list(system.interpolate(pictures[0], CAPTIONS[1], frames=3, seed=3, **SMALL))
    (text,) = system.generate(CAPTIONS[1], [3], size=SIZES[0])
    torch.testing.assert_close(way[-1].image_emb, text.image_emb)
    (mixed,) = system.blend([pictures[0], CAPTIONS[1]], [1.0, 0.0], seeds=[3], **SMALL)
    torch.testing.assert_close(mixed.image_emb, way[0].image_emb)


def test_a_text_difference_begins_with_the_picture_and_turns_by_theta(system, pictures):
    (again,) = system.reconstruct(pictures[0], **SMALL)
    none, some, more = system.text_diff(
        pictures[0], to=CAPTIONS[1], source_text=CAPTIONS[2], theta=(0.0, 0.25, 0.5), **SMALL
    )
    assert apart(none, again) <= 1
    angles = [torch.cosine_similarity(one.image_emb, none.image_emb, dim=0).acos().item() for one in (some, more)]
    assert angles[1] == pytest.approx(2 * angles[0], rel=1e-3)


def test_generation_may_begin_with_an_embedding_or_a_latent(system, pictures):
    (drawn,) = system.generate(CAPTIONS[0], [7], size=SIZES[0])
    (again,) = system.generate(CAPTIONS[0], [7], size=SIZES[0], init=drawn.image_emb)
    assert apart(drawn, again) == 0
    latent = system.invert(pictures[0], CAPTIONS[0], steps=20)
    (pair,) = system.generate(CAPTIONS[0], [7], init=latent, guidance=1.0, threshold="none", sampler="ddim", **SMALL)
    assert apart(pair, system.decode(latent, **SMALL)) == 0


def test_a_latent_of_another_decoder_is_refused(system, pictures):
    latent = system.invert(pictures[0], steps=3)
    other = Latent(latent.image_emb, latent.x_T, "", {"clip": latent.weights["clip"], "decoder": "0" * 16})
    with pytest.raises(UnclipError, match="another decoder"):
        system.decode(other, **SMALL)


def test_principal_components_bring_the_embedding_back(system, pictures):
    with pytest.raises(UnclipError, match="has no PCA"):  # before the first is asked for
        system.reconstruct(pictures[0], [4], **SMALL)
    axes = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]
    able = replace(system, pca=Pca(torch.zeros(D), axes, torch.ones(D)))
    with pytest.raises(UnclipError, match=f"components = {D + 1}: expected 0 to {D}"):
        able.reconstruct(pictures[0], [3, D + 1], **SMALL)
    few, all_of_them = able.reconstruct(pictures[0], [3, D], seed=4, **SMALL)
    (whole,) = system.vary(pictures[0], seeds=[4], **SMALL)
    assert apart(all_of_them, whole) <= 1
    assert apart(few, whole) > 1
    assert few.image_emb.norm().item() == pytest.approx(1, abs=1e-5)


def test_pictures_in_memory_are_read_as_files_are(tmp_path):
    deep = Image.fromarray(np.arange(0, 64 * 1000, 1000, dtype=np.uint16).reshape(8, 8))
    turned, exif = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3)), Image.Exif()
    exif[0x0112] = 6
    deep.save(tmp_path / "deep.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("deep.png", "turned.png"):
        file = tmp_path / name
        assert torch.equal(source(Image.open(file)).pixels, source(file).pixels)
    assert source(Image.open(tmp_path / "turned.png")).pixels.shape == (3, 8, 4)


def test_a_latent_is_decoded_as_its_picture_is(system, pictures):
    latent = system.invert(pictures[0], CAPTIONS[0], steps=5)
    how = {"size": SIZES[0], "steps": 5}
    (by_picture,) = system.generate(CAPTIONS[0], [7], init=pictures[0], **how)
    (by_latent,) = system.generate(CAPTIONS[0], [7], init=latent, **how)
    assert by_latent.recipe["settings"] == by_picture.recipe["settings"]
    assert apart(by_picture, by_latent) == 0


def test_a_latent_is_decoded_under_the_prompt_it_was_inverted_with(system, pictures):
    latent = system.invert(pictures[0], CAPTIONS[0], steps=5)
    how = {"size": SIZES[0], "steps": 5}
    again = system.decode(latent, **how)
    (same,) = system.vary(latent, seeds=[5], strength=0.0, **how)
    first, _ = system.interpolate(latent, CAPTIONS[1], frames=2, **how)
    (none,) = system.text_diff(latent, to=CAPTIONS[1], source_text=CAPTIONS[2], theta=0.0, **how)
    assert [apart(one, again) <= 1 for one in (same, first, none)] == [True] * 3
    other = system.invert(pictures[1], CAPTIONS[1], steps=5)
    with pytest.raises(UnclipError, match="different prompts"):
        next(system.interpolate(latent, other, **how))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda s, x: next(s.generate("a cube", [0], init=torch.randn(5))), "embedding of 5 numbers; expected 16"),
        (lambda s, x: next(s.generate("a cube", [0], init=torch.full((D,), torch.nan))), "finite"),
        (lambda s, x: s.decode(Latent(torch.ones(D), torch.ones(3, 8, 8))), r"x_T is \[3, 8, 8\]"),
        (lambda s, x: s.decode(Latent(torch.ones(D), torch.full((3, 16, 16), torch.inf))), "finite"),
        (lambda s, x: s.text_diff(x, to="a cube", theta=[]), "nothing to draw"),
        (lambda s, x: s.reconstruct(x, components=[]), "nothing to draw"),
        (lambda s, x: s.interpolate(x, "a \udcff cube"), "not valid Unicode"),
        (lambda s, x: s.vary("a red cube"), "no such picture"),
        (lambda s, x: s.vary(torch.ones(D)), "expected a picture or a latent"),
        (lambda s, x: s.generate("a cube", [0], init="nosuch"), "no such picture"),
        (lambda s, x: s.inpaint(x, torch.ones(D), "a cube"), "a mask of type"),
        (lambda s, x: s.vary(Image.new("RGB", (0, 5))), "no pixels"),
        (lambda s, x: s.reconstruct(x, sampler="ddpm"), "sampler = ddpm"),
        (lambda s, x: s.invert(x, sampler="ddpm"), "sampler = ddpm"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(system, pictures, call, told):
    with pytest.raises(UnclipError, match=told):
        call(system, pictures[0])


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "quadratic"])
def test_the_plan_counts_inversions_of_any_spacing(system, pictures, spacing):
    counted = []
    able = replace(system, decoder=system.decoder.at(spacing=spacing))
    made = able.reconstruct(pictures[0], steps=6, size=SIZES[0], on_step=lambda name, step: counted.append(name))
    next(made)
    assert counted.count("inversion") == made.plan["inversion"]


def test_the_plan_of_a_manipulation_is_what_happens(system, pictures):
    counted = {}

    def count(name, step):
        counted[name] = counted.get(name, 0) + 1

    mask = Image.new("L", pictures[0].size, 255)
    for make in (
        lambda: system.vary(pictures[0], n=3, batch=2, on_step=count, strength=0.5, steps=4, size=SIZES[1]),
        lambda: system.vary(pictures[0], n=3, on_step=count, size=SIZES[0]),
        lambda: system.interpolate(pictures[0], CAPTIONS[0], frames=3, on_step=count, **SMALL),
        lambda: system.blend([CAPTIONS[0], CAPTIONS[1]], [1.0, 1.0], n=2, on_step=count, size=SIZES[0]),
        lambda: system.text_diff(pictures[0], to="a cube", on_step=count, **SMALL),
        lambda: system.inpaint(pictures[0], mask, "a cube", n=2, rounds=3, on_step=count, size=SIZES[1]),
    ):
        counted.clear()
        made = make()
        plan = made.plan
        list(made)
        assert counted == plan
