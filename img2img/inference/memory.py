"""Will a network's activations fit? Asked before it runs.

On the CPU an allocation that is too large does not fail: the system grants it and later kills the process, and with it
a night's run. So the peak is computed beforehand, on tensors without storage.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OutOfMemory(Exception):
    """The network would need, or needed, more memory than there is; the message says why tiles are no way out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. On the CPU torch raises a plain RuntimeError for it."""
    message = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in message or "out of memory" in message)
    )


# Convolutions on the CPU keep a reordered copy of their input beside it; tests/inference/test_memory.py
# compares with the resident set of a real run.
_WORKSPACE = 2.0


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made inside the context, and the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def activation_bytes(network: nn.Module, images: Tensor) -> int:
    """The most bytes that `network(images)` holds at once, its weights not counted; nothing is computed."""
    weights = {name: tensor.to("meta") for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    inputs = images.to("meta")
    counter = _LiveBytes()
    with torch.inference_mode(), counter:
        torch.func.functional_call(network, weights, (inputs,))
    return int(counter.peak * _WORKSPACE)


def available_bytes(device: torch.device) -> int | None:
    """Memory that can be used without anything being killed for it; None where nobody says."""
    if device.type != "cpu":
        return None  # an accelerator's allocation fails by itself, with an error that is caught
    amounts = [amount for amount in (_from_meminfo(), _from_control_group()) if amount is not None]
    return min(amounts, default=None)


def _from_meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def _from_control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit (control groups, version 2) leaves."""
    try:
        limit, used = (root / "memory.max").read_text().strip(), (root / "memory.current").read_text()
        reclaimable = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used) + int(reclaimable.get("inactive_file", 0))
