"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), with classes as in StyleGAN2-ADA (arXiv:2006.06676), any rectangle.

Configuration F of the paper: a generator whose images of all sizes are summed (skip connections), a residual
discriminator. Losses, R1, path length regularisation and the average of weights belong to the training, truncation to
the sampling. Where this departs from the published code: enlarged images and the discriminator's shortcut repeat their
edges instead of continuing with zeros.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_CLASSES,
    check_conditioning,
    check_flag,
    check_whole,
)
from img2img.networks.convolution import conv2d
from img2img.networks.equalized import LEAKY_GAIN, LEAKY_SLOPE, EqualizedConv2d, EqualizedLinear, LeakyConv2d
from img2img.networks.layers import CONDITIONINGS, ScaledWeight, fill_normal, without_autocast
from img2img.networks.modulated import modulated_conv2d
from img2img.networks.resample import conv_down, fir_downsample, fir_upsample
from img2img.networks.styles import DiscriminatorHead, StyleGenerator, check_channels, level_channels


class StyledConv(ScaledWeight):
    """Modulated 3×3 convolution, noise, bias, LeakyReLU(0.2)·√2: (N, in, H, W) and w -> (N, out, H, W), or doubled.

    The noise is one plane for all channels, times one learned strength that begins at 0.
    """

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, *, up: int = 1) -> None:
        super().__init__()
        self.style = EqualizedLinear(w_dim, in_channels, bias_start=1.0)
        channels = (in_channels, out_channels) if up == 2 else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(*channels, 3, 3))
        fill_normal(self.weight, 0.0, 1.0)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.up = up

    def scaled_weight(self) -> Tensor:
        weight = self.weight.transpose(0, 1) if self.up == 2 else self.weight
        # demodulation divides any constant out: it need not be there in forward
        return weight / math.sqrt(weight[0].numel())

    def forward(self, images: Tensor, w: Tensor, draws: Draws | None) -> Tensor:
        # √2 goes in before LeakyReLU, where it costs nothing: the function is homogeneous
        images = modulated_conv2d(
            images,
            self.weight,
            _styles(self.style, w),
            padding=1,
            up=self.up,
            gain=LEAKY_GAIN,
            bias=self.bias * LEAKY_GAIN,
        )
        if draws is not None:
            strength = self.noise_strength * LEAKY_GAIN
            noise = draws.normal(1, *images.shape[2:]).to(strength.dtype) * strength
            images = images.add_(noise.to(images.dtype))
        return F.leaky_relu_(images, LEAKY_SLOPE)


class ToImage(nn.Module):
    """Modulated 1×1 convolution without demodulation: (N, in, H, W) and w -> (N, out, H, W) float32 at least."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.style = EqualizedLinear(w_dim, in_channels, bias_start=1.0)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        fill_normal(self.weight, 0.0, 1.0)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, images: Tensor, w: Tensor) -> Tensor:
        styles = _styles(self.style, w) / math.sqrt(images.shape[1])
        # so few output channels that every sample's own weights are cheaper than a scaled copy of the images
        weights = (self.weight * styles[:, None]).to(images.dtype)
        colours = torch.bmm(weights, images.flatten(2)).to(styles.dtype) + self.bias[:, None]
        return colours.unflatten(2, images.shape[2:])


def _styles(layer: EqualizedLinear, w: Tensor) -> Tensor:
    """(N, w_dim) -> (N, channels) in w's dtype, autocast or not: small, and everything depends on it."""
    with without_autocast(w.device):
        return layer(w)


class StyleGAN2Generator(StyleGenerator):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W), real in [-1, 1].

    There is no tanh: values beyond the range occur. Noise follows the draws, without them there is none. Style mixing:
    see StyleGenerator. At 256² with channel_base 16384 it has as many parameters as in StyleGAN2-ADA's code.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        latent_dim, w_dim: of z and w.
        mapping_layers: fully connected layers from z to w; 8 in the paper, 2 for small data in StyleGAN2-ADA.
        channel_base: channels times the shorter side of a level; 32768 in the paper, 16384 for 256² in StyleGAN2-ADA.
        max_width: most channels of a level.
        style_mixing: share of samples with two styles, from 0 to 1.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 16384,
        max_width: int = 512,
        style_mixing: float = 0.9,
    ) -> None:
        check_channels(channel_base, max_width)
        base, channels = level_channels(resolution, channel_base, max_width)
        super().__init__(
            out_channels=out_channels,
            num_classes=num_classes,
            latent_dim=latent_dim,
            w_dim=w_dim,
            num_styles=2 * len(channels),
            mapping_layers=mapping_layers,
            style_mixing=style_mixing,
        )
        self.constant = nn.Parameter(torch.empty(1, channels[0], *base))
        fill_normal(self.constant, 0.0, 1.0)
        convs = [StyledConv(channels[0], channels[0], w_dim)]
        for wider, narrower in pairwise(channels):
            convs += [StyledConv(wider, narrower, w_dim, up=2), StyledConv(narrower, narrower, w_dim)]
        self.convs = nn.ModuleList(convs)
        self.to_image = nn.ModuleList(ToImage(width, out_channels, w_dim) for width in channels)

    def synthesize(self, w: Tensor, draws: Draws | None = None) -> Tensor:
        """w (N, w_dim) or (N, num_styles, w_dim) -> images. A level's image has the style of the convolution after."""
        styles = self.split_styles(w)
        x = self.constant.expand(len(w), -1, -1, -1)
        images: Tensor | None = None
        for index, conv in enumerate(self.convs):
            x = conv(x, styles[index], None if draws is None else draws.stream(f"noise{index}"))
            if index % 2 == 0:
                level = self.to_image[index // 2](x, styles[index + 1])
                images = level if images is None else fir_upsample(images) + level
        assert images is not None, "there is a level"
        return images


class _DownBlock(nn.Module):
    """(N, in, 2H, 2W) -> (N, out, H, W): two convolutions, the second halving, and a shortcut; their sum / √2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = LeakyConv2d(in_channels, in_channels, 3)
        self.down = EqualizedConv2d(in_channels, out_channels, 3, stride=2)
        self.shortcut = EqualizedConv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        half = math.sqrt(0.5)
        shortcut = conv2d(fir_downsample(images), self.shortcut.scaled_weight() * half)
        x = self.conv(images)
        # √2 of the activation and 1/√2 of the sum are 1
        x = F.leaky_relu_(conv_down(x, self.down.scaled_weight(), self.down.bias), LEAKY_SLOPE)
        return shortcut.add_(x)


class StyleGAN2Discriminator(nn.Module):
    """images (N, in_channels, H, W) and, with classes, labels (N,) int64 -> logits (N,).

    With `with_features` also the activations before the last layer, (N, channels at the base).

    Args:
        resolution, channel_base, max_width: as in StyleGAN2Generator.
        minibatch_std: show the last layers how much the samples of a batch differ (layers.MinibatchStd).
        conditioning: how the class enters.
            "projection": <embedding of the class, last features> / √dim, the embedding from a mapping network
            (StyleGAN2-ADA, after Miyato & Koyama 2018, arXiv:1802.05637).
            "classifier": the logit does not depend on the class; `classify` says which class it is (Odena et al. 2017,
            arXiv:1610.09585).
            "none": for num_classes = 0.
        mapping_layers: fully connected layers from the class to its embedding.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        channel_base: int = 16384,
        max_width: int = 512,
        minibatch_std: bool = True,
        conditioning: str = "none",
        mapping_layers: int = 8,
    ) -> None:
        super().__init__()
        check_channels(channel_base, max_width)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("num_classes", num_classes, 0, MAX_CLASSES)
        check_flag("minibatch_std", minibatch_std)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        check_whole("mapping_layers", mapping_layers, 1, 32)
        base, channels = level_channels(resolution, channel_base, max_width)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditioning = conditioning

        self.from_image = LeakyConv2d(in_channels, channels[-1], 1)
        self.blocks = nn.Sequential(*(_DownBlock(*pair) for pair in pairwise(channels[::-1])))
        self.head = DiscriminatorHead(
            channels[0],
            base,
            num_classes=num_classes,
            minibatch_std=minibatch_std,
            conditioning=conditioning,
            mapping_layers=mapping_layers,
        )

    def classify(self, features: Tensor) -> Tensor:
        """features (N, F) -> logits of the classes (N, num_classes), with conditioning "classifier"."""
        return self.head.classify(features)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        return self.head(self.blocks(self.from_image(images)), condition, with_features)
