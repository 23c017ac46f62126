"""How many modes a generator covers, how evenly, and how near to them its samples lie.

As PacGAN measures it (Lin et al. 2017, arXiv:1712.04086): on 2,500 samples of a mixture of Gaussians, and on 26,000 of
stacked MNIST, where a classifier says which of 1,000 modes a sample belongs to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassCoverage:
    """Which classes the samples are of.

    Attributes:
        modes_found: classes with at least one sample.
        num_modes: classes there are.
        reverse_kl: KL(shares of the samples' classes ‖ uniform) in nats, from 0 to log num_modes. Reverse, since the
            samples come first and the data, where every class is equally likely, second.
    """

    modes_found: int
    num_modes: int
    reverse_kl: float


@dataclass(frozen=True)
class ModeCoverage:
    """How the samples lie about the modes of a mixture.

    Attributes:
        modes_found: modes that are nearest to at least one high-quality sample.
        num_modes: modes there are.
        high_quality: share of the samples within `counted_within` standard deviations of the nearest mode.
        reverse_kl: KL(shares of the samples nearest to each mode ‖ uniform) in nats, from 0 to log num_modes. Every
            finite sample counts, of high quality or not, so it says how evenly modes are visited, not how well.
    """

    modes_found: int
    num_modes: int
    high_quality: float
    reverse_kl: float


def mode_coverage(samples: Tensor, modes: Tensor, std: float, counted_within: float = 3.0) -> ModeCoverage:
    """Coverage of modes (M, dim), Gaussians of standard deviation `std`, by samples (n, dim).

    Samples of the mixture itself are within 3 std with probability 1 − exp(−4.5) = 98.9 % in the plane and
    erf(3/√2) = 99.7 % on the line. A sample that is not finite is near nothing.
    """
    samples, modes = samples.detach().double().cpu(), modes.double().cpu()
    # not cdist: from 25 rows on it squares by a matrix product, which loses what lies close
    squared = (samples[:, None] - modes).square().sum(2)
    distance, nearest = squared.sqrt().nan_to_num(math.inf, posinf=math.inf).min(1)
    is_near = distance < counted_within * std
    return ModeCoverage(
        modes_found=len(nearest[is_near].unique()),
        num_modes=len(modes),
        high_quality=is_near.double().mean().item(),
        reverse_kl=_kl_to_uniform(nearest[distance.isfinite()], len(modes)),
    )


def class_coverage(labels: Tensor, num_modes: int) -> ClassCoverage:
    """Coverage of classes 0 … num_modes − 1 by the labels (n,) int64 of samples."""
    labels = labels.cpu()
    return ClassCoverage(len(labels.unique()), num_modes, _kl_to_uniform(labels, num_modes))


def _kl_to_uniform(labels: Tensor, count: int) -> float:
    """KL(shares of the labels ‖ uniform on `count`); its largest value, log count, where there is no label at all."""
    shares = torch.bincount(labels, minlength=count).double() / max(1, len(labels))
    return math.log(count) + torch.xlogy(shares, shares).sum().item()
