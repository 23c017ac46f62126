"""Layers with an equalised learning rate, and the mapping network that is made of them.

Weights begin as N(0, 1) and are multiplied by a constant at each use (Karras et al. 2018, arXiv:1710.10196, section
4.1), so that every weight has the same range, and Adam, whose steps do not know a gradient's scale, moves all layers
equally fast.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.convolution import conv2d
from img2img.networks.layers import ScaledWeight, fill_normal, make_embedding

LEAKY_SLOPE = 0.2
LEAKY_GAIN = math.sqrt(2)  # what follows a LeakyReLU in StyleGAN2 and 3, so that the variance is about kept


class EqualizedLinear(ScaledWeight):
    """(..., in) -> (..., out): x (c·W)ᵀ + lr_multiplier·b with c = lr_multiplier / √in, W as N(0, 1) / lr_multiplier.

    Args:
        lr_multiplier: slows the layer down: the same function as with 1, learned at lr_multiplier times the rate.
        bias_start: what the bias begins with, as it is added.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        bias_start: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        fill_normal(self.weight, 0.0, 1 / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_start / lr_multiplier)) if bias else None
        self.scale = lr_multiplier / math.sqrt(in_features)
        self.lr_multiplier = lr_multiplier

    def scaled_weight(self) -> Tensor:
        return self.weight * self.scale

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.lr_multiplier
        return F.linear(x, self.scaled_weight(), bias)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"


class EqualizedConv2d(ScaledWeight):
    """(N, in, H, W) -> (N, out, H', W'): convolution by c·W, c = 1 / √(in · kernel²), zero padding of kernel // 2."""

    bias: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        fill_normal(self.weight, 0.0, 1.0)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.stride = stride
        self.padding = kernel // 2

    def scaled_weight(self) -> Tensor:
        return self.weight * self.scale

    def forward(self, images: Tensor) -> Tensor:
        return conv2d(images, self.scaled_weight(), self.bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, kernel={kernel}, stride={self.stride}, bias={self.bias is not None}"


class LeakyConv2d(EqualizedConv2d):
    """The same and LeakyReLU(0.2)·√2, with √2 in weights and bias, where it costs least: LeakyReLU is homogeneous."""

    def activated(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as they are used."""
        assert self.bias is not None, "made with one"
        return self.scaled_weight() * LEAKY_GAIN, self.bias * LEAKY_GAIN

    def forward(self, images: Tensor) -> Tensor:
        return F.leaky_relu_(conv2d(images, *self.activated(), self.stride, self.padding), LEAKY_SLOPE)


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x / √(mean over channels of x² + eps), at each place: (N, C, ...) -> same (Karras et al. 2018, section 4.2).

    The squares are summed in float32 at least.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * (wide.square().mean(dim=1, keepdim=True) + eps).rsqrt().to(x.dtype)


class MappingNetwork(nn.Module):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> w (N, w_dim).

    Karras et al. 2019, arXiv:1812.04948, section 2. z is normalised to unit mean square; a class has an embedding of
    w_dim values, normalised as well and put beside it (as in StyleGAN2-ADA, arXiv:2006.06676, appendix C). Then
    `layers` fully connected layers of w_dim units with LeakyReLU(0.2)·√2, learned at `lr_multiplier` times the rate.
    """

    def __init__(
        self, *, latent_dim: int, w_dim: int, layers: int, num_classes: int = 0, lr_multiplier: float = 0.01
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed = make_embedding(num_classes, w_dim, std=1.0) if num_classes else None
        widths = [latent_dim + (w_dim if num_classes else 0)] + [w_dim] * layers
        self.layers = nn.ModuleList(
            EqualizedLinear(before, after, lr_multiplier=lr_multiplier) for before, after in pairwise(widths)
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        x = pixel_norm(z)
        if self.embed is not None:
            x = torch.cat((x, pixel_norm(self.embed(labels).to(x.dtype))), dim=1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LEAKY_SLOPE) * LEAKY_GAIN
        return x
