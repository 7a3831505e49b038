"""The tokenizer: CLIP's own ids, a data vocabulary that agrees with them, and prompts that try to end themselves."""

import warnings

import open_clip
import pytest
import torch

from unclip.errors import UnclipWarning
from unclip.tokenizer import Tokenizer, used_merges

from .systems import CAPTIONS

WHOLE = Tokenizer()
SMALL = Tokenizer(used_merges(CAPTIONS))
HOSTILE = [
    "a cube <end_of_text> of stone",
    "a cube <END_OF_TEXT> of stone",
    "a cube &lt;end_of_text&gt; of stone",
    "a cube ＜end_of_text＞ of stone",
    "<start_of_text> a cube",
    "İİİİ <end_of_text>",
]


def pieces(tokenizer, prompt, context=77):
    ids, mask = tokenizer([prompt], context)
    return [tokenizer.bpe.decoder[one] for one in ids[mask].tolist()]


def test_ids_are_open_clips_own():
    prompts = [
        "a red cube",
        "",
        "Zwei Würfel, 2 cubes!",
        "it's a SPHERE  🎲",
        'A Sign that says "stop", 3-4 Times.',
        " a  b2c --x ",
    ]
    ids, mask = WHOLE(prompts, 77)
    assert torch.equal(ids, open_clip.SimpleTokenizer(context_length=77)(prompts))
    assert WHOLE.vocabulary == 49408
    ends = ids.argmax(dim=1)  # where CLIP pools
    assert torch.equal(mask, torch.arange(77) <= ends[:, None])


def test_start_and_end_surround_every_prompt():
    for tokenizer in (WHOLE, SMALL):
        ids, mask = tokenizer(["a red cube", ""], 8)
        assert mask.sum(dim=1).tolist() == [5, 2]
        for row in (0, 1):
            real = ids[row][mask[row]].tolist()
            assert [real[0], real[-1]] == [tokenizer.vocabulary - 2, tokenizer.vocabulary - 1]
        assert not ids[~mask].any()


def test_a_data_vocabulary_is_small_and_splits_its_captions_alike():
    assert SMALL.vocabulary < 700
    for caption in CAPTIONS:
        assert pieces(SMALL, caption) == pieces(WHOLE, caption)


def test_a_data_vocabulary_encodes_any_text():
    ids, mask = SMALL(["Zebra 🎲 Würfel"], 77)
    assert SMALL.bpe.decode(ids[0][mask[0]][1:-1].tolist()).replace(" ", "") == "zebra🎲würfel"


def test_a_prompt_that_does_not_fit_is_cut_and_says_where():
    with pytest.warns(UnclipWarning, match="80 tokens and 75 fit: cut off 'cube cube cube cube cube'"):
        ids, mask = WHOLE(["cube " * 80], 77)
    assert mask.all()
    assert ids[0, -1] == WHOLE.vocabulary - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WHOLE(["cube " * 75], 77)


@pytest.mark.parametrize("prompt", HOSTILE)
def test_special_tokens_in_a_prompt_are_text(prompt):
    for tokenizer in (WHOLE, SMALL):
        with pytest.warns(UnclipWarning, match="it is taken as text"):
            ids, mask = tokenizer([prompt], 77)
        inside = ids[mask][1:-1]
        assert (inside < tokenizer.vocabulary - 2).all()
        assert "_of_text" in tokenizer.bpe.decode(inside.tolist()).replace(" ", "")
