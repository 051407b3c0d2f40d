"""What a forward pass asks of the machine, counted and not timed: kernels, and the bytes they read and write.

Exact and the same everywhere: a count says why a small network is slow (a kernel costs microseconds to begin, a byte a
fraction of a nanosecond to move) where a time only says that it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Traffic:
    """Of a forward pass in eval mode: aten kernels, and bytes of the tensors they read (weights too) and write."""

    kernels: int
    read: int
    written: int

    @property
    def bytes(self) -> int:
        return self.read + self.written


def count_traffic(net: nn.Module, image: Tensor) -> Traffic:
    """Runs `net` once on `image` (B, C, H, W). A kernel that works in place reads and writes its tensor."""
    counter = _Counter()
    with torch.no_grad(), counter:  # not inference mode, in which composed operators reach the counter whole
        net.eval()(image)
    return Traffic(counter.kernels, counter.read, counter.written)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.read = self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        inputs, outputs = _tensors((args, kwargs or {})), _tensors(results)
        if not _is_free(func, inputs, outputs):
            self.kernels += 1
            self.read += sum(map(_size, inputs))
            self.written += sum(map(_size, outputs))
        return results


def _is_free(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """A view computes nothing, nor does memory that is taken and not filled.

    By the storage of what came out, since some views (_unsafe_view) do not call themselves one.
    """
    if func.overloadpacket.__name__.startswith(("empty", "new_empty")):
        return True
    held = {tensor.untyped_storage()._cdata for tensor in inputs}
    kept = bool(outputs) and all(tensor.untyped_storage()._cdata in held for tensor in outputs)
    return kept and not func._schema.is_mutable


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes it holds in memory: an expanded dimension is there once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride or not length else 1
    return count * tensor.element_size()
