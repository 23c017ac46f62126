"""Precision, recall, density and coverage: which share of each set lies in the other's neighbourhood.

A set's neighbourhood is a ball about each of its members, as wide as the distance to its k-th nearest other member. An
equal member counts like any other: k copies of a picture make its ball a point. Balls are closed, as in Kynkäänniemi et
al.; distances are decided in float64 wherever a matrix product's rounding could matter (see neighbours.py), and what is
on the boundary but for float64's rounding is inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from img2img.metrics.neighbours import Screen, blocks, nearest_others, pair_distances

_CLOSED = 1 + 1e-12


@dataclass(frozen=True)
class PrecisionRecall:
    """See `precision_recall`; both from 0 to 1."""

    precision: float
    recall: float
    k: int


@dataclass(frozen=True)
class DensityCoverage:
    """See `density_coverage`; density is at least 0 and may exceed 1, coverage is from 0 to 1."""

    density: float
    coverage: float
    k: int


@dataclass(frozen=True)
class PRDC:
    """Precision and recall with `pr_k` neighbours, density and coverage with `dc_k`."""

    precision: float
    recall: float
    density: float
    coverage: float
    pr_k: int
    dc_k: int


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991) of features (n, d) and (m, d).

    Precision is the share of fakes within a real member's ball, recall the share of real ones within a fake member's.
    Both depend on n and m: compare only what was taken of equal counts.

    Raises:
        ValueError: a set has no more than k members.
    """
    _check_count("real", real, k)
    _check_count("fake", fake, k)
    inside = _inside(real, fake, _radii(real, k)[:, [-1]], _radii(fake, k)[:, [-1]])
    return PrecisionRecall(_share(inside.fake_in_real), _share(inside.real_in_fake), k)


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797) of features (n, d) and (m, d).

    Density is how many real members' balls a fake lies in on average, over k; it is 1 on average where both sets are
    of one distribution. Coverage is the share of real members with a fake in their ball; it is then, on average,
    1 − C(n−1, k) / C(n+m−1, k), which is 1 − 2⁻ᵏ for large n = m.

    Raises:
        ValueError: the real set has no more than k members.
    """
    _check_count("real", real, k)
    inside = _inside(real, fake, _radii(real, k)[:, [-1]], fake.new_zeros(len(fake), 0, dtype=torch.float64))
    return DensityCoverage(inside.hits / (k * len(fake)), _share(inside.covered), k)


def prdc(real: Tensor, fake: Tensor, pr_k: int = 3, dc_k: int = 5) -> PRDC:
    """`precision_recall` and `density_coverage` in one pass over the distances, which are what costs.

    Of n = m members it takes 6n²d operations and memory for a few blocks of 2048 × 2048 distances.

    Raises:
        ValueError: the real set has no more than pr_k or dc_k members, or the fake set no more than pr_k.
    """
    _check_count("real", real, max(pr_k, dc_k))
    _check_count("fake", fake, pr_k)
    real_radii = _radii(real, max(pr_k, dc_k))[:, [pr_k - 1, dc_k - 1]]
    inside = _inside(real, fake, real_radii, _radii(fake, pr_k)[:, [-1]])
    return PRDC(
        precision=_share(inside.fake_in_real),
        recall=_share(inside.real_in_fake),
        density=inside.hits / (dc_k * len(fake)),
        coverage=_share(inside.covered),
        pr_k=pr_k,
        dc_k=dc_k,
    )


def _check_count(name: str, features: Tensor, k: int) -> None:
    if len(features) <= k:
        raise ValueError(f"neighbourhoods of k = {k} need more than {k} {name} images, got {len(features)}")


def _radii(features: Tensor, k: int) -> Tensor:
    """(n, k) float64: column j holds the distances to the (j + 1)-th nearest other member."""
    return nearest_others(features, k)[0] * _CLOSED


def _share(members: Tensor) -> float:
    return members.double().mean().item()


@dataclass(eq=False)
class _Inside:
    """Who is in whose balls: by the first real radius `fake_in_real`, by the last one `covered` and `hits`."""

    fake_in_real: Tensor
    real_in_fake: Tensor
    covered: Tensor
    hits: int = 0


def _inside(real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor) -> _Inside:
    """`real_radii` (n, 1 or 2), `fake_radii` (m, 0 or 1)."""
    real_in_fake = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    inside = _Inside(real_in_fake.new_zeros(len(fake)), real_in_fake, torch.zeros_like(real_in_fake))
    screen = Screen(real, fake)
    for rows in blocks(len(real)):
        for columns, lower in screen.lower(rows):
            upper = (lower + screen.x_margins[rows, None]).add_(screen.y_margins[columns])
            block = _Block(real[rows], fake[columns], lower, upper)
            by_radius = [block.within(radii[:, None]) for radii in real_radii[rows].unbind(dim=1)]
            inside.fake_in_real[columns] |= by_radius[0].any(dim=0)
            inside.covered[rows] |= by_radius[-1].any(dim=1)
            inside.hits += int(by_radius[-1].count_nonzero())
            for radii in fake_radii[columns].unbind(dim=1):
                inside.real_in_fake[rows] |= block.within(radii).any(dim=1)
    return inside


@dataclass(frozen=True, eq=False)
class _Block:
    """Members x (r, d) of one set and y (c, d) of the other, and bounds (r, c) of their squared distances."""

    x: Tensor
    y: Tensor
    lower: Tensor
    upper: Tensor

    def within(self, radii: Tensor) -> Tensor:
        """(r, c) whether |xᵢ − yⱼ| ≤ radius, for radii (r, 1) or (c,) float64."""
        squared = radii.square().to(self.lower)
        inside = self.upper <= squared
        rows, columns = ((self.lower <= squared) & ~inside).nonzero(as_tuple=True)
        inside[rows, columns] = pair_distances(self.x, self.y, rows, columns) <= radii.expand_as(inside)[rows, columns]
        return inside
