"""From weights that lie somewhere to nets in memory: all of them, or one at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, get_type_hints

import torch
from torch import Tensor, nn

from unclip.checkpoint import Weights, load_strictly
from unclip.config import build
from unclip.errors import UnclipError

N = TypeVar("N", bound=nn.Module)


@dataclass(eq=False)
class Shelf:
    """Where a system's nets stand, on one device and in one precision.

    In half precision the weights of linear and convolutional layers are kept rounded, as autocast would round them at
    every call: the results are the same, for half the memory. With `low_memory` a net's weights are read when it is
    called, and those of the net before it are let go.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    low_memory: bool = False
    _lying: dict[nn.Module, Weights] = field(default_factory=dict)

    def net(self, weights: Weights, net_type: type[N]) -> N:
        """The net, in evaluation mode and without gradients. Raises UnclipError when it does not fit the weights."""
        expected = net_type.__name__.lower()
        if weights.header.net != expected:
            raise UnclipError(f"{weights.where}: holds a {weights.header.net}; expected a {expected}")
        config_type = get_type_hints(net_type.__init__)["config"]
        with torch.device("meta"):
            net = net_type(build(config_type, weights.header.model, f"{weights.where}: header: model"))
        net.eval().requires_grad_(False)
        if self.low_memory:
            self._lying[net] = weights
        else:
            self._fill(net, weights)
        return net

    def fetch(self, net: nn.Module) -> None:
        """Has the net's weights in memory."""
        if net not in self._lying or not next(net.parameters()).is_meta:
            return
        for other in self._lying:
            other.to("meta")
        self._fill(net, self._lying[net])

    def _fill(self, net: nn.Module, weights: Weights) -> None:
        load_strictly(net, _Cast(weights.read(), precisions(net, self.dtype)), weights.where)
        net.to(self.device)
        net.requires_grad_(False)


def precisions(net: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The precision in which each tensor of a net is kept when it computes in `dtype`."""
    rounded = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for part in ("weight", "bias")
    }
    single = torch.promote_types(dtype, torch.float32)  # float64 is kept whole
    return {name: dtype if name in rounded else single for name in net.state_dict()}


@dataclass(frozen=True)
class _Cast(Mapping[str, Tensor]):
    """Tensors in the precisions they are wanted in, each cast as it is read."""

    tensors: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.to(self.dtypes.get(name, tensor.dtype)) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def held(net: nn.Module, dtype: torch.dtype, whole: bool = False) -> tuple[int, int]:
    """How many values a net (on the meta device or not) has, and in how many bytes they are kept when it computes in
    `dtype`; `whole`: nothing of it is rounded."""
    kept, state = precisions(net, torch.promote_types(dtype, torch.float32) if whole else dtype), net.state_dict()
    count = sum(tensor.numel() for tensor in state.values())
    return count, sum(tensor.numel() * kept[name].itemsize for name, tensor in state.items())
