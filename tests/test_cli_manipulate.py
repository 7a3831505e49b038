"""The commands that begin with a picture: what they write, and what makes no sense is one line."""

import json

import numpy as np
import pytest
from PIL import Image

from unclip.images import open_image, read_recipe

from .command_line import names, one_line
from .systems import CAPTIONS, SIZES

SMALL = ("--size", SIZES[0], "--steps", 5)


@pytest.mark.parametrize(
    ("command", "words", "files"),
    [
        (
            "vary",
            ("-n", 2, "--seed", 3),
            ["a-picture-variation-3", "a-picture-variation-4", "a-picture-variation-grid"],
        ),
        ("vary", ("-n", 2, "--seed", 3, "--no-grid"), ["a-picture-variation-3", "a-picture-variation-4"]),
        (
            "interpolate",
            ("a red cube", "--frames", 2),
            ["a-picture-to-a-red-cube-00", "a-picture-to-a-red-cube-01", "a-picture-to-a-red-cube-grid"],
        ),
        ("edit", ("--to", "a cone", "--theta", 0.25), ["a-picture-a-cone-0.25"]),
        (
            "edit",
            ("--to", "a cone", "--from", "a cube", "--theta", "0.1,0.2"),
            ["a-picture-a-cone-0.1", "a-picture-a-cone-0.2", "a-picture-a-cone-grid"],
        ),
        ("reconstruct", (), ["a-picture-reconstruction"]),
        ("blend", ("a cone", "--weights", 1, 2, "-n", 1, "--seed", 0), ["a-picture-a-cone-0"]),
    ],
)
def test_commands_write_what_they_say(call, image, tmp_path, command, words, files):
    code, out, err = call(command, image, *words, *SMALL)
    assert code == 0, err
    assert names(tmp_path / "out") == sorted(f"{name}.png" for name in files)
    assert sorted(line.split("/")[-1] for line in out.splitlines()) == names(tmp_path / "out")
    recipe = read_recipe(tmp_path / "out" / f"{files[0]}.png")
    assert recipe["command"] == command
    assert recipe["sources"][0]["file"] == str(image)


def test_an_animation_goes_there_and_back(call, image, tmp_path):
    code, _, err = call("interpolate", image, "a cone", "--frames", 4, "--gif", *SMALL)
    assert code == 0, err
    with Image.open(tmp_path / "out" / "a-picture-to-a-cone.gif") as animation:
        assert animation.n_frames == 6


def test_a_latent_is_saved_and_drawn_from(call, image, tmp_path):
    latent = tmp_path / "x.safetensors"
    assert call("reconstruct", image, "--latent", latent, *SMALL)[0] == 0
    assert call("generate", CAPTIONS[0], "-n", 1, "--init", latent, *SMALL)[0] == 0
    code, _, err = call("reconstruct", image, "--latent", latent, *SMALL)
    assert code == 1
    assert one_line(err)


@pytest.mark.parametrize(
    ("name", "words"), [("l.lat", SMALL), ("l.safetensors", ("--size", 17)), ("l.safetensors", ("--components", 4))]
)
def test_no_latent_is_left_by_a_mistake(call, image, tmp_path, name, words):
    code, _, err = call("reconstruct", image, "--latent", tmp_path / name, *words)
    assert code == 1
    assert one_line(err), err
    assert not (tmp_path / name).exists()


def test_a_picture_of_a_saved_latent_replays(call, cli, folder, image, tmp_path):
    code, out, err = call("reconstruct", image, "--latent", tmp_path / "x.safetensors", *SMALL)
    assert code == 0, err
    code, _, err = cli("replay", out.strip(), "--out", tmp_path / "again", "--model", folder, "--device", "cpu")
    assert code == 0, err


def test_inpaint_replay_and_info(call, cli, folder, image, tmp_path):
    mask = Image.new("L", (50, 40), 0)
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "mask.png")
    code, out, err = call("inpaint", image, "a cone", "--mask", tmp_path / "mask.png", "-n", 1, "--seed", 0, *SMALL)
    assert code == 0, err
    made = out.strip()
    code, out, err = cli("replay", made, "--out", tmp_path / "again", "--model", folder)
    assert code == 0, err
    again = np.array(Image.open(out.strip())).astype(int)
    assert np.abs(again - np.array(Image.open(made)).astype(int)).max() <= 1
    code, out, _ = cli("info", made)
    assert json.loads(out)["command"] == "inpaint"
    assert cli("info", image)[0] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("vary", "IMAGE", "--strength", 1.5), "strength"),
        (("edit", "IMAGE", "--to", "a cube", "--from", "A  cube"), "the two texts are one"),
        (("inpaint", "IMAGE", "a cube", "--mask", "OTHER"), "the mask has 20x20 pixels, the picture 50x40"),
        (("inpaint", "IMAGE", "a cube", "--mask", "EDGE"), "the mask is empty within the picture's centre square"),
        (("inpaint", "IMAGE", "a cube", "--mask", "IMAGE", "--sampler", "dpmpp_2m"), "sampler = dpmpp_2m"),
        (("interpolate", "nowhere.png", "a cube"), "nowhere.png: no such file"),
        (("blend", "a cube", "nowhere.png"), "nowhere.png: no such file"),
        (("reconstruct", "IMAGE", "--latent", "/dev/null/x.safetensors"), "--latent /dev/null: /dev/null is a file"),
        (("edit", "IMAGE", "--to", "a cube", "--theta", 2), "theta"),
        (("interpolate", "IMAGE", "a cube", "--frames", 1), "frames"),
        (("reconstruct", "IMAGE", "--components", 4), "no PCA"),
        (("blend", "IMAGE", "a cone", "--weights", 1), "1 weights: expected a weight for each"),
        (("blend",), "0 things to blend"),
        (("reconstruct", "IMAGE", "--components", "4,x"), "components"),
        (("edit", "IMAGE", "--to", "a cube", "--theta", "0.1,nan"), "theta"),
        (("vary", "IMAGE", "--steps", 100000), "steps"),
        (
            ("edit", "IMAGE", "--to", "a cube", "--theta", 0.3, "--gif"),
            "--gif: an animation of one picture would not move",
        ),
    ],
)
def test_options_that_make_no_sense_are_one_line(call, image, tmp_path, words, told):
    """And no bars before it."""
    Image.new("L", (20, 20), 255).save(tmp_path / "other.png")
    edge = Image.new("L", (50, 40), 0)
    edge.putpixel((1, 1), 255)
    edge.save(tmp_path / "edge.png")
    files = {"IMAGE": image, "OTHER": tmp_path / "other.png", "EDGE": tmp_path / "edge.png"}
    command, *rest = [files.get(word, word) for word in words]
    code, _, err = call(command, *rest, *(() if "--steps" in rest else SMALL))
    assert code == 1
    assert told in err
    assert one_line(err), err


def test_a_dry_run_saves_no_latent(call, image, tmp_path):
    code, out, err = call("reconstruct", image, "--latent", tmp_path / "x.safetensors", "--dry-run", *SMALL)
    assert code == 0, err
    assert "decoder" in out
    assert not (tmp_path / "x.safetensors").exists()


def test_a_latent_is_decoded_under_the_prompt_that_is_given(call, image, tmp_path):
    latent = tmp_path / "x.safetensors"
    assert call("reconstruct", image, "--latent", latent, *SMALL)[0] == 0
    made = [call("reconstruct", latent, *words, *SMALL)[1].strip() for words in ((), ("--prompt", "a cone"))]
    assert [read_recipe(path)["prompt"] for path in made] == ["", "a cone"]


def test_seeds_that_change_nothing_are_told_of(call, image):
    for words in (
        ("vary", image, "--eta", 0),
        ("vary", image, "--strength", 0),
        ("generate", "a cone", "--init", image),
    ):
        code, _, err = call(*words, "-n", 2, *SMALL)
        assert code == 0, err
        assert "all of these are one picture" in err
        assert "all of these" not in call(*words, "-n", 1, *SMALL)[2]
    assert "all of these" not in call("vary", image, "--eta", 0.5, "-n", 2, *SMALL)[2]


def test_the_noise_that_an_edit_adds_is_the_seeds(call, image):
    edit = ("edit", image, "--to", "a cone", "--theta", 0.25, "--eta", 0.5)
    made = [open_image(call(*edit, "--seed", seed, *SMALL)[1].strip()).tobytes() for seed in (0, 1, 1)]
    assert made[0] != made[1] == made[2]


def test_a_replay_elsewhere_asks_for_the_file(call, cli, folder, image, tmp_path):
    made = call("vary", image, "-n", 1, "--seed", 0, *SMALL)[1].strip()
    image.rename(tmp_path / "moved.png")
    code, _, err = cli("replay", made, "--out", tmp_path / "again", "--model", folder, "--device", "cpu")
    assert code == 1
    assert one_line(err)
    assert "which this picture was made from, is not there; give it (--source FILE)" in err
    words = ("--source", tmp_path / "moved.png", "--out", tmp_path / "again", "--model", folder, "--device", "cpu")
    assert cli("replay", made, *words)[0] == 0
