"""Linear probes: what can be read off an embedding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def probe(x: Float[Tensor, "n d"], labels: Int[Tensor, "n k"], classes: Sequence[int], decay: float) -> nn.Linear:
    """Softmax regressions of k names from one input, their logits side by side, `classes[j]` of them for name j.

    `decay` weighs the squares of the weights, as they are for inputs of deviation 1, against the mean cross-entropies.
    """
    scale = x.std()
    net = nn.Linear(x.shape[1], sum(classes))
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        parts = net(x / scale).split(list(classes), dim=1)
        errors = [F.cross_entropy(part, labels[:, k]) for k, part in enumerate(parts)]
        loss = torch.stack(errors).sum() + decay * net.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        net.weight /= scale
    return net
