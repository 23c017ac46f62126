"""Which number format a step runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from img2img.devices import fastest_memory_format


@dataclass(frozen=True)
class Precision:
    """Weights and penalties are in `dtype`; with `autocast`, convolutions and matrix products run in bfloat16."""

    name: str
    device: torch.device
    dtype: torch.dtype
    autocast: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return fastest_memory_format(self.device)

    def context(self) -> AbstractContextManager[object]:
        """The context forward passes run in; penalties run outside it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()


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
