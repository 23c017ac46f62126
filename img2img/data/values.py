"""Between the float values of networks, [−1, 1], and the integers of picture files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_float(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0…255, or uint16 0…65535, to [−1, 1]: x / 127.5 − 1, or x / 32767.5 − 1, as a new tensor."""
    return pixels.to(dtype).div_(127.5 if pixels.dtype == torch.uint8 else 32767.5).sub_(1.0)


def reduce_depth(pixels: Tensor) -> Tensor:
    """uint16 to uint8 by 257, rounded, as decode.reduce_to_8_bits; uint8 comes back unchanged."""
    return pixels if pixels.dtype == torch.uint8 else ((pixels.to(torch.int32) + 128) // 257).to(torch.uint8)


def to_uint8(values: Tensor) -> np.ndarray:
    """(C, H, W) float to (H, W, C) uint8: (x + 1) · 127.5, rounded half to even, clamped to 0…255.

    Raises:
        FloatingPointError: a value is not finite; it would otherwise become black without a word.
    """
    return _to_integers(values, 127.5, np.uint8)


def to_uint16(values: Tensor) -> np.ndarray:
    """(C, H, W) float to (H, W, C) uint16: (x + 1) · 32767.5, rounded half to even, clamped to 0…65535.

    Raises:
        FloatingPointError: a value is not finite.
    """
    return _to_integers(values, 32767.5, np.uint16)


# Values converted at once: the intermediate copies of a large picture would be many times its own size
_AT_ONCE = 1 << 22


def _to_integers(values: Tensor, scale: float, kind: type[np.unsignedinteger]) -> np.ndarray:
    channels, height, width = values.shape
    pixels = np.empty((height, width, channels), kind)
    step = max(1, _AT_ONCE // (channels * width))
    for top in range(0, height, step):
        rows = values[:, top : top + step]
        if not torch.isfinite(rows).all():
            raise FloatingPointError("the network gave values that are not finite")
        # float32 does not hold (x + 1) · 32767.5 to half a unit
        exact = rows.double() if scale > 255 else rows.float()
        scaled = ((exact + 1) * scale).round_().clamp_(0, 2 * scale)
        pixels[top : top + step] = scaled.permute(1, 2, 0).cpu().numpy()
    return pixels
