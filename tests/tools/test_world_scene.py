"""Scenes of the demo world: deterministic, well seen, and split by what training must not show."""

from collections import Counter
from dataclasses import replace

import pytest

from tools.world import palette, relations, sample
from tools.world.geometry import bounds, corners
from tools.world.sampling import VISIBLE
from tools.world.splits import HELD_OUT_PAIRS, HELD_OUT_RELATIONS
from tools.world.visibility import visible_shares
from unclip.errors import UnclipError

INVERSE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}


@pytest.fixture(scope="module")
def scenes():
    splits = "train", "test", "composition", "crowded", "stacked", "twins"
    return {split: [sample(7, i, split) for i in range(250)] for split in splits}


def _held_out(scene):
    """Everything of the documented lists that a scene contains, looked up without the library's own predicate."""
    shapes = [thing.shape for thing in scene.things]
    told = {(shapes[r.subject], r.name, shapes[r.object]) for r in relations(scene)}
    told |= {(c, INVERSE[name], a) for a, name, c in told if name in INVERSE}
    pairs = {(thing.colour, thing.shape) for thing in scene.things}
    return (told & set(HELD_OUT_RELATIONS)) | (pairs & set(HELD_OUT_PAIRS))


def test_a_scene_depends_on_seed_index_and_split_only():
    assert sample(1, 5, "train") == sample(1, 5, "train")
    others = {sample(1, 5, "train"), sample(2, 5, "train"), sample(1, 6, "train"), sample(1, 5, "test")}
    assert len(others) == 4


def test_training_and_iid_test_never_show_what_composition_always_shows(scenes):
    shown_in_training = (scene for split in ("train", "test", "crowded", "stacked", "twins") for scene in scenes[split])
    assert not any(map(_held_out, shown_in_training))
    shown = [_held_out(scene) for scene in scenes["composition"]]
    assert all(shown)
    assert set().union(*shown) >= {*HELD_OUT_PAIRS, *HELD_OUT_RELATIONS}


def test_training_shows_every_name_and_the_paper_prompt_is_no_composition(scenes):
    seen = Counter(name for scene in scenes["train"] for name in _names(scene))
    wanted = {
        *palette.SHAPES,
        *palette.COLOURS,
        *palette.SIZES,
        *palette.MATERIALS,
        *palette.STYLES,
        *palette.RELATIONS,
    }
    assert min(seen[name] for name in wanted) >= 8
    assert {len(scene.things) for scene in scenes["train"]} == {1, 2, 3}
    assert {len(scene.things) for scene in scenes["crowded"]} == {2, 3}
    assert not {("red", "cube"), ("blue", "cube")} & set(HELD_OUT_PAIRS)
    assert ("cube", "on top of", "cube") not in HELD_OUT_RELATIONS


def test_in_stacked_scenes_the_first_thing_is_on_the_second(scenes):
    assert all(scene.things[0].on == 1 for scene in scenes["stacked"])
    assert {scene.things[1].shape for scene in scenes["stacked"]} == {"cube", "cylinder"}
    assert {scene.things[0].shape for scene in scenes["stacked"]} == set(palette.SHAPES)


def test_twins_differ_in_what_stands_where_and_in_nothing_else(scenes):
    def names(thing):
        return thing.shape, thing.colour, thing.size, thing.material

    for one, other in zip(scenes["twins"][::2], scenes["twins"][1::2], strict=True):
        assert one == replace(other, things=one.things)
        first, second, *others = map(names, one.things)
        assert first != second
        assert [names(thing) for thing in other.things] == [second, first, *others]
        assert {(r.subject, r.name) for r in relations(one) if r.object < 2 > r.subject} == {
            (r.subject, r.name) for r in relations(other) if r.object < 2 > r.subject
        }


def _names(scene):
    for thing in scene.things:
        yield from (thing.shape, thing.colour, thing.size, thing.material)
    yield scene.style
    yield from (r.name for r in relations(scene))


def test_every_thing_lies_in_the_frame_and_is_seen(scenes):
    for scene in scenes["train"][:80]:
        for solid in scene.solids:
            left, top, right, bottom = bounds(scene.camera, corners(solid))
            assert left > 0
            assert top > 0
            assert right < 1
            assert bottom < 1
        assert min(visible_shares(scene, grid=150)) >= VISIBLE


def test_sizes_are_apparent_and_leave_a_gap(scenes):
    widths = {"small": [], "large": []}
    for scene in scenes["train"]:
        for thing in (t for t in scene.things if t.shape == "sphere"):
            left, _, right, _ = bounds(scene.camera, corners(thing))
            widths[thing.size].append(right - left)
    assert max(widths["small"]) < 0.9 * min(widths["large"])


def test_an_unknown_split_is_refused_in_one_line():
    with pytest.raises(
        UnclipError,
        match=r"unknown split 'validation'; expected one of train, test, composition, crowded, stacked, twins$",
    ):
        sample(0, 0, "validation")
