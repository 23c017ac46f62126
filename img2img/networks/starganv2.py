"""StarGAN v2 (Choi et al. 2020, arXiv:1912.01865): one translator into many domains, each of many styles.

Of the generator, the mapping network, the style encoder and the discriminator all but the first have an output layer,
or several, for each domain. All of them are computed and the one asked for is taken: each then has a gradient in every
step, if only zero, so that what the optimiser does never depends on which domains a batch, or a process's share, has.

The high-pass skip connections, which need a detector of face landmarks, are left out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.arguments import MAX_CHANNELS, MAX_UNITS, MAX_WIDTH, check_number, check_whole
from img2img.networks.equalized import LEAKY_SLOPE
from img2img.networks.layers import InstanceNorm, ScaledWeight, fill_normal, without_autocast
from img2img.networks.resample import average_downsample, repeat_upsample
from img2img.networks.residual import conv_of_doubled, half_of_conv
from img2img.networks.resolution import level_widths, split_resolution

MAX_HEADS = 1000  # domains, each of which has output layers of its own
_HALF_VARIANCE = math.sqrt(0.5)  # a sum of two signals of unit variance times this has unit variance


def init_he(module: nn.Module) -> None:
    """Weights N(0, 2 / inputs of one output) (He et al. 2015, arXiv:1502.01852), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fill_normal(layer.weight, 0.0, math.sqrt(2 / layer.weight[0].numel()))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def take_head(values: Tensor, labels: Tensor) -> Tensor:
    """What each row's own head gives: values (N, heads, ...) and labels (N,) int64 -> (N, ...)."""
    index = labels.view(-1, *[1] * (values.ndim - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index).squeeze(1)


def check_widths(width: int, max_width: int) -> None:
    check_whole("width", width, 1, MAX_WIDTH)
    check_whole("max_width", max_width, width, 8 * MAX_WIDTH)


class LearnedInstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift for each channel: (N, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = InstanceNorm()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor) -> Tensor:
        with without_autocast(images.device):  # which would make the planes float32
            normalised = self.norm(images)
            scale, shift = (value.to(images.dtype)[:, None, None] for value in (self.scale, self.shift))
            return torch.addcmul(shift, normalised, scale)


class StyleNorm(nn.Module):
    """Adaptive instance normalisation: (N, C, H, W), style (N, style_dim) -> (N, C, H, W).

    (1 + y_s) · (x - mean) / std + y_b, with y a linear function of the style (Huang & Belongie 2017, arXiv:1703.06868).
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norm = InstanceNorm()
        self.style = nn.Linear(style_dim, 2 * channels)

    def forward(self, images: Tensor, style: Tensor) -> Tensor:
        with without_autocast(images.device):
            scale, shift = self.style(style)[:, :, None, None].to(images.dtype).chunk(2, dim=1)
            return torch.addcmul(shift, self.norm(images), 1 + scale)


class EncoderBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H, W) or half of that size: [norm,] LeakyReLU, 3×3, [halve,] the same, plus a shortcut.

    Halving is the mean of four pixels. The sum is divided by √2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, halves: bool, normalises: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (LearnedInstanceNorm(in_channels) if normalises else nn.Identity() for _ in range(2))
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.shortcut = make_shortcut(in_channels, out_channels)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        inside = F.leaky_relu(self.norm1(x), LEAKY_SLOPE)
        inside = half_of_conv(self.conv1, inside) if self.halves else self.conv1(inside)
        inside = self.conv2(F.leaky_relu(self.norm2(inside), LEAKY_SLOPE, inplace=True))
        # a mean of pixels commutes with the shortcut's 1×1 convolution, which has fewer places then
        beside: Tensor = self.shortcut(average_downsample(x) if self.halves else x)
        return (beside + inside) * _HALF_VARIANCE


class StyledBlock(nn.Module):
    """(N, in, H, W), style -> (N, out, H, W), or twice that size: StyleNorm, LeakyReLU, [double,] 3×3, the same, plus
    a shortcut. Doubling repeats pixels. The sum is divided by √2."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, doubles: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = StyleNorm(in_channels, style_dim), StyleNorm(out_channels, style_dim)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = make_shortcut(in_channels, out_channels)
        self.doubles = doubles

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        inside = F.leaky_relu(self.norm1(x, style), LEAKY_SLOPE, inplace=True)
        inside = conv_of_doubled(self.conv1, inside) if self.doubles else self.conv1(inside)
        inside = self.conv2(F.leaky_relu(self.norm2(inside, style), LEAKY_SLOPE, inplace=True))
        beside: Tensor = self.shortcut(x)
        return ((repeat_upsample(beside) if self.doubles else beside) + inside) * _HALF_VARIANCE


def make_shortcut(in_channels: int, out_channels: int) -> nn.Module:
    """A 1×1 convolution where the channels change."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


class StarGANv2Generator(nn.Module):
    """images (N, in_channels, H, W) and styles (N, style_dim) -> (N, out_channels, H, W), real in [-1, 1].

    There is no tanh: values beyond the range occur. A 3×3 convolution; `downsamplings` EncoderBlocks that halve, two
    that do not, all with instance norm; two StyledBlocks and as many as before that double; norm, LeakyReLU and a 1×1
    convolution. H and W are multiples of `stride` = 2^downsamplings.

    Args:
        resolution: (height, width) in pixels of training, base × 2^k with the shorter side's base in 4..7.
        style_dim: of the styles; it follows from the mapping network.
        width: channels at the image's resolution; doubled at each level inwards, at most max_width. 64 in the paper's
            network for 256×256.
        downsamplings: None is k - 2, after which the shorter side has 16 to 28 pixels (16×16 of 256×256, as there).
    """

    fixed_scale = True  # how large things are decides what it makes of them

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        style_dim: int,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        max_width: int = 512,
        downsamplings: int | None = None,
    ) -> None:
        super().__init__()
        check_whole("style_dim", style_dim, 1, MAX_UNITS)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_widths(width, max_width)
        _base, doublings = split_resolution(resolution)
        if downsamplings is None:
            downsamplings = max(doublings - 2, 0)
        check_whole("downsamplings", downsamplings, 0, doublings)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.style_dim = style_dim
        self.stride = 2**downsamplings
        self.min_size = 4 * self.stride  # norms want planes of several places

        widths = level_widths(width, max_width, downsamplings + 1)
        inner = widths[-1]
        self.from_image = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encode = nn.Sequential(
            *(EncoderBlock(*pair, halves=True, normalises=True) for pair in pairwise(widths)),
            *(EncoderBlock(inner, inner, halves=False, normalises=True) for _ in range(2)),
        )
        self.decode = nn.ModuleList(
            [
                *(StyledBlock(inner, inner, style_dim, doubles=False) for _ in range(2)),
                *(StyledBlock(*pair, style_dim, doubles=True) for pair in pairwise(widths[::-1])),
            ]
        )
        self.norm = LearnedInstanceNorm(width)
        self.to_image = nn.Conv2d(width, out_channels, 1)
        init_he(self)

    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        x = self.encode(self.from_image(images))
        for block in self.decode:
            x = block(x, styles)
        result: Tensor = self.to_image(F.leaky_relu(self.norm(x), LEAKY_SLOPE, inplace=True))
        return result


class HeadLinear(ScaledWeight):
    """`heads` linear layers side by side: (heads or 1, N, in) -> (heads, N, out), learned at `lr_multiplier` the rate.

    The parameters are weights and biases divided by `lr_multiplier` and are multiplied by it at each use: Adam, whose
    steps do not know a gradient's scale, then moves the layer `lr_multiplier` times as far. Weights begin as in
    init_he.
    """

    def __init__(self, heads: int, in_features: int, out_features: int, lr_multiplier: float) -> None:
        super().__init__()
        self.heads = heads
        self.lr_multiplier = lr_multiplier
        self.weight = nn.Parameter(torch.empty(heads * out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(heads, 1, out_features))
        fill_normal(self.weight, 0.0, math.sqrt(2 / in_features) / lr_multiplier)

    def scaled_weight(self) -> Tensor:
        return self.weight * self.lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scaled_weight().unflatten(0, (self.heads, -1))
        return torch.baddbmm(self.bias * self.lr_multiplier, x.expand(self.heads, -1, -1), weight.mT)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"heads={self.heads}, in={inputs}, out={outputs // self.heads}, lr_multiplier={self.lr_multiplier:g}"


class StarGANv2Mapping(nn.Module):
    """z (N, latent_dim) of N(0, 1) and labels (N,) int64 -> styles (N, style_dim) of these domains, in z's dtype.

    `shared_layers` fully connected layers of `width` units for all domains, then for each domain `head_layers` of its
    own, the last of style_dim units; ReLU between all of them.

    Args:
        lr_multiplier: the layers learn at this share of the generator's learning rate: 1e-6 against 1e-4 in the paper.
    """

    prior = "normal"

    def __init__(
        self,
        *,
        num_classes: int,
        style_dim: int = 64,
        latent_dim: int = 16,
        width: int = 512,
        shared_layers: int = 4,
        head_layers: int = 4,
        lr_multiplier: float = 0.01,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 1, MAX_HEADS)
        check_whole("style_dim", style_dim, 1, MAX_UNITS)
        check_whole("latent_dim", latent_dim, 1, 4096)
        check_whole("width", width, 1, MAX_UNITS)
        check_whole("shared_layers", shared_layers, 0, 32)
        check_whole("head_layers", head_layers, 1, 32)
        check_number("lr_multiplier", lr_multiplier, 1e-6, 1)
        self.num_classes = num_classes
        self.style_dim = style_dim
        self.latent_dim = latent_dim
        widths = [latent_dim] + [width] * (shared_layers + head_layers - 1) + [style_dim]
        self.layers = nn.ModuleList(
            HeadLinear(1 if index < shared_layers else num_classes, *pair, lr_multiplier)
            for index, pair in enumerate(pairwise(widths))
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = z[None]
        with without_autocast(z.device):  # small, and everything depends on it
            for index, layer in enumerate(self.layers):
                x = layer(F.relu(x) if index else x)
        return take_head(x.transpose(0, 1), labels)


class ImageEncoder(nn.Module):
    """images (N, in_channels, H, W) -> (N, features): a 3×3 convolution, EncoderBlocks without norm that halve down to
    the base rectangle, LeakyReLU, a convolution over all of that, LeakyReLU."""

    def __init__(self, resolution: tuple[int, int], in_channels: int, width: int, max_width: int) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_widths(width, max_width)
        base, halvings = split_resolution(resolution)
        widths = level_widths(width, max_width, halvings + 1)
        self.features = widths[-1]
        self.from_image = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(EncoderBlock(*pair, halves=True, normalises=False) for pair in pairwise(widths)))
        self.whole = nn.Conv2d(self.features, self.features, base)

    def forward(self, images: Tensor) -> Tensor:
        x = F.leaky_relu(self.blocks(self.from_image(images)), LEAKY_SLOPE)
        return F.leaky_relu(self.whole(x), LEAKY_SLOPE).flatten(1)


class StarGANv2StyleEncoder(nn.Module):
    """images (N, in_channels, H, W) and their domains, labels (N,) int64 -> styles (N, style_dim).

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7. It takes no other.
        style_dim: it follows from the mapping network.
        width, max_width: channels, as in StarGANv2Generator.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        num_classes: int,
        style_dim: int,
        in_channels: int = 3,
        width: int = 64,
        max_width: int = 512,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 1, MAX_HEADS)
        check_whole("style_dim", style_dim, 1, MAX_UNITS)
        self.num_classes = num_classes
        self.style_dim = style_dim
        self.in_channels = in_channels
        self.encode = ImageEncoder(resolution, in_channels, width, max_width)
        self.heads = nn.Linear(self.encode.features, num_classes * style_dim)
        init_he(self)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.encode(images)
        with without_autocast(images.device):
            styles = self.heads(features.to(self.heads.weight.dtype))
        return take_head(styles.unflatten(1, (self.num_classes, self.style_dim)), labels)


class StarGANv2Discriminator(nn.Module):
    """images (N, in_channels, H, W) and their domains, labels (N,) int64 -> logits (N,), one output for each domain.

    Without classes there is one output. With `with_features` also the activations before the outputs, (N, features).

    Args:
        resolution, width, max_width: as in StarGANv2StyleEncoder.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        max_width: int = 512,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 0, MAX_HEADS)
        self.num_classes = num_classes
        self.encode = ImageEncoder(resolution, in_channels, width, max_width)
        self.heads = nn.Linear(self.encode.features, max(num_classes, 1))
        init_he(self)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert (condition is None) == (self.num_classes == 0), "labels are for data with classes"
        features = self.encode(images)
        scores = self.heads(features)
        logits = scores[:, 0] if condition is None else take_head(scores, condition)
        return (logits, features) if with_features else logits
