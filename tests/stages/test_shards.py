"""Which shards a config names, what is refused, and what of a shard is read."""

import io
import tarfile
from pathlib import Path

import pytest

from stages.shards import Faults, find, read
from unclip.errors import UnclipError


def write(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of one sample each, and a file that is none."""
    for shard in range(3):
        write(tmp_path / f"{shard:05d}.tar", [f"{shard}.txt", f"{shard}.pkl", f"{shard}.PNG"])
    (tmp_path / "notes.txt").write_text("no shard")
    return tmp_path


def test_a_folder_a_file_and_patterns_name_shards(folder: Path) -> None:
    def names(spec: str) -> list[str]:
        return [path.name for path in find(str(folder / spec), "data.shards").paths]

    assert names("") == ["00000.tar", "00001.tar", "00002.tar"]
    assert names("{00001..00002}.tar") == names("0000[12].tar") == ["00001.tar", "00002.tar"]
    assert names("{00002,00000}.tar") == ["00000.tar", "00002.tar"]
    assert names("00001.tar") == ["00001.tar"]


def test_only_the_wanted_files_are_read_whatever_the_path(folder: Path) -> None:
    odd = (folder / "00000.tar").rename(folder / "a#b c.tar")  # webdataset would cut this path
    faults = Faults()
    (raw,) = read(find(str(odd), "data.shards"), [0], ("txt", "png"), faults)
    assert raw == {"__key__": "0", "__url__": str(odd), "txt": b"x", "png": b"x"}
    assert faults.count == 0


def test_a_shard_that_cannot_be_used_is_counted_with_its_reason(folder: Path) -> None:
    (folder / "00000.tar").write_bytes(b"no tar at all")
    write(folder / "00001.tar", ["a.v2.txt"])  # a key ends at its first dot
    shards, faults = find(str(folder), "data.shards"), Faults()
    (folder / "00002.tar").unlink()
    reasons = []
    for index in range(3):
        assert list(read(shards, [index], ("txt",), faults)) == []
        reasons.append(faults.reason)
    assert faults.count == 3
    assert reasons[0].startswith("00000.tar: ")
    assert reasons[1] == "00001.tar: 0 usable samples"
    assert reasons[2].startswith("00002.tar: No such file")


def test_mistakes_are_one_line(folder: Path) -> None:
    def refused(spec: str, match: str) -> None:
        with pytest.raises(UnclipError, match=match) as error:
            find(spec, "data.shards")
        assert "\n" not in str(error.value)

    (folder / "empty").mkdir()
    refused(str(folder / "none"), r"^data\.shards = .* no such folder or file")
    refused(str(folder / "empty"), r"no \.tar found")
    refused(str(folder / "x*.tar"), r"no \.tar found")
    refused(str(folder / "{00000..00004}.tar"), r"2 of its shards do not exist, the first is .*00003\.tar")
    refused(str(folder / "{00000.tar"), "unbalanced braces")
    refused(f"pipe:touch {folder / 'ran'}", "URLs and pipes are not read")
    refused(f"{{pipe:touch {folder / 'ran'},x}}", "do not exist")
    refused("s3://bucket/0.tar", "URLs and pipes are not read")
    assert not (folder / "ran").exists()
    (folder / "index.json").write_text('{"shards": 3}')
    refused(str(folder), r"index\.json: not a shard index")
