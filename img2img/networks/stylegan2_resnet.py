"""The generator of StyleGAN2's layers that CUT translates single pictures with (Park et al. 2020, arXiv:2007.15651).

An encoder of StyleGAN2's discriminator blocks (Karras et al. 2020, arXiv:1912.04958), residual blocks, and a decoder of
its generator's convolutions without a style. The authors call it "stylegan2", and with 2 blocks and no noise
"smallstylegan2".
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_flag, check_whole
from img2img.networks.convolution import conv2d
from img2img.networks.equalized import LEAKY_GAIN, LEAKY_SLOPE, EqualizedConv2d, LeakyConv2d
from img2img.networks.layers import ScaledWeight, fill_normal
from img2img.networks.resample import conv_down, conv_up, fir_blur


class _Block(nn.Module):
    """(N, in, H, W) -> (N, out, H, W), or halved: two convolutions and a shortcut; their sum / √2."""

    def __init__(self, in_channels: int, out_channels: int, *, down: bool) -> None:
        super().__init__()
        self.conv = LeakyConv2d(in_channels, in_channels, 3)
        self.last = EqualizedConv2d(in_channels, out_channels, 3, stride=2 if down else 1)
        self.shortcut = EqualizedConv2d(in_channels, out_channels, 1, stride=2, bias=False) if down else None

    def forward(self, images: Tensor) -> Tensor:
        half = math.sqrt(0.5)
        weight, bias = self.last.scaled_weight(), self.last.bias
        x = self.conv(images)
        # √2 of the activation and 1/√2 of the sum are 1
        if self.shortcut is None:
            return F.leaky_relu_(conv2d(x, weight, bias, padding=1), LEAKY_SLOPE) + images * half
        shortcut = conv2d(fir_blur(images, padding=1), self.shortcut.scaled_weight() * half, stride=2)
        return shortcut.add_(F.leaky_relu_(conv_down(x, weight, bias), LEAKY_SLOPE))


class _UpConv(ScaledWeight):
    """3×3 convolution that doubles, noise, bias, LeakyReLU(0.2)·√2: (N, in, H, W) -> (N, out, 2H, 2W).

    Every output channel's weights have unit norm, as StyleGAN2's have after demodulation. The noise is one plane for
    all channels, times one learned strength that begins at 0.
    """

    def __init__(self, in_channels: int, out_channels: int, *, noise: bool, eps: float = 1e-8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, 3, 3))
        fill_normal(self.weight, 0.0, 1.0)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise else None
        self.eps = eps

    def scaled_weight(self) -> Tensor:
        return self._normalised().transpose(0, 1)

    def _normalised(self) -> Tensor:
        """(in, out, 3, 3), computed in float32 at least."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        inputs = weight[:, 0].numel()
        scale = (weight.square().sum(dim=(0, 2, 3)) + inputs * self.eps).rsqrt()
        return weight * scale[:, None, None]

    def forward(self, images: Tensor, draws: Draws | None) -> Tensor:
        # √2 goes in before LeakyReLU, where it costs nothing: the function is homogeneous
        images = conv_up(images, (self._normalised() * LEAKY_GAIN).to(self.weight.dtype))
        images = images.add_((self.bias * LEAKY_GAIN).to(images.dtype)[:, None, None])
        if self.noise_strength is not None and draws is not None:
            strength = self.noise_strength * LEAKY_GAIN
            images = images.add_((draws.normal(1, *images.shape[2:]).to(strength.dtype) * strength).to(images.dtype))
        return F.leaky_relu_(images, LEAKY_SLOPE)


class StyleGAN2ResnetGenerator(nn.Module):
    """images (N, in_channels, H, W) -> (N, out_channels, H, W), real in [-1, 1].

    H and W are multiples of `stride` = `min_size` = 2^(len(widths) - 1). A 1×1 convolution, halvings, residual blocks,
    doublings, a 1×1 convolution, each with LeakyReLU(0.2)·√2, the last one too. There is no tanh: values beyond the
    range occur. Nothing is normalised over the picture, and beyond its edges there are zeros.

    Args:
        widths: channels at full resolution, then after each halving. The authors have at most 512 from 32 pixels on.
        blocks: residual blocks at the smallest size.
        noise: the doublings add noise that follows the draws, at test time too; without draws there is none.
    """

    fixed_scale = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        widths: tuple[int, ...] = (128, 256),
        blocks: int = 6,
        noise: bool = True,
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        if not isinstance(widths, list | tuple) or not 1 <= len(widths) <= 9:
            raise UsageFault("widths", f"{widths!r} is no list of 1 to 9 widths", "Use for example [128, 256]")
        for width in widths:
            check_whole("widths", width, 1, 2 * MAX_WIDTH)
        check_whole("blocks", blocks, 0, 64)
        check_flag("noise", noise)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = 2 ** (len(widths) - 1)
        self.min_size = self.stride
        self.dropout_at_test = noise  # what else follows draws is to be given them as well

        self.first = LeakyConv2d(in_channels, widths[0], 1)
        self.down = nn.Sequential(*(_Block(*pair, down=True) for pair in pairwise(widths)))
        self.blocks = nn.Sequential(*(_Block(widths[-1], widths[-1], down=False) for _ in range(blocks)))
        self.up = nn.ModuleList(_UpConv(*pair, noise=noise) for pair in pairwise(widths[::-1]))
        self.last = LeakyConv2d(widths[0], out_channels, 1)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        x = self.blocks(self.down(self.first(images)))
        for index, layer in enumerate(self.up):
            x = layer(x, draws.stream(f"noise{index}") if draws is not None else None)
        return self.last(x)
