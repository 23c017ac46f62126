"""Low-pass filters from the Kaiser window, resampling with them, and the LeakyReLU between two of them.

A sampled signal stands for a continuous one. Its samples lie evenly about the middle of its plane, so planes of any two
sizes and rates are aligned by their middles (Karras et al. 2021, arXiv:2106.12423, appendix C).

Resampling by such a filter is linear in every row and every column, so it is a product with a banded matrix on either
side of the plane: L x R. What lies outside a plane is zero. A filter that is no product of a row and a column is a sum
of few such products. Zeros are multiplied along, but by what is fast at it; where
it is not, there is convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
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
    """(N, C, *size_in) -> (N, C, *size_out): `up` times the rate or `down` times less, by a low-pass filter; · `gain`.

    One of up and down is 1; the filter's rate is the higher one. `multiply` and `convolve` compute the same.
    """

    size_in: tuple[int, int]
    size_out: tuple[int, int]
    up: int
    down: int
    low_pass: LowPass
    gain: float = 1.0

    def multiply(self, rows: Tensor) -> Tensor:
        """On M planes with rows first, (h, M, w) -> (h', M, w'): then either axis takes one large product, no copy."""
        left, right = _constants(self, Resampling.matrices, rows.dtype, rows.device)
        count = rows.shape[1]
        parts = (left @ rows.flatten(1)).view(len(right), -1, self.size_in[1]) @ right
        # one part for each product that the filter is a sum of; of one, squeeze's derivative is free, a sum's is not
        whole = parts.squeeze(0) if len(parts) == 1 else parts.sum(0)
        return whole.view(-1, count, self.size_out[1])

    def convolve(self, planes: Tensor) -> Tensor:
        """On (N, C, h, w)."""
        convolution = F.conv_transpose2d if self.up > 1 else F.conv2d
        channels = planes.shape[1]
        for kernel in _constants(self, Resampling.kernels, planes.dtype, planes.device):
            along = [taps > 1 for taps in kernel.shape]
            planes = convolution(
                planes,
                kernel.expand(channels, 1, -1, -1),
                stride=[max(self.up, self.down) if moves else 1 for moves in along],
                padding=[side if moves else 0 for moves, side in zip(along, self._paddings())],
                groups=channels,
            )
        return planes

    def matrices(self) -> tuple[Tensor, ...]:
        """L (products · h', h) and R (products, w, w') in float64."""
        lefts, rights = [], []
        for column, row in self.low_pass.factors():
            sizes = zip(self.size_in, self.size_out, (column, row))
            left, right = (resampling_matrix(a, b, self.up, self.down, kernel) for a, b, kernel in sizes)
            lefts.append(left * self.gain)
            rights.append(right.mT)
        return torch.cat(lefts), torch.stack(rights)

    def kernels(self) -> tuple[Tensor, ...]:
        """(taps, 1) and (1, taps), or (taps, taps), whose convolutions follow each other; float64."""
        kernel = self.low_pass.kernel()
        if self.low_pass.radial:
            return (kernel * (self.gain * self.up**2),)
        return kernel[:, None] * (self.gain * self.up), kernel[None] * self.up

    def _paddings(self) -> list[int]:
        """Of the convolution for either axis, or what the transposed one leaves out."""
        taps = self.low_pass.taps
        sizes = zip(self.size_in, self.size_out) if self.up > 1 else zip(self.size_out, self.size_in)
        paddings = [(few - 1) * max(self.up, self.down) + taps - many for few, many in sizes]
        assert all(twice >= 0 and twice % 2 == 0 for twice in paddings), f"{self} is no convolution"
        return [twice // 2 for twice in paddings]


@functools.lru_cache(maxsize=512)
def _constants(
    resampling: Resampling,
    make: Callable[[Resampling], tuple[Tensor, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, ...]:
    # Not buffers: they follow from the sizes, and would outweigh the weights in files of large models.
    # Constants made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        return tuple(constant.to(device, dtype) for constant in make(resampling))


def convolving_is_faster(planes: Tensor) -> bool:
    """Than multiplying by matrices.

    Measured with torch 2.14 on one core of a Xeon with AMX, memory in channels_last: double, LeakyReLU, halve with 12
    taps, forward and backward, in ms of a busy machine, matrices against depthwise convolutions:

        images, channels, side   float32      bfloat16
        16, 128, 36              233  145     136  726
        16,  64, 52              279  113     113  674
        16,  32, 84              399  168     191  650
         4,  64, 148             824  256     256 1245

    Halving alone by a radial filter in float32: 345 and 58, 516 and 69 (first and third row). A GPU has not been
    measured; it multiplies matrices faster than anything.
    """
    return planes.device.type == "cpu" and planes.dtype == torch.float32


class FilteredLeakyReLU(nn.Module):
    """(N, C, *size_in) -> (N, C, *size_out): LeakyReLU(0.2) · √2 as if of the continuous signal.

    Karras et al. 2021, arXiv:2106.12423, section 2.2: the kinks of a LeakyReLU have frequencies that the samples cannot
    hold, so it is applied at a higher rate, and what is beyond `down_filter` is taken away before the rate falls.

    Args:
        up, down: the factors of the rate before and after.
        up_filter, down_filter: both at the high rate.
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
    ) -> None:
        super().__init__()
        # just what the second filter reaches
        height, width = ((side - 1) * down + down_filter.taps for side in size_out)
        self.raise_rate = Resampling(size_in, (height, width), up, 1, up_filter)
        self.lower_rate = Resampling((height, width), size_out, 1, down, down_filter, gain=LEAKY_GAIN)

    def forward(self, planes: Tensor) -> Tensor:
        if convolving_is_faster(planes):
            fine = self.raise_rate.convolve(planes.contiguous(memory_format=torch.channels_last))
            return self.lower_rate.convolve(F.leaky_relu_(fine, LEAKY_SLOPE))
        rows = planes.permute(2, 0, 1, 3).flatten(1, 2)
        rows = self.lower_rate.multiply(F.leaky_relu_(self.raise_rate.multiply(rows), LEAKY_SLOPE))
        return rows.unflatten(1, planes.shape[:2]).permute(1, 2, 0, 3)

    def extra_repr(self) -> str:
        sizes = (self.raise_rate.size_in, self.raise_rate.size_out, self.lower_rate.size_out)
        return " -> ".join(f"{height}×{width}" for height, width in sizes)
