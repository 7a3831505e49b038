"""The house's floors, read from the source: each part imports only what lies below it, inside functions too.

That sampling works with `stages` made unimportable is shown in test_cli, by the process that runs there anyway.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors", "config", "images", "noise", "settings", "version", "tokenizer", "devices", "places"},
    {"nn", "diffusion"},
    {"models", "clip", "checkpoint", "loading"},
    {"stage", "priors", "conditioning", "upsampling", "latents", "sources"},
    {"choosing", "drawing", "bench", "manipulations", "catalogue", "choices", "requests"},
    {"folder", "interop"},
    {"opening"},
    {"system"},
    {"cli", "__main__"},
]
SAME_FLOOR = {"nn": {"nn"}, "diffusion": {"diffusion"}}  # siblings that do not see each other
STAGES = {"clip", "prior", "draft", "decoder", "upsampler", "matcher"}
ALLOWED = {  # who may import which of our packages; nobody imports configs
    "unclip": {"unclip"},
    "stages": {"unclip", "stages"},
    "tools": {"unclip", "stages", "tools"},
    "tests": {"unclip", "stages", "tools", "tests"},
}
PACKAGES = {*ALLOWED, "configs"}


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path, text=None):
    """All modules that a file imports, wherever in it, as dotted names; of `from a import b` both a and a.b."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if text is None else text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def rooms(names, package="unclip"):
    """The parts of a package among imported names: "unclip.nn.attention" is of "nn"."""
    there = {path.stem for path in (ROOT / package).iterdir()}
    return {name.split(".")[1] for name in names if name.startswith(f"{package}.")} & there


def floor(room):
    return next(k for k, names in enumerate(FLOORS) if room in names)


def misplaced(path, text=None):
    """The rooms that a file of unclip imports although they lie above it or beside it behind a wall."""
    room = path.relative_to(ROOT / "unclip").with_suffix("").parts[0]
    allowed = set().union(*FLOORS[: floor(room)]) | SAME_FLOOR.get(room, FLOORS[floor(room)])
    return rooms(imports(path, text)) - allowed


def test_imports_are_found_wherever_they_stand():
    text = "def f():\n    from ..models import unet\n    import unclip.cli.shell\nfrom . import attention\n"
    path = ROOT / "unclip" / "nn" / "x.py"
    assert imports(path, text) == {
        "unclip.models",
        "unclip.models.unet",
        "unclip.cli.shell",
        "unclip.nn",
        "unclip.nn.attention",
    }
    assert misplaced(path, text) == {"models", "cli"}
    assert misplaced(path, "from unclip.diffusion.schedule import Schedule") == {"diffusion"}
    assert misplaced(ROOT / "unclip" / "clip.py", "from unclip import stage, errors") == {"stage"}
    assert not misplaced(ROOT / "unclip" / "cli" / "x.py", "from unclip import system")


# the public surface names what is above it, and imports it when asked
BELOW = [path for path in sources("unclip") if path != ROOT / "unclip" / "__init__.py"]


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_imports_only_from_below(path):
    assert not misplaced(path)


def test_only_the_tokenizer_and_clip_see_open_clip():
    seeing = {
        path.relative_to(ROOT).as_posix()
        for path in sources("unclip")
        if any(name.split(".")[0] == "open_clip" for name in imports(path))
    }
    assert seeing <= {"unclip/tokenizer.py", "unclip/clip.py", "unclip/interop/clips.py", "unclip/interop/openai.py"}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_one_way(package):
    for path in sources(package):
        ours = {name.split(".")[0] for name in imports(path)} & PACKAGES
        assert ours <= ALLOWED[package], path


def test_no_stage_imports_another():
    seen = set()
    for path in sources("stages"):
        if path.stem in STAGES:
            seen.add(path.stem)
            assert not (rooms(imports(path), "stages") & STAGES), path
    assert seen == STAGES


def test_what_stages_share_knows_no_stage():
    for path in sources("stages"):
        assert path.stem in STAGES or not (rooms(imports(path), "stages") & STAGES), path


def test_stages_hold_no_module():
    for path in sources("stages"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
                assert "Module" not in bases, f"{path}: {node.name}"
