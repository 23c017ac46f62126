"""Doubling and halving of images by the low-pass filter [1, 3, 3, 1] / 8 in each direction, all differentiable twice.

It is the filter of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958) and, as [1, 1] ∗ [1, 2, 1], that of StyleGAN,
which repeats or averages pixels and blurs with [1, 2, 1]. Doubling by it is bilinear interpolation.

Measured with torch 2.14 on one core of a Xeon with AMX, 8 images of 256 channels at 64², channels_last, forward and
backward, ms in float32 / bfloat16:
    doubling    20 / 10 by bilinear interpolation, 10 / 173 by a depthwise transposed convolution, 114 / 46 by products
                with banded matrices
    halving     15 / 199 by a depthwise convolution, 263 / 56 by banded matrices, 185 / 76 by average pools; 337 / not
                offered by interpolation with antialias
    blurring    65 / 20 by a depthwise convolution, 456 / 102 by banded matrices, 201 / 92 by average pools
Halving is slow in its backward alone, a doubling. So each of the two is here the other's derivative.

Image to image networks say by a name of DOWNSAMPLINGS and one of UPSAMPLINGS how they halve and double; the layers
for it stand at the end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.convolution import conv2d, conv_transpose2d
from img2img.networks.layers import reflect_pad, without_autocast

DOWNSAMPLINGS = ("strided", "antialiased")
UPSAMPLINGS = ("transposed", "nearest", "antialiased")
BINOMIAL_TAPS = 3  # of binomial_downsample, for those who count receptive fields


def fir_upsample(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W); beyond the edges pixels repeat, so a constant stays one."""
    return _Double.apply(images)


def fir_downsample(images: Tensor) -> Tensor:
    """(N, C, 2H, 2W) -> (N, C, H, W); beyond the edges pixels repeat, so a constant stays one."""
    return _Halve.apply(images)


def repeat_upsample(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W), every pixel four times."""
    with without_autocast(images.device):  # which would make it float32
        return F.interpolate(images, scale_factor=2, mode="nearest")


def average_downsample(images: Tensor) -> Tensor:
    """(N, C, 2H, 2W) -> (N, C, H, W), the mean of every four pixels."""
    with without_autocast(images.device):
        return F.avg_pool2d(images, 2)


def binomial_downsample(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, ⌈H / 2⌉, ⌈W / 2⌉) by [1, 2, 1] / 4 about every other pixel, from the first on.

    The filter of Zhang 2019 (arXiv:1904.11486) for a stride of 2, there "Tri-3". Beyond the edges pixels are mirrored,
    so H and W are at least 2. It stands where a convolution of stride 2 samples, while `fir_downsample` lies half a
    pixel beside it.
    """
    return _BinomialHalve.apply(images)


def fir_blur(images: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """(N, C, H, W) -> (N, C, H + 2·padding - 3, W + 2·padding - 3), zeros beyond the edges, times `gain`."""
    with without_autocast(images.device):
        return conv2d(images, _kernel(images, gain), padding=padding, groups=images.shape[1])


def conv_up(images: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """(N, Cin, H, W) and weight (Cin, Cout / groups, 3, 3) -> (N, Cout, 2H, 2W): doubled, filtered and convolved.

    The filter comes last, on the transposed convolution of stride 2, which has a quarter of the products. Beyond the
    edges there are zeros.
    """
    return fir_blur(conv_transpose2d(images, weight, stride=2, groups=groups), padding=1, gain=4)


def conv_down(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, Cin, 2H, 2W) and weight (Cout, Cin, 3, 3) -> (N, Cout, H, W): filtered and convolved with stride 2.

    Beyond the edges there are zeros.
    """
    return conv2d(fir_blur(images, padding=2), weight, bias, stride=2)


def _kernel(images: Tensor, gain: float) -> Tensor:
    """(C, 1, 4, 4) of sum `gain`, the same for every channel."""
    # computed where it is used: a constant made from a list would make a GPU wait
    taps = (4 - (2 * torch.arange(4, device=images.device) - 3).abs()).to(images.dtype)
    return (taps[:, None] * taps * (gain / 64)).expand(images.shape[1], 1, 4, 4)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(images: Tensor) -> Tensor:
        with without_autocast(images.device):
            return F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 4 * fir_downsample(slope)


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(images: Tensor) -> Tensor:
        with without_autocast(images.device):
            padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
            return F.conv2d(padded, _kernel(images, 1.0), stride=2, groups=images.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return fir_upsample(slope / 4)


class _BinomialHalve(torch.autograd.Function):
    @staticmethod
    def forward(images: Tensor) -> Tensor:
        taps = 2 - (torch.arange(BINOMIAL_TAPS, device=images.device) - 1).abs()  # as in _kernel
        kernel = (taps[:, None] * taps).to(images.dtype) / 16
        padded = reflect_pad(images, 1)
        with without_autocast(images.device):
            return F.conv2d(padded, kernel.expand(images.shape[1], 1, -1, -1), stride=2, groups=images.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = inputs[0].shape[-2:]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _BinomialSpread.apply(slope, ctx.size)


class _BinomialSpread(torch.autograd.Function):
    """The adjoint: an interpolation halfway between neighbours, whose margin is folded back in.

    With torch 2.14 on one busy core of a Xeon with AMX the derivative of a depthwise convolution takes 18 ms in float32
    and 99 ms in bfloat16, of 4 images of 64 channels at 128²; this takes 21 and 24.
    """

    @staticmethod
    def forward(slope: Tensor, size: torch.Size) -> Tensor:
        height, width = (2 * side + 3 for side in slope.shape[-2:])
        with without_autocast(slope.device):
            wide = F.interpolate(
                F.pad(slope, (1, 1, 1, 1)), size=(height, width), mode="bilinear", align_corners=True
            ).mul_(0.25)
        for dim, side in enumerate(size, start=2):
            inner = wide.narrow(dim, 2, side)
            inner.select(dim, 1).add_(wide.select(dim, 1))
            if side % 2:
                inner.select(dim, side - 2).add_(wide.select(dim, side + 2))
            wide = inner
        return wide

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.Size], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return binomial_downsample(slope), None


class Halve(nn.Module):
    """`binomial_downsample` as a layer."""

    def forward(self, images: Tensor) -> Tensor:
        return binomial_downsample(images)


class Double(nn.Module):
    """(N, C, H, W) -> (N, C, 2H, 2W): pixels repeated ("nearest"), or by `fir_upsample` ("antialiased")."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        return repeat_upsample(images) if self.kind == "nearest" else fir_upsample(images)

    def extra_repr(self) -> str:
        return self.kind


class ConvDown(nn.Conv2d):
    """`conv_down` with a 3×3 weight and a bias: (N, inputs, 2H, 2W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, stride=2, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return conv_down(images, self.weight, self.bias)


class ConvUp(nn.ConvTranspose2d):
    """`conv_up` with a 3×3 weight and a bias: (N, inputs, H, W) -> (N, outputs, 2H, 2W)."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, stride=2, bias=bias)

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        doubled = conv_up(images, self.weight)
        return doubled if self.bias is None else doubled + self.bias[:, None, None].to(doubled.dtype)
