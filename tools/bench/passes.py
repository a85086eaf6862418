"""Kernels that a layer would start on a GPU and their passes over the map, counted on a CPU by operators."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from timm_stylenorm.functional import backend

from .measure import FORMATS, make

SHAPE = (4, 32, 16, 24)  # no small tensor of a layer has as many elements
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


_FREE = ('empty', 'new_empty', 'detach', '_unsafe_view', 'promote_types')  # operators that start no kernel
_CREATES = ('new_', 'zeros_like', 'ones_like')  # operators that read no tensor


_TWICE = ('native_batch_norm', '_native_batch_norm')  # operators that read maps twice: for sums and the result


@dataclass
class Count:
    """The counts of one call, forward or backward.

    Attributes:
        maps: Kernels that read or write a whole map.
        passes: Reads and writes of a map, in units of the bytes of the input.
        small: Other kernels.
        own: Calls of the operators of `map_ops`; 0 if the layer did not use them.
    """

    maps: int = 0
    passes: float = 0.0
    small: int = 0
    own: int = 0


class Counter(TorchDispatchMode):
    """Counts the operators that run within it, for maps of the size of `x` or larger."""

    def __init__(self, x: Tensor) -> None:
        from timm_stylenorm.functional.map_ops import TRAFFIC  # which needs torch 2.4

        super().__init__()
        self.traffic = TRAFFIC
        self.size, self.bytes, self.count = x.numel(), x.nbytes, Count()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.namespace == 'stylenorm':
            traffic = self.traffic[name]
            self.count.own += 1
            self.count.maps += 1
            self.count.passes += traffic.reads + traffic.writes
            self.count.small += traffic.small + (args[-1] is None)
        elif not (func.is_view or name.startswith(_FREE)):
            read = {} if name.startswith(_CREATES) else self.maps(args)
            written = self.maps(result)
            self.count.maps += bool(read or written)
            self.count.small += not (read or written)
            times = 2 if name.startswith(_TWICE) else 1
            self.count.passes += (times * sum(read.values()) + sum(written.values())) / self.bytes
        return result

    def maps(self, tree: object) -> dict[int, int]:
        """Address -> bytes of those tensors that are maps."""
        tensors = [t for t in tree_flatten(tree)[0] if isinstance(t, Tensor)]
        return {t.data_ptr(): t.nbytes for t in tensors if t.numel() >= self.size and 0 not in t.stride()}


def pass_cells(names: list[str], dtype: str) -> list[tuple[str, str]]:
    """(name, cell) pairs of counts, which are the same for contiguous and channels-last maps."""
    cells = []
    for name in names:
        there, back = gpu_passes(name, dtype)
        passes = there.passes + back.passes
        cells.append((name, f'{passes:.0f} ({there.maps} + {back.maps}; {there.small} + {back.small})'))
    return cells


def gpu_passes(
    name: str, dtype: str = 'float32', memory_format: str = 'NCHW', route: str = 'gpu'
) -> tuple[Count, Count]:
    """Forward and backward counts, as on a GPU, of a layer that acts or `nn.BatchNorm2d`; float32 parameters."""
    torch.manual_seed(0)
    x, g = (torch.randn(SHAPE, dtype=DTYPES[dtype]).contiguous(memory_format=FORMATS[memory_format]) for _ in range(2))
    layer = nn.BatchNorm2d(SHAPE[1]) if name == 'BatchNorm2d' else make(name, SHAPE[1])
    x.requires_grad_()
    with backend.force(route):
        with Counter(x) as forward:
            y = layer(x)
        aux = getattr(layer, 'aux', None)
        outputs, grads = ([y], [g]) if aux is None else ([y, aux], [g, torch.ones_like(aux)])
        with Counter(x) as backward:
            torch.autograd.grad(outputs, [x, *layer.parameters()], grads, allow_unused=True)
    return forward.count, backward.count
