"""Progressive growing (Karras et al. 2018, arXiv:1710.10196) for any rectangle, and what growing networks share.

Where this departs from the paper: a resolution is base × 2^k, and the √2 of He's initialisation follows each LeakyReLU
instead of scaling the weights before it (the same networks but for the first and last layers' ranges).
"""

from __future__ import annotations

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
from img2img.networks.equalized import (
    LEAKY_GAIN,
    LEAKY_SLOPE,
    EqualizedConv2d,
    EqualizedLinear,
    LeakyConv2d,
    MappingNetwork,
    pixel_norm,
)
from img2img.networks.growing import Growing
from img2img.networks.layers import CONDITIONINGS
from img2img.networks.resample import average_downsample, repeat_upsample
from img2img.networks.styles import DiscriminatorHead, check_channels, level_channels


class PixelNormConv2d(LeakyConv2d):
    """A convolution, LeakyReLU and pixel norm."""

    def forward(self, images: Tensor) -> Tensor:
        return pixel_norm(super().forward(images))


class AveragedConv2d(LeakyConv2d):
    """A convolution, LeakyReLU and the mean of every four pixels: (N, in, 2H, 2W) -> (N, out, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        return average_downsample(super().forward(images))


class ProGANGenerator(Growing):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W), real in [-1, 1].

    z and a class's embedding are normalised and put side by side. Convolutions with LeakyReLU(0.2) and pixel norm, two
    at each level, pixels repeated between. The images are a linear layer's, so values beyond the range occur.

    Args:
        resolution: (height, width) in pixels of the last level, base × 2^k with the shorter side's base in 4..7.
        channel_base: channels times the shorter side of a level; 16384 in the paper.
        max_width: most channels of a level.
        level, alpha: see growing.Growing; None is the last level.
    """

    prior = "normal"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 512,
        channel_base: int = 16384,
        max_width: int = 512,
        level: int | None = None,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        check_channels(channel_base, max_width)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("num_classes", num_classes, 0, MAX_CLASSES)
        check_whole("latent_dim", latent_dim, 1, 4096)
        base, channels = level_channels(resolution, channel_base, max_width)
        self.start_growing(len(channels), level, alpha)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.out_channels = out_channels
        self.base = base
        self.latents = MappingNetwork(latent_dim=latent_dim, w_dim=latent_dim, layers=0, num_classes=num_classes)
        inputs = latent_dim * (2 if num_classes else 1)
        self.project = EqualizedLinear(inputs, channels[0] * base[0] * base[1])
        self.blocks = nn.ModuleList([PixelNormConv2d(channels[0], channels[0], 3)])
        for wider, narrower in pairwise(channels):
            self.blocks.append(
                nn.Sequential(PixelNormConv2d(wider, narrower, 3), PixelNormConv2d(narrower, narrower, 3))
            )
        self.to_image = nn.ModuleList(EqualizedConv2d(width, out_channels, 1) for width in channels)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        x = self.project(self.latents(z, labels)).unflatten(1, (-1, *self.base))
        x = pixel_norm(F.leaky_relu(x, LEAKY_SLOPE) * LEAKY_GAIN)
        x = below = self.blocks[0](x)
        for level in range(1, self.level + 1):
            below = x
            x = self.blocks[level](repeat_upsample(x))
        images = self.to_image[self.level](x)
        if self.fading():
            images = torch.lerp(repeat_upsample(self.to_image[self.level - 1](below)), images, self.alpha)
        return images


class ProGANDiscriminator(Growing):
    """images (N, in_channels, H, W) of the level's size and, with classes, labels (N,) int64 -> logits (N,).

    The generator mirrored; minibatch standard deviation at the end. With `with_features` also the activations before
    the last layer, (N, channels at the base).

    Args:
        resolution, channel_base, max_width, level, alpha: as in ProGANGenerator.
        minibatch_std: show the last layers how much the samples of a batch differ (layers.MinibatchStd).
        conditioning: how the class enters: "projection" or "classifier", see styles.DiscriminatorHead; "none" for
            num_classes = 0.
    """

    judges_by: ClassVar[str] = "logit"
    halving_conv: ClassVar[type[LeakyConv2d]] = AveragedConv2d

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
        level: int | None = None,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        check_channels(channel_base, max_width)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("num_classes", num_classes, 0, MAX_CLASSES)
        check_flag("minibatch_std", minibatch_std)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        base, channels = level_channels(resolution, channel_base, max_width)
        self.start_growing(len(channels), level, alpha)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditioning = conditioning
        self.from_image = nn.ModuleList(LeakyConv2d(in_channels, width, 1) for width in channels)
        # block l leads from level l + 1 to l
        self.blocks = nn.ModuleList(
            nn.Sequential(LeakyConv2d(narrower, narrower, 3), self.halving_conv(narrower, wider, 3))
            for wider, narrower in pairwise(channels)
        )
        self.head = DiscriminatorHead(
            channels[0],
            base,
            num_classes=num_classes,
            minibatch_std=minibatch_std,
            conditioning=conditioning,
            mapping_layers=0,
        )

    def halve(self, images: Tensor) -> Tensor:
        """(N, C, 2H, 2W) -> (N, C, H, W), the images that the level below sees."""
        return average_downsample(images)

    def classify(self, features: Tensor) -> Tensor:
        """features (N, F) -> logits of the classes (N, num_classes), with conditioning "classifier"."""
        return self.head.classify(features)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = self.from_image[self.level](images)
        for level in range(self.level - 1, -1, -1):
            x = self.blocks[level](x)
            if level == self.level - 1 and self.fading():
                x = torch.lerp(self.from_image[level](self.halve(images)), x, self.alpha)
        return self.head(x, condition, with_features)
