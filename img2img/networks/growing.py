"""Networks that grow from small images to large ones (Karras et al. 2018, arXiv:1710.10196, section 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from img2img.networks.arguments import check_number, check_whole
from img2img.networks.multiscale import halved
from img2img.networks.resample import repeat_upsample

GROWN = ("level", "alpha")  # constructor arguments that say how far a network has grown
DECIDED = (*GROWN, "doublings")  # and how far it will: the schedule decides them


class Growing(nn.Module):
    """A network that works at one of several sizes, and fades a new one in.

    All levels' layers exist from the start; those that have no part get no gradient from what is made or judged. (A
    mix-in: call start_growing after the constructor of nn.Module.)

    Attributes:
        num_levels: sizes; level l has the base rectangle × 2^l.
        level: of the images made or judged now.
        alpha: weight of that level's own layers, from 0 to 1; the rest is the level below, doubled or halved.
    """

    num_levels: int
    level: int
    alpha: float

    def start_growing(self, num_levels: int, level: int | None, alpha: float) -> None:
        self.num_levels = num_levels
        self.grow_to(num_levels - 1 if level is None else level, alpha)

    def grow_to(self, level: int, alpha: float = 1.0) -> None:
        check_whole("level", level, 0, self.num_levels - 1)
        check_number("alpha", alpha, 0, 1)
        self.level = level
        self.alpha = float(alpha)

    def fading(self) -> bool:
        """Whether the level below has a part."""
        return self.level > 0 and self.alpha < 1

    @property
    def halvings(self) -> int:
        """How often the images are half as large as in the end."""
        return self.num_levels - 1 - self.level


def can_grow(network: type[nn.Module]) -> bool:
    """Whether it makes or judges images of half the size, a quarter, … before those of the whole."""
    return issubclass(network, Growing) or getattr(network, "any_size", False)


def shrink(images: Tensor, halvings: int, alpha: float) -> Tensor:
    """(N, C, H, W) as a network that grows sees real images: means of 2^halvings × 2^halvings pixels.

    With alpha < 1 as far mixed with the next coarser size as its generator's pictures are.
    """
    images = halved(images, halvings)
    return repeat_upsample(halved(images, 1)).lerp(images, alpha) if alpha < 1 else images


def pick(maps: Tensor, halvings: int) -> Tensor:
    """Label maps (N, C, H, W) as small as `shrink` makes images: each place gets the pixel that its centre lies on."""
    step = 2**halvings
    return maps[..., step // 2 :: step, step // 2 :: step]


def enlarge(images: Tensor, resolution: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *resolution) by repeating pixels, where they are smaller: of networks that still grow."""
    if tuple(images.shape[-2:]) == tuple(resolution):
        return images
    return F.interpolate(images, size=resolution, mode="nearest")
