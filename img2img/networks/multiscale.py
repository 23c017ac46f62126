"""One picture judged at several sizes (Wang et al. 2018, arXiv:1711.11585, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MultiScaleDiscriminator(nn.ModuleList):
    """Discriminators of one form with weights of their own; number k judges images that are halved k times.

    It is a list and not called: the engine makes of a view that has it a view for each of them, so that penalties and
    objectives see nothing but single discriminators.
    """

    @property
    def receptive_field(self) -> int:
        """Pixels of the whole image along a side that one logit of the first sees; 0 where it does not say.

        Number k sees 2^k times as many.
        """
        return getattr(self[0], "receptive_field", 0)


def halved(images: Tensor, times: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H / 2^times, W / 2^times), each pixel the mean of those it covers; it divides evenly."""
    return F.avg_pool2d(images, 2**times) if times else images
