"""What the prior and the decoder are told, made from prompts: training and sampling build it here and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unclip.clip import Clip, Text
from unclip.models.decoder import Decoder, DecoderCond
from unclip.models.prior import Prior, PriorCond


@dataclass(frozen=True)
class Prompts:
    """Prompts and what CLIP makes of them."""

    words: Sequence[str]
    text: Text

    @property
    def keep(self) -> Bool[Tensor, " b"]:
        """False where a prompt is empty: such a picture is drawn unconditionally."""
        return torch.tensor([bool(word.strip()) for word in self.words], device=self.text.emb.device)


def read(clip: Clip, words: Sequence[str]) -> Prompts:
    """Prompts with their CLIP text embeddings and hidden states."""
    return Prompts(words, clip.text(words))


def prior_cond(net: Prior, clip: Clip, prompts: Prompts, keep: Bool[Tensor, " b"] | None = None) -> PriorCond:
    """What the prior is told; `keep` (default: where the prompt is not empty) says which samples keep their text."""
    keep = prompts.keep if keep is None else keep
    if net.config.null == "empty":
        prompts, keep = emptied(clip, prompts, keep), None
    return PriorCond(text_emb=prompts.text.emb, keep=keep, **_text(net, clip, prompts))


def decoder_cond(
    net: Decoder,
    clip: Clip,
    prompts: Prompts,
    image_emb: Float[Tensor, "b d"],
    keep_image: Bool[Tensor, " b"] | None = None,
    keep_text: Bool[Tensor, " b"] | None = None,
) -> DecoderCond:
    """What the decoder is told; by default the image embedding everywhere, and text where the prompt is not empty."""
    keep_text = prompts.keep if keep_text is None else keep_text
    if net.config.null_text == "empty":
        prompts, keep_text = emptied(clip, prompts, keep_text), None
    return DecoderCond(
        image_emb=image_emb,
        text_emb=prompts.text.emb if net.config.pooled_text else None,
        keep_image=keep_image,
        keep_text=keep_text,
        **_text(net, clip, prompts),
    )


def emptied(clip: Clip, prompts: Prompts, keep: Bool[Tensor, " b"]) -> Prompts:
    """The prompts with the empty one wherever `keep` is False: the null text of nets that learned no other."""
    words = [word if kept else "" for word, kept in zip(prompts.words, keep.tolist(), strict=True)]
    empty, text = clip.text([""]), prompts.text
    emb = torch.where(keep[:, None], text.emb, empty.emb)
    if text.hidden is None or text.mask is None or empty.hidden is None or empty.mask is None:
        return Prompts(words, Text(emb, None, None))
    hidden = torch.where(keep[:, None, None], text.hidden, empty.hidden)
    return Prompts(words, Text(emb, hidden, torch.where(keep[:, None], text.mask, empty.mask)))


def _text(net: Prior | Decoder, clip: Clip, prompts: Prompts) -> dict[str, Tensor]:
    """The prompts as this net reads them: token ids for a text encoder of its own, or CLIP's hidden states."""
    if net.config.text == "none":
        return {}
    if net.config.text == "hidden":
        assert prompts.text.hidden is not None
        assert prompts.text.mask is not None
        return {"text_hidden": prompts.text.hidden, "text_mask": prompts.text.mask}
    ids, mask = clip.tokenizer(prompts.words, net.config.context)
    return {"tokens": ids.to(clip.device), "text_mask": mask.to(clip.device)}
