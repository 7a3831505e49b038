"""What `--dry-run` prints: nets, steps and memory, from configs alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from unclip.system import UnCLIP


def plan(system: "UnCLIP", steps: Mapping[str, int]) -> str:
    """The plan of a drawing; memory is that of weights, to which pictures in the making come."""
    import torch

    from unclip.clip import build_net
    from unclip.loading import held

    with torch.device("meta"):
        clip = build_net(system.clip.config)
    rows = [("clip", *held(clip, system.clip.dtype, whole=True), "")]
    rows += [(name, *held(net, system.decoder.dtype), f"{steps.get(name, 0)} steps") for name, net in _nets(system)]
    if system.matching is not None:
        rows.append(("matcher", *held(system.matching.net, system.decoder.dtype), ""))
    total, most = (reckon(row[2] for row in rows) for reckon in (sum, max))
    lines = [
        f"{name:<16} {count / 1e6:10,.1f} M values {size / 1e9:8.2f} GB  {told}" for name, count, size, told in rows
    ]
    where, how = system.decoder.device, str(system.decoder.dtype).removeprefix("torch.")
    lines.append(
        f"weights on {where} in {how}: {total / 1e9:.2f} GB, or at most {most / 1e9:.2f} GB with --low-memory;"
    )
    lines.append("pictures in the making, and what reading leaves behind, come on top")
    return "\n".join(lines)


def _nets(system: "UnCLIP") -> list[tuple[str, "nn.Module"]]:
    prior: Any = getattr(system.prior, "stage", None)
    stages = [stage for stage in (prior, system.decoder, *system.upsamplers) if stage is not None]
    return [(stage.name, stage.net) for stage in stages]
