"""How text enters a net as tokens: its own transformer over BPE tokens, or CLIP's hidden states."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unclip.errors import UnclipError
from unclip.nn.attention import key_mask
from unclip.nn.embedding import small
from unclip.nn.transformer import Transformer

Null = Literal["learned", "empty"]
"""What stands for dropped text: a learned embedding (`keep` chooses), or the empty caption (the caller's to encode)."""


class OwnText(nn.Module):
    """GLIDE's text encoder (2112.10741): BPE tokens -> transformer without causal mask -> states, padding masked."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int, null: Null):
        super().__init__()
        self.tokens = embedding_table(vocabulary, width)
        self.positions = small(context, width, std=0.01)
        self.null = null_token(width, null)
        self.transformer = Transformer(width, depth, heads)

    def forward(
        self, tokens: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"], keep: Bool[Tensor, " b"] | None
    ) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"]]:
        """The states of all tokens and which of them are real; where not `keep`, of the null token alone."""
        x, mask = drop(self.tokens(tokens), mask, keep, self.null)
        return self.transformer(x + self.positions[: x.shape[1]], key_mask(mask, causal=False)), mask


class HiddenText(nn.Module):
    """CLIP's hidden states, projected and normalised (Karlo)."""

    def __init__(self, hidden: int, width: int, null: Null):
        super().__init__()
        self.project = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.null = null_token(width, null)

    def forward(
        self, hidden: Float[Tensor, "b l _"], mask: Bool[Tensor, "b l"], keep: Bool[Tensor, " b"] | None
    ) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"]]:
        """The projected states and which of them are real; where not `keep`, the null token alone."""
        return drop(self.norm(self.project(hidden)), mask, keep, self.null)


def embedding_table(vocabulary: int, width: int) -> nn.Embedding:
    """An embedding whose rows start with a deviation of 0.02, as in CLIP."""
    return nn.Embedding.from_pretrained(small(vocabulary, width, std=0.02), freeze=False)


def null_token(width: int, null: Null) -> nn.Parameter | None:
    """The learned stand-in for something dropped, or None where the caller gives an empty caption."""
    return small(width, std=0.02) if null == "learned" else None


def drop(
    x: Float[Tensor, "b l w"],
    mask: Bool[Tensor, "b l"],
    keep: Bool[Tensor, " b"] | None,
    null: Float[Tensor, " w"] | None,
) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"]]:
    """Tokens and mask where `keep`; elsewhere `null` is the first and only real token. None keeps all."""
    if keep is None:
        return x, mask
    if null is None:
        raise UnclipError("this net has no null text: give it the empty caption's tokens instead of keep = False")
    first = torch.arange(x.shape[1], device=x.device) == 0
    return torch.where(keep[:, None, None], x, null.to(x.dtype)), torch.where(keep[:, None], mask, first)


def last_real(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    """The state of each row's last real token (the end of text)."""
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def checked(net: str, name: str, text: Tensor | None, mask: Tensor | None, context: int) -> tuple[Tensor, Tensor]:
    """The text and its mask (None: all real). Raises UnclipError if there is no text, or more than `context` tokens."""
    if text is None:
        raise UnclipError(f"the {net} reads its text from {name}, which was not given")
    if text.shape[1] > context:
        raise UnclipError(f"{name} has {text.shape[1]} tokens, but this {net} reads at most {context}: cut the text")
    real = mask if mask is not None else torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    return text, real


def require(values: Sequence[tuple[str, object]], because: str) -> None:
    """Raises ValueError naming the first of the (key, value) pairs whose value is None."""
    for key, value in values:
        if value is None:
            raise ValueError(f"{key} is missing, but {because} needs it")
