"""CLIP's byte-pair encoding through open_clip, with its whole vocabulary or only the merges that some captions need."""

import functools
import gzip
import itertools
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Int
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from unclip.errors import UnclipWarning

Ranks = dict[tuple[str, str], int]  # the order in which merges apply
PADDING = 0
SPECIAL = ("<start_of_text>", "<end_of_text>")
PLAIN = re.compile(r"[A-Za-z0-9 \",.-]*")  # what CLIP's cleaning only lowers


@dataclass(frozen=True)
class Tokenizer:
    """Turns prompts into token ids.

    `merges` are lines of CLIP's merge list ("r e"); None means all 48,894 of them. Any text can be encoded with any
    subset: what no merge covers falls to bytes. So a small system need not pay for 49,408 rows of embeddings.
    `padding_text` becomes the padding id wherever it occurs, as "!" does where transformers pads with it.
    """

    merges: tuple[str, ...] | None = None
    padding_text: str | None = None

    @functools.cached_property
    def bpe(self) -> SimpleTokenizer:
        """open_clip's tokenizer with these merges."""
        if self.merges is None:
            return SimpleTokenizer()
        with tempfile.TemporaryDirectory() as folder:  # open_clip reads merges from a gzipped file only
            path = Path(folder, "merges.txt.gz")
            path.write_bytes(gzip.compress("\n".join(["#version", *self.merges]).encode()))
            return SimpleTokenizer(bpe_path=str(path))

    @property
    def vocabulary(self) -> int:
        """How many ids there are; the last two are start and end of text."""
        return self.bpe.vocab_size

    @functools.cached_property
    def _word(self) -> Callable[[str], list[int]]:
        """The ids of one word, remembered: CLIP's cleaning of whole prompts takes some ten times as long."""
        return functools.lru_cache(maxsize=1 << 16)(self.bpe.encode)

    def __call__(self, prompts: Sequence[str], context: int) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Token ids `[b, context]`, padded with 0, and the mask of real tokens (start and end of text included).

        A prompt that does not fit is cut, and a literal "<end_of_text>" is taken as text; both with an UnclipWarning.
        """
        rows = []
        for prompt in prompts:
            pieces = self._pieces(prompt)
            if len(pieces) > context - 2:
                cut = self.bpe.decode(pieces[context - 2 :]).strip()
                warnings.warn(
                    f"the prompt has {len(pieces)} tokens and {context - 2} fit: cut off {cut!r}",
                    UnclipWarning,
                    stacklevel=2,
                )
            rows.append([self.bpe.sot_token_id, *pieces[: context - 2], self.bpe.eot_token_id])
        padded = [row + [PADDING] * (context - len(row)) for row in rows]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        ids = torch.tensor(padded, dtype=torch.long).reshape(len(rows), context)  # no rows have no width of their own
        return ids, torch.arange(context) < lengths[:, None]

    def _pieces(self, prompt: str) -> list[int]:
        """A prompt's ids, CLIP's special tokens spelled out: inside, one would end it.

        They are looked for among the ids, since CLIP's cleaning also makes them of capitals, HTML entities and wide letters.
        """
        if self.padding_text is None and PLAIN.fullmatch(prompt):
            return [piece for word in prompt.split() for piece in self._word(word)]
        if self.padding_text is not None:
            parts = [self.bpe.encode(part) for part in prompt.split(self.padding_text)]
            pieces = parts[0] + [piece for part in parts[1:] for piece in (PADDING, *part)]
        else:
            pieces = self.bpe.encode(prompt)
        for token in SPECIAL:
            special = self.bpe.encoder[token]
            if special in pieces:
                warnings.warn(f"the prompt holds a literal {token}: it is taken as text", UnclipWarning, stacklevel=3)
                spelled = self.bpe.encode(f"< {token[1:-1]} >")
                pieces = [one for piece in pieces for one in (spelled if piece == special else [piece])]
        return pieces


def used_merges(captions: Iterable[str]) -> tuple[str, ...]:
    """The merges, in CLIP's order, that encoding `captions` applies: with them alone the captions encode to the same pieces."""
    whole = SimpleTokenizer()
    parts = {part for caption in captions for part in (caption.split() if PLAIN.fullmatch(caption) else (caption,))}
    words = {word for part in parts for word in whole.pat.findall(whole.clean_fn(part))}
    used: set[tuple[str, str]] = set()
    for word in words:
        letters = "".join(whole.byte_encoder[byte] for byte in word.encode())
        used |= _applied([*letters[:-1], letters[-1] + "</w>"], cast(Ranks, whole.bpe_ranks))
    return tuple(" ".join(merge) for merge in sorted(used, key=whole.bpe_ranks.__getitem__))


def _applied(pieces: list[str], ranks: Ranks) -> set[tuple[str, str]]:
    """The merges applied to one word, lowest rank first, until none applies."""
    applied = set()
    while True:
        best = min(itertools.pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)), default=None)
        if best not in ranks:
            return applied
        applied.add(best)
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
