"""`unclip generate`: what it writes, what it says, and that no mistake ends in a traceback."""

from pathlib import Path

import pytest
from PIL import Image

from unclip.images import open_image, read_recipe

from .command_line import names, one_line

ROOT = Path(__file__).parents[1]


def test_pictures_recipes_and_a_grid(generate, tmp_path):
    code, out, err = generate("a red cube", "-n", 3, "--seed", 5, "--size", 16, "--steps", 2, "--negative", "a cone")
    files = [f"a-red-cube-{seed}.png" for seed in (5, 6, 7)]
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == [*files, "a-red-cube-grid.png"]
    assert names(tmp_path / "out") == sorted([*files, "a-red-cube-grid.png"])
    assert "prior" in err
    assert "12/12" in err
    assert "decoder" in err
    for seed, name in zip((5, 6, 7), files, strict=True):
        recipe = read_recipe(tmp_path / "out" / name)
        assert (recipe["prompt"], recipe["seed"]) == ("a red cube", seed)
        assert recipe["settings"]["steps"] == 2
        assert recipe["settings"]["negative"] == "a cone"
        assert recipe["system"]["name"] == "random"
    assert open_image(tmp_path / "out" / "a-red-cube-grid.png").size == (2 * 16 + 2, 2 * 16 + 2)


def test_nothing_is_overwritten_and_the_same_command_draws_the_same(generate, tmp_path):
    generate("a red cube", "-n", 2, "--seed", 5, "--size", 16)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    code, out, _ = generate("a red cube", "-n", 2, "--seed", 5, "--size", 16, "--batch", 1)
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == [
        "a-red-cube-5-2.png",
        "a-red-cube-6-2.png",
        "a-red-cube-grid-2.png",
    ]
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in before.items())
    first, again = (Image.open(tmp_path / "out" / name) for name in ("a-red-cube-5.png", "a-red-cube-5-2.png"))
    assert max(abs(a - b) for a, b in zip(first.tobytes(), again.tobytes(), strict=True)) <= 1


def test_one_picture_of_each_prompt_unless_more_are_asked_for(generate, tmp_path):
    assert len(generate("a red cube", "--seed", 0, "--size", 16)[1].splitlines()) == 1
    assert len(generate("a cone", "a cube", "--seed", 0, "--size", 16)[1].splitlines()) == 3
    assert open_image(tmp_path / "out" / "a-cone-grid.png").size == (2 * 16 + 2, 16)


def test_several_prompts_make_a_row_each(generate, tmp_path):
    code, out, _ = generate("a red cube", "eine Kugel 球", "-n", 3, "--seed", 0, "--size", 16)
    assert code == 0
    assert len(out.splitlines()) == 7
    assert (tmp_path / "out" / "eine-kugel-球-2.png").is_file()
    assert open_image(tmp_path / "out" / "a-red-cube-grid.png").size == (3 * 16 + 2 * 2, 2 * 16 + 2)


@pytest.mark.parametrize("prompt", ["𝐚" * 70, "../../etc/passwd", "a" * 400, "/\0?*", "con."])
def test_any_prompt_becomes_a_file_name_in_the_folder(generate, tmp_path, prompt):
    code, out, _ = generate(prompt, "-n", 1, "--size", 16)
    assert code == 0
    assert Path(out.strip()).parent == tmp_path / "out"
    assert Path(out.strip()).is_file()


@pytest.mark.parametrize(
    ("prompt", "warning"),
    [
        ("cube " * 20, "20 tokens and 14 fit: cut off 'cube cube cube cube cube cube'"),
        ("<end_of_text>", "the prompt holds a literal <end_of_text>: it is taken as text"),
        ("", "an empty prompt is drawn unconditionally"),
    ],
)
def test_warnings_are_one_line_each_and_no_failure(generate, prompt, warning):
    code, out, err = generate(prompt, "-n", 1, "--size", 16)
    assert code == 0
    assert len(out.splitlines()) == 1
    told = [line for line in err.splitlines() if "warning" in line.lower()]
    assert len(told) == 1
    assert told[0].startswith("warning: ")
    assert warning in told[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no prompt given"),
        (["a cube", "--stepz", 3], "Unknown option: --stepz. Did you mean --steps?"),
        (["a cube", "--steps", -1], "greater than 0"),
        (["a cube", "--steps", "many"], 'unable to convert "many" into int'),
        (["a cube", "--steps", 1001], "decoder: steps = 1001: expected 1 to 1000"),
        (["a cube", "--prior-steps", 1001], "prior: steps = 1001: expected 1 to 1000"),
        (["a cube", "--upsampler-steps", 1001], "upsampler-64: steps = 1001: expected 1 to 1000"),
        (["a cube", "--size", 100], "size = 100: this system makes 16, 64, 256"),
        (["a cube", "--eta", 2], "less than or equal to 1"),
        (["a cube", "--guidance", -1], "greater than or equal to 0"),
        (["a cube", "--guidance", "inf"], "less than inf"),
        (["a cube", "--guidance", "nan"], "--guidance"),
        (["a cube", "--sampler", "dim"], 'Did you mean "ddim"?'),
        (["a cube", "-n", 0], "Must be > 0"),
        (["a cube", "--seed", -1], "Must be >= 0"),
        (["a cube", "--dtype", "int8"], "dtype 'int8': expected auto, float32, bfloat16, float16"),
        (["a \udcff cube"], "not valid Unicode"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(generate, tmp_path, words, told):
    code, out, err = generate(*words)
    assert code == 1
    assert one_line(err), err
    assert told in err
    assert "pydantic" not in err
    assert not out
    assert not names(tmp_path)
