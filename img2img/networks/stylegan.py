"""StyleGAN (Karras et al. 2019, arXiv:1812.04948), its final configuration, for any rectangle.

A learned constant instead of z, styles by adaptive instance normalisation, noise at every pixel, style mixing, growing
as in progan.py with the low-pass filter of resample.py. Where this departs from the paper: with classes the mapping
network sees the class, as in StyleGAN2-ADA.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.convolution import conv2d
from img2img.networks.equalized import LEAKY_SLOPE, EqualizedConv2d, EqualizedLinear, LeakyConv2d
from img2img.networks.growing import Growing
from img2img.networks.layers import InstanceNorm, ScaledWeight, fill_normal, without_autocast
from img2img.networks.progan import ProGANDiscriminator
from img2img.networks.resample import conv_down, conv_up, fir_downsample, fir_upsample
from img2img.networks.styles import StyleGenerator, check_channels, level_channels


class AdaptiveNorm(nn.Module):
    """Noise, bias, LeakyReLU(0.2), then each plane is normalised and gets the style's scale and shift.

    (N, C, H, W), w (N, w_dim) -> (N, C, H, W): (1 + y_s) · (x - mean) / std + y_b (the paper's equation 1). The noise
    has one plane for all channels and a learned strength for each, which begins at 0.
    """

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = InstanceNorm()
        self.style = EqualizedLinear(w_dim, 2 * channels)

    def forward(self, images: Tensor, w: Tensor, draws: Draws | None) -> Tensor:
        images = images + self.bias.to(images.dtype)[:, None, None]
        if draws is not None:
            noise = draws.normal(1, *images.shape[2:]).to(images.dtype)
            images = images.addcmul(noise, self.noise_strength.to(images.dtype)[:, None, None])
        with without_autocast(images.device):  # which would make the planes float32; styles are better so
            normalised = self.norm(F.leaky_relu(images, LEAKY_SLOPE))
            scale, shift = self.style(w)[:, :, None, None].to(normalised.dtype).chunk(2, dim=1)
            return torch.addcmul(shift, normalised, 1 + scale)


class StyledBlock(ScaledWeight):
    """A 3×3 convolution, of doubled images where `up`, and AdaptiveNorm."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, *, up: bool) -> None:
        super().__init__()
        channels = (in_channels, out_channels) if up else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(*channels, 3, 3))
        fill_normal(self.weight, 0.0, 1.0)
        self.scale = (in_channels * 9) ** -0.5
        self.up = up
        self.norm = AdaptiveNorm(out_channels, w_dim)

    def scaled_weight(self) -> Tensor:
        return (self.weight.transpose(0, 1) if self.up else self.weight) * self.scale

    def forward(self, images: Tensor, w: Tensor, draws: Draws | None) -> Tensor:
        weight = self.weight * self.scale
        images = conv_up(images, weight) if self.up else conv2d(images, weight, padding=1)
        return self.norm(images, w, draws)


class StyleGANGenerator(StyleGenerator, Growing):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W), real in [-1, 1].

    There is no tanh: values beyond the range occur. Noise follows the draws, without them there is none. Style mixing:
    see styles.StyleGenerator; growing: see growing.Growing, the layers of higher levels ignore their styles.

    Args:
        resolution: (height, width) in pixels of the last level, base × 2^k with the shorter side's base in 4..7.
        latent_dim, w_dim: of z and w.
        mapping_layers: fully connected layers from z to w.
        channel_base: channels times the shorter side of a level; 16384 in the paper.
        max_width: most channels of a level.
        style_mixing: share of samples with two styles, from 0 to 1.
        level, alpha: see growing.Growing; None is the last level.
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
        level: int | None = None,
        alpha: float = 1.0,
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
        self.start_growing(len(channels), level, alpha)
        self.constant = nn.Parameter(torch.ones(1, channels[0], *base))
        self.constant_norm = AdaptiveNorm(channels[0], w_dim)
        blocks = [StyledBlock(channels[0], channels[0], w_dim, up=False)]
        for wider, narrower in pairwise(channels):
            blocks += [StyledBlock(wider, narrower, w_dim, up=True), StyledBlock(narrower, narrower, w_dim, up=False)]
        self.blocks = nn.ModuleList(blocks)
        self.to_image = nn.ModuleList(EqualizedConv2d(width, out_channels, 1) for width in channels)

    def styles_used(self) -> int:
        return 2 * (self.level + 1)

    def synthesize(self, w: Tensor, draws: Draws | None = None) -> Tensor:
        """w (N, w_dim) or (N, num_styles, w_dim) -> images."""
        styles = self.split_styles(w)

        def noise(index: int) -> Draws | None:
            return None if draws is None else draws.stream(f"noise{index}")

        x = self.constant_norm(self.constant.expand(len(w), -1, -1, -1), styles[0], noise(0))
        below = x
        for index in range(1, self.styles_used()):
            if index == self.styles_used() - 2:
                below = x
            x = self.blocks[index - 1](x, styles[index], noise(index))
        images = self.to_image[self.level](x)
        if self.fading():
            images = torch.lerp(fir_upsample(self.to_image[self.level - 1](below)), images, self.alpha)
        return images


class FilteredConv2d(LeakyConv2d):
    """The low-pass filter, a convolution of stride 2, and LeakyReLU: (N, in, 2H, 2W) -> (N, out, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        return F.leaky_relu_(conv_down(images, *self.activated()), LEAKY_SLOPE)


class StyleGANDiscriminator(ProGANDiscriminator):
    """ProGANDiscriminator whose images are filtered before they are halved (resample.py)."""

    halving_conv = FilteredConv2d

    def halve(self, images: Tensor) -> Tensor:
        return fir_downsample(images)
