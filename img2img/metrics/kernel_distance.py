"""The kernel distance between sets of features (Bińkowski et al. 2018, arXiv:1801.01401), KID with Inception's.

The squared maximum mean discrepancy of the kernel (x·y/d + 1)³, without bias: its mean over samples is that of the two
distributions, at any count, so it may fall below 0 where they are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from img2img.draws import permutation
from img2img.metrics.neighbours import blocks

WHOLE_SETS_UP_TO = 50_000  # some 4 minutes on one CPU core at 2048 features
_STRIP = 64  # rows of it that stay in a core's cache
_ROWS = 256  # rows of features that are made float64 at a time


@dataclass(frozen=True)
class KernelDistance:
    """Squared maximum mean discrepancies.

    Attributes:
        value: mean over the subsets.
        std: standard deviation over the subsets (over n, not n − 1): of a subset's value, not of the mean.
        unbiased: of the whole sets; None where one has more than WHOLE_SETS_UP_TO members.
        subsets, subset_size: how many, and how many of each set are in each.
    """

    value: float
    std: float
    unbiased: float | None
    subsets: int
    subset_size: int


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The kernel distance of features (n, d) and (m, d), over random subsets and over all.

    Args:
        subset_size: members of each set in a subset, drawn without replacement; at most what the smaller set has.
        seed: of the draw.

    Raises:
        ValueError: a set has fewer than two members.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"a kernel distance needs two images of each set, got {len(real)} real and {len(fake)} fake")
    size = min(subset_size, len(real), len(fake))
    real_rows, fake_rows = _draw("real", len(real), subsets, size, seed), _draw("fake", len(fake), subsets, size, seed)
    if max(len(real), len(fake)) <= WHOLE_SETS_UP_TO:
        values, whole = _from_all_pairs(real, fake, real_rows, fake_rows)
    else:
        values, whole = _one_by_one(real, fake, real_rows, fake_rows), None
    return KernelDistance(values.mean().item(), values.std(correction=0).item(), whole, subsets, size)


def _draw(name: str, count: int, subsets: int, size: int, seed: int) -> Tensor:
    """(subsets, size) indices below `count`, different ones in each row."""
    rows = [torch.from_numpy(permutation(seed, f"kernel distance/{name}", i, count)[:size]) for i in range(subsets)]
    return torch.stack(rows)


def _from_all_pairs(real: Tensor, fake: Tensor, real_rows: Tensor, fake_rows: Tensor) -> tuple[Tensor, float]:
    """The distances of the subsets (subsets,), and of the whole sets, from one pass over all pairs.

    A subset's sum of a block K of kernel values is uᵀKv, where u and v are 1 at the subset's members and 0 elsewhere.
    """
    members = []
    for features, rows in ((real, real_rows), (fake, fake_rows)):
        chosen = torch.zeros(len(rows) + 1, len(features), dtype=torch.float64, device=features.device)
        chosen[:-1].scatter_(1, rows.to(features.device), 1.0)
        chosen[-1] = 1.0
        members.append(chosen.T.contiguous())
    values = squared_mmd(real, fake, *members)
    return values[:-1], values[-1].item()


def _one_by_one(real: Tensor, fake: Tensor, real_rows: Tensor, fake_rows: Tensor) -> Tensor:
    """The distances of the subsets (subsets,), from the pairs within them alone."""
    everyone = torch.ones(real_rows.shape[1], 1, dtype=torch.float64, device=real.device)
    pairs = zip(real_rows.to(real.device), fake_rows.to(fake.device))
    return torch.cat([squared_mmd(real[i], fake[j], everyone, everyone) for i, j in pairs])


def squared_mmd(real: Tensor, fake: Tensor, real_members: Tensor, fake_members: Tensor) -> Tensor:
    """Squared MMD without bias of each of s choices of members, (s,) float64.

    The three means of Gretton et al. 2012 ("A kernel two-sample test"), no member being paired with itself.

    Args:
        real_members, fake_members: (n, s) and (m, s) float64, 1 where a column's choice has that member, 0 elsewhere.
    """
    n, m = real_members.sum(dim=0), fake_members.sum(dim=0)
    centre = real.mean(dim=0)
    x, y = _Side(real, centre), _Side(fake, centre)
    within_real = _sums(x, x, real_members, real_members) / (n * (n - 1))
    within_fake = _sums(y, y, fake_members, fake_members) / (m * (m - 1))
    return within_real + within_fake - 2 * _sums(x, y, real_members, fake_members) / (n * m)


class _Side:
    """One set's part in x·y/d + 1 = (x − c)·(y − c)/d + a(x) + a(y), where a(x) = (x·c − |c|²/2)/d + 1/2.

    Only the first term is a product of matrices. Of float32 features it is taken in float32, the others in float64:
    what all features have in common, which is most of Inception's, then costs no digits. Distances of thousands of such
    features, about 1e-5 and more, are within 1e-10 of what float64 gives.
    """

    def __init__(self, features: Tensor, centre: Tensor) -> None:
        self._features, self._centre = features, centre
        # on CUDA float32 may mean TF32, whose 11 bits are too few
        self._dtype = torch.float64 if features.is_cuda else features.dtype
        self.dim = len(centre)
        c = centre.double()
        products = torch.cat([part.double() @ c for part in features.split(_ROWS)])
        self.terms = (products - c.square().sum() / 2) / self.dim + 0.5

    def __len__(self) -> int:
        return len(self._features)

    def centred(self, rows: slice) -> Tensor:
        return self._features[rows].to(self._dtype) - self._centre


def _sums(x: _Side, y: _Side, x_members: Tensor, y_members: Tensor) -> Tensor:
    """The kernel (x·y/d + 1)³ summed over each choice's pairs: (n, s), (m, s) -> (s,).

    Where x is y the pairs are the ordered ones of two different members, of which the block below the diagonal need
    not be looked at.
    """
    sums = x_members.new_zeros(x_members.shape[1])
    for rows in blocks(len(x)):
        x_part = x.centred(rows) / x.dim
        for columns in blocks(len(y), rows.start if x is y else 0):
            values = _cubes(x_part @ y.centred(columns).T, x.terms[rows], y.terms[columns])
            if x is y and columns == rows:
                values.fill_diagonal_(0)
            times = 2 if x is y and columns != rows else 1
            sums += times * (x_members[rows] * (values @ y_members[columns])).sum(dim=0)
    return sums


def _cubes(products: Tensor, x_terms: Tensor, y_terms: Tensor) -> Tensor:
    """(products + x_terms + y_terms)³, (r, c) float64, a few rows at a time, which stay in a core's cache."""
    cubes = torch.empty(products.shape, dtype=torch.float64, device=products.device)
    for strip in blocks(len(products), size=_STRIP):
        base = cubes[strip].copy_(products[strip]).add_(x_terms[strip, None]).add_(y_terms)
        base.mul_(base.square())
    return cubes
