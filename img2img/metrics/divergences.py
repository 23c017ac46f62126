"""How far two distributions on the line are apart, by KL, Jensen-Shannon and Wasserstein-1, and which way each pulls.

All of it in float64 on cells of equal width: a density is given by its logarithm in the middle of each cell, so that
far tails of a Gaussian do not become zero. The midpoint rule is exact to rounding for smooth densities that end within
the cells, and for piecewise constant ones whose steps lie on the cells' edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def cells(low: float, high: float, count: int) -> tuple[Tensor, float]:
    """The middles (count,) float64 of equal cells from `low` to `high`, and their width."""
    width = (high - low) / count
    return low + width * (torch.arange(count, dtype=torch.float64) + 0.5), width


def gaussian(std: float, mean: float = 0.0) -> LogDensity:
    """log of N(mean, std²)."""
    return lambda x: -((x - mean) / std).square() / 2 - math.log(std * math.sqrt(2 * math.pi))


def uniform(low: float, high: float) -> LogDensity:
    """log of 1 / (high − low) between the two, −∞ elsewhere."""
    return lambda x: torch.zeros_like(x).masked_fill((x < low) | (x > high), -math.inf) - math.log(high - low)


def kl(log_p: Tensor, log_q: Tensor, width: float) -> float:
    """KL(p ‖ q) = ∫ p log(p/q) in nats; ∞ where q has no mass and p has."""
    p = log_p.exp()
    return (torch.where(p == 0, 0.0, p * (log_p - log_q)).sum() * width).item()


def js(log_p: Tensor, log_q: Tensor, width: float) -> float:
    """½KL(p ‖ m) + ½KL(q ‖ m), m = (p + q)/2, in nats: from 0 to log 2, which it is where p and q never meet.

    The best discriminator's loss of the original game is log 4 − 2 JS (Goodfellow et al. 2014, arXiv:1406.2661).
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * kl(log_p, log_m, width) + 0.5 * kl(log_q, log_m, width)


def w1(log_p: Tensor, log_q: Tensor, width: float) -> float:
    """Wasserstein-1, the mean way of the mass from p to q: ∫ |P − Q| of the distribution functions."""
    between_cells = ((log_p.exp() - log_q.exp()).cumsum(0) * width).abs()
    return (between_cells.sum() * width).item()


def w1_of_samples(x: Tensor, y: Tensor) -> float:
    """Wasserstein-1 between samples (n,) and (m,), all of a side equally heavy: ∫ |P − Q| of their step functions.

    Where n = m it is the mean of |xᵢ − yᵢ| in sorted order.
    """
    x, y = x.detach().double().sort().values, y.detach().double().sort().values
    steps = torch.cat((x, y)).sort().values
    below_x, below_y = (torch.searchsorted(side, steps[:-1], right=True).double() / len(side) for side in (x, y))
    return ((below_x - below_y).abs() * steps.diff()).sum().item()


@dataclass(frozen=True)
class Shift:
    """A density p beside itself shifted, q(x) = p(x − shift), and what each distance leaves to who would mend it.

    Attributes:
        kl: KL(p ‖ q). js, w1: see the functions. ∞ is possible for kl.
        kl_slope, js_slope, w1_slope: derivatives by the shift; a generator that shifts q follows their negative. NaN
            where the distance is ∞ on both sides: there is nothing to follow.
    """

    shift: float
    kl: float
    js: float
    w1: float
    kl_slope: float
    js_slope: float
    w1_slope: float


def compare_shifts(
    log_density: LogDensity, shifts: Iterable[float], *, low: float, high: float, count: int = 20_000
) -> list[Shift]:
    """Distances between a density and itself shifted, for each shift; slopes are central differences over two cells.

    Args:
        low, high: what holds nearly all mass of the density and of its shifted copies.
        count: cells. Where the density has steps, they and the shifts should be whole numbers of cells.
    """
    x, width = cells(low, high, count)
    log_p = log_density(x)

    def distances(shift: float) -> tuple[float, float, float]:
        log_q = log_density(x - shift)
        return kl(log_p, log_q, width), js(log_p, log_q, width), w1(log_p, log_q, width)

    rows = []
    for shift in shifts:
        after, before = distances(shift + width), distances(shift - width)
        slopes = [(more - less) / (2 * width) for more, less in zip(after, before)]
        rows.append(Shift(shift, *distances(shift), *slopes))
    return rows
