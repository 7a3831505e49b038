"""From weights that lie somewhere to nets in memory: all of them, or one at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from unclip.checkpoint import Lazy, Weights, hollow, load_strictly

N = TypeVar("N", bound=nn.Module)


@dataclass(eq=False)
class Shelf:
    """Where a system's nets stand, on one device and in one precision.

    In half precision the weights of linear and convolutional layers are kept rounded, as autocast would round them at
    every call: the results are the same, for half the memory. With `low_memory` a net's weights are read when it is
    called, and those of the net before it are let go; `releases` let go of what else there is. On CPUs convolutions keep
    their weights with channels innermost.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    low_memory: bool = False
    releases: list[Callable[[], None]] = field(default_factory=list)
    _lying: dict[nn.Module, Weights] = field(default_factory=dict)

    def net(self, weights: Weights, net_type: type[N]) -> N:
        """The net, in evaluation mode and without gradients. Raises UnclipError when it does not fit the weights."""
        net = hollow(weights, net_type)
        if self.low_memory:
            self._lying[net] = weights
        else:
            self._fill(net, weights)
        return net

    def fetch(self, net: nn.Module) -> None:
        """Has the net's weights in memory."""
        if net not in self._lying or not next(net.parameters()).is_meta:
            return
        self.make_room()
        self._fill(net, self._lying[net])

    def make_room(self) -> None:
        """With `low_memory`, lets go of all weights."""
        if self.low_memory:
            for net in self._lying:
                net.to("meta")
            for release in self.releases:
                release()

    def _fill(self, net: nn.Module, weights: Weights) -> None:
        found, kept = weights.read(), precisions(net, self.dtype)
        own = dict.fromkeys(found, lambda name: self._own(found[name], kept[name]))  # each as it is read
        load_strictly(net, Lazy(own), weights.where)
        net.requires_grad_(False)

    def _own(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy on this device, even where nothing is cast: a tensor in a file's memory keeps all that was read of it.

        On CPUs with channels innermost, which saves convolutions reordering their weights at every call.
        """
        innermost = self.device.type == "cpu" and tensor.ndim == 4
        layout = torch.channels_last if innermost else torch.preserve_format
        return tensor.to(self.device, dtype, copy=True, memory_format=layout)


def computing(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which nets on a device compute in `dtype`: autocast where that is half precision."""
    return torch.autocast(device.type, dtype, enabled=dtype.itemsize == 2)


def precisions(net: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The precision in which each tensor of a net is kept when it computes in `dtype`."""
    rounded = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for part in ("weight", "bias")
    }
    single = torch.promote_types(dtype, torch.float32)  # float64 is kept whole
    whole = {name: single if x.is_floating_point() else x.dtype for name, x in net.state_dict().items()}
    return {name: dtype if name in rounded else kept for name, kept in whole.items()}


def held(net: nn.Module, dtype: torch.dtype, whole: bool = False) -> tuple[int, int]:
    """How many values a net (on the meta device or not) has, and in how many bytes they are kept when it computes in
    `dtype`; `whole`: nothing of it is rounded."""
    kept, state = precisions(net, torch.promote_types(dtype, torch.float32) if whole else dtype), net.state_dict()
    count = sum(tensor.numel() for tensor in state.values())
    return count, sum(tensor.numel() * kept[name].itemsize for name, tensor in state.items())
