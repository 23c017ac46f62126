"""PatchGAN (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.2): one logit for each overlapping patch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_choice, check_flag, check_resolution, check_whole
from img2img.networks.layers import INITS, NORMS, apply_spectral_norm, init_translator, make_norm, needs_bias
from img2img.networks.resample import BINOMIAL_TAPS, DOWNSAMPLINGS, Halve

MAX_LAYERS = 8


@dataclass(frozen=True)
class PatchKernels:
    """The sides of a patch discriminator's kernels: of the layers that halve, and of the two that follow.

    Attributes:
        halving: one for each halving, the outermost first.
        last: with stride 1.
        antialiased: the binomial filter halves, instead of the convolution.
    """

    halving: tuple[int, ...]
    last: tuple[int, int]
    antialiased: bool

    @classmethod
    def of_layers(cls, layers: int, antialiased: bool) -> PatchKernels:
        """The paper's: 4×4 throughout, or 1×1 where nothing is halved."""
        return cls((4,) * layers, (4, 4) if layers else (1, 1), antialiased)

    @classmethod
    def of_field(cls, field: int, antialiased: bool) -> PatchKernels:
        """Those that see just `field` pixels, with as few halvings as can: the paper's, where it has one that does.

        Kernels of 3 or 4 in n halving layers see any whole number of pixels from 2 (2^n - 1) to 3 (2^n - 1) more than
        one; kernels k and k' behind them see (k + k' - 2) 2^n more.
        """
        halvings = next(n for n in itertools.count() if cls((4,) * n, (4, 4), antialiased).field >= field)
        more = field - cls((3,) * halvings, (1, 1), antialiased).field
        steps, bits = more >> halvings, more % 2**halvings
        halving = tuple(3 + (bits >> level & 1) for level in range(halvings))
        return cls(halving, (1 + (steps + 1) // 2, 1 + steps // 2), antialiased)

    @property
    def field(self) -> int:
        """Side in pixels of the square that one logit sees."""
        filtered = BINOMIAL_TAPS - 1 if self.antialiased else 0
        outer = sum((kernel - 1 + filtered) * 2**level for level, kernel in enumerate(self.halving))
        return 1 + outer + sum(kernel - 1 for kernel in self.last) * 2 ** len(self.halving)

    @property
    def least_side(self) -> int:
        """The shortest side in pixels that gives a logit."""
        return next(side for side in itertools.count(1) if self.fit(side))

    def fit(self, side: int) -> bool:
        """Whether a side of so many pixels gives a logit."""
        for kernel in self.halving:
            side += 2 * padding_of(kernel) - kernel + 1
            if self.antialiased and side < 2:  # nothing to mirror
                return False
            side = (side + 1) // 2
        return side + sum(2 * padding_of(kernel) - kernel + 1 for kernel in self.last) > 0


def _too_large(
    kernels: PatchKernels, side: int, resolution: list[int], layers: int, receptive_field: int
) -> UsageFault:
    """The fault of kernels that find no place on a side of so many pixels."""
    subject, wanted = ("receptive_field", receptive_field) if receptive_field else ("layers", layers)
    of: Callable[[int, bool], PatchKernels] = PatchKernels.of_field if receptive_field else PatchKernels.of_layers
    most = next(fewer for fewer in range(wanted, -1, -1) if of(fewer, kernels.antialiased).fit(side))
    return UsageFault(
        subject,
        f"{wanted} needs sides of {kernels.least_side} pixels, data.resolution is {resolution}",
        f"Use at most {most}",
    )


def padding_of(kernel: int) -> int:
    """Zeros on each side of a plane that a kernel of this side is applied to."""
    return (kernel - 1) // 2


class PatchDiscriminator(nn.Module):
    """images (N, in_channels, H, W) and, for pix2pix, condition (N, condition_channels, H, W) -> logits (N, 1, h, w).

    `layers` convolutions with stride 2 and two with stride 1, all 4×4: a logit sees 16, 34, 70, 142 or 286 pixels for
    layers = 1 ... 5. layers = 0 is the paper's PixelGAN of 1×1 convolutions. LeakyReLU(0.2); no norm on the first
    layer. With a norm over planes a logit also depends, weakly, on the rest of the image through mean and variance.
    With `with_features` also the activations before the last convolution, (N, F).

    Args:
        width: channels of the first layer; doubled at each layer, at most 8 times.
        receptive_field: side in pixels of what a logit shall see, whatever `layers` says: any whole number, for which
            some kernels are smaller than 4×4. 0: as `layers` gives it. Kept as an attribute, as it came out.
        downsampling: "strided", or "antialiased": convolutions with stride 1, each halved behind its activation by
            [1, 2, 1] / 4 (Zhang 2019, arXiv:1904.11486), which makes verdicts depend less on where a thing lies. That
            filter sees pixels too: 84 of them where layers = 3.
        condition_channels: channels of an image concatenated to the input; 0 for none.
        spectral_norm: divide every weight by its largest singular value.
        init: "normal", or "xavier" as in CUT's released code; see layers.init_translator.
        resolution: (height, width) in pixels; only to refuse images that are too small.
    """

    judges_by: ClassVar[str] = "logit"
    any_size: ClassVar[bool] = True  # fully convolutional: of a generator that grows it judges what there is

    def __init__(
        self,
        *,
        in_channels: int = 3,
        condition_channels: int = 0,
        resolution: tuple[int, int] | None = None,
        width: int = 64,
        layers: int = 3,
        receptive_field: int = 0,
        norm: str = "instance",
        downsampling: str = "strided",
        spectral_norm: bool = False,
        init: str = "normal",
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("condition_channels", condition_channels, 0, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH)
        check_whole("layers", layers, 0, MAX_LAYERS)
        check_whole("receptive_field", receptive_field, 0, PatchKernels.of_layers(MAX_LAYERS, False).field)
        check_choice("norm", norm, NORMS)
        check_choice("downsampling", downsampling, DOWNSAMPLINGS)
        check_flag("spectral_norm", spectral_norm)
        check_choice("init", init, INITS)
        antialiased = downsampling == "antialiased"
        kernels = PatchKernels.of_layers(layers, antialiased)
        if receptive_field:
            kernels = PatchKernels.of_field(receptive_field, antialiased)
        if resolution is not None and not kernels.fit(min(check_resolution(resolution))):
            raise _too_large(kernels, min(resolution), list(resolution), layers, receptive_field)
        self.in_channels = in_channels
        self.condition_channels = condition_channels
        self.receptive_field = kernels.field
        self.min_size = kernels.least_side

        inputs = in_channels + condition_channels
        # where nothing is halved there are three layers all the same
        stride = 2 if kernels.halving else 1
        plan = [(width * min(2**level, 8), kernel, stride) for level, kernel in enumerate(kernels.halving or (1,))]
        plan += [(width * min(2 ** len(plan), 8), kernels.last[0], 1), (1, kernels.last[1], 1)]
        modules: list[nn.Module] = []
        for index, (outputs, kernel, stride) in enumerate(plan):
            inner = 0 < index < len(plan) - 1
            layer_norm = norm if inner else "none"
            own_stride, padding = 1 if antialiased else stride, padding_of(kernel)
            modules.append(nn.Conv2d(inputs, outputs, kernel, own_stride, padding, bias=needs_bias(layer_norm)))
            if inner:
                modules.append(make_norm(layer_norm, outputs))
            if index < len(plan) - 1:
                modules.append(nn.LeakyReLU(0.2, inplace=True))
            if stride > own_stride:
                modules.append(Halve())
            inputs = outputs
        self.layers = nn.Sequential(*modules)
        init_translator(self, init)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        if condition is not None:
            images = torch.cat((images, condition), dim=1)
        if not with_features:
            logits: Tensor = self.layers(images)
            return logits
        features = self.layers[:-1](images)
        return self.layers[-1](features), features.flatten(1)

    def judge_by_layers(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the activations of every layer but the last, (N, C, h, w) each."""
        x = images if condition is None else torch.cat((images, condition), dim=1)
        activations = []
        for layer in self.layers[:-1]:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                activations.append(x)
        return self.layers[-1](x), activations
