"""Recipes: what they replay, and what is refused."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from unclip.errors import UnclipError, UnclipWarning
from unclip.images import read_recipe

from .systems import CAPTIONS, SIZES
from .test_manipulations import SMALL, apart


def test_recipes_replay(system, pictures, tmp_path):
    files = []
    for k, one in enumerate(pictures):
        files.append(tmp_path / f"{k}.png")
        one.save(files[-1])
    mask = Image.new("L", pictures[0].size, 0)
    mask.paste(255, (0, 0, 8, 8))
    mask.save(tmp_path / "mask.png")
    latent = system.invert(files[0], steps=20)
    made = [
        next(system.generate(CAPTIONS[0], [3], size=SIZES[1], guidance=3.0)),
        next(system.generate(CAPTIONS[0], [3], size=SIZES[0], init=latent.image_emb)),
        list(system.vary(files[0], seeds=[5, 6], eta=0.3, **SMALL))[1],
        list(system.interpolate(files[0], str(files[1]), frames=3, **SMALL))[1],
        next(system.interpolate(files[0], CAPTIONS[1], frames=3, noise="fixed", **SMALL)),
        next(system.blend([files[0], CAPTIONS[2]], [1.0, 2.0], seeds=[9], **SMALL)),
        next(system.text_diff(files[0], to=CAPTIONS[1], theta=0.3, **SMALL)),
        next(system.inpaint(files[0], tmp_path / "mask.png", CAPTIONS[0], seeds=[2], rounds=2, **SMALL)),
    ]
    for picture in made:
        picture.save(tmp_path / "saved.png")
        recipe = read_recipe(tmp_path / "saved.png")
        assert recipe == json.loads(json.dumps(picture.recipe))
        assert apart(next(system.replay(recipe)), picture) <= 1, recipe["command"]
    with pytest.raises(UnclipError, match=r"x\.jpg: a picture with its recipe is a PNG"):
        made[0].save(tmp_path / "x.jpg")


def test_replays_refuse_other_sources_and_other_weights(system, pictures, tmp_path):
    (one,) = system.vary(pictures[0], seeds=[5], **SMALL)
    with pytest.raises(UnclipError, match="does not say which file"):
        system.replay(one.recipe)
    assert apart(next(system.replay(one.recipe, [pictures[0]])), one) <= 1
    with pytest.raises(UnclipError, match="not what this picture was made from"):
        system.replay(one.recipe, [pictures[1]])
    other = one.recipe | {"system": {"name": "x", "weights": {"decoder": "0" * 16}}}
    with pytest.raises(UnclipError, match="made by the system 'x' with another decoder"):
        system.replay(other, [pictures[0]])
    with pytest.raises(UnclipError, match="has no 'options'"):
        system.replay({key: value for key, value in one.recipe.items() if key != "options"})
    with pytest.warns(UnclipWarning, match="made under torch 1.0"):
        system.replay(one.recipe | {"made_by": {"torch": "1.0"}}, [pictures[0]])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": None}, "damaged: 'sources'"),
        ({"sources": [3]}, "damaged: 'sources'"),
        ({"settings": [1]}, "damaged: 'settings'"),
        ({"settings": {"batch": 3}}, "unknown key 'batch'"),
        ({"command": ["vary"]}, "damaged: 'command'"),
        ({"command": "paint"}, "command is 'paint'"),
        ({"system": []}, "damaged: 'system'"),
        ({"sources": []}, "0 sources given, expected 1"),
        ({"sources": [{"image_emb": "?"}]}, "not base64"),
        ({"options": {"strenght": 1.0}}, "did you mean 'strength'"),
    ],
)
def test_damaged_recipes_are_one_line(system, pictures, changes, told):
    (one,) = system.vary(pictures[0], seeds=[5], **SMALL)
    with pytest.raises(UnclipError, match=told):
        system.replay(one.recipe | changes, [pictures[0]] if "options" in changes else None)


def test_a_replay_under_other_sampling_is_refused(system, pictures):
    (one,) = system.vary(pictures[0], seeds=[5], **SMALL)
    sampling = one.recipe["sampling"] | {"decoder": one.recipe["sampling"]["decoder"] | {"spacing": "linspace"}}
    with pytest.raises(UnclipError, match=r"samples otherwise \(decoder.spacing\)"):
        system.replay(one.recipe | {"sampling": sampling}, [pictures[0]])


def test_a_recipe_from_before_a_setting_was_there_replays(system, pictures):
    (one,) = system.vary(pictures[0], seeds=[5], **SMALL)
    tables = one.recipe["sampling"]
    before = {
        name: {key: x for key, x in table.items() if key != "shrink"} if isinstance(table, dict) else table
        for name, table in tables.items()
    }
    assert before != tables
    assert apart(next(system.replay(one.recipe | {"sampling": before}, [pictures[0]])), one) <= 1
    shrinking = replace(system, decoder=system.decoder.at(shrink=0.1))
    with pytest.raises(UnclipError, match=r"samples otherwise \(decoder.shrink\)"):
        shrinking.replay(one.recipe | {"sampling": before}, [pictures[0]])
