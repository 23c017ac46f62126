"""Which device and memory layout to use."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from img2img.errors import UsageFault


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of `--device`: "auto" takes a CUDA GPU, then Apple's, then the CPU.

    Args:
        local_rank: which GPU "auto" and "cuda" mean: the number of this process among those on the machine.

    Raises:
        UsageFault: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    mend = "Use auto or cpu; img2img doctor lists the devices"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageFault("--device", f"{name!r} cannot be used here", mend) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageFault("--device", f"{name!r} is none of cpu, cuda, mps", mend)
    return device


def fastest_memory_format(device: torch.device) -> torch.memory_format:
    """The layout of images and weights in which convolutions are fastest, by measurement.

    On two CPU cores channels_last took 0.78 of the time for a bfloat16 training step of cyclegan-small, 0.94 for
    pix2pix-small and 0.79 for dcgan-small.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Keep all digits of float32 on CUDA, whose convolutions and products may else round factors to TF32's ten bits."""
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before):
            backend.fp32_precision = precision


def peak_memory(device: torch.device) -> int:
    """Bytes: the most the GPU's allocator held, or the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        # ru_maxrss begins at what the process that started this one held; Linux tells this one's own here
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024)
