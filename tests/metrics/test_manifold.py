from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from img2img.metrics import neighbours
from img2img.metrics.manifold import PRDC, density_coverage, prdc, precision_recall


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(real: Tensor, fake: Tensor, pr_k: int, dc_k: int) -> PRDC:
    """The definitions, one pair at a time, in float64."""

    def distance(x: Tensor, y: Tensor) -> float:
        return (x.double() - y.double()).square().sum().sqrt().item()

    def radius(members: Tensor, index: int, k: int) -> float:
        others = [distance(members[index], members[i]) for i in range(len(members)) if i != index]
        return sorted(others)[k - 1]

    n, m = len(real), len(fake)
    between = [[distance(x, y) for y in fake] for x in real]
    real_pr, real_dc = ([radius(real, i, k) for i in range(n)] for k in (pr_k, dc_k))
    fake_pr = [radius(fake, j, pr_k) for j in range(m)]
    return PRDC(
        precision=sum(any(between[i][j] <= real_pr[i] for i in range(n)) for j in range(m)) / m,
        recall=sum(any(between[i][j] <= fake_pr[j] for j in range(m)) for i in range(n)) / n,
        density=sum(between[i][j] <= real_dc[i] for i in range(n) for j in range(m)) / (dc_k * m),
        coverage=sum(any(between[i][j] <= real_dc[i] for j in range(m)) for i in range(n)) / n,
        pr_k=pr_k,
        dc_k=dc_k,
    )


def tight_groups(count: int, seed: int) -> Tensor:
    """Points within 1e-4 of one another in three places far apart, which float32 products cannot tell apart."""
    places = 10 * normal(3, 12, seed=99)
    return places[torch.arange(count) % 3] + 1e-4 * normal(count, 12, seed=seed)


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        (normal(30, 5), normal(25, 5, seed=1) + 0.5),
        (normal(30, 5) + 1e4, normal(25, 5, seed=1) + 1e4),
        (tight_groups(30, 0), tight_groups(24, 1)),
        ((2 * normal(30, 2)).round(), (2 * normal(25, 2, seed=1)).round()),  # many on a boundary, many equal
        (normal(6, 300), normal(9, 300, seed=1)),
        (normal(20, 3), normal(1, 3, seed=1).expand(12, 3)),  # a collapsed generator
    ],
    ids=["normal", "far from zero", "tight groups", "whole numbers", "few", "collapsed"],
)
@pytest.mark.parametrize(("pr_k", "dc_k"), [(3, 5), (4, 2), (1, 1)])
def test_brute_force(real: Tensor, fake: Tensor, pr_k: int, dc_k: int) -> None:
    assert prdc(real, fake, pr_k, dc_k) == by_loops(real, fake, pr_k, dc_k)


def test_each_alone_is_the_same() -> None:
    real, fake = normal(80, 4), normal(70, 4, seed=1) + 0.3
    both = prdc(real, fake)
    pr, dc = precision_recall(real, fake), density_coverage(real, fake)
    assert (
        (pr.precision, pr.recall, pr.k) == (both.precision, both.recall, 3) == (both.precision, both.recall, both.pr_k)
    )
    assert (
        (dc.density, dc.coverage, dc.k) == (both.density, both.coverage, 5) == (both.density, both.coverage, both.dc_k)
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_torch_fidelity(k: int) -> None:
    """Which takes the fake set first."""
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = normal(200, 64), 0.9 * normal(150, 64, seed=1) + 0.1
    theirs = prc.prc_features_to_metric(
        fake, real, prc_neighborhood=k, prc_batch_size=64, save_cpu_ram=False, verbose=False
    )
    ours = precision_recall(real, fake, k)
    assert 0.1 < ours.precision < 1
    assert ours.precision != ours.recall
    assert ours.precision == pytest.approx(theirs[prc.KEY_METRIC_PRECISION], abs=1e-6)
    assert ours.recall == pytest.approx(theirs[prc.KEY_METRIC_RECALL], abs=1e-6)


def test_one_mode_made_perfectly_is_precise_but_recalls_little() -> None:
    modes = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    real = (modes[:, None] + normal(4, 100, 2)).flatten(0, 1)
    one = modes[0] + 0.5 * normal(400, 2, seed=1)
    found = prdc(real, one)
    assert found.precision > 0.98
    assert found.recall < 0.26
    assert found.coverage < 0.26
    assert found.density > 0.9


def test_spread_far_and_wide_recalls_but_is_not_precise() -> None:
    real = normal(300, 2)
    wide = 30 * (torch.rand(300, 2, generator=torch.Generator().manual_seed(1)) - 0.5)
    found = prdc(real, wide)
    assert found.precision < 0.2
    assert found.recall > 0.9
    assert found.density < 0.2
    # the other way round, precision and recall trade places
    swapped = precision_recall(wide, real)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_far_apart_is_nothing() -> None:
    found = prdc(normal(20, 3), normal(30, 3, seed=1) + 1000)
    assert found == PRDC(0, 0, 0, 0, pr_k=3, dc_k=5)


def test_identical_sets() -> None:
    """Every fake is in its own ball, and in those of its k nearest's owners, whose boundary it may be on."""
    real = normal(60, 8)
    assert prdc(real, real) == PRDC(1, 1, density=6 / 5, coverage=1, pr_k=3, dc_k=5)
    shuffled = real[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert prdc(real, shuffled) == PRDC(1, 1, density=6 / 5, coverage=1, pr_k=3, dc_k=5)


def test_alike_sets_have_density_one_on_average_and_the_papers_coverage() -> None:
    """Over all 70 ways of calling 4 of 8 points real: no more is needed of alike sets than that any split is as likely."""
    points, k = normal(8, 3), 2
    found = []
    for chosen in itertools.combinations(range(8), 4):
        rest = [i for i in range(8) if i not in chosen]
        found.append(density_coverage(points[list(chosen)], points[rest], k))
    assert sum(one.density for one in found) / 70 == pytest.approx(1, rel=1e-12)
    expected = 1 - math.comb(3, k) / math.comb(7, k)
    assert sum(one.coverage for one in found) / 70 == pytest.approx(expected, rel=1e-12)


def test_copies_in_a_set_make_its_balls_points() -> None:
    """Four equal pictures at 0: the third nearest other of each is at 0 too, and the fourth is at 10."""
    real = torch.tensor([[0.0], [0.0], [0.0], [0.0], [10.0]])
    fake = torch.tensor([[0.0], [-0.1], [-1.0], [-10.0], [-11.0]])
    # the picture at 10 has all others at 10, so that 0 is on its boundary, and nothing else but 0 is in any ball
    assert precision_recall(real, fake, k=3).precision == 1 / 5
    assert precision_recall(real, fake, k=4).precision == 4 / 5
    assert density_coverage(real, fake, k=3).density == (4 + 1) / (3 * 5)
    assert density_coverage(real, fake, k=4).density == (4 * 4 + 1) / (4 * 5)


def test_neither_order_nor_blocks_nor_units_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(45, 4), normal(35, 4, seed=1) + 0.3
    found = prdc(real, fake)
    assert prdc(real.flip(0), fake.roll(7, dims=0)) == found
    assert prdc(1024 * real, 1024 * fake) == found
    for size in (7, 16, 44):
        monkeypatch.setattr(neighbours, "BLOCK", size)
        assert prdc(real, fake) == found


def test_ranges() -> None:
    for seed in range(5):
        found = prdc(normal(40, 2, seed=seed), normal(30, 2, seed=seed + 10) * (0.2 + seed))
        assert min(found.precision, found.recall, found.coverage, found.density) >= 0
        assert max(found.precision, found.recall, found.coverage) <= 1


def test_too_few() -> None:
    with pytest.raises(ValueError, match="k = 3 need more than 3 fake images, got 3"):
        precision_recall(normal(4, 2), normal(3, 2))
    with pytest.raises(ValueError, match="k = 5 need more than 5 real images, got 5"):
        prdc(normal(5, 2), normal(9, 2))
    with pytest.raises(ValueError, match="k = 5 need more than 5 real images, got 4"):
        density_coverage(normal(4, 2), normal(1, 2))
    assert density_coverage(normal(6, 2), normal(1, 2, seed=1)).coverage >= 0


@pytest.mark.gpu
def test_on_cuda() -> None:
    real, fake = normal(300, 64), 0.9 * normal(310, 64, seed=1)
    assert prdc(real.cuda(), fake.cuda()) == prdc(real, fake)
