"""A small offline CLIP tokenizer for the released folder layout: the first merges of CLIP's own list, ids in CLIP's order."""

import gzip
import json
import shutil
from pathlib import Path

import open_clip

LAYOUTS = Path(__file__).with_name("layouts")
HOW_MANY = 384


def _real_merges() -> list[str]:
    path = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    return gzip.decompress(path.read_bytes()).decode().splitlines()[1:]


def _byte_letters() -> list[str]:
    """CLIP's letters for the 256 bytes, in the order of its ids: printable ones first, "!" is 0."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


MERGES: tuple[str, ...] = tuple(_real_merges()[:HOW_MANY])  # as unclip.tokenizer.Tokenizer(merges=…) takes them
VOCABULARY = 512 + len(MERGES) + 2
SENTENCES = (
    "a photo of a cat",
    "Two RED cubes,  and the blue sphere's shadow",
    "the man in the street at 12:45, 3 birds & 1 dog",
    "an oil painting of the sea by night; très joli, naïve – 雪山",
    "it's what they've said: we'll go (don't ask)...",
    "supercalifragilisticexpialidocious",
    "",
)


def vocabulary() -> dict[str, int]:
    """Token -> id: 256 bytes, 256 bytes that end a word, the merges, start and end of text."""
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in MERGES)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def tokenizer_files(folder: Path) -> Path:
    """Write vocab.json, merges.txt and the two frozen JSON files (pad_token "!") into `folder`; gives `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        shutil.copyfile(LAYOUTS / "karlo-unclip" / "tokenizer" / name, folder / name)
    return folder
