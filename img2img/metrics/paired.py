"""How near two pictures are, pixel by pixel or window by window: PSNR, SSIM, MS-SSIM.

Pictures are (N, C, H, W) floats in [−1, 1], and each function gives (N,), one value for each pair, in the pictures'
precision (float32 for half precision). All are symmetric. Equal pictures score +inf, 1 and 1.

The structural similarities are taken of pictures moved to [0, 2], with a data range of 2. Their first factor compares
means by ratio, so it would change with the place of zero: what is published was computed on [0, 255], and this gives
the same numbers. Computed on [−1, 1] as it stands, mid-grey would count as black.

They follow from four blurred planes instead of the usual five. With s = a + b and d = a − b,

    2 μa μb + C1          2 d̄²                     2 σab + C2            2 var d
    ──────────────  =  1 − ─────────────── ,    ─────────────── =  1 − ─────────────────── ,
    μa² + μb² + C1        s̄² + d̄² + 2 C1        σa² + σb² + C2         var s + var d + 2 C2

where rounding costs less too: float32 differs from float64 by 2e-7, five planes in float32 by 5e-7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_RANGE = 2.0
_WINDOW = 11  # pixels
_SIGMA = 1.5
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# the smallest side whose last of five scales still holds a window
_SMALLEST_MULTISCALE = (_WINDOW - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1
_CHUNK = 1 << 18  # values of one operand at a time: a megabyte of float32 stays in the processor's cache


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels: 10 log10(2² / mean squared difference); +inf for equal pictures.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _checked("PSNR", a, b, smallest=1)
    errors = [(one - other).square_().mean(dim=(1, 2, 3)) for one, other in _chunks(a, b)]
    return 10 * torch.log10(_RANGE**2 / torch.cat(errors))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, "Image quality assessment"), in [−1, 1].

    Gaussian window of 11 × 11 pixels with σ = 1.5, K1 = 0.01, K2 = 0.03, variances of the window as a population; the
    mean over channels and over the windows that lie wholly in the picture.

    Raises:
        ValueError: the shapes differ, or a side has fewer than 11 pixels.
    """
    similarity, _ = _mean_similarities(*_checked("SSIM", a, b, _WINDOW))
    return similarity.mean(dim=1)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity over five scales (Wang, Simoncelli & Bovik 2003), in [0, 1].

    The mean contrast and structure of each scale, and at the last also luminance, to the powers 0.0448, 0.2856, 0.3001,
    0.2363 and 0.1333; then the mean over channels. A scale has half the size of the one before, each pixel the mean of
    2 × 2 (of what is there at an odd border). A negative mean, of pictures that oppose each other, has no such powers
    and counts as 0.

    Raises:
        ValueError: the shapes differ, or a side has fewer than 161 pixels.
    """
    a, b = _checked("MS-SSIM", a, b, _SMALLEST_MULTISCALE)
    product = a.new_ones(a.shape[:2])
    for weight in _SCALE_WEIGHTS[:-1]:
        _, structure = _mean_similarities(a, b)
        product *= structure.clamp(min=0) ** weight
        a, b = _halve(a), _halve(b)
    similarity, _ = _mean_similarities(a, b)
    product *= similarity.clamp(min=0) ** _SCALE_WEIGHTS[-1]
    return product.mean(dim=1)


def _mean_similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The means over windows of all three factors, and of contrast times structure: (N, C) both."""
    means = []
    for pair in _chunks(a, b):
        luminance, structure = _similarities(*pair)
        means.append(((luminance * structure).mean(dim=(2, 3)), structure.mean(dim=(2, 3))))
    similarities, structures = zip(*means)
    return torch.cat(similarities), torch.cat(structures)


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, of each window: (N, C, H − 10, W − 10) both."""
    total, difference = a + b, a - b
    mean_total, mean_difference = _blur(total), _blur(difference)
    var_total = _blur(total.square_()) - mean_total.square()
    var_difference = _blur(difference.square_()) - mean_difference.square()
    squared = mean_difference.square_()
    # moved to [0, 2], the sum is larger by 2, and neither variance changes
    luminance = 1 - 2 * squared / ((mean_total + _RANGE).square_() + squared + 2 * _C1)
    return luminance, 1 - 2 * var_difference / (var_total + var_difference + 2 * _C2)


def _blur(planes: Tensor) -> Tensor:
    """The Gaussian-weighted mean of each whole window: (..., H, W) -> (..., H − 10, W − 10).

    Sums of shifted planes: on a CPU as fast as the fastest convolution in float32, and five times as fast in float64.
    """
    radius = _WINDOW // 2
    weights = [math.exp(-0.5 * (offset / _SIGMA) ** 2) for offset in range(-radius, radius + 1)]
    for dim in (-2, -1):
        size = planes.shape[dim] - 2 * radius
        shifted = [planes.narrow(dim, offset, size) for offset in range(_WINDOW)]
        planes = shifted[0] * (weights[0] / sum(weights))
        for plane, weight in zip(shifted[1:], weights[1:]):
            planes.add_(plane, alpha=weight / sum(weights))
    return planes


def _halve(images: Tensor) -> Tensor:
    """Means of 2 × 2 pixels; an odd last row or column is its own neighbour. Seven times as fast as avg_pool2d."""
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        images = functional.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
    rows = images[..., ::2, :] + images[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)


def _checked(name: str, a: Tensor, b: Tensor, smallest: int) -> tuple[Tensor, Tensor]:
    """Both in float32 or float64."""
    if a.shape != b.shape:
        raise ValueError(f"the pictures of a pair must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    height, width = a.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(f"{name} needs sides of {smallest} pixels or more, and the pictures are {width} × {height}")
    return (a, b) if a.dtype.itemsize >= 4 else (a.float(), b.float())


def _chunks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, _CHUNK // math.prod(a.shape[1:]))
    return zip(a.split(rows), b.split(rows))
