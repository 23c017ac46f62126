"""Which number format a step runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from img2img.errors import UsageFault


@dataclass(frozen=True)
class Precision:
    """Weights and penalties are in `dtype`; with `autocast`, convolutions and matrix products run in bfloat16.

    Attributes:
        memory_format: layout of images and weights; by measurement, channels_last on CUDA only (with instance
            normalisation it is slower on the CPU).
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    autocast: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.device.type == "cuda" else torch.contiguous_format

    def context(self) -> AbstractContextManager[object]:
        """The context forward passes run in; penalties run outside it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of an option: "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UsageFault: a device that is not here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageFault("--device", f"{name!r} is no device", "Use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageFault("--device", "no CUDA device is available", "Use --device cpu, or see img2img doctor")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank)
    return device


def has_native_bfloat16(device: torch.device) -> bool:
    """The device multiplies bfloat16 in hardware, so that autocast is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision of `train.precision`: "auto" is bfloat16 autocast where the device has it, else float32."""
    autocast = name == "bfloat16" or (name == "auto" and has_native_bfloat16(device))
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = name != "float32"
        torch.backends.cudnn.allow_tf32 = name != "float32"
        torch.backends.cudnn.benchmark = True
    dtype = torch.float64 if name == "float64" else torch.float32
    return Precision("bfloat16" if autocast else str(dtype).removeprefix("torch."), device, dtype, autocast)
