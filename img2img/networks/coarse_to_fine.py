"""The coarse-to-fine generator of pix2pixHD (Wang et al. 2018, arXiv:1711.11585, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_choice, check_whole
from img2img.networks.labels import Palette, check_palette
from img2img.networks.layers import NORMS, init_normal, make_norm, needs_bias, reflect_pad
from img2img.networks.multiscale import halved
from img2img.networks.resnet import ResidualBlock


class _Stage(nn.Module):
    """images (N, in_channels, H, W), features (N, widths[1], H/2, W/2) from the stage inside -> (N, widths[0], H, W).

    A 7×7 convolution to widths[0], a halving to each further width, residual blocks, as many doublings. What comes from
    inside is added to what the first halving gives.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: int, norm: str) -> None:
        super().__init__()
        bias = needs_bias(norm)
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 7, bias=bias), make_norm(norm, widths[0]), nn.ReLU(inplace=True)
        )
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(outer, inner, 3, stride=2, padding=1, bias=bias),
                make_norm(norm, inner),
                nn.ReLU(inplace=True),
            )
            for outer, inner in pairs
        )
        self.blocks = nn.Sequential(*(ResidualBlock(widths[-1], norm, dropout=0.0) for _ in range(blocks)))
        self.up = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(inner, outer, 3, stride=2, padding=1, output_padding=1, bias=bias),
                    make_norm(norm, outer),
                    nn.ReLU(inplace=True),
                )
                for outer, inner in reversed(pairs)
            )
        )

    def forward(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        x = self.first(reflect_pad(images, 3))
        for index, halve in enumerate(self.down):
            x = halve(x)
            if index == 0 and inside is not None:
                x = x + inside
        features: Tensor = self.up(self.blocks(x))
        return features


class CoarseToFineGenerator(nn.Module):
    """images (N, in_channels, H, W) -> (N, out_channels, H, W) in [-1, 1]; H and W multiples of `stride`.

    The global generator G1 works on images that are halved `enhancers` times, and is CycleGAN's ResNet with more
    halvings: in its notation c7s1-w, d(2w), ..., blocks × R, ..., u(w) with w = width · 2^enhancers. Around it stands
    an enhancer for each size up to the whole one: c7s1-width, d(2·width), local_blocks × R(2·width), u(width), whose d
    takes the last features from inside as a summand. The outermost one ends in c7s1-out_channels, tanh. The paper's
    network for 2048×1024 is the default.

    All of it learns at once. The paper first trains G1 by itself at half the size, with a last layer that ends with
    this phase.

    Args:
        width: channels at the whole size.
        blocks: residual blocks of G1.
        enhancers: sizes above G1's; without any it is G1 alone.
        local_blocks: residual blocks of each enhancer.
        downsamplings: halvings inside G1.
        palette: where the images are label maps, the colours of their classes, one plane of the input for each; the
            data decide it.
    """

    dropout_at_test = False
    fixed_scale = False  # fully convolutional: pictures may be translated at their own size

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 32,
        blocks: int = 9,
        enhancers: int = 1,
        local_blocks: int = 3,
        downsamplings: int = 4,
        norm: str = "instance",
        palette: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_palette(palette)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH // 4)
        check_whole("blocks", blocks, 1, 64)
        check_whole("enhancers", enhancers, 0, 3)
        check_whole("local_blocks", local_blocks, 1, 64)
        check_whole("downsamplings", downsamplings, 1, 5)
        check_choice("norm", norm, NORMS)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = 2 ** (downsamplings + enhancers)
        # a reflection needs a side longer than itself: 3 pixels where a stage begins, 1 at G1's blocks
        self.min_size = max(4 * 2**enhancers, 2 * self.stride)

        self.palette = Palette(palette) if palette else None
        planes = len(palette) or in_channels
        widths = [width * 2**level for level in range(enhancers + downsamplings + 1)]
        # from the inside outwards
        self.stages = nn.ModuleList(
            [
                _Stage(planes, widths[enhancers:], blocks, norm),
                *(
                    _Stage(planes, widths[level : level + 2], local_blocks, norm)
                    for level in range(enhancers - 1, -1, -1)
                ),
            ]
        )
        self.last = nn.Conv2d(width, out_channels, 7)
        init_normal(self)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        if self.palette is not None:
            images = self.palette(images)
        features = None
        for halvings, stage in zip(range(len(self.stages) - 1, -1, -1), self.stages):
            features = stage(halved(images, halvings), features)
        assert features is not None, "G1 is always there"
        return torch.tanh(self.last(reflect_pad(features, 3)))
