"""Of several pictures drawn for one the best is kept, by CLIP (as 2102.12092, section 2.6, does of 512) and a matcher."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unclip.clip import Clip, Text
from unclip.conditioning import Prompts
from unclip.loading import Shelf, computing
from unclip.models.matcher import Matcher
from unclip.settings import Settings


@dataclass(frozen=True)
class Choice:
    """Of the small pictures of `best_of` seeds the best is kept; likeness to its embedding counts 1, to its prompt
    `text_weight`, and the logarithm of how likely the prompt is true of it `match_weight`."""

    best_of: int
    text_weight: float
    match_weight: float

    def at(self, settings: Settings) -> "Choice":
        """This choice under a user's settings."""
        asked = {field.name: getattr(settings, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: value for name, value in asked.items() if value is not None})

    def best(self, like: Float[Tensor, "3 k b"]) -> Int[Tensor, " b"]:
        """Which of k pictures is the best by their `likeness`, for each of b; the first of equals."""
        to_emb, to_text, match = like
        return (to_emb + self.text_weight * to_text + self.match_weight * match).argmax(dim=0)


@dataclass(frozen=True, eq=False)
class Matching:
    """A system's matcher, on the shelf where it stands."""

    net: Matcher
    shelf: Shelf

    def __call__(self, clip: Clip, tries: Sequence[Float[Tensor, "b c h w"]], text: Text) -> Float[Tensor, "k b"]:
        """The logarithm of how likely each of b texts is true of each of its k pictures, which are in [-1, 1]."""
        assert text.hidden is not None
        assert text.mask is not None
        cells = [clip.cells(pictures, self.net.config.layer) for pictures in tries]
        self.shelf.fetch(self.net)  # once all is seen, since with little memory it takes the CLIP's place
        with torch.no_grad(), computing(self.shelf.device, self.shelf.dtype):
            logits = torch.stack([self.net(one, text.hidden, text.mask) for one in cells])
        return F.logsigmoid(logits.float())


def likeness(
    clip: Clip,
    tries: Sequence[tuple[Float[Tensor, "b c h w"], Float[Tensor, "b d"]]],
    prompts: Prompts,
    matching: Matching | None = None,
) -> Float[Tensor, "3 k b"]:
    """How well k tries for each prompt fit, each given as pictures and the embeddings that they were drawn from: the cosines of
    a picture's CLIP embedding with that and with its prompt's, and the logarithm of how likely the prompt is true of it.

    The prior may have misread the prompt, and the first alone would keep the picture truest to the mistake; CLIP's one vector
    of a text tells less of it than the prior read, word by word, as a matcher does. With an empty prompt the second and the
    third are 0, and the third without a matcher. Raises UnclipError when this CLIP reads texts only.
    """
    pictures = [one.clamp(-1, 1) for one, _ in tries]
    seen = torch.stack([clip.image_emb(one) for one in pictures])
    emb = torch.stack([one.to(seen) for _, one in tries])
    match = torch.zeros(seen.shape[:2]) if matching is None else matching(clip, pictures, prompts.text)
    told = torch.stack([F.cosine_similarity(seen, prompts.text.emb.to(seen), dim=-1), match.to(seen)])
    return torch.cat([F.cosine_similarity(seen, emb, dim=-1)[None], told * prompts.keep.to(seen.device)])


def picked(tries: Sequence[Float[Tensor, "b ..."]], which: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Row by row, that of several tensors which is wanted."""
    return torch.stack([tries[int(k)][row] for row, k in enumerate(which)])
