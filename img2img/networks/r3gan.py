"""R3GAN (Huang et al. 2024, arXiv:2501.05441): residual networks without normalisation, G and D mirror images.

A block widens with a 1×1 convolution, works with a grouped 3×3 one and comes back with a 1×1 one (an inverted
bottleneck of grouped convolutions, as in ResNeXt), and adds that to what came in. What normalisation would do is left
to the initialisation, as in Fixup (Zhang et al. 2019, arXiv:1901.09321): the last convolution of a block begins as
zero, so that the whole network begins as a chain of resampled identities, and the others are scaled down by the number
of blocks. It is meant to be trained with the relativistic loss and both R1 and R2.

Where this departs from the authors' code: class embeddings begin as loud as z in G and with an inner product of unit
variance in D, where theirs are divided by √num_classes as well; beyond the edges of a plane that is doubled or halved
pixels repeat, where theirs sees zeros; the base may be any rectangle, not just 4×4.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_WIDTH,
    check_choice,
    check_conditioning,
    check_whole,
)
from img2img.networks.convolution import conv2d
from img2img.networks.equalized import LEAKY_SLOPE
from img2img.networks.layers import CONDITIONINGS, PRIORS, check_condition, fill_normal, make_embedding
from img2img.networks.resample import fir_downsample, fir_upsample
from img2img.networks.resolution import level_widths, split_resolution

HE_GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))  # keeps the mean square through a LeakyReLU (He et al. 2015)


def check_common(width: int, max_width: int, blocks: int, expansion: int, group_width: int, num_classes: int) -> None:
    check_whole("width", width, 1, 2 * MAX_WIDTH)
    check_whole("max_width", max_width, width, 8 * MAX_WIDTH)
    check_whole("blocks", blocks, 1, 64)
    check_whole("expansion", expansion, 1, 16)
    check_whole("group_width", group_width, 1, 8 * MAX_WIDTH)
    check_whole("num_classes", num_classes, 0, MAX_CLASSES)
    for channels in (width, max_width):
        if channels * expansion % group_width:
            raise UsageFault(
                "group_width",
                f"{group_width} does not divide the {channels} · {expansion} channels inside a block",
                f"Use for example {math.gcd(width * expansion, max_width * expansion)}",
            )


def fill_scaled(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Weights N(0, gain² / inputs of one output) (He et al. 2015, arXiv:1502.01852), bias 0."""
    fill_normal(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def plain_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1×1 convolution without bias, for a change of channels."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    fill_scaled(conv)
    return conv


def make_transition(before: int, after: int) -> nn.Module:
    """What changes the width between two levels, if anything has to."""
    return nn.Identity() if before == after else plain_conv(before, after)


class ResidualBlock(nn.Module):
    """(N, C, H, W) -> same: x + narrow(act(group(act(widen(x))))); the identity at the start.

    Args:
        channels: C; expansion · C inside.
        group_width: channels of each group of the 3×3 convolution.
        depth: blocks of the whole network. The variance of each of the block's other two convolutions is divided by
            √depth, so that after one step of learning the network's output moves about as far at any depth.
    """

    def __init__(self, channels: int, expansion: int, group_width: int, depth: int) -> None:
        super().__init__()
        inside = channels * expansion
        self.widen = nn.Conv2d(channels, inside, 1)
        self.group = nn.Conv2d(inside, inside, 3, padding=1, groups=inside // group_width)
        self.narrow = nn.Conv2d(inside, channels, 1, bias=False)
        for layer in (self.widen, self.group):
            fill_scaled(layer, HE_GAIN * depth**-0.25)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.leaky_relu(self.widen(x), LEAKY_SLOPE, inplace=True)
        group = self.group
        inside = conv2d(inside, group.weight, group.bias, padding=1, groups=group.groups)
        inside = F.leaky_relu(inside, LEAKY_SLOPE, inplace=True)
        return x + self.narrow(inside)


class R3GANGenerator(nn.Module):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W), unbounded.

    A learned picture of the base rectangle for each channel, multiplied by a linear function of z (and the class's
    embedding); then at every level `blocks` residual blocks, between levels a 1×1 convolution where the width changes
    and bilinear upsampling; and a 1×1 convolution to colours.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        label_dim: values of a class's embedding, concatenated to z.
        width: channels at the image's resolution; doubled at each level inwards, at most max_width. The defaults are
            the paper's network for 256×256; width 384 is the one for 64×64, width 768 the one for 32×32.
        blocks: residual blocks of each level.
        expansion: how many times wider a block is inside.
        group_width: channels of each group of a block's 3×3 convolution (32 in the paper's for ImageNet).
        prior: of z, "normal" or "uniform" in [-1, 1); read by layers.draw_latents.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 64,
        label_dim: int = 64,
        width: int = 96,
        max_width: int = 768,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_common(width, max_width, blocks, expansion, group_width, num_classes)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("label_dim", label_dim, 1, 4096)
        check_choice("prior", prior, PRIORS)
        base, doublings = split_resolution(resolution)
        self.latent_dim = latent_dim
        self.prior = prior
        self.num_classes = num_classes
        self.out_channels = out_channels

        widths = level_widths(width, max_width, doublings + 1)[::-1]
        depth = blocks * len(widths)
        self.embed = make_embedding(num_classes, label_dim, std=1.0) if num_classes else None
        self.basis = nn.Parameter(torch.empty(widths[0], *base))
        fill_normal(self.basis, 0.0, 1.0)
        self.modulate = nn.Linear(latent_dim + (label_dim if num_classes else 0), widths[0], bias=False)
        fill_scaled(self.modulate)
        self.transitions = nn.ModuleList(make_transition(*pair) for pair in pairwise(widths))
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(channels, expansion, group_width, depth) for _ in range(blocks)))
            for channels in widths
        )
        self.to_image = plain_conv(widths[-1], out_channels)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes == 0), "labels are for class-conditional generators"
        if self.embed is not None:
            z = torch.cat((z, self.embed(labels).to(z.dtype)), dim=1)
        x = self.levels[0](self.basis * self.modulate(z)[:, :, None, None])
        for transition, blocks in zip(self.transitions, self.levels[1:]):
            x = blocks(fir_upsample(transition(x)))
        images: Tensor = self.to_image(x)
        return images


class R3GANDiscriminator(nn.Module):
    """images (N, in_channels, H, W) and, with classes, labels (N,) int64 -> logits (N,).

    The generator backwards: a 1×1 convolution from colours, at every level `blocks` residual blocks, between levels
    bilinear downsampling and a 1×1 convolution where the width changes; at the base rectangle each channel is
    multiplied by a learned picture of its own and summed, and a linear layer takes these sums. With `with_features`
    also the sums, (N, width of the last level).

    Args:
        resolution, width, max_width, blocks, expansion, group_width: as in R3GANGenerator.
        conditioning: how the class enters.
            "projection": the logit is <embed(class), linear(features)> and nothing else (Miyato & Koyama 2018,
            arXiv:1802.05637, without the part that all classes share).
            "classifier": not at all, but `classify` of the features gives logits of the classes (Odena et al. 2017,
            arXiv:1610.09585).
            "none": for num_classes = 0.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 96,
        max_width: int = 768,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, max_width, blocks, expansion, group_width, num_classes)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        base, halvings = split_resolution(resolution)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditioning = conditioning

        widths = level_widths(width, max_width, halvings + 1)
        depth = blocks * len(widths)
        last = widths[-1]
        self.from_image = plain_conv(in_channels, widths[0])
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(channels, expansion, group_width, depth) for _ in range(blocks)))
            for channels in widths
        )
        self.transitions = nn.ModuleList(make_transition(*pair) for pair in pairwise(widths))
        self.basis = nn.Parameter(torch.empty(last, *base))
        fill_normal(self.basis, 0.0, (base[0] * base[1]) ** -0.5)
        projected = conditioning == "projection"
        self.logit = nn.Linear(last, last if projected else 1, bias=False)
        fill_scaled(self.logit)
        self.embed = make_embedding(num_classes, last, std=last**-0.5) if projected else None
        self.classify = nn.Linear(last, num_classes) if conditioning == "classifier" else None
        if self.classify is not None:
            fill_scaled(self.classify)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_condition(self.conditioning, condition)
        x = self.levels[0](self.from_image(images))
        for transition, blocks in zip(self.transitions, self.levels[1:]):
            x = blocks(transition(fir_downsample(x)))
        features = (x * self.basis).sum(dim=(2, 3))
        scores = self.logit(features)
        logits: Tensor = scores[:, 0] if self.embed is None else (scores * self.embed(condition)).sum(dim=1)
        return (logits, features) if with_features else logits
