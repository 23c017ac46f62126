"""How pictures get the size that an extractor looks at, in the three ways that published FIDs were computed.

The way changes a FID by whole points (Parmar et al. 2022, arXiv:2104.11222), so every score names it:

    tf1      bilinear as TensorFlow 1 had it: output pixel i lies at i · in / out; no antialiasing. The paper's FID and
             torch-fidelity's; the network gets (x − 128) / 128.
    clean    bicubic with antialiasing as Pillow does it on floats, clipped to 0…255 and not rounded. clean-fid's mode
             "clean"; the network gets (x − 128) / 128.
    pytorch  bilinear with half-pixel centres, no antialiasing. pytorch-fid; the network gets 2 · x / 255 − 1.

All give (N, C, size, size) float32 in 0…255, without rounding, from (N, C, H, W) of any number type, on its device. A
picture of that size already is left as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear without antialiasing: output pixel i lies at i · in / out, and beyond the last pixel stands its copy."""
    low, high, fraction = (torch.from_numpy(array).to(images.device) for array in _tf1_samples(images.shape[2], size))
    rows = torch.lerp(images.index_select(2, low).float(), images.index_select(2, high).float(), fraction[:, None])
    return rows @ _matrix(_tf1_matrix, images.shape[3], size, images.device).T


def resize_clean(images: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing, clipped to 0…255: what Pillow makes of an image of mode F, channel by channel."""
    columns = images.float() @ _matrix(_bicubic_matrix, images.shape[3], size, images.device).T
    return (_matrix(_bicubic_matrix, images.shape[2], size, images.device) @ columns).clamp_(0, 255)


def resize_pytorch(images: Tensor, size: int) -> Tensor:
    """Bilinear without antialiasing, pixels' centres at half their width: torch's interpolate."""
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "clean": resize_clean,
    "tf1": resize_tf1,
    "pytorch": resize_pytorch,
}


def _matrix(weights: Callable[[int, int], np.ndarray], length: int, size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(weights(length, size)).to(device)


@functools.lru_cache(maxsize=32)
def _tf1_samples(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each output pixel: the two pixels it lies between, and how far behind the first, in single precision."""
    position = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, length - 1), position - low.astype(np.float32)


@functools.lru_cache(maxsize=32)
def _tf1_matrix(length: int, size: int) -> np.ndarray:
    """The same as weights, (size, length) float32."""
    low, high, fraction = _tf1_samples(length, size)
    weights = np.zeros((size, length), np.float32)
    np.add.at(weights, (np.arange(size), low), 1 - fraction)
    np.add.at(weights, (np.arange(size), high), fraction)
    return weights


@functools.lru_cache(maxsize=32)
def _bicubic_matrix(length: int, size: int) -> np.ndarray:
    """Keys' cubic filter with a = −1/2, as wide as the step where that is more than one pixel; (size, length) float32.

    Its weights are made in double precision, as Pillow's; in torch's interpolate they are single, off by 1e-5.
    """
    step = length / size
    centres = (np.arange(size)[:, None] + 0.5) * step
    distance = np.abs((np.arange(length) + 0.5 - centres) / max(step, 1.0))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
