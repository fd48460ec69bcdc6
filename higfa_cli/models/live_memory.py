"""Counting the bytes of live tensors, on real tensors and on fake ones alike."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LiveMemory(TorchDispatchMode):
    """Bytes of all storages made under this mode and still alive, and the largest value so far.

    A storage counts from the operation that returns it to its release, however many tensors view
    it; so do those that autograd keeps for the backward pass. What a kernel takes and gives back
    within one operation (workspaces) is not seen, nor is an allocator's rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes = WeakIdKeyDictionary(ref_type=weakref.ref)

    def hold(self, module: nn.Module) -> int:
        """Count a module's parameters and buffers as being on the device; returns their bytes."""
        before = self.live
        for tensor in (*module.parameters(), *module.buffers()):
            self._add(tensor)
        return self.live - before

    def move(self, size: int) -> None:
        """`size` bytes of held weights come to the device, or leave it (negative)."""
        self.live += size
        self.peak = max(self.peak, self.live)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._sizes:
            return
        size = storage.nbytes()
        self._sizes[storage] = size
        weakref.finalize(storage, self._released, size).atexit = False
        self.move(size)

    def _released(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out
