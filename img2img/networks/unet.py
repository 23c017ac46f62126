"""The U-Net of pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.1), of any depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_WIDTH,
    check_choice,
    check_flag,
    check_resolution,
    check_share,
    check_whole,
)
from img2img.networks.layers import NORMS, KeyedDropout, init_normal, make_norm, needs_bias
from img2img.networks.resample import DOWNSAMPLINGS, UPSAMPLINGS, ConvDown, ConvUp, Double

MAX_DEPTH = 8  # of the paper's network, and of depth = None


def deepest(resolution: object) -> int:
    """How often both sides of (height, width) can be halved without a remainder, at most MAX_DEPTH.

    Raises UsageFault naming data.resolution where a side is odd.
    """
    height, width = check_resolution(resolution)
    depth = next(depth for depth in range(MAX_DEPTH, -1, -1) if height % 2**depth == 0 == width % 2**depth)
    if depth == 0:
        raise UsageFault(
            "data.resolution",
            f"[{height}, {width}] has an odd side, which a U-Net cannot halve",
            f"Use multiples of a power of two, such as [{-(-height // 32) * 32}, {-(-width // 32) * 32}]",
        )
    return depth


def _levels_that_skip(skips: object, depth: int) -> frozenset[int]:
    """The levels, 0 the outermost, whose features are handed over from the way down to the way up.

    Raises UsageFault naming skips.
    """
    count = depth - 1  # the innermost level has nothing inside it to skip
    kind, _, number = skips.partition(":") if isinstance(skips, str) else ("", "", "")
    if skips in ("all", "none"):
        return frozenset(range(count if skips == "all" else 0))
    if kind in ("inner", "outer") and number.isascii() and number.isdecimal():
        if not 1 <= int(number) <= count:
            raise UsageFault("skips", f"{skips!r}: depth {depth} has {count}", "Use fewer, 'all' or 'none'")
        return frozenset(range(count - int(number), count) if kind == "inner" else range(int(number)))
    raise UsageFault("skips", f"{skips!r} names no levels", "Use 'all', 'none', 'inner:2' or 'outer:2'")


def _halving(inputs: int, outputs: int, bias: bool, downsampling: str) -> nn.Module:
    if downsampling == "antialiased":
        return ConvDown(inputs, outputs, bias)
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


def _doubling(inputs: int, outputs: int, bias: bool, upsampling: str) -> nn.Module:
    if upsampling == "antialiased":
        return ConvUp(inputs, outputs, bias)
    if upsampling == "nearest":
        return nn.Sequential(Double(upsampling), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias))
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


def _check_levels(levels: object, depth: int) -> None:
    """`levels` are different whole numbers from 1 to depth - 1."""
    if (
        not isinstance(levels, list | tuple)
        or any(type(level) is not int or not 1 <= level < depth for level in levels)
        or len(set(levels)) < len(levels)
    ):
        raise UsageFault(
            "dropout_levels",
            f"{levels!r} are no up blocks of a U-Net with {depth}",
            f"Use different whole numbers from 1 to {depth - 1}, or dropout=0 for none",
        )


class UNetGenerator(nn.Module):
    """images (N, in_channels, H, W) -> (N, out_channels, H, W) in [-1, 1].

    H and W are multiples of `stride` = `min_size` = 2^depth. `depth` convolutions (4×4, stride 2) down, as many
    transposed ones up, and the features of each size on the way down concatenated to those on the way up. Widths are
    1, 2, 4, 8, 8, ... times `width`; LeakyReLU(0.2) down, ReLU up, tanh at the end. No norm on the first layer, as in
    the paper, and none at the innermost, where the plane is 1×1 at the smallest size: a norm over one value erases it
    (as it did in the paper's experiments with batch 1, says their errata; the authors' code leaves it out).

    Its feature maps are the images and what each halving gives, before the activation: what the skips hand over.

    Args:
        width: channels after the first layer.
        depth: number of halvings; None takes as many as `resolution` allows, at most 8.
        norm: "instance" is the paper's setting: batch normalisation with the statistics of a batch of 1, in training
            and at test time, is instance normalisation but for the learned scale and shift.
        dropout: probability in some up blocks (the paper's noise, in place of z). On only where forward is given draws.
        dropout_levels: which up blocks those are, 0 the outermost, which never has dropout; None takes the three
            innermost, as the paper. (The authors' PyTorch code takes 4 to depth - 2.)
        dropout_at_test: whether the caller shall give draws at test time too, as the paper does. Kept as an attribute.
        skips: which sizes' features go around the layers inside them: "all"; "none", an encoder and a decoder; the k
            innermost, "inner:k", so that no fine detail of the input reaches the output by itself; or the k outermost,
            "outer:k". Kept as an attribute: the levels, 0 the outermost.
        downsampling: "strided" convolutions, or "antialiased": 3×3, behind a filter by [1, 3, 3, 1] / 8.
        upsampling: "transposed" convolutions; 3×3 on pixels that are repeated ("nearest"); or "antialiased":
            transposed ones of 3×3, before a filter by [1, 3, 3, 1] / 4.
        resolution: (height, width) in pixels; only read where depth is None.
    """

    fixed_scale = True  # its innermost features stand for the whole picture at the trained size

    def __init__(
        self,
        *,
        resolution: tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        depth: int | None = None,
        norm: str = "instance",
        dropout: float = 0.5,
        dropout_levels: tuple[int, ...] | None = None,
        dropout_at_test: bool = True,
        skips: str = "all",
        downsampling: str = "strided",
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH)
        if depth is None:
            depth = MAX_DEPTH if resolution is None else deepest(resolution)
        check_whole("depth", depth, 1, 12)
        check_choice("norm", norm, NORMS)
        check_share("dropout", dropout)
        if dropout_levels is None:
            dropout_levels = tuple(range(max(1, depth - 3), depth))
        _check_levels(dropout_levels, depth)
        check_flag("dropout_at_test", dropout_at_test)
        check_choice("downsampling", downsampling, DOWNSAMPLINGS)
        check_choice("upsampling", upsampling, UPSAMPLINGS)
        self.skips = _levels_that_skip(skips, depth)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.depth = depth
        self.stride = 2**depth
        self.min_size = self.stride
        self.dropout_at_test = dropout_at_test

        widths = [width * min(2**level, 8) for level in range(depth)]
        self.feature_channels = (in_channels, *widths)
        self.down = nn.ModuleList()
        self.down_norms = nn.ModuleList()
        for level, channels in enumerate(widths):
            level_norm = norm if 0 < level < depth - 1 else "none"
            below = widths[level - 1] if level else in_channels
            self.down.append(_halving(below, channels, needs_bias(level_norm), downsampling))
            self.down_norms.append(make_norm(level_norm, channels))
        # up[0] is the innermost; every other one may also take the features that skipped the layers inside it
        self.up = nn.ModuleList()
        self.up_norms = nn.ModuleList()
        self.dropouts = nn.ModuleList()
        for level in range(depth - 1, -1, -1):
            below, level_norm = (widths[level - 1], norm) if level else (out_channels, "none")
            inputs = widths[level] * (2 if level in self.skips else 1)
            self.up.append(_doubling(inputs, below, needs_bias(level_norm), upsampling))
            self.up_norms.append(make_norm(level_norm, below))
            self.dropouts.append(KeyedDropout(dropout if level in dropout_levels else 0.0))
        init_normal(self)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        return self.translate(images, (), draws)[0]

    def translate(
        self, images: Tensor, layers: Sequence[int], draws: Draws | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The translated images, and on the way the feature maps of these numbers."""
        features = list(self._encoder(images))
        x = F.relu(features[-1])
        for index, (conv, norm, dropout) in enumerate(zip(self.up, self.up_norms, self.dropouts)):
            x = dropout(norm(conv(x)), draws.stream(f"up{index}") if draws is not None else None)
            outside = self.depth - 2 - index
            if outside >= 0:
                x = (torch.cat((x, features[outside + 1]), dim=1) if outside in self.skips else x).relu_()
        return torch.tanh(x), [features[number] for number in layers]

    def encode(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The feature maps of these numbers; nothing behind the last of them is computed."""
        kept = {number: x for number, x in zip(range(max(layers) + 1), self._encoder(images)) if number in layers}
        return [kept[number] for number in layers]

    def _encoder(self, images: Tensor) -> Iterator[Tensor]:
        """All feature maps, one after the other."""
        x = images
        yield x
        for level, (conv, norm) in enumerate(zip(self.down, self.down_norms)):
            x = norm(conv(F.leaky_relu(x, 0.2) if level else x))
            yield x
