"""Residual blocks that double or halve the image, and the discriminator that sums over places, for SNGAN to BigGAN."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.layers import MinibatchStd, check_condition, make_embedding, make_norm


def double(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W), each pixel four times."""
    return F.interpolate(images, scale_factor=2.0, mode="nearest")


def halve(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2), means of 2×2 pixels."""
    return F.avg_pool2d(images, 2)


def conv_of_doubled(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """conv(double(images)) for a 3×3 convolution with padding 1."""
    if not _fuses(images, images.shape[2] * images.shape[3]):
        result: Tensor = conv(double(images))
        return result
    # a doubled pixel meets the kernel in two neighbouring places in each direction: a transposed convolution with their
    # sums, 4 products for a pixel instead of 9
    kernel = _sum_of_shifts(conv.weight).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(images, kernel, conv.bias, stride=2, padding=1)


def half_of_conv(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """halve(conv(images)) for a 3×3 convolution with padding 1."""
    if not _fuses(images, images.shape[2] * images.shape[3] // 4):
        return halve(conv(images))
    return F.conv2d(images, _sum_of_shifts(conv.weight) / 4, conv.bias, stride=2, padding=1)


def _fuses(images: Tensor, places: int) -> bool:
    """Whether the product of kernels pays: it costs by the weights, and saves by the places of the smaller plane.

    On two CPU cores, forward and backward took 0.4 to 0.8 of the time from about this many places on, and longer below.
    """
    return images.shape[0] * places >= (1024 if images.dtype.itemsize >= 4 else 8192)


def _sum_of_shifts(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (out, in, 4, 4), the full convolution with a 2×2 kernel of ones."""
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


class GeneratorBlock(nn.Module):
    """(N, in, H, W) -> (N, out, 2H, 2W): norm, ReLU, double, 3×3, norm, ReLU, 3×3, plus a doubled 1×1 shortcut.

    The shortcut's convolution is computed before the doubling, which it commutes with.

    Args:
        make_norm: channels -> a norm of images, or, where `forward` gets a condition, of images and condition.
    """

    def __init__(self, in_channels: int, out_channels: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        given = () if condition is None else (condition,)
        inside = conv_of_doubled(self.conv1, F.relu(self.norm1(x, *given)))
        inside = self.conv2(F.relu(self.norm2(inside, *given), inplace=True))
        return inside + double(self.shortcut(x))


class DiscriminatorBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H/2, W/2): [norm, ReLU,] 3×3, norm, ReLU, 3×3, halve, plus a halved 1×1 shortcut.

    Means of 2×2 pixels commute with the shortcut's convolution, which is computed on the smaller plane.

    Args:
        first: x is the image itself: neither norm nor ReLU before the first convolution.
        halves: without, the size is kept, and the shortcut has a convolution only where the channels change.
        wide: `out` channels between the convolutions, as in SAGAN and BigGAN; else `in`, as in SNGAN. A first block is
            always wide.
        norm: one of layers.NORMS.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        first: bool = False,
        halves: bool = True,
        wide: bool = True,
        norm: str = "none",
    ) -> None:
        super().__init__()
        inside = out_channels if wide or first else in_channels
        self.before = nn.Identity() if first else nn.Sequential(make_norm(norm, in_channels), nn.ReLU())
        self.conv1 = nn.Conv2d(in_channels, inside, 3, padding=1)
        self.norm = make_norm("none" if first else norm, inside)
        self.conv2 = nn.Conv2d(inside, out_channels, 3, padding=1)
        changes = halves or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.norm(self.conv1(self.before(x))), inplace=True)
        if not self.halves:
            return self.conv2(inside) + self.shortcut(x)
        return half_of_conv(self.conv2, inside) + self.shortcut(halve(x))


class PoolingDiscriminator(nn.Module):
    """images (N, in_channels, H, W) and, with classes, labels (N,) int64 -> logits (N,), by `layers`.

    The ReLU of the last layer is summed over its places, or averaged with `mean`; a linear layer makes a logit of that.
    With `with_features` also the sums, (N, channels).

    With `minibatch_std` the sums have one more entry: how much the samples of a batch differ (layers.MinibatchStd).

    A subclass's constructor makes `layers`, images -> (N, channels, h, w), and calls `_end_with`. CONDITIONINGS:
        "projection": logit + <embed(class), sums> (Miyato & Koyama 2018, arXiv:1802.05637, section 3).
        "classifier": the logit knows no class; `classify` of the sums gives logits of the classes (Odena et al. 2017,
            arXiv:1610.09585).
        "none": for num_classes = 0.
    """

    judges_by: ClassVar[str] = "logit"
    layers: nn.Sequential
    embed: nn.Embedding | None
    classify: nn.Linear | None

    def _end_with(
        self, channels: int, num_classes: int, conditioning: str, mean: bool = False, minibatch_std: bool = False
    ) -> None:
        self.minibatch_std = MinibatchStd() if minibatch_std else None
        channels += minibatch_std
        self.num_classes = num_classes
        self.conditioning = conditioning
        self.mean = mean
        self.logit = nn.Linear(channels, 1)
        self.embed = make_embedding(num_classes, channels, std=0.02) if conditioning == "projection" else None
        self.classify = nn.Linear(channels, num_classes) if conditioning == "classifier" else None

    def forward(
        self, images: Tensor, condition: Tensor | None = None, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_condition(self.conditioning, condition)
        last = F.relu(self.layers(images))
        if self.minibatch_std is not None:
            last = self.minibatch_std(last)
        features = last.mean(dim=(2, 3)) if self.mean else last.sum(dim=(2, 3))
        logits: Tensor = self.logit(features)[:, 0]
        if self.embed is not None:
            logits = logits + (self.embed(condition) * features).sum(dim=1)
        return (logits, features) if with_features else logits
