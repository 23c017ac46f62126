"""Residual networks of WGAN-GP, SNGAN and SAGAN for any rectangle, with or without classes.

Gulrajani et al. 2017, arXiv:1704.00028; Miyato et al. 2018, arXiv:1802.05957, with projection arXiv:1802.05637; Zhang
et al. 2018, arXiv:1805.08318. They are one family:

    WGAN-GP    width = max_width = 128 at 32×32, D with spectral_norm off, flat_blocks 2, mean pooling
    SNGAN      width = max_width = 256 in G and 128 in D with flat_blocks 2 at 32×32; the defaults at 64×64 and 128×128
    SAGAN      attention, spectral_norm in G too, D wide
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_SIDE,
    MAX_WIDTH,
    check_choice,
    check_conditioning,
    check_flag,
    check_whole,
)
from img2img.networks.attention import SelfAttention
from img2img.networks.layers import CONDITIONINGS, NORMS, PRIORS, ConditionalBatchNorm, apply_spectral_norm
from img2img.networks.residual import DiscriminatorBlock, GeneratorBlock, PoolingDiscriminator
from img2img.networks.resolution import attention_level, level_widths, split_resolution

POOLINGS = ("sum", "mean")


def check_common(width: int, max_width: int, num_classes: int, attention: int, spectral_norm: bool) -> None:
    check_whole("width", width, 1, MAX_WIDTH)
    check_whole("max_width", max_width, width, 8 * MAX_WIDTH)
    check_whole("num_classes", num_classes, 0, MAX_CLASSES)
    check_whole("attention", attention, 0, MAX_SIDE)
    check_flag("spectral_norm", spectral_norm)


def init_glorot(network: nn.Module) -> None:
    """Weights uniform with variance gain² · 2 / (inputs + outputs) (Glorot & Bengio 2010); biases 0.

    The gain is √2 for the two 3×3 convolutions of a block, which follow a ReLU, and 1 for all else. The scales and
    shifts of classes are left as they are.
    """
    blocks = [block for block in network.modules() if isinstance(block, GeneratorBlock | DiscriminatorBlock)]
    inside = {conv for block in blocks for conv in (block.conv1, block.conv2)}
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:
            nn.init.xavier_uniform_(layer.weight, math.sqrt(2) if layer in inside else 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SNGANGenerator(nn.Module):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W) in [-1, 1].

    z is projected to the base rectangle, k residual blocks double it to the resolution, then batch norm, ReLU, a 3×3
    convolution and tanh. With classes the scale and shift of every batch norm in a block belong to the class.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        width: channels at the image's resolution; doubled at each level inwards, at most max_width.
        attention: self-attention at the finest level whose shorter side is at most this and at most half the image's; 0
            for none.
        spectral_norm: divide every weight by its largest singular value; not the scales and shifts of classes.
        prior: of z, "normal" or "uniform" in [-1, 1); read by layers.draw_latents.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 128,
        width: int = 64,
        max_width: int = 1024,
        attention: int = 0,
        spectral_norm: bool = False,
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_common(width, max_width, num_classes, attention, spectral_norm)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_choice("prior", prior, PRIORS)
        base, doublings = split_resolution(resolution)
        self.latent_dim = latent_dim
        self.prior = prior
        self.num_classes = num_classes
        self.out_channels = out_channels

        def make_norm(channels: int) -> nn.Module:
            return ConditionalBatchNorm(channels, num_classes) if num_classes else nn.BatchNorm2d(channels)

        widths = level_widths(width, max_width, doublings + 1)[::-1]
        self.first = nn.Sequential(
            nn.Linear(latent_dim, widths[0] * base[0] * base[1]), nn.Unflatten(1, (widths[0], *base))
        )
        self.blocks = nn.ModuleList(GeneratorBlock(*pair, make_norm=make_norm) for pair in pairwise(widths))
        self.attention_block = attention_level(attention, [min(base) * 2**level for level in range(doublings)])
        self.attention = None if self.attention_block is None else SelfAttention(widths[self.attention_block])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_image = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        init_glorot(self)
        if spectral_norm:
            apply_spectral_norm(self, embeddings=False)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        x = self.first(z)
        for index, block in enumerate(self.blocks):
            if self.attention is not None and index == self.attention_block:
                x = self.attention(x)
            x = block(x, labels)
        images: Tensor = self.to_image(F.relu(self.norm(x), inplace=True)).tanh()
        return images


class SNGANDiscriminator(PoolingDiscriminator):
    """PoolingDiscriminator of k + 1 residual blocks, of which the first halve the image and the last keep its size.

    Args:
        resolution, attention: as in SNGANGenerator.
        width: channels of the first block; doubled at each block, at most max_width.
        flat_blocks: how many of the k + 1 blocks keep the size, from 1 to k.
        wide: as many channels between a block's convolutions as it ends with, else as it begins with.
        norm: one of layers.NORMS, before every convolution of a block but the first block's; WGAN-GP with "layer".
            "batch" mixes the samples of a batch: not with a per-sample gradient penalty.
        spectral_norm: divide every weight, the class embedding too, by its largest singular value.
        pooling: over the places at the end, "sum" or "mean".
        minibatch_std: show the last layer how much the samples of a batch differ (layers.MinibatchStd), against a
            generator that always makes the same picture.
        conditioning: see PoolingDiscriminator.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        max_width: int = 1024,
        flat_blocks: int = 1,
        wide: bool = False,
        norm: str = "none",
        attention: int = 0,
        spectral_norm: bool = True,
        pooling: str = "sum",
        minibatch_std: bool = False,
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, max_width, num_classes, attention, spectral_norm)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_flag("wide", wide)
        check_choice("norm", norm, NORMS)
        check_choice("pooling", pooling, POOLINGS)
        check_flag("minibatch_std", minibatch_std)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        _base, doublings = split_resolution(resolution)
        check_whole("flat_blocks", flat_blocks, 1, doublings)
        self.in_channels = in_channels
        halvings = doublings + 1 - flat_blocks
        level = attention_level(attention, [min(resolution) // 2**halving for halving in range(1, halvings + 1)])
        widths = [in_channels, *level_widths(width, max_width, doublings + 1)]
        layers: list[nn.Module] = []
        for index, pair in enumerate(pairwise(widths)):
            layers.append(DiscriminatorBlock(*pair, first=index == 0, halves=index < halvings, wide=wide, norm=norm))
            if index == level:
                layers.append(SelfAttention(pair[1]))
        self.layers = nn.Sequential(*layers)
        self._end_with(widths[-1], num_classes, conditioning, mean=pooling == "mean", minibatch_std=minibatch_std)
        init_glorot(self)
        if spectral_norm:
            apply_spectral_norm(self)
