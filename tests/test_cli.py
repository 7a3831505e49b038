"""The command line: what it writes, what it says, and that no mistake ends in a traceback."""

import errno
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from unclip.cli import app
from unclip.cli.shell import run
from unclip.images import open_image, read_recipe

from .systems import file_limit

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command line in this process; gives its exit code, stdout and stderr."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["unclip", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run(app)
        out, err = capsys.readouterr()
        code = caught.value.code
        if isinstance(code, str):  # as the interpreter does
            code, err = 1, f"{err}{code}\n"
        return code or 0, out, err

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def generate(cli, folder, tmp_path):
    """`unclip generate` with the tiny system, into tmp_path/out, unless told otherwise."""

    def call(*words, model=folder, out=tmp_path / "out"):
        return cli("generate", *words, "--model", model, "--out", out, "--device", "cpu")

    return call


def one_line(err):
    """Whether this is a mistake's report: one line, and no more."""
    return err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err


def names(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


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


@pytest.mark.parametrize("device", ["fpga", "nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(cli, folder, tmp_path, device):
    code, _, err = cli("generate", "a cube", "--model", folder, "--out", tmp_path / "out", "--device", device)
    assert code == 1
    assert one_line(err), err
    assert device in err
    assert not names(tmp_path)


def test_a_command_that_is_not_there_is_one_line(cli):
    code, _, err = cli("generat")
    assert code == 1
    assert one_line(err), err
    assert 'Did you mean "generate"?' in err


@pytest.mark.parametrize("spoil", ["missing", "truncated", "foreign", "empty", "no folder", "file"])
def test_a_model_that_cannot_be_used_is_one_line(generate, folder, tmp_path, spoil):
    model = shutil.copytree(folder, tmp_path / "model")
    decoder = model / "decoder.safetensors"
    if spoil == "missing":
        decoder.unlink()
    elif spoil == "truncated":
        decoder.write_bytes(decoder.read_bytes()[:-1])
    elif spoil == "foreign":
        decoder.write_bytes(b"PK\x03\x04 some other program's file, long enough")
    elif spoil == "empty":
        (model / "system.toml").unlink()
    given = {"no folder": tmp_path / "nowhere", "file": decoder}.get(spoil, model)
    code, out, err = generate("a cube", model=given)
    assert code == 1
    assert one_line(err), err
    assert str(given) in err
    assert not out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_is_no_folder_is_refused_before_work(generate, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    code, _, err = generate("a cube", model=tmp_path / "never opened", out=tmp_path / place)
    assert code == 1
    assert one_line(err), err
    assert "is a file; expected a folder" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_one_may_not_write_to_is_refused_before_work(generate, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may
    code, _, err = generate("a cube", model=tmp_path / "never opened")
    assert code == 1
    assert one_line(err), err
    assert "you may not write to" in err


def failure(err):
    """The last line: the bars of the work that was done stand before it."""
    *bars, last = err.splitlines()
    assert not any("error" in bar or "Traceback" in bar for bar in bars)
    return last


def test_a_full_disk_keeps_what_is_finished_and_nothing_half_written(generate, tmp_path):
    with file_limit(3000):  # enough for each picture, too little for their grid
        code, out, err = generate("a cube", "-n", 9, "--size", 16, "--seed", 0)
    assert code == 1
    assert failure(err) == "error: a file could not be written: File too large"
    assert names(tmp_path / "out") == [f"a-cube-{seed}.png" for seed in range(9)]
    assert len(out.splitlines()) == 9
    assert {open_image(path).size for path in (tmp_path / "out").iterdir()} == {(16, 16)}


def test_a_disk_that_fills_up_at_once_leaves_nothing(generate, tmp_path, monkeypatch):
    def full(*words, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    code, out, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert failure(err) == "error: a file could not be written: No space left on device"
    assert not out
    assert not names(tmp_path / "out")


def test_a_folder_that_vanishes_is_one_line(generate, tmp_path, monkeypatch):
    def gone(self, *words, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", gone)
    code, _, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert failure(err) == f"error: {tmp_path / 'out'}: Permission denied"


def test_other_failures_are_not_dressed_up(generate, monkeypatch):
    def broken(self, *words, **named):
        raise RuntimeError("a bug")

    monkeypatch.setattr("unclip.stage.Stage.run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        generate("a cube", "-n", 1, "--size", 16)


def test_a_full_device_is_one_line(generate, monkeypatch):
    def full(self, *words, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB …")

    monkeypatch.setattr("unclip.stage.Stage.run", full)
    code, _, err = generate("a cube", "-n", 1, "--size", 16)
    assert code == 1
    assert "the device is out of memory; lower --batch" in failure(err)


def test_ctrl_c_keeps_finished_pictures(generate, tmp_path, monkeypatch):
    from unclip import drawing

    finished = []

    def to_pil(x):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(x)
        return system_to_pil(x)

    system_to_pil = drawing.to_pil
    monkeypatch.setattr(drawing, "to_pil", to_pil)
    code, out, err = generate("a cube", "-n", 4, "--seed", 0, "--size", 16, "--batch", 2)
    assert code == 130
    assert failure(err) == "stopped; what was finished is kept"
    assert names(tmp_path / "out") == ["a-cube-0.png", "a-cube-1.png"]
    assert len(out.splitlines()) == 2


def test_inspect_tells_what_a_checkpoint_holds(cli, folder):
    code, out, err = cli("inspect", folder / "prior.safetensors", folder / "clip.safetensors")
    assert (code, err) == (0, "")
    assert "prior.safetensors: a prior, 47," in out
    assert '"predicts": "x0"' in out
    assert '"parents"' in out
    assert "a clip, " in out
    assert " merges" in out
    assert "r e" not in out, "merges are counted, not listed"


def test_inspect_tells_what_a_system_holds(cli, folder):
    code, out, err = cli("inspect", folder)
    assert (code, err) == (0, "")
    assert "the system 'random', all parts fit together" in out
    assert [line.split(":")[0].strip() for line in out.splitlines()[1:]] == [
        "clip",
        "prior",
        "decoder",
        "upsampler-64",
        "upsampler-256",
    ]
    assert "ddim, 4 steps, guidance 2" in out


def test_inspect_tells_how_a_picture_was_made(cli, generate):
    _, out, _ = generate("a red cube", "-n", 1, "--size", 16, "--seed", 77)
    code, out, err = cli("inspect", out.strip())
    assert (code, err) == (0, "")
    assert '"prompt": "a red cube"' in out
    assert '"seed": 77' in out


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.png", "plain.png", "a.jpg", "missing", "empty", None])
def test_inspect_answers_junk_in_one_line(cli, tmp_path, name):
    if name and name.startswith("junk"):
        (tmp_path / name).write_bytes(b"junk, and a lot of it, so that it looks like something")
    elif name == "empty":
        (tmp_path / name).mkdir()
    elif name and "." in name:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    code, out, err = cli("inspect", *([tmp_path / name] if name else []))
    assert code == 1
    assert one_line(err), err
    assert not out
    assert name is None or str(tmp_path / name) in err


LIGHT = """
import contextlib, io, sys
sys.argv = ["unclip", *{words!r}]
from unclip.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
print(out.getvalue())
print("HEAVY", sorted({{"torch", "numpy", "pydantic", "PIL", "open_clip", "stages"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"]])
def test_help_is_light(words):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout
    assert ("--negative" in done.stdout) == (len(words) == 2)
    assert "generate" in done.stdout


WITHOUT_STAGES = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("stages", "tools", "tests", "beartype", "accelerate", "webdataset", "ema_pytorch"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Wall())
from unclip.cli import main
main()
"""


def test_a_process_without_stages_draws_until_ctrl_c(folder, tmp_path):
    """Three things that only a process of its own shows: it costs ten seconds of imports, so they share one.

    Sampling needs nothing that training needs; a bar on a terminal does not swallow what a pipe waits for; a real SIGINT
    ends with what is finished.
    """
    words = ["generate", "a red cube", "--model", folder, "--out", tmp_path / "out", "--seed", 0, "--device", "cpu"]
    more = ["-n", 10_000, "--batch", 2, "--size", 16]
    bars, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_STAGES, *map(str, [*words, *more])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        env=os.environ | {"TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's "&" leaves it ignored
    )
    os.close(terminal)
    told = bytearray()
    reader = threading.Thread(target=drain, args=(bars, told))
    reader.start()
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 100)
        assert ready, f"nothing on stdout: {told.decode()}"
        first = process.stdout.readline()
        assert first.strip() == str(tmp_path / "out" / "a-red-cube-0.png"), told.decode()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        reader.join()
    assert process.returncode == 130, told.decode()
    assert "stopped; what was finished is kept" in told.decode()
    assert "Traceback" not in told.decode()
    files, told_of = {str(path) for path in (tmp_path / "out").iterdir()}, {first.strip(), *rest.split()}
    assert told_of <= files
    assert len(files - told_of) <= 1, "the signal may fall between a picture and its line"
    assert {open_image(path).size for path in (tmp_path / "out").iterdir()} == {(16, 16)}


def drain(terminal, into):
    """Reads a terminal until it closes; unread, it would stop its writer."""
    try:
        while chunk := os.read(terminal, 4096):
            into += chunk
    except OSError:  # how Linux says that the other side is gone
        pass
    finally:
        os.close(terminal)
