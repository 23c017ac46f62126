"""The fully convolutional generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593, section 7.2).

It follows Johnson et al. 2016 (arXiv:1603.08155).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_choice, check_flag, check_share, check_whole
from img2img.networks.layers import INITS, NORMS, KeyedDropout, init_translator, make_norm, needs_bias, reflect_pad
from img2img.networks.resample import DOWNSAMPLINGS, UPSAMPLINGS, Double, Halve


class ResidualBlock(nn.Module):
    """x + norm(conv(dropout(relu(norm(conv(x)))))), 3×3 convolutions on reflection padding; shapes are kept."""

    def __init__(self, channels: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=needs_bias(norm))
        self.norm1 = make_norm(norm, channels)
        self.dropout = KeyedDropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=needs_bias(norm))
        self.norm2 = make_norm(norm, channels)

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        y = self.norm1(self.conv1(reflect_pad(x, 1))).relu_()
        y = self.dropout(y, draws)
        y = self.norm2(self.conv2(reflect_pad(y, 1)))
        return x + y


def halving(narrow: int, norm: str, downsampling: str) -> nn.Sequential:
    """(N, narrow, H, W) -> (N, 2·narrow, H / 2, W / 2)."""
    antialiased = downsampling == "antialiased"
    conv = nn.Conv2d(narrow, 2 * narrow, 3, 1 if antialiased else 2, padding=1, bias=needs_bias(norm))
    halve = [Halve()] if antialiased else []
    return nn.Sequential(conv, make_norm(norm, 2 * narrow), nn.ReLU(inplace=True), *halve)


def doubling(narrow: int, norm: str, upsampling: str) -> nn.Sequential:
    """(N, 2·narrow, H, W) -> (N, narrow, 2H, 2W)."""
    bias = needs_bias(norm)
    then = make_norm(norm, narrow), nn.ReLU(inplace=True)
    if upsampling == "transposed":
        conv = nn.ConvTranspose2d(2 * narrow, narrow, 3, stride=2, padding=1, output_padding=1, bias=bias)
        return nn.Sequential(conv, *then)
    return nn.Sequential(Double(upsampling), nn.Conv2d(2 * narrow, narrow, 3, padding=1, bias=bias), *then)


class ResnetGenerator(nn.Module):
    """images (N, in_channels, H, W) -> (N, out_channels, H, W) in [-1, 1].

    Its feature maps are the images, what each halving gives, and what each residual block gives, in this order.

    H and W are multiples of `stride` and at least `min_size`. In CycleGAN's notation: c7s1-width, d(2·width),
    d(4·width), blocks × R(4·width), u(2·width), u(width), c7s1-out_channels, tanh. The convolutions lack a bias where
    the norm would subtract it (the released code of the paper keeps one: 5,248 parameters more at width 64 with 9
    blocks, and the same functions).

    Args:
        width: channels at full resolution, doubled at each of `downsamplings` halvings.
        blocks: residual blocks; the paper takes 6 at 128×128 and 9 at 256×256 and above.
        dropout: probability inside each block (0 in the paper); on only where forward is given draws.
        dropout_at_test: whether the caller shall give draws at test time too. Kept as an attribute.
        downsampling: "strided" convolutions, or "antialiased": with stride 1, halved behind the activation by
            [1, 2, 1] / 4 (Zhang 2019, arXiv:1904.11486).
        upsampling: "transposed" convolutions, whose kernels overlap unevenly; or a 3×3 convolution on pixels that are
            repeated ("nearest": Odena et al. 2016, "Deconvolution and Checkerboard Artifacts", Distill) or interpolated
            ("antialiased": zeros between them, filtered by [1, 3, 3, 1] / 4). With both antialiased it is the
            generator of CUT's released code.
        init: "normal", or "xavier" as in CUT's released code; see layers.init_translator.
    """

    fixed_scale = False  # fully convolutional: pictures may be translated at their own size

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 9,
        norm: str = "instance",
        dropout: float = 0.0,
        dropout_at_test: bool = False,
        downsamplings: int = 2,
        downsampling: str = "strided",
        upsampling: str = "transposed",
        init: str = "normal",
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH)
        check_whole("blocks", blocks, 1, 64)
        check_choice("norm", norm, NORMS)
        check_share("dropout", dropout)
        check_flag("dropout_at_test", dropout_at_test)
        check_whole("downsamplings", downsamplings, 0, 4)
        check_choice("downsampling", downsampling, DOWNSAMPLINGS)
        check_choice("upsampling", upsampling, UPSAMPLINGS)
        check_choice("init", init, INITS)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.feature_channels = (
            in_channels,
            *(width * 2 ** (level + 1) for level in range(downsamplings)),
            *(width * 2**downsamplings for _ in range(blocks)),
        )
        self.dropout_at_test = dropout_at_test
        self.stride = 2**downsamplings
        # a reflection needs a side longer than itself: 3 pixels at full resolution, 1 at the blocks
        self.min_size = max(4, 2 * self.stride)

        bias = needs_bias(norm)
        widths = [width * 2**level for level in range(downsamplings + 1)]
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, bias=bias), make_norm(norm, width), nn.ReLU(inplace=True)
        )
        self.down = nn.Sequential(*(halving(narrow, norm, downsampling) for narrow in widths[:-1]))
        self.blocks = nn.ModuleList(ResidualBlock(widths[-1], norm, dropout) for _ in range(blocks))
        self.up = nn.Sequential(*(doubling(narrow, norm, upsampling) for narrow in widths[-2::-1]))
        self.last = nn.Conv2d(width, out_channels, 7)
        init_translator(self, init)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        return self.translate(images, (), draws)[0]

    def translate(
        self, images: Tensor, layers: Sequence[int], draws: Draws | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The translated images, and on the way the feature maps of these numbers."""
        kept, x = {}, images
        for number, x in enumerate(self._encoder(images, draws)):
            if number in layers:
                kept[number] = x
        return torch.tanh(self.last(reflect_pad(self.up(x), 3))), [kept[number] for number in layers]

    def encode(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The feature maps of these numbers; nothing behind the last of them is computed."""
        kept = {number: x for number, x in zip(range(max(layers) + 1), self._encoder(images)) if number in layers}
        return [kept[number] for number in layers]

    def _encoder(self, images: Tensor, draws: Draws | None = None) -> Iterator[Tensor]:
        """All feature maps, one after the other."""
        yield images
        x = self.first(reflect_pad(images, 3))
        for halve in self.down:
            x = halve(x)
            yield x
        for index, block in enumerate(self.blocks):
            x = block(x, draws.stream(f"block{index}") if draws is not None else None)
            yield x
