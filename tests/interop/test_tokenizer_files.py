"""A tokenizer's merges: by their content taken for CLIP's own or for others, and refused where they are damaged."""

from pathlib import Path

import pytest

from unclip.errors import UnclipError
from unclip.interop.tokenizer_files import read_merges
from unclip.tokenizer import Tokenizer

from . import pipelines

VERSION = "#version: 0.2"


@pytest.fixture(scope="module")
def whole() -> list[str]:
    """CLIP's own lines, in their order."""
    ranks = Tokenizer().bpe.bpe_ranks
    return [" ".join(pair) for pair in sorted(ranks, key=ranks.__getitem__)]


def written(folder: Path, lines: list[str], end: str = "\n") -> Path:
    (folder / "merges.txt").write_bytes(end.join([*lines, ""]).encode())
    return folder


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("head", [[VERSION], []])
def test_clips_own_merges_need_not_be_kept(whole: list[str], tmp_path: Path, head: list[str], end: str) -> None:
    assert len(whole) == 48894
    assert read_merges(written(tmp_path, head + whole, end)) is None


def test_without_a_file_they_are_clips(tmp_path: Path) -> None:
    assert read_merges(tmp_path) is None
    assert read_merges(tmp_path / "nowhere") is None


def test_one_changed_line_makes_others_of_them(whole: list[str], tmp_path: Path) -> None:
    """As many lines, so that no tensor's shape would tell."""
    swapped = [*whole[:20000], whole[20001], whole[20000], *whole[20002:]]
    assert read_merges(written(tmp_path, [VERSION, *swapped])) == tuple(swapped)
    changed = [*whole[:-1], "q x</w>"]
    assert changed != whole
    assert read_merges(written(tmp_path, [VERSION, *changed])) == tuple(changed)


def test_a_part_of_them_is_kept(tmp_path: Path) -> None:
    assert read_merges(pipelines.tokenizer_files(tmp_path)) == pipelines.MERGES


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"#version: 0.2\ni n\nt h e\n", "merges.txt: damaged: 't h e' is no pair of pieces"),
        (b"#version: 0.2\ni n\nthe\n", "merges.txt: damaged: 'the' is no pair of pieces"),
        (b"#version: 0.2\n", "merges.txt: damaged: '' is no pair of pieces"),
        (b"", "merges.txt: damaged"),
        (b"i n\n\xff\xfe\n", "merges.txt: cannot be read"),
        (b"<html>\n" + b"x" * 100000, "merges.txt: damaged: '<html>'"),
        (b"x" * 100000, f"'{'x' * 40}' is no pair"),
        (b"i n\nt \n", "merges.txt: damaged: 't ' is no pair"),
        (b"i n\n t\n", "merges.txt: damaged: ' t' is no pair"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(UnclipError) as refused:
        read_merges(tmp_path)
    assert told in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "merges.txt"))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
