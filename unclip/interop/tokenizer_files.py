"""A tokenizer's files as transformers reads and writes them."""

import json
from pathlib import Path

from unclip.clip import ClipConfig
from unclip.errors import UnclipError
from unclip.tokenizer import SPECIAL, Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"  # as transformers spells what open_clip calls SPECIAL


def tokenizer_files(clip: ClipConfig, folder: Path) -> None:
    """Writes vocab.json, merges.txt and the configs of a CLIPTokenizer that pads with "!", as the released ones do."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(clip.merges).bpe
    names: dict[str, str] = dict(zip(SPECIAL, (START, END), strict=True))
    vocabulary = {names.get(piece, piece): number for piece, number in bpe.encoder.items()}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.__getitem__))]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    told = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": clip.context,
        "do_lower_case": True,
        "errors": "replace",
    }
    files = {"vocab.json": vocabulary, "special_tokens_map.json": special, "tokenizer_config.json": told | special}
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def read_merges(folder: Path) -> tuple[str, ...] | None:
    """The merges of a tokenizer's folder; None, which is all of CLIP's, where there is none or they are these.

    Raises UnclipError for a file that is damaged.
    """
    file = folder / "merges.txt"
    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnclipError(f"{file}: cannot be read ({error}); get the folder again") from None
    lines = tuple(line for line in text.splitlines() if line and not line.startswith("#version"))
    odd = next((line for line in lines if [bool(piece) for piece in line.split(" ")] != [True, True]), None)
    if odd is not None or not lines:
        raise UnclipError(f"{file}: damaged: {(odd or '')[:40]!r} is no pair of pieces; get the folder again")
    whole = sorted((ranks := Tokenizer().bpe.bpe_ranks), key=ranks.__getitem__)
    return None if lines == tuple(map(" ".join, whole)) else lines
