"""Discriminators that reconstruct: an image's energy e(x) is how badly an autoencoder gives it back.

EBGAN (Zhao et al. 2016, arXiv:1609.03126) and BEGAN (Berthelot et al. 2017, arXiv:1703.10717). Reconstructions end
without an activation.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.arguments import (
    MAX_CHANNELS,
    MAX_UNITS,
    check_choice,
    check_conditioning,
    check_values,
    check_whole,
)
from img2img.networks.dcgan import check_common as check_dcgan
from img2img.networks.dcgan import label_planes
from img2img.networks.layers import MemberLinear, make_norm, needs_bias
from img2img.networks.mlp import DISCRIMINATOR_NORMS, check_common, hidden_layers, one_hot
from img2img.networks.resolution import level_widths, split_resolution

ERRORS = ("l1", "mse", "norm")
CONDITIONINGS = ("none", "concat")


def reconstruction_error(images: Tensor, reconstructions: Tensor, error: str) -> Tensor:
    """e (N,) ≥ 0 of (N, ...) and (N, ...).

    "l1": mean absolute difference, BEGAN's (with its η = 1). "norm": Euclidean norm of the whole difference, as EBGAN
    writes its energy, ‖Dec(Enc(x)) - x‖; it grows with the number of values, and a margin with it. "mse": mean square,
    the usual reading of EBGAN in code.
    """
    difference = (reconstructions - images).flatten(1)
    if error == "l1":
        return difference.abs().mean(dim=1)
    squares = difference.square()
    # the norm's slope at zero is infinite
    return squares.mean(dim=1) if error == "mse" else squares.sum(dim=1).clamp_min(1e-12).sqrt()


class AutoencoderDiscriminator(nn.Module):
    """images (N, in_channels, H, W) and, with classes, labels (N,) int64 -> energies (N,) ≥ 0.

    k convolutions with stride 2 down to the base rectangle, a linear layer to the code, and the same way back with
    transposed convolutions; LeakyReLU of slope 0.2, no norm at the image. Weights begin as torch makes them, uniform
    with a bound by the number of inputs, since without a norm DCGAN's N(0, 0.02²) would let little through. With
    `with_features` also the code (N, code_dim).

    Args:
        resolution: (height, width) in pixels, base × 2^k with the shorter side's base in 4..7.
        width: channels of the first layer; doubled at each level inwards, at most max_width.
        code_dim: values of the code; what the autoencoder cannot get through it, it cannot give back.
        norm: one of layers.NORMS.
        error: how the difference is measured, see reconstruction_error.
        conditioning: how the class enters. "concat": one plane per class beside the image, and one-hot beside the code.
            "none": for num_classes = 0.
    """

    judges_by: ClassVar[str] = "energy"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        max_width: int = 1024,
        code_dim: int = 64,
        norm: str = "none",
        error: str = "l1",
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_dcgan(width, max_width, norm, num_classes)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("code_dim", code_dim, 1, MAX_UNITS)
        check_choice("error", error, ERRORS)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        base, halvings = split_resolution(resolution)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.error = error

        widths = level_widths(width, max_width, halvings)
        innermost = widths[-1] * base[0] * base[1]
        down: list[nn.Module] = [
            nn.Conv2d(in_channels + num_classes, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for narrower, wider in pairwise(widths):
            down += [
                nn.Conv2d(narrower, wider, 4, stride=2, padding=1, bias=needs_bias(norm)),
                make_norm(norm, wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(innermost, code_dim))
        up: list[nn.Module] = [
            nn.Linear(code_dim + num_classes, innermost, bias=needs_bias(norm)),
            nn.Unflatten(1, (widths[-1], *base)),
            make_norm(norm, widths[-1]),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for wider, narrower in pairwise(widths[::-1]):
            up += [
                nn.ConvTranspose2d(wider, narrower, 4, stride=2, padding=1, bias=needs_bias(norm)),
                make_norm(norm, narrower),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.decoder = nn.Sequential(*up, nn.ConvTranspose2d(widths[0], in_channels, 4, stride=2, padding=1))

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert (condition is None) == (self.num_classes == 0), "labels are for class-conditional discriminators"
        seen = images
        if condition is not None:
            seen = torch.cat((images, label_planes(condition, self.num_classes, images)), dim=1)
        code = self.encoder(seen)
        told = code
        if condition is not None:
            told = torch.cat((code, one_hot(condition, self.num_classes, code.dtype)), dim=1)
        energies = reconstruction_error(images, self.decoder(told), self.error)
        return (energies, code) if with_features else energies


class MLPAutoencoderDiscriminator(nn.Module):
    """images (R·N, in_channels, H, W) and, with classes, labels (R·N,) int64 -> energies (R·N,) ≥ 0.

    For points and small pictures: `layers` hidden layers, a linear code, `layers` hidden layers, all fully connected;
    with layers = 0 what principal component analysis would find. With `with_features` also the code (R·N, code_dim).

    Args:
        resolution: (height, width) in pixels; (1, 1) for points.
        members: networks trained as one (R).
        width, layers: units of a hidden layer, and how many of them on either side of the code.
        code_dim: values of the code.
        norm: "batch" (over the rows of one member), "layer" or "none", after each hidden layer but the first.
        activation: of hidden layers, "relu", "leaky_relu" (slope 0.2) or "tanh".
        error: how the difference is measured, see reconstruction_error.
        conditioning: how the class enters. "concat": one-hot beside the image and beside the code. "none": for
            num_classes = 0.
    """

    judges_by: ClassVar[str] = "energy"

    def __init__(
        self,
        *,
        resolution: tuple[int, int],
        in_channels: int = 3,
        num_classes: int = 0,
        members: int = 1,
        width: int = 128,
        layers: int = 1,
        code_dim: int = 2,
        norm: str = "none",
        activation: str = "leaky_relu",
        error: str = "l1",
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        check_common(width, layers, members, num_classes, activation)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("code_dim", code_dim, 1, MAX_UNITS)
        check_choice("norm", norm, DISCRIMINATOR_NORMS)
        check_choice("error", error, ERRORS)
        check_conditioning(conditioning, CONDITIONINGS, num_classes)
        if norm != "none" and layers == 0:
            raise UsageFault("norm", f"{norm!r} follows hidden layers, there are none", "Use 'none'")
        height, width_px = check_values(resolution, in_channels)
        self.members = members
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.error = error

        values = in_channels * height * width_px
        self.encoder = nn.Sequential(
            hidden_layers(members, values + num_classes, width, layers, norm, activation, norm_from=1),
            MemberLinear(members, width if layers else values + num_classes, code_dim),
        )
        self.decoder = nn.Sequential(
            hidden_layers(members, code_dim + num_classes, width, layers, norm, activation),
            MemberLinear(members, width if layers else code_dim + num_classes, values),
        )

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert (condition is None) == (self.num_classes == 0), "labels are for class-conditional discriminators"
        x = images.reshape(self.members, len(images) // self.members, -1)
        classes: list[Tensor] = []
        if condition is not None:
            classes = [one_hot(condition.reshape(self.members, -1), self.num_classes, x.dtype)]
        code = self.encoder(torch.cat((x, *classes), dim=2))
        told = torch.cat((code, *(part.to(code.dtype) for part in classes)), dim=2)
        energies = reconstruction_error(x.flatten(0, 1), self.decoder(told).flatten(0, 1), self.error)
        return (energies, code.flatten(0, 1)) if with_features else energies
