"""PatchGAN (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.2): one logit for each overlapping patch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.arguments import MAX_CHANNELS, MAX_WIDTH, check_choice, check_flag, check_resolution, check_whole
from img2img.networks.layers import NORMS, apply_spectral_norm, init_normal, make_norm, needs_bias


class PatchDiscriminator(nn.Module):
    """images (N, in_channels, H, W) and, for pix2pix, condition (N, condition_channels, H, W) -> logits (N, 1, h, w).

    `layers` convolutions with stride 2 and two with stride 1, all 4×4: a logit sees 16, 34, 70, 142 or 286 pixels for
    layers = 1 ... 5. layers = 0 is the paper's PixelGAN of 1×1 convolutions. LeakyReLU(0.2); no norm on the first
    layer. With a norm over planes a logit also depends, weakly, on the rest of the image through mean and variance.
    With `with_features` also the activations before the last convolution, (N, F).

    Args:
        width: channels of the first layer; doubled at each layer, at most 8 times.
        condition_channels: channels of an image concatenated to the input; 0 for none.
        spectral_norm: divide every weight by its largest singular value.
        resolution: (height, width) in pixels; only to refuse images too small for `layers`.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        condition_channels: int = 0,
        resolution: tuple[int, int] | None = None,
        width: int = 64,
        layers: int = 3,
        norm: str = "instance",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("condition_channels", condition_channels, 0, MAX_CHANNELS)
        check_whole("width", width, 1, MAX_WIDTH)
        check_whole("layers", layers, 0, 8)
        check_choice("norm", norm, NORMS)
        check_flag("spectral_norm", spectral_norm)
        self.in_channels = in_channels
        self.condition_channels = condition_channels
        # the two last convolutions take one pixel each from what is left after the halvings
        self.min_size = 3 * 2**layers if layers else 1
        if resolution is not None and min(check_resolution(resolution)) < self.min_size:
            most = (min(resolution) // 3).bit_length() - 1
            raise UsageFault(
                "layers",
                f"{layers} needs sides of {self.min_size} pixels, data.resolution is {list(resolution)}",
                f"Use at most {max(most, 0)}",
            )

        inputs = in_channels + condition_channels
        if layers == 0:
            plan = [(width, 1, 1), (2 * width, 1, 1), (1, 1, 1)]
        else:
            plan = [(width * min(2**level, 8), 4, 2) for level in range(layers)]
            plan += [(width * min(2**layers, 8), 4, 1), (1, 4, 1)]
        modules: list[nn.Module] = []
        for index, (outputs, kernel, stride) in enumerate(plan):
            inner = 0 < index < len(plan) - 1
            layer_norm = norm if inner else "none"
            padding = 1 if kernel > 1 else 0
            modules.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=needs_bias(layer_norm)))
            if inner:
                modules.append(make_norm(layer_norm, outputs))
            if index < len(plan) - 1:
                modules.append(nn.LeakyReLU(0.2, inplace=True))
            inputs = outputs
        self.layers = nn.Sequential(*modules)
        init_normal(self)
        if spectral_norm:
            apply_spectral_norm(self)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square of the input that one logit sees (norm statistics aside)."""
        field, step = 1, 1
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                field += (layer.kernel_size[0] - 1) * step
                step *= layer.stride[0]
        return field

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
