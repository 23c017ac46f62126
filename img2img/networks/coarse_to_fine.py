"""The coarse-to-fine generator of pix2pixHD (Wang et al. 2018, arXiv:1711.11585, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_choice, check_whole
from img2img.networks.growing import Growing
from img2img.networks.labels import Palette, check_palette
from img2img.networks.layers import NORMS, init_normal, make_norm, needs_bias, reflect_pad
from img2img.networks.multiscale import halved
from img2img.networks.resample import repeat_upsample
from img2img.networks.resnet import ResidualBlock, doubling, halving


class _Stage(nn.Module):
    """images (N, in_channels, H, W), features (N, widths[1], H/2, W/2) from the stage inside -> (N, widths[0], H, W).

    A 7×7 convolution to widths[0], a halving to each further width, twice the one before, residual blocks, as many
    doublings. What comes from inside is added to what the first halving gives.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 7, bias=needs_bias(norm)),
            make_norm(norm, widths[0]),
            nn.ReLU(inplace=True),
        )
        self.down = nn.ModuleList(halving(width, norm, "strided") for width in widths[:-1])
        self.blocks = nn.Sequential(*(ResidualBlock(widths[-1], norm, dropout=0.0) for _ in range(blocks)))
        self.up = nn.Sequential(*(doubling(width, norm, "transposed") for width in widths[-2::-1]))

    def forward(self, images: Tensor, inside: Tensor | None = None) -> Tensor:
        x = self.first(reflect_pad(images, 3))
        for index, halve in enumerate(self.down):
            x = halve(x)
            if index == 0 and inside is not None:
                x = x + inside
        features: Tensor = self.up(self.blocks(x))
        return features


MAX_ENHANCERS = 3


class CoarseToFineGenerator(Growing):
    """images (N, in_channels, H, W) -> (N, out_channels, H, W) in [-1, 1]; H and W multiples of `stride`.

    The global generator G1 works on images that are halved `enhancers` times, and is CycleGAN's ResNet with more
    halvings: in its notation c7s1-w, d(2w), ..., blocks × R, ..., u(w) with w = width · 2^enhancers. Around it stands
    an enhancer for each size up to the whole one: c7s1-width, d(2·width), local_blocks × R(2·width), u(width), whose d
    takes the last features from inside as a summand. The outermost one ends in c7s1-out_channels, tanh. The paper's
    network for 2048×1024 is the default.

    With `doublings` it grows as in the paper: at level 0 so many enhancers have no part, and images and output are
    halved as often; at each further level one more joins. Every level below the last has a last layer of its own behind
    the features that the next level takes from inside, which is of no use once that level is there. While a level fades
    in, its output is mixed with that of the level below, pixels repeated.

    Args:
        width: channels at the whole size.
        blocks: residual blocks of G1.
        enhancers: sizes above G1's; without any it is G1 alone.
        local_blocks: residual blocks of each enhancer.
        downsamplings: halvings inside G1.
        palette: where the images are label maps, the colours of their classes, one plane of the input for each; the
            data decide it.
        doublings: enhancers that join later, at most all of them.
        level, alpha: see growing.Growing; None is the last level.
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
        doublings: int = 0,
        level: int | None = None,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        check_palette(palette)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH // 4)
        check_whole("blocks", blocks, 1, 64)
        check_whole("enhancers", enhancers, 0, MAX_ENHANCERS)
        check_whole("local_blocks", local_blocks, 1, 64)
        check_whole("downsamplings", downsamplings, 1, 5)
        check_choice("norm", norm, NORMS)
        check_whole("doublings", doublings, 0, 12)
        if doublings > enhancers:
            raise _too_few(enhancers, doublings)
        self.start_growing(doublings + 1, level, alpha)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.enhancers = enhancers
        self.downsamplings = downsamplings

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
        # from the largest of these levels to the smallest
        self.last_below = nn.ModuleList(nn.Conv2d(wider, out_channels, 7) for wider in widths[1 : doublings + 1])
        init_normal(self)

    @property
    def stride(self) -> int:
        """What sides are multiples of, at this level."""
        return 2 ** (self.downsamplings + self.enhancers - self.halvings)

    @property
    def min_size(self) -> int:
        """The shortest side, at this level."""
        # a reflection needs a side longer than itself: 3 pixels where a stage begins, 1 at G1's blocks
        return max(4 * 2 ** (self.enhancers - self.halvings), 2 * self.stride)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        if self.palette is not None:
            images = self.palette(images)
        joined = self.enhancers - self.halvings
        inside, features = None, self.stages[0](halved(images, joined))
        for number in range(1, joined + 1):
            inside, features = features, self.stages[number](halved(images, joined - number), features)
        output = self._output(self.level, features)
        if self.fading():
            assert inside is not None, "a level below the last one is one enhancer less"
            output = torch.lerp(repeat_upsample(self._output(self.level - 1, inside)), output, self.alpha)
        return output

    def _output(self, level: int, features: Tensor) -> Tensor:
        below = self.num_levels - 1 - level
        last = self.last_below[below - 1] if below else self.last
        return torch.tanh(last(reflect_pad(features, 3)))


def _too_few(enhancers: int, doublings: int) -> UsageFault:
    """The fault of a schedule in which sides double more often than there are enhancers that could join."""
    mends = [f"Set it {2 ** (doublings - enhancers)} times as high" if enhancers else "Set it to 0"]
    if doublings <= MAX_ENHANCERS:
        mends.append(f"generator.enhancers={doublings}")
    problem = f"sides double {doublings} times, and one of {enhancers} enhancers joins at each"
    return UsageFault("growth.start", problem, ", or ".join(mends))
