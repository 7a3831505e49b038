"""How well the prior's embeddings stand for the true ones."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tools.evaluate.draw import BATCH
from tools.evaluate.prompts import Prompt
from tools.evaluate.stats import Estimate, mean, share
from unclip.conditioning import read
from unclip.settings import Settings
from unclip.system import UnCLIP

CANDIDATES = (1, 2, 4, 8)


def measure(drawn: Float[Tensor, "n d"], text: Float[Tensor, "n d"], true: Float[Tensor, "n d"]) -> dict[str, Estimate]:
    """Cosines and retrieval of the drawn embeddings among the true ones of all prompts, beside the text embeddings' own.

    "unrelated": of another prompt.
    """
    found = {"cosine to the true embedding": mean(cosine(drawn, true))}
    found["cosine to an unrelated one"] = mean(cosine(drawn, true.roll(1, dims=0)))
    found["cosine to the text embedding"] = mean(cosine(drawn, text))
    found["cosine to an unrelated text's"] = mean(cosine(drawn, text.roll(1, dims=0)))
    found["text embedding's cosine to the true one"] = mean(cosine(text, true))
    for name, emb in (("drawn", drawn), ("text", text)):
        ranks = rank(emb, true)
        for k in (1, 5):
            found[f"R@{k} among {len(true)}, {name}"] = share((ranks < k).tolist())
    return found


def best_of(system: UnCLIP, prompts: Sequence[Prompt], true: Float[Tensor, "n d"]) -> dict[int, dict[str, Estimate]]:
    """What it brings to keep the best of N embeddings by the text's dot product: cosines to the true one and to the text."""
    swept = {}
    for candidates in CANDIDATES:
        drawn, text = embeddings(system.at(Settings(candidates=candidates)), prompts)
        swept[candidates] = {"true": mean(cosine(drawn, true)), "text": mean(cosine(drawn, text))}
    return swept


def embeddings(system: UnCLIP, prompts: Sequence[Prompt]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Embeddings that the prior draws, and those of the texts; prompt k has seed k."""
    drawn, text = [], []
    for start in range(0, len(prompts), 5 * BATCH):
        told = read(system.clip, [prompt.text for prompt in prompts[start : start + 5 * BATCH]])
        drawn.append(system.prior.draw(told, range(start, start + len(told.words))).cpu())
        text.append(told.text.emb.cpu())
    return torch.cat(drawn), torch.cat(text)


def cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> list[float]:
    """Cosines row by row."""
    return torch.cosine_similarity(a, b).tolist()


def rank(queries: Float[Tensor, "n d"], keys: Float[Tensor, "n d"]) -> Tensor:
    """How many keys are nearer to query k than key k is."""
    scores = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(keys, dim=1).T
    return (scores > scores.diagonal()[:, None]).sum(dim=1)
