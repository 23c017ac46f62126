"""Exact nearest neighbours among features, and whether a model repeats its training pictures.

Squared distances by |x|² + |y|² − 2x·y are matrix products, which are fast, but lose what lies close together. So they
only choose: what could be among the nearest, after all that rounding may have done, is measured again in float64 from
the differences themselves. Distances are therefore as a float64 double loop gives them, and an exact copy is at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2048  # rows and columns of distances at a time: 17 MB of them
_ROWS = 256  # whose norms are taken at a time
_VALUES = 1 << 17  # features of pairs that are measured again at a time: what stays in a core's cache
_SPARE = 8  # candidates beyond the k nearest that are measured again; seldom too few, and seen if they are
_ONE_IN = 100  # real pictures lie no farther from the nearest training picture than the threshold
_COPY = 1e-3  # features of one picture differ by some 1e-6 of themselves between batches


class Screen:
    """Bounds of all squared distances between x (n, d) and y (m, d), block by block, as fast as a matrix product.

    Both sets are centred on y first, so that what all features have in common costs no digits. The product of two
    vectors is wrong by at most d·ε/2·|x||y| in any order of summation, and |x||y| ≤ (|x|² + |y|²)/2; it is subtracted
    twice, and a few more roundings of results no larger than 2(|x|² + |y|²) come to it.

    Args:
        dtype: of the products. On CUDA it is float64 whatever is asked for, since float32 may mean TF32 there.

    Attributes:
        x_margins, y_margins: (n,) and (m,): upper bounds are `lower` + x_margins[:, None] + y_margins.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self._x, self._y = x, y
        self._dtype = torch.float64 if x.is_cuda else dtype
        self._centre = y.mean(dim=0)
        relative = (x.shape[1] / 2 + 16) * torch.finfo(self._dtype).eps
        norms = self._norms(x), self._norms(y)
        self.x_margins, self.y_margins = ((2 * relative * squares).to(self._dtype) for squares in norms)
        self._x_norms, self._y_norms = (((1 - relative) * squares).to(self._dtype) for squares in norms)

    def lower(self, rows: slice, first_column: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """What |xᵢ − yⱼ|² is no less than, in blocks (r, c) with their columns; some of it is below 0."""
        x = self._centred(self._x[rows])
        for columns in blocks(len(self._y), first_column):
            products = torch.addmm(self._y_norms[columns], x, self._centred(self._y[columns]).T, alpha=-2)
            yield columns, products.add_(self._x_norms[rows, None])

    def _centred(self, part: Tensor) -> Tensor:
        wide = torch.promote_types(part.dtype, self._dtype)
        return (part.to(wide) - self._centre).to(self._dtype)

    def _norms(self, features: Tensor) -> Tensor:
        return torch.cat([self._centred(part).double().square().sum(dim=1) for part in features.split(_ROWS)])


def pair_distances(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """|x[rows] − y[columns]| (p,) float64 of pairs given by two (p,), from the differences."""
    count = max(1, _VALUES // x.shape[1])
    parts = zip(rows.split(count), columns.split(count))
    return torch.cat([torch.linalg.vector_norm(x[i].double().sub_(y[j]), dim=1) for i, j in parts])


def blocks(stop: int, start: int = 0, size: int | None = None) -> list[slice]:
    """`start` to `stop` in slices of at most `size`, else of BLOCK."""
    size = size or BLOCK
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def nearest(queries: Tensor, references: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest references (m, d) of each query (n, d): distances (n, k) float64 and indices (n, k), nearest first.

    Exact to float64's rounding. Of references equally near, any may be named.

    Raises:
        ValueError: there are fewer than k references.
    """
    count = _candidates(k, len(references))
    screen = Screen(queries, references)
    return _confirmed(queries, references, k, screen, _among_all(screen, len(queries), count))


def nearest_others(points: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """`nearest` among the other points of the same set (n, d): a point does not count itself, but does an equal one."""
    count = _candidates(k, len(points) - 1)
    screen = Screen(points, points)
    own = torch.arange(len(points), device=points.device)
    return _confirmed(points, points, k, screen, _among_others(screen, len(points), count), own)


def _candidates(k: int, available: int) -> int:
    """How many to measure again for the k nearest."""
    if k > available:
        raise ValueError(f"{k} nearest neighbours need {k} images to be sought among, got {available}")
    return min(k + _SPARE, available)


class _Smallest:
    """The `count` smallest lower bounds of each of n queries (n, count), ascending, and whose they are."""

    def __init__(self, n: int, count: int, device: torch.device) -> None:
        self.bounds = torch.full((n, count), math.inf, dtype=torch.float64, device=device)
        self.indices = torch.zeros(n, count, dtype=torch.int64, device=device)

    def take(self, rows: slice, lower: Tensor, first_column: int) -> None:
        """Account for the bounds (r, c) of some queries and references."""
        count = self.bounds.shape[1]
        bounds, indices = lower.topk(min(count, lower.shape[1]), dim=1, largest=False)
        bounds = torch.cat((self.bounds[rows], bounds), dim=1)
        indices = torch.cat((self.indices[rows], indices + first_column), dim=1)
        self.bounds[rows], places = bounds.topk(count, dim=1, largest=False)
        self.indices[rows] = indices.gather(1, places)


def _among_all(screen: Screen, n: int, count: int, own: Tensor | None = None) -> _Smallest:
    """`own` (n,): the reference that each query must not count."""
    smallest = _Smallest(n, count, screen.x_margins.device)
    for rows in blocks(n):
        for columns, lower in screen.lower(rows):
            if own is not None:
                places = own[rows] - columns.start
                here = ((places >= 0) & (places < lower.shape[1])).nonzero()[:, 0]
                lower[here, places[here]] = math.inf
            smallest.take(rows, lower, columns.start)
    return smallest


def _among_others(screen: Screen, n: int, count: int) -> _Smallest:
    """Within one set: each block serves its rows and its columns."""
    smallest = _Smallest(n, count, screen.x_margins.device)
    for rows in blocks(n):
        for columns, lower in screen.lower(rows, rows.start):
            if columns == rows:
                lower.fill_diagonal_(math.inf)
            else:
                smallest.take(columns, lower.T.contiguous(), rows.start)
            smallest.take(rows, lower, columns.start)
    return smallest


def _confirmed(
    queries: Tensor, references: Tensor, k: int, screen: Screen, smallest: _Smallest, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distances (n, k) and indices (n, k) by the candidates, or by better ones where those may have missed some."""
    distances, indices, proven = _measured(queries, references, k, screen, smallest)
    if not proven.all():
        # rounding hid the order, as in tight groups far from one another: products in float64 tell these apart
        rest = (~proven).nonzero()[:, 0]
        screen = Screen(queries[rest], references, torch.float64)
        smallest = _among_all(screen, len(rest), smallest.bounds.shape[1], None if own is None else own[rest])
        distances[rest], indices[rest], _ = _measured(queries[rest], references, k, screen, smallest)
    return distances, indices


def _measured(
    queries: Tensor, references: Tensor, k: int, screen: Screen, smallest: _Smallest
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (n, k) and indices (n, k) of the nearest candidates, and (n,) whether nothing else can be nearer."""
    lower, indices = smallest.bounds, smallest.indices
    upper = lower + screen.x_margins[:, None] + screen.y_margins[indices]
    # beyond the k-th smallest upper bound a candidate cannot be among the k nearest
    rows, places = (lower <= upper.kthvalue(k, dim=1, keepdim=True).values).nonzero(as_tuple=True)
    exact = torch.full_like(lower, math.inf)
    exact[rows, places] = pair_distances(queries, references, rows, indices[rows, places])
    distances, order = exact.topk(k, dim=1, largest=False)
    proven = distances[:, -1].square() <= lower[:, -1].clamp(min=0)
    return distances, indices.gather(1, order), proven


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How near generated pictures lie to training pictures, beside how near real pictures do.

    Attributes:
        distances: (n,) float64, from each generated picture to the nearest training picture.
        indices: (n,) which training picture that is.
        threshold: a distance that one real picture in a hundred does not exceed.
        share: of the generated pictures at no more than it, from 0 to 1.
        expected_share: of the real ones; 0.01, or more where they are few or several are equally near.
        copies: generated pictures that are a training picture but for the features' rounding: at no more than a
            thousandth of the real pictures' median distance.
        z: standard score of the Mann–Whitney statistic of generated against real distances: about N(0, 1) where both
            are alike, far below 0 where generated pictures are nearer (copying), above where they are farther.
    """

    distances: Tensor
    indices: Tensor
    threshold: float
    share: float
    expected_share: float
    copies: int
    z: float


def memorisation(train: Tensor, fake: Tensor, held_out: Tensor | None = None) -> Memorisation:
    """Whether fakes (n, d) lie nearer to training pictures (m, d) than real pictures do that were not trained on.

    `z` is Z_U of Meehan, Chaudhuri & Dasgupta 2020 (arXiv:2004.05675) over the whole space; their C_T is its mean over
    cells of the space, which this is not. Where some are copied and others far off, `z` may be near 0: see `share`.

    Args:
        held_out: (r, d) real pictures that were not trained on. Without them the distances of training pictures to
            each other stand in; they depend on each other, so that `z` is then only a hint.

    Raises:
        ValueError: there is no training picture, or only one and no held-out ones.
    """
    distances, indices = (column[:, 0] for column in nearest(fake, train))
    usual = (nearest_others(train) if held_out is None else nearest(held_out, train))[0][:, 0]
    threshold = usual.kthvalue(math.ceil(len(usual) / _ONE_IN)).values
    return Memorisation(
        distances=distances,
        indices=indices,
        threshold=threshold.item(),
        share=(distances <= threshold).double().mean().item(),
        expected_share=(usual <= threshold).double().mean().item(),
        copies=int((distances <= _COPY * usual.median()).sum()),
        z=_mann_whitney_z(distances, usual),
    )


def _mann_whitney_z(x: Tensor, y: Tensor) -> float:
    """(U − nm/2) / √(nm(n + m + 1)/12), where U counts the pairs with x > y, and those with x = y by half."""
    ordered = y.sort().values
    below, up_to = (torch.searchsorted(ordered, x, right=right) for right in (False, True))
    n, m = len(x), len(y)
    u = (below + up_to).sum().item() / 2
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
