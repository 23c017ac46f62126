"""Networks of a few parameters, for games whose answers are known in closed form.

Points are images of one pixel, (dim, 1, 1), with dim = channels · H · W. Each class holds `members` games of equal form
side by side; their rows follow each other, (members · N, ...).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.arguments import MAX_CHANNELS, MAX_MEMBERS, check_number, check_values, check_whole

_FARTHEST_START = 1e6


class ConstantGenerator(nn.Module):
    """z (R·N, 1) -> (R·N, out_channels, H, W): the same learned point for every z.

    The generator of the Dirac-GAN (Mescheder et al. 2018, arXiv:1801.04406, section 2).

    Args:
        resolution: (height, width) in pixels; (1, 1) for points.
        start: every coordinate of the point at the beginning.
    """

    is_constant = True
    latent_dim = 1  # of which nothing is used but the number of rows
    prior = "normal"
    num_classes = 0

    def __init__(
        self, *, resolution: tuple[int, int], out_channels: int = 1, members: int = 1, start: float = 1.0
    ) -> None:
        super().__init__()
        check_whole("out_channels", out_channels, 1, MAX_CHANNELS)
        check_whole("members", members, 1, MAX_MEMBERS)
        check_number("start", start, -_FARTHEST_START, _FARTHEST_START)
        self.members = members
        self.out_channels = out_channels
        self.image_shape = (out_channels, *check_values(resolution, out_channels))
        dim = out_channels * self.image_shape[1] * self.image_shape[2]
        self.point = nn.Parameter(torch.empty(members, dim).fill_(start))

    def forward(self, z: Tensor, labels: None = None, draws: Draws | None = None) -> Tensor:
        points = self.point[:, None].expand(-1, len(z) // self.members, -1)
        return points.reshape(-1, *self.image_shape)


class LinearDiscriminator(nn.Module):
    """images (R·N, in_channels, H, W) -> logits (R·N,): D(x) = <ψ, x>, the Dirac-GAN's discriminator.

    With `with_features` also x (R·N, dim).

    Args:
        resolution: (height, width) in pixels; (1, 1) for points.
        start: every component of ψ at the beginning.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(
        self, *, resolution: tuple[int, int], in_channels: int = 1, members: int = 1, start: float = 1.0
    ) -> None:
        super().__init__()
        check_number("start", start, -_FARTHEST_START, _FARTHEST_START)
        dim = _check_points(resolution, in_channels, members)
        self.members = members
        self.in_channels = in_channels
        self.slope = nn.Parameter(torch.empty(members, dim).fill_(start))

    def forward(
        self, images: Tensor, condition: None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = images.reshape(self.members, len(images) // self.members, -1)
        logits = torch.bmm(x, self.slope[:, :, None]).flatten()
        return (logits, x.flatten(0, 1)) if with_features else logits


class QuadraticDiscriminator(nn.Module):
    """images (R·N, in_channels, H, W) -> logits (R·N,): Σ_d (curvature_d x_d² + slope_d x_d) + offset, 0 at the start.

    log p/q of two Gaussians with diagonal covariance has this form, so the best discriminator is among these. With
    `with_features` also (x², x), (R·N, 2·dim).

    Args:
        resolution: (height, width) in pixels; (1, 1) for points.
    """

    judges_by: ClassVar[str] = "logit"

    def __init__(self, *, resolution: tuple[int, int], in_channels: int = 1, members: int = 1) -> None:
        super().__init__()
        dim = _check_points(resolution, in_channels, members)
        self.members = members
        self.in_channels = in_channels
        self.curvature = nn.Parameter(torch.zeros(members, dim))
        self.slope = nn.Parameter(torch.zeros(members, dim))
        self.offset = nn.Parameter(torch.zeros(members))

    def forward(
        self, images: Tensor, condition: None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = images.reshape(self.members, len(images) // self.members, -1)
        features = torch.cat((x.square(), x), dim=2)
        weight = torch.cat((self.curvature, self.slope), dim=1)[:, :, None]
        logits = torch.baddbmm(self.offset[:, None, None], features, weight).flatten()
        return (logits, features.flatten(0, 1)) if with_features else logits


def _check_points(resolution: object, in_channels: int, members: int) -> int:
    """The number of values of an image."""
    check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
    check_whole("members", members, 1, MAX_MEMBERS)
    height, width = check_values(resolution, in_channels)
    return in_channels * height * width
