"""A system with a matcher: it joins the choice, travels with the rest, and is asked for only where it had a say."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tools import ship
from unclip import checkpoint
from unclip.choosing import Matching
from unclip.clip import Clip
from unclip.errors import UnclipError, UnclipWarning
from unclip.images import to_tensor
from unclip.noise import redrawn
from unclip.system import UnCLIP

from .systems import write_clip, write_matcher

HEAVY: dict[str, Any] = {"best_of": 4, "match_weight": 1e4, "size": 16, "batch": 4}  # nothing else counts


@pytest.fixture(scope="module")
def matched(folder, tmp_path_factory) -> Path:
    """The system with a matcher; not to be written to."""
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("matched") / "system")
    write_matcher(copy, Clip(copy / "clip.safetensors"))
    return copy


@pytest.fixture
def copy(matched, tmp_path) -> Path:
    """A copy of it that may be changed."""
    return shutil.copytree(matched, tmp_path / "copy")


def add_line(folder: Path, line: str) -> None:
    file = folder / "system.toml"
    file.write_text(f"{line}\n{file.read_text()}")


def drawn(system: UnCLIP, seed: int = 3, **how: Any) -> Any:
    return next(system.generate("a red cube", [seed], **how))


def test_it_joins_the_choice_and_the_recipe_knows(matched):
    system = UnCLIP.from_pretrained(matched, "cpu")
    made = drawn(system, **HEAVY)
    apart = [drawn(system, redrawn(3, k), size=16) for k in range(4)]
    pictures = torch.stack([to_tensor(one.image) for one in apart])
    (said,) = system.matching(system.clip, [pictures], system.clip.text(["a red cube"] * 4))
    assert (said < 0).all()
    assert said.std() > 1e-5
    assert made.image.tobytes() == apart[int(said.argmax())].image.tobytes()
    assert made.recipe["settings"]["match_weight"] == 1e4
    assert "matcher" in made.recipe["system"]["weights"]
    assert next(system.replay(made.recipe, batch=4)).image.tobytes() == made.image.tobytes()


def test_a_text_that_is_empty_is_no_text(matched):
    """In a batch with one that is not, too."""
    system = UnCLIP.from_pretrained(matched, "cpu")
    how = {"seeds": [3, 4], "best_of": 4, "size": 16, "batch": 2}
    with pytest.warns(UnclipWarning, match="an empty prompt"):
        plain, heavy = (list(system.generate(["", "a red cube"], **how, match_weight=weight)) for weight in (0.0, 1e4))
    assert plain[0].image.tobytes() == heavy[0].image.tobytes()


def test_with_little_memory_the_same_is_kept_and_each_net_is_read_once_a_batch(matched, monkeypatch):
    made, reads = drawn(UnCLIP.from_pretrained(matched, "cpu"), **HEAVY), list[str]()
    read = checkpoint.stored
    monkeypatch.setattr(checkpoint, "stored", lambda path: reads.append(Path(path).stem) or read(path))
    assert (
        drawn(UnCLIP.from_pretrained(matched, "cpu", low_memory=True), **HEAVY).image.tobytes() == made.image.tobytes()
    )
    assert reads.count("matcher") == 1
    assert reads.count("clip") == 2  # for the prompt, and for the pictures


def test_in_half_precision_it_judges_too(matched):
    whole, half = (UnCLIP.from_pretrained(matched, "cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    picture, text = torch.rand(2, 3, 16, 16) * 2 - 1, whole.clip.text(["a red cube", "a large green sphere"])
    said, nearly = (system.matching(system.clip, [picture], text) for system in (whole, half))
    assert nearly.dtype == torch.float32
    assert 0 < (nearly - said).abs().max() < 0.05


def test_it_is_not_asked_where_it_has_no_say(matched, folder, monkeypatch):
    """Nor are its weights, when such a picture is drawn again by a system that has others, or none."""
    system, without = UnCLIP.from_pretrained(matched, "cpu"), UnCLIP.from_pretrained(folder, "cpu")
    heavy = drawn(system, **HEAVY)
    with pytest.raises(UnclipError, match="with another matcher"):
        without.replay(heavy.recipe)
    monkeypatch.setattr(Matching, "__call__", None)
    for how in ({"best_of": 1, "match_weight": 2.0}, {"best_of": 4}):
        made = drawn(system, size=16, batch=4, **how)
        assert next(without.replay(made.recipe, batch=4)).image.tobytes() == made.image.tobytes()


def test_without_a_matcher_a_weight_is_refused(system, folder, tmp_path):
    with pytest.raises(UnclipError, match=r"match_weight = 2, but this system has no matcher; leave it out"):
        system.generate("a red cube", [3], best_of=2, match_weight=2.0)
    for name, line in (("a", "match_weight = 0.5"), ("b", "variations = {match_weight = 0.5}")):
        add_line(shutil.copytree(folder, tmp_path / name), line)
        with pytest.raises(UnclipError, match=r"match_weight = 0.5, but system.toml names no matcher"):
            UnCLIP.from_pretrained(tmp_path / name, "cpu")


@pytest.mark.parametrize("mixed", [False, True])
def test_one_of_another_clip_is_refused_always(copy, tmp_path, mixed):
    shutil.copy(copy / "system.toml", tmp_path / "before.toml")
    write_matcher(copy, write_clip(tmp_path / "other.safetensors", seed=1))
    shutil.copy(tmp_path / "before.toml", copy / "system.toml")
    add_line(copy, f"allow_mixed_clip = {str(mixed).lower()}")
    with pytest.raises(UnclipError, match=r"the matcher was trained on CLIP \w+ but .* \w+; use matching files$"):
        UnCLIP.from_pretrained(copy, "cpu")


def test_one_that_does_not_know_its_clip_or_is_none_is_refused(copy):
    path = copy / "matcher.safetensors"
    header = checkpoint.read_header(path)
    checkpoint.save(path, checkpoint.read_tensors(path), dataclasses.replace(header, parents={}))
    with pytest.raises(
        UnclipError, match=r"the matcher does not say which CLIP it was trained on; use matching files$"
    ):
        UnCLIP.from_pretrained(copy, "cpu")
    shutil.copy(copy / "prior.safetensors", path)
    with pytest.raises(UnclipError, match=r"matcher\.safetensors: holds a prior; expected a matcher"):
        UnCLIP.from_pretrained(copy, "cpu")


def test_inspect_and_plans_tell_of_it(copy, cli, tmp_path):
    add_line(copy, "best_of = 3\nmatch_weight = 0.25")
    told = cli("inspect", copy)[1]
    assert "best of 3 small ones (text_weight 0, match_weight 0.25)" in told
    assert "  matcher: 5,545 parameters, reads CLIP's block 0" in told
    planned = cli("generate", "a red cube", "--model", copy, "--dry-run", "--out", tmp_path / "out")[1]
    assert any(line.split()[:2] == ["matcher", "0.0"] for line in planned.splitlines())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_is_converted_with_the_rest(copy, cli, tmp_path, dtype):
    add_line(copy, "match_weight = 0.25")
    assert cli("convert", copy, tmp_path / "new", "--dtype", dtype)[0] == 0
    one, two = (UnCLIP.from_pretrained(path, "cpu") for path in (copy, tmp_path / "new"))
    assert two.config.match_weight == 0.25
    tensors = zip(one.matching.net.state_dict().values(), two.matching.net.state_dict().values(), strict=True)
    assert max(float((a - b).abs().max()) for a, b in tensors) <= (1e-3 if dtype == "float16" else 0)


def test_it_is_shipped_with_the_rest(copy, tmp_path):
    ship.ship(copy, tmp_path / "out")
    made, shipped = (drawn(UnCLIP.from_pretrained(path, "cpu"), **HEAVY) for path in (copy, tmp_path / "out"))
    assert shipped.recipe["system"]["weights"] == made.recipe["system"]["weights"]
