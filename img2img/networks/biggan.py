"""BigGAN and BigGAN-deep (Brock et al. 2018, arXiv:1809.11096) for any rectangle, with or without classes.

Residual networks with self-attention, spectral norm in both players and orthogonal weights at the start. In G every
batch normalisation's scale and shift are linear in a vector made of the class's embedding, which all share, and of z.
Without classes the vector is z alone.

The widths are those of the paper's tables, in units of `width`, for 2^k times the base: k = 5, 6, 7 as for 128, 256 and
512 pixels; k = 3 and 4 as in the authors' PyTorch code for 32 and 64.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
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
from img2img.networks.layers import CONDITIONINGS, PRIORS, apply_spectral_norm, init_orthogonal, make_embedding
from img2img.networks.residual import (
    DiscriminatorBlock,
    GeneratorBlock,
    PoolingDiscriminator,
    conv_of_doubled,
    double,
    halve,
)
from img2img.networks.resolution import attention_level, split_resolution

MULTIPLIERS = {
    1: (4, 4),
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}


def discriminator_widths(width: int, halvings: int) -> list[int]:
    """Channels of the levels from the image inwards, one more than `halvings`."""
    largest = max(MULTIPLIERS)
    multipliers = (1,) * (halvings - largest) + MULTIPLIERS[min(halvings, largest)]
    return [multiplier * width for multiplier in multipliers]


def generator_widths(width: int, doublings: int) -> list[int]:
    """Channels from the base rectangle to the image, one more than `doublings`; for k = 4 those inside k = 5."""
    widths = discriminator_widths(width, 5)[1:] if doublings == 4 else discriminator_widths(width, doublings)
    return widths[::-1]


def check_common(width: int, num_classes: int, attention: int, spectral_norm: bool) -> None:
    check_whole("width", width, 1, MAX_WIDTH)
    check_whole("num_classes", num_classes, 0, MAX_CLASSES)
    check_whole("attention", attention, 0, MAX_SIDE)
    check_flag("spectral_norm", spectral_norm)


class VectorBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are linear in a vector: (N, C, H, W), (N, dim) -> (N, C, H, W)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Linear(dim, channels, bias=False)  # from 1
        self.shift = nn.Linear(dim, channels, bias=False)

    def forward(self, images: Tensor, vector: Tensor) -> Tensor:
        scale, shift = (linear(vector)[:, :, None, None].to(images.dtype) for linear in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(images), 1 + scale)


class DeepGeneratorBlock(nn.Module):
    """(N, in, H, W) -> (N, out ≤ in, H, W), doubled with `doubles`: a bottleneck of in/4 channels around two 3×3.

    The shortcut has no weights: it keeps the first `out` channels.
    """

    def __init__(self, in_channels: int, out_channels: int, dim: int, doubles: bool) -> None:
        super().__init__()
        inside = max(in_channels // 4, 1)
        self.norms = nn.ModuleList(VectorBatchNorm(channels, dim) for channels in (in_channels, inside, inside, inside))
        self.conv1 = nn.Conv2d(in_channels, inside, 1)
        self.conv2 = nn.Conv2d(inside, inside, 3, padding=1)
        self.conv3 = nn.Conv2d(inside, inside, 3, padding=1)
        self.conv4 = nn.Conv2d(inside, out_channels, 1)
        self.out_channels = out_channels
        self.doubles = doubles

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        norm1, norm2, norm3, norm4 = self.norms
        inside = self.conv1(F.relu(norm1(x, vector), inplace=True))
        inside = F.relu(norm2(inside, vector), inplace=True)
        inside = conv_of_doubled(self.conv2, inside) if self.doubles else self.conv2(inside)
        inside = self.conv3(F.relu(norm3(inside, vector), inplace=True))
        inside = self.conv4(F.relu(norm4(inside, vector), inplace=True))
        kept = x[:, : self.out_channels]
        return inside + (double(kept) if self.doubles else kept)


class DeepDiscriminatorBlock(nn.Module):
    """(N, in, H, W) -> (N, out ≥ in, H, W), halved with `halves`: a bottleneck of out/4 channels around two 3×3.

    The shortcut keeps the channels there are and makes the missing ones by a 1×1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, halves: bool) -> None:
        super().__init__()
        inside = max(out_channels // 4, 1)
        self.conv1 = nn.Conv2d(in_channels, inside, 1)
        self.conv2 = nn.Conv2d(inside, inside, 3, padding=1)
        self.conv3 = nn.Conv2d(inside, inside, 3, padding=1)
        self.conv4 = nn.Conv2d(inside, out_channels, 1)
        more = out_channels - in_channels
        self.shortcut = nn.Conv2d(in_channels, more, 1) if more else None
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.conv1(F.relu(x)), inplace=True)
        inside = F.relu(self.conv2(inside), inplace=True)
        inside = F.relu(self.conv3(inside), inplace=True)
        if self.halves:
            inside, x = halve(inside), halve(x)
        if self.shortcut is not None:
            x = torch.cat((x, self.shortcut(x)), dim=1)
        return self.conv4(inside) + x


class BigGANGenerator(nn.Module):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W) in [-1, 1].

    z is cut into k + 1 equal parts: the first is projected to the base rectangle, each other goes to one of the k
    blocks, beside the class's embedding. At the end batch norm, ReLU, a 3×3 convolution and tanh.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        latent_dim: a multiple of k + 1 (the paper has 20 for each part: 120, 140 and 160).
        label_dim: values of a class's embedding.
        width: the paper's ch, 96 there.
        attention: self-attention at the finest level whose shorter side is at most this and at most half the image's; 0
            for none.
        spectral_norm: divide every weight but the class embedding by its largest singular value.
        prior: of z, "normal" or "uniform" in [-1, 1); read by layers.draw_latents.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 120,
        label_dim: int = 128,
        width: int = 64,
        attention: int = 64,
        spectral_norm: bool = True,
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_common(width, num_classes, attention, spectral_norm)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("label_dim", label_dim, 1, 4096)
        check_choice("prior", prior, PRIORS)
        base, doublings = split_resolution(resolution)
        parts = doublings + 1
        if latent_dim % parts:
            raise UsageFault(
                "latent_dim",
                f"{latent_dim} cannot be cut into {parts} equal parts",
                f"Use {latent_dim // parts * parts or parts} or another multiple of {parts}",
            )
        self.latent_dim = latent_dim
        self.prior = prior
        self.num_classes = num_classes
        self.out_channels = out_channels
        self.part = latent_dim // parts

        widths = generator_widths(width, doublings)
        dim = self.part + (label_dim if num_classes else 0)
        self.first = nn.Sequential(
            nn.Linear(self.part, widths[0] * base[0] * base[1]), nn.Unflatten(1, (widths[0], *base))
        )
        self.blocks = nn.ModuleList(
            GeneratorBlock(*pair, make_norm=lambda channels: VectorBatchNorm(channels, dim))
            for pair in pairwise(widths)
        )
        self.attention_block = attention_level(attention, [min(base) * 2**level for level in range(doublings)])
        self.attention = None if self.attention_block is None else SelfAttention(widths[self.attention_block])
        self.to_image = image_layers(widths[-1], out_channels)
        init_orthogonal(self)
        if spectral_norm:
            apply_spectral_norm(self)
        self.embed = shared_embedding(num_classes, label_dim)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        first, *rest = z.split(self.part, dim=1)
        x = self.first(first)
        shared = None if self.embed is None else self.embed(labels).to(z.dtype)
        for index, (block, part) in enumerate(zip(self.blocks, rest)):
            if self.attention is not None and index == self.attention_block:
                x = self.attention(x)
            x = block(x, part if shared is None else torch.cat((shared, part), dim=1))
        images: Tensor = self.to_image(x)
        return images


class BigGANDiscriminator(PoolingDiscriminator):
    """PoolingDiscriminator of k blocks that halve the image and one that does not, as wide inside as they end.

    (For k = 3, as in the authors' PyTorch code for 32×32, two that halve and two that do not.)

    Args:
        resolution, width, attention: as in BigGANGenerator.
        spectral_norm: divide every weight, the class embedding too, by its largest singular value.
        conditioning: see PoolingDiscriminator.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        attention: int = 64,
        spectral_norm: bool = True,
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, num_classes, attention, spectral_norm)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        _base, doublings = split_resolution(resolution)
        halvings = 2 if doublings == 3 else doublings
        self.in_channels = in_channels
        level = attention_level(attention, [min(resolution) // 2**halving for halving in range(1, halvings + 1)])
        widths = [in_channels, *discriminator_widths(width, doublings)]
        layers: list[nn.Module] = []
        for index, pair in enumerate(pairwise(widths)):
            layers.append(DiscriminatorBlock(*pair, first=index == 0, halves=index < halvings))
            if index == level:
                layers.append(SelfAttention(pair[1]))
        self.layers = nn.Sequential(*layers)
        self._end_with(widths[-1], num_classes, conditioning)
        init_orthogonal(self)
        if spectral_norm:
            apply_spectral_norm(self)


class BigGANDeepGenerator(nn.Module):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W) in [-1, 1].

    The vector of z and the class's embedding, whole, is projected to the base rectangle and conditions every block. At
    each level `blocks` bottleneck blocks, of which the last doubles the image.

    Args:
        resolution, label_dim, attention, spectral_norm, prior: as in BigGANGenerator.
        width: the paper's ch, 128 there.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 128,
        label_dim: int = 128,
        width: int = 64,
        blocks: int = 2,
        attention: int = 64,
        spectral_norm: bool = True,
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_common(width, num_classes, attention, spectral_norm)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("label_dim", label_dim, 1, 4096)
        check_whole("blocks", blocks, 1, 64)
        check_choice("prior", prior, PRIORS)
        base, doublings = split_resolution(resolution)
        self.latent_dim = latent_dim
        self.prior = prior
        self.num_classes = num_classes
        self.out_channels = out_channels

        widths = generator_widths(width, doublings)
        dim = latent_dim + (label_dim if num_classes else 0)
        self.first = nn.Sequential(nn.Linear(dim, widths[0] * base[0] * base[1]), nn.Unflatten(1, (widths[0], *base)))
        self.blocks = nn.ModuleList(
            DeepGeneratorBlock(before, after if last else before, dim, doubles=last)
            for before, after in pairwise(widths)
            for last in [False] * (blocks - 1) + [True]
        )
        level = attention_level(attention, [min(base) * 2**level for level in range(doublings)])
        self.attention = None if level is None else SelfAttention(widths[level])
        self.attention_block = None if level is None else blocks * level  # before which it is
        self.to_image = image_layers(widths[-1], out_channels)
        init_orthogonal(self)
        if spectral_norm:
            apply_spectral_norm(self)
        self.embed = shared_embedding(num_classes, label_dim)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        vector = z if self.embed is None else torch.cat((self.embed(labels).to(z.dtype), z), dim=1)
        x = self.first(vector)
        for index, block in enumerate(self.blocks):
            if self.attention is not None and index == self.attention_block:
                x = self.attention(x)
            x = block(x, vector)
        images: Tensor = self.to_image(x)
        return images


class BigGANDeepDiscriminator(PoolingDiscriminator):
    """PoolingDiscriminator of a 3×3 convolution and `blocks` bottleneck blocks a level, of which the first halves.

    Args:
        resolution, width, attention: as in BigGANDeepGenerator.
        spectral_norm: divide every weight, the class embedding too, by its largest singular value.
        conditioning: see PoolingDiscriminator.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        blocks: int = 2,
        attention: int = 64,
        spectral_norm: bool = True,
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, num_classes, attention, spectral_norm)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("blocks", blocks, 1, 64)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        _base, halvings = split_resolution(resolution)
        self.in_channels = in_channels
        level = attention_level(attention, [min(resolution) // 2**halving for halving in range(1, halvings + 1)])
        widths = discriminator_widths(width, halvings)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
        for index, (before, after) in enumerate(pairwise(widths)):
            layers.append(DeepDiscriminatorBlock(before, after, halves=True))
            layers += [DeepDiscriminatorBlock(after, after, halves=False) for _ in range(blocks - 1)]
            if index == level:
                layers.append(SelfAttention(after))
        self.layers = nn.Sequential(*layers)
        self._end_with(widths[-1], num_classes, conditioning)
        init_orthogonal(self)
        if spectral_norm:
            apply_spectral_norm(self)


def image_layers(channels: int, out_channels: int) -> nn.Sequential:
    """(N, channels, H, W) -> (N, out_channels, H, W) in [-1, 1]."""
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, out_channels, 3, padding=1), nn.Tanh()
    )


def shared_embedding(num_classes: int, dim: int) -> nn.Embedding | None:
    """The classes' orthogonal vectors; made after spectral norm is applied, which is not for it."""
    if not num_classes:
        return None
    embed = make_embedding(num_classes, dim, std=1.0)
    init_orthogonal(embed)
    return embed
