"""Low-pass filters from the Kaiser window, resampling with them, and the LeakyReLU between two of them.

A sampled signal stands for a continuous one. Its samples lie evenly about the middle of its plane, so planes of any two
sizes and rates are aligned by their middles (Karras et al. 2021, arXiv:2106.12423, appendix C).

Resampling by such a filter is linear in every row and every column, so it is a product with a banded matrix on either
side of the plane: L x R. What lies outside a plane is zero. A filter that is no product of a row and a column is a sum
of few such products, and then L and R hold all of them. Zeros are multiplied along, and still this is what is fastest
where it matters. Measured with torch on one core of a Xeon with AMX: double, LeakyReLU, halve with 12 taps, forward
and backward, in ms, matrices against depthwise convolutions with memory in channels_last:

    images, channels, side   float32      bfloat16
    16, 128, 36              161  154     75  664
    16,  64, 52              181   88     70  587
    16,  32, 84              253  150     91  595
     4,  64, 148             607  299    235 1071

Bands cut into blocks, which spare the zeros, took longer than whole matrices in both.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.equalized import LEAKY_GAIN, LEAKY_SLOPE

RANK_TOLERANCE = 1e-5  # of a filter's largest singular value, below which a product is left out: 100 dB


def kaiser_attenuation(taps: int, width: float) -> float:
    """dB of ripple and stop band of a filter of `taps` whose transition is `width` wide, in parts of the Nyquist rate.

    Kaiser's empirical formula (Kaiser 1974; Oppenheim & Schafer, "Discrete-Time Signal Processing").
    """
    return 2.285 * (taps - 1) * math.pi * width + 7.95


def kaiser_beta(attenuation: float) -> float:
    """The shape of the Kaiser window that gives so many dB (Kaiser 1974)."""
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


@dataclass(frozen=True)
class LowPass:
    """An FIR low-pass filter with gain one at frequency zero; frequencies are in cycles per unit of length.

    Attributes:
        taps: its length.
        cutoff: the middle of the transition.
        half_width: from the cutoff to either end of the transition.
        rate: samples per unit of length where the filter is applied.
        radial: the same in all directions of the plane, from the jinc function, instead of in rows and columns from
            the sinc function.
    """

    taps: int
    cutoff: float
    half_width: float
    rate: float
    radial: bool = False

    def kernel(self) -> Tensor:
        """(taps,), or (taps, taps) of a radial one; float64."""
        index = torch.arange(self.taps, dtype=torch.float64, device="cpu") - (self.taps - 1) / 2
        beta = kaiser_beta(kaiser_attenuation(self.taps, 4 * self.half_width / self.rate))
        falling = (1 - (2 * index / max(self.taps - 1, 1)).square()).clamp_min(0).sqrt()
        window = torch.special.i0(beta * falling)
        cutoff = 2 * self.cutoff / self.rate  # in parts of the Nyquist rate
        if not self.radial:
            kernel = torch.sinc(cutoff * index) * window
            return kernel / kernel.sum()
        radius = torch.hypot(index[:, None], index)
        at = math.pi * cutoff * radius
        # J1(x) / x, which is 1/2 at 0
        jinc = torch.where(at == 0, 0.5, torch.special.bessel_j1(at) / at.where(at != 0, 1.0))
        kernel = jinc * window[:, None] * window
        return kernel / kernel.sum()

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Columns and rows whose outer products add up to the filter, within RANK_TOLERANCE."""
        kernel = self.kernel()
        if not self.radial:
            return [(kernel, kernel)]
        columns, sizes, rows = torch.linalg.svd(kernel)
        kept = int((sizes > RANK_TOLERANCE * sizes[0]).sum())
        return [(columns[:, i] * sizes[i], rows[i]) for i in range(kept)]


def resampling_matrix(size_in: int, size_out: int, up: int, down: int, kernel: Tensor) -> Tensor:
    """(size_out, size_in): zeros between the samples for `up` times the rate, `kernel`, every `down`-th of the result.

    The gain is `up`, which makes good for the zeros. Both signals have their middles at the same place.
    """
    taps = len(kernel)
    outputs = torch.arange(size_out, device="cpu")[:, None] * 2 * down - (size_out - 1) * down
    inputs = torch.arange(size_in, device="cpu") * 2 * up - (size_in - 1) * up
    twice = outputs - inputs + taps - 1  # twice the tap's index
    assert not bool((twice % 2).any()), f"{taps} taps cannot align {size_in} samples × {up} with {size_out} × {down}"
    tap = twice // 2
    return torch.where((tap >= 0) & (tap < taps), kernel[tap.clamp(0, taps - 1)], 0.0) * up


@dataclass(frozen=True)
class Resampling:
    """(..., *size_in) -> (..., *size_out): `up` times the rate, low-pass filter, `down` times less; then times `gain`.

    Rate and filter are those of the middle, between up and down.
    """

    size_in: tuple[int, int]
    size_out: tuple[int, int]
    up: int
    down: int
    low_pass: LowPass
    gain: float = 1.0

    def __call__(self, planes: Tensor) -> Tensor:
        left, right = _matrices(self, planes.dtype, planes.device)
        across = planes @ right
        # one row for each of the filter's products
        return left @ across.reshape(*across.shape[:-2], -1, self.size_out[1])

    def matrices(self) -> tuple[Tensor, Tensor]:
        """L (h', h · products) and R (w, products · w') in float64."""
        lefts, rights = [], []
        for column, row in self.low_pass.factors():
            sizes = zip(self.size_in, self.size_out, (column, row))
            left, right = (resampling_matrix(a, b, self.up, self.down, kernel) for a, b, kernel in sizes)
            lefts.append(left * self.gain)
            rights.append(right.mT)
        return torch.stack(lefts, dim=2).flatten(1), torch.cat(rights, dim=1)


@functools.lru_cache(maxsize=256)
def _matrices(resampling: Resampling, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # Not buffers: they follow from the sizes, and would outweigh the weights in files of large models.
    # Matrices made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        left, right = (matrix.to(device, dtype) for matrix in resampling.matrices())
    return left, right


class FilteredLeakyReLU(nn.Module):
    """(N, C, *size_in) -> (N, C, *size_out): LeakyReLU(0.2) · √2 as if of the continuous signal.

    Karras et al. 2021, arXiv:2106.12423, section 2.2: the kinks of a LeakyReLU have frequencies that the samples cannot
    hold, so it is applied at a higher rate, and what is beyond `down_filter` is taken away before the rate falls.

    Args:
        up, down: the factors of the rate before and after.
        up_filter, down_filter: both at the high rate.
        clamp: the largest absolute value that passes, between the filters; it keeps float16 from overflowing.
    """

    def __init__(
        self,
        size_in: tuple[int, int],
        size_out: tuple[int, int],
        *,
        up: int,
        down: int,
        up_filter: LowPass,
        down_filter: LowPass,
        clamp: float = 256.0,
    ) -> None:
        super().__init__()
        # just what the second filter reaches
        height, width = ((side - 1) * down + down_filter.taps for side in size_out)
        self.raise_rate = Resampling(size_in, (height, width), up, 1, up_filter)
        self.lower_rate = Resampling((height, width), size_out, 1, down, down_filter, gain=LEAKY_GAIN)
        self.limit = clamp / LEAKY_GAIN

    def forward(self, planes: Tensor) -> Tensor:
        fine = F.leaky_relu_(self.raise_rate(planes), LEAKY_SLOPE)
        return self.lower_rate(fine.clamp(-self.limit, self.limit))

    def extra_repr(self) -> str:
        sizes = (self.raise_rate.size_in, self.raise_rate.size_out, self.lower_rate.size_out)
        return " -> ".join(f"{height}×{width}" for height, width in sizes)
