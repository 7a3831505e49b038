"""Rules of the house that no linter knows: nothing unpickles, shapes are checked, files stay small."""

import ast
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from unclip import images

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("unclip", "stages", "tools") for path in (ROOT / name).rglob("*.py"))
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def nodes(path: Path, kind: Any) -> list[Any]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kind)]


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError):
        images.to_pil(torch.zeros(1, 3, 4, 4))


def test_torch_load_is_called_for_states_and_foreign_files_and_reads_plain_values_only():
    found = []
    for path in SOURCES:
        for call in nodes(path, ast.Call):
            if ast.unparse(call.func) == "torch.load":
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                found.append((path.relative_to(ROOT).as_posix(), named.get("weights_only")))
    assert sorted(found) == [("stages/state.py", "True"), ("unclip/interop/files.py", "True")]


def test_nothing_else_unpickles():
    for path in SOURCES:
        modules = {alias.name.split(".")[0] for node in nodes(path, ast.Import) for alias in node.names}
        modules |= {(node.module or "").split(".")[0] for node in nodes(path, ast.ImportFrom)}
        assert not modules & PICKLING, path
        for call in nodes(path, ast.Call):
            allowed = [keyword for keyword in call.keywords if keyword.arg == "allow_pickle"]
            assert all(ast.unparse(keyword.value) == "False" for keyword in allowed), f"{path}:{call.lineno}"
            if ast.unparse(call.func) in ("np.load", "numpy.load"):
                assert allowed, f"{path}:{call.lineno}: say allow_pickle=False"


def test_files_and_functions_stay_small():
    for path in SOURCES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250, path
        for node in nodes(path, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


def test_no_context_manager_spans_a_yield_of_the_library():
    """A no_grad or autocast around a yield would leak to the caller."""
    for path in (path for path in SOURCES if path.is_relative_to(ROOT / "unclip")):
        for node in nodes(path, ast.With):
            names = {ast.unparse(item.context_expr).split("(")[0].split(".")[-1] for item in node.items}
            if names & {"no_grad", "enable_grad", "autocast", "inference_mode", "_autocast"}:
                assert not any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)), path
