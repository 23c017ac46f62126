"""StyleGAN3's generators, whose details move with what they belong to (Karras et al. 2021, arXiv:2106.12423).

Every feature map stands for a continuous signal of limited bandwidth, and no layer makes frequencies that its samples
cannot hold. So a picture made from a moved input is the moved picture ("t", translation), or also turned ("r").

Where this departs from the paper: rectangles. Lengths are in units of the shorter side, and so are frequencies: a map
of `rate` has rate samples along the shorter side, as many as the proportions give along the longer one, and pixels are
square. Rates are the resolution halved some times, for a power of two the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import MAX_WIDTH, check_choice, check_whole
from img2img.networks.equalized import EqualizedLinear
from img2img.networks.filters import FilteredLeakyReLU, LowPass
from img2img.networks.layers import fill_normal, without_autocast
from img2img.networks.modulated import modulation_scales
from img2img.networks.resolution import split_resolution
from img2img.networks.styles import StyleGenerator

VARIANTS = ("t", "r")

# the paper's constants, appendix; frequencies in cycles per shorter side
FIRST_CUTOFF = 2.0
FIRST_STOPBAND = 2**2.1
LAST_STOPBAND = 2**0.3  # in cutoffs of the picture
CRITICAL_LAYERS = 2  # the last ones, which fill all the band that the picture's samples can hold
OVERSAMPLING = 2  # of the LeakyReLU
TAPS = 6  # of a filter, for each factor of the rate
OUTPUT_SCALE = 0.25
CLAMP = 256.0  # of what a convolution answers, so that float16 cannot overflow; what is trained stays far below


@dataclass(frozen=True)
class Signal:
    """What goes from one layer to the next.

    Attributes:
        channels: of the feature map.
        size: its (height, width) in samples, with the margin.
        rate: samples along the picture's shorter side.
        cutoff, half_width: of the band that it keeps to, in cycles per shorter side.
    """

    channels: int
    size: tuple[int, int]
    rate: int
    cutoff: float
    half_width: float


def plan_signals(
    resolution: tuple[int, int], *, num_layers: int, margin: int, channel_base: int, max_width: int
) -> list[Signal]:
    """Of each layer, what it answers; the first takes its like from the input, and the last has no margin.

    Cutoffs and stop bands grow in equal ratios up to the first critical layer.
    """
    _base, doublings = split_resolution(resolution)
    short = min(resolution)
    last_cutoff = short / 2
    signals = []
    for layer in range(num_layers):
        progress = min(layer / (num_layers - CRITICAL_LAYERS), 1.0)
        cutoff = FIRST_CUTOFF * (last_cutoff / FIRST_CUTOFF) ** progress
        stopband = FIRST_STOPBAND * (last_cutoff * LAST_STOPBAND / FIRST_STOPBAND) ** progress
        factor = next(2**k for k in range(doublings, -1, -1) if short / 2**k >= min(2 * stopband, short))
        around = 0 if layer == num_layers - 1 else margin
        signals.append(
            Signal(
                channels=max(1, round(min(channel_base / 2 / cutoff, max_width))),
                size=(resolution[0] // factor + 2 * around, resolution[1] // factor + 2 * around),
                rate=short // factor,
                cutoff=cutoff,
                half_width=max(stopband, short / factor / 2) - cutoff,
            )
        )
    return signals


class FourierInput(nn.Module):
    """w (N, w_dim) -> (N, C, *size): waves over the plane, moved and turned as w says, and mixed.

    Section 3.1 of the paper, "Fourier features" and "Transformed Fourier features". The waves' frequencies are even in
    the disc up to the signal's cutoff and stay as they begin, like their phases. An affine layer makes of w a rotation
    and a translation, none at the start.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, signal: Signal, w_dim: int) -> None:
        super().__init__()
        channels = signal.channels
        self.signal = signal
        self.affine = EqualizedLinear(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1  # type: ignore[index]
        self.weight = nn.Parameter(torch.empty(channels, channels))
        fill_normal(self.weight, 0.0, 1.0)
        angles, areas = 2 * math.pi * torch.rand(channels), torch.rand(channels)
        radii = signal.cutoff * areas.sqrt()
        self.register_buffer("frequencies", torch.stack((radii * angles.cos(), radii * angles.sin()), dim=1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """As synthesize says of `transform`; in float32 at least, since places need more digits than values."""
        with without_autocast(w.device):
            matrix, offset = self._placement(w.to(self.weight.dtype), transform)
            frequencies = self.frequencies @ matrix
            phases = self.phases + (self.frequencies * offset[:, None]).sum(dim=2)
            rows, columns = (
                2 * math.pi * frequencies[:, :, axis, None] * self._places(side)
                for axis, side in ((1, self.signal.size[0]), (0, self.signal.size[1]))
            )
            columns = columns + 2 * math.pi * phases[:, :, None]
            # sin(row + column) from sines of rows and of columns alone
            waves = torch.addcmul(
                rows.cos()[:, :, :, None] * columns.sin()[:, :, None],
                rows.sin()[:, :, :, None],
                columns.cos()[:, :, None],
            )
            # what a transform makes too fine fades out before the samples cannot hold it
            room = self.signal.rate / 2 - self.signal.cutoff
            excess = torch.linalg.vector_norm(frequencies, dim=2) - self.signal.cutoff
            mixing = self.weight / math.sqrt(len(self.weight))
            return F.conv2d(waves * (1 - excess / room).clamp(0, 1)[:, :, None, None], mixing[:, :, None, None])

    def _placement(self, w: Tensor, transform: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, 2, 2) and (N, 2): the place p of the map shows what is at matrix · p + offset in the plane of waves."""
        cosine, sine, x, y = (self.affine(w)[:, :, None]).unbind(dim=1)
        length = torch.hypot(cosine, sine)
        cosine, sine, shift = cosine / length, sine / length, torch.cat((x, y), dim=1) / length
        turn = torch.cat((cosine, -sine, sine, cosine), dim=1).unflatten(1, (2, 2))
        if transform is None:
            return turn, -(turn @ shift[:, :, None])[:, :, 0]
        transform = transform.to(w)
        return turn @ transform[..., :2], (turn @ (transform[..., 2] - shift)[:, :, None])[:, :, 0]

    def _places(self, side: int) -> Tensor:
        """(side,): where the samples of one axis lie, about the middle."""
        index = torch.arange(side, device=self.weight.device, dtype=self.weight.dtype)
        return (index - (side - 1) / 2) / self.signal.rate

    def extra_repr(self) -> str:
        return f"channels={self.signal.channels}, size={self.signal.size}, rate={self.signal.rate}"


class StyledConv2d(nn.Module):
    """x (N, Cin, H, W), w (N, w_dim) -> (N, Cout, H + kernel - 1, W + kernel - 1): bias + convolution that follows w.

    Demodulated weights, and x divided by its magnitude, the root of a running mean of x² (section 3.1 of the paper,
    "Simplifications"). A call in training answers by the mean as it found it, and then moves it by 1 - MAGNITUDE_DECAY,
    whichever player asks: what it measures is the generator. Ranks are averaged once an iteration: with critic steps,
    micro-batches or a path length, which call it more often, they equal one process only as far as their shares of the
    batch are alike.
    """

    MAGNITUDE_DECAY = 0.999  # half forgotten after 20 thousand images in batches of 29; the authors' code takes 20

    running_magnitude: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, w_dim: int, *, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.affine = EqualizedLinear(w_dim, in_channels, bias_start=1.0)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        fill_normal(self.weight, 0.0, 1.0)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("running_magnitude", torch.ones([]))
        self.padding = kernel - 1
        self.demodulate = demodulate
        # demodulation makes the weights' size of no account
        self.scale = 1.0 if demodulate else 1 / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gain = self.running_magnitude.rsqrt()
        if self.training:
            self._measure(x)
        with without_autocast(w.device):
            styles = self.affine(w.to(self.weight.dtype)) * self.scale
        scale_in, scale_out = modulation_scales(self.weight, styles, demodulate=self.demodulate)
        x = F.conv2d(x * scale_in.to(x.dtype)[:, :, None, None], self.weight, padding=self.padding)
        factor = gain if scale_out is None else (scale_out * gain)[:, :, None, None]
        x = torch.addcmul(self.bias.to(x.dtype)[:, None, None], x, factor.to(x.dtype))
        return F.hardtanh_(x, -CLAMP, CLAMP)

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        kept = self.running_magnitude
        energy = torch.linalg.vector_norm(x, dtype=kept.dtype).square() / x.numel()
        # a step that is not finite is passed over, and may not stay in here either
        kept.lerp_(torch.where(energy.isfinite(), energy, kept), 1 - self.MAGNITUDE_DECAY)

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, kernel={kernel}, demodulate={self.demodulate}"


def _nonlinearity(before: Signal, after: Signal, kernel: int, radial: bool) -> FilteredLeakyReLU:
    fine = OVERSAMPLING * max(before.rate, after.rate)
    up, down = fine // before.rate, fine // after.rate
    height, width = (side + kernel - 1 for side in before.size)
    return FilteredLeakyReLU(
        (height, width),
        after.size,
        up=up,
        down=down,
        up_filter=LowPass(TAPS * up, before.cutoff, before.half_width, fine),
        down_filter=LowPass(TAPS * down, after.cutoff, after.half_width, fine, radial=radial),
    )


class StyleGAN3Generator(StyleGenerator):
    """z (N, latent_dim) and, with classes, labels (N,) int64 -> images (N, out_channels, H, W), real in [-1, 1].

    Waves in the plane, `num_layers` modulated convolutions each with a filtered LeakyReLU, and a 1×1 convolution to the
    colours. There is no tanh: values beyond the range occur. Nothing is random at a pixel, and no layer knows where the
    picture's edge is: feature maps have a margin around it, cut off at the end. Style mixing: see StyleGenerator; the
    paper has none. With the defaults as many parameters as in the authors' code, and with equal weights equal images.

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        variant: "t" has 3×3 convolutions; "r" has 1×1 convolutions of twice the channels, and filters that are the
            same in all directions but in the last two layers.
        latent_dim, w_dim: of z and w.
        mapping_layers: fully connected layers from z to w.
        channel_base, max_width: a signal of cutoff f (cycles per shorter side) has channel_base / 2f channels, at most
            max_width; twice as many in "r".
        num_layers: the bandwidth grows by the same ratio at each but the last two. Small pictures do with fewer.
        margin: samples around the picture in every layer.
        style_mixing: share of samples with two styles, from 0 to 1.
    """

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        out_channels: int = 3,
        num_classes: int = 0,
        variant: str = "t",
        latent_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 2,
        channel_base: int = 32768,
        max_width: int = 512,
        num_layers: int = 14,
        margin: int = 10,
        style_mixing: float = 0.0,
    ) -> None:
        check_choice("variant", variant, VARIANTS)
        check_whole("channel_base", channel_base, 1, 2**20)
        check_whole("max_width", max_width, 1, MAX_WIDTH)
        check_whole("num_layers", num_layers, CRITICAL_LAYERS + 1, 64)
        check_whole("margin", margin, 0, 64)
        kernel, wider = (3, 1) if variant == "t" else (1, 2)
        signals = plan_signals(
            resolution,
            num_layers=num_layers,
            margin=margin,
            channel_base=wider * channel_base,
            max_width=wider * max_width,
        )
        super().__init__(
            out_channels=out_channels,
            num_classes=num_classes,
            latent_dim=latent_dim,
            w_dim=w_dim,
            num_styles=num_layers + 2,
            mapping_layers=mapping_layers,
            style_mixing=style_mixing,
        )
        self.input = FourierInput(signals[0], w_dim)
        self.convs = nn.ModuleList()
        self.nonlinearities = nn.ModuleList()
        for layer, (before, after) in enumerate(pairwise([signals[0], *signals])):
            radial = variant == "r" and layer < num_layers - CRITICAL_LAYERS
            self.convs.append(StyledConv2d(before.channels, after.channels, kernel, w_dim))
            self.nonlinearities.append(_nonlinearity(before, after, kernel, radial))
        self.to_image = StyledConv2d(signals[-1].channels, out_channels, 1, w_dim, demodulate=False)

    def synthesize(self, w: Tensor, draws: Draws | None = None, transform: Tensor | None = None) -> Tensor:
        """w (N, w_dim) or (N, num_styles, w_dim) -> images; nothing is drawn.

        Args:
            transform: (2, 3) or (N, 2, 3), matrix | offset: the picture's place p = (x, y) shows what is at
                matrix · p + offset without it. Lengths are in shorter sides, from the picture's middle to the right
                and downwards.
        """
        styles = self.split_styles(w)
        x: Tensor = self.input(styles[0], transform)
        for conv, nonlinearity, style in zip(self.convs, self.nonlinearities, styles[1:]):
            x = nonlinearity(conv(x, style))
        # bfloat16 would leave a picture fewer shades than its file has
        with without_autocast(x.device):
            images: Tensor = self.to_image(x.to(self.to_image.weight.dtype), styles[-1])
        return images * OUTPUT_SCALE
