from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from img2img.metrics import neighbours as module
from img2img.metrics.neighbours import Screen, memorisation, nearest, nearest_others


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_differences(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) float64 distances, each from the difference of two vectors."""
    return torch.stack([(row.double() - y.double()).square().sum(dim=1).sqrt() for row in x])


def in_groups(count: int, dim: int, seed: int = 0) -> Tensor:
    """Three groups of points within 1e-4 of one another, at distances of about 14 √dim."""
    centres = 10 * normal(3, dim, seed=99)
    return centres[torch.arange(count) % 3] + 1e-4 * normal(count, dim, seed=seed)


def proven(points: Tensor, dtype: torch.dtype) -> Tensor:
    """(n,) whether the search knows that products of this type have missed no nearest other."""
    screen = Screen(points, points, dtype)
    smallest = module._among_others(screen, len(points), count=9)
    return module._measured(points, points, 1, screen, smallest)[2]


SETS = {
    "normal": lambda seed: normal(60, 20, seed=seed),
    "far from zero": lambda seed: normal(60, 20, seed=seed) + 1000,
    "wide": lambda seed: normal(40, 1500, seed=seed),
    "tight groups": lambda seed: in_groups(90, 20, seed),
    "on a line": lambda seed: normal(60, 1, seed=seed),
    "whole numbers": lambda seed: (2 * normal(60, 3, seed=seed)).round(),
    "few": lambda seed: normal(5, 4, seed=seed),
    "float64": lambda seed: normal(60, 20, seed=seed).double() + 1e6,
    "one place": lambda seed: torch.full((40, 7), 0.1),
}


@pytest.mark.parametrize("name", SETS)
def test_brute_force(name: str) -> None:
    """Distances as float64 differences give them, and indices of what lies there."""
    x, y = SETS[name](0), SETS[name](1)
    expected = by_differences(x, y)
    distances, indices = nearest(x, y, k=4)
    torch.testing.assert_close(distances, expected.sort(dim=1).values[:, :4], rtol=1e-13, atol=0)
    torch.testing.assert_close(expected.gather(1, indices), distances, rtol=1e-13, atol=0)
    assert all(len(set(row)) == 4 for row in indices.tolist())


@pytest.mark.parametrize("name", SETS)
def test_brute_force_within_a_set(name: str) -> None:
    x = SETS[name](0)
    expected = by_differences(x, x).fill_diagonal_(math.inf)
    distances, indices = nearest_others(x, k=4)
    torch.testing.assert_close(distances, expected.sort(dim=1).values[:, :4], rtol=1e-13, atol=0)
    torch.testing.assert_close(expected.gather(1, indices), distances, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_hold(name: str, dtype: torch.dtype) -> None:
    x, y = SETS[name](0), SETS[name](1)
    screen = Screen(x, y, dtype)
    exact = by_differences(x, y).square()
    for columns, lower in screen.lower(slice(3, 30)):
        rows = slice(3, 3 + len(lower))
        upper = lower + screen.x_margins[rows, None] + screen.y_margins[columns]
        assert (lower.double() <= exact[rows, columns]).all()
        assert (exact[rows, columns] <= upper.double()).all()


def test_bounds_are_near() -> None:
    """Of 2,048 features: within 3e-4 of the distances of unlike vectors, so that little is left in doubt."""
    x, y = normal(50, 2048), normal(50, 2048, seed=1)
    screen = Screen(x, y)
    ((_, lower),) = screen.lower(slice(0, 50))
    exact = by_differences(x, y).square()
    assert ((exact - lower) / exact).max() < 3e-4


def test_where_the_products_fail() -> None:
    """Neighbours at 4e-4 among groups at 60: the float32 form knows nothing of them, and the search sees that."""
    x = in_groups(90, 20)
    exact = by_differences(x, x).fill_diagonal_(math.inf).amin(dim=1)
    squared = x.square().sum(1)[:, None] + x.square().sum(1) - 2 * x @ x.T
    naive = squared.clamp(min=0).sqrt().fill_diagonal_(math.inf).amin(dim=1)
    assert ((naive - exact).abs() / exact).median() > 0.9
    assert not proven(x, torch.float32).any()
    assert proven(x, torch.float64).all()


def test_what_is_clear_is_not_done_twice() -> None:
    assert proven(normal(300, 64), torch.float32).all()
    assert proven(normal(300, 64) + 1000, torch.float32).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(50, 6), normal(70, 6, seed=1)
    whole, others = nearest(x, y, k=12), nearest_others(y, k=12)
    for size in (1, 7, 64):
        monkeypatch.setattr(module, "BLOCK", size)
        monkeypatch.setattr(module, "_ROWS", size)
        monkeypatch.setattr(module, "_VALUES", size)
        for found, expected in ((nearest(x, y, k=12), whole), (nearest_others(y, k=12), others)):
            torch.testing.assert_close(found[0], expected[0], rtol=1e-14, atol=0)
            assert found[1].equal(expected[1])


def test_order_does_not_matter() -> None:
    x, y = normal(50, 6), normal(70, 6, seed=1)
    distances, indices = nearest(x, y, k=3)
    moved, moved_indices = nearest(x.flip(0), y.flip(0), k=3)
    assert moved.flip(0).equal(distances)
    assert (69 - moved_indices.flip(0)).equal(indices)


def test_an_equal_point_is_another() -> None:
    points = torch.tensor([[0.0, 1.0], [5.0, 5.0], [0.0, 1.0], [9.0, 5.0]])
    distances, indices = nearest_others(points)
    assert distances[:, 0].tolist() == [0.0, 4.0, 0.0, 4.0]
    assert indices[:, 0].tolist() == [2, 3, 0, 1]


def test_too_few_to_search() -> None:
    with pytest.raises(ValueError, match="4 nearest neighbours need 4 images to be sought among, got 3"):
        nearest(normal(5, 2), normal(3, 2), k=4)
    with pytest.raises(ValueError, match="need 3 images to be sought among, got 2"):
        nearest_others(normal(3, 2), k=3)


@pytest.mark.parametrize("held_out", [None, normal(300, 32, seed=2)])
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_planted_copies_are_found_and_named(held_out: Tensor | None, noise: float) -> None:
    """Also where the features of one picture differ a little, as they do between batches."""
    train, fake = normal(400, 32), normal(200, 32, seed=1)
    planted, source = torch.tensor([3, 50, 51, 120, 199]), torch.tensor([7, 399, 7, 0, 123])
    fake[planted] = train[source] + noise * normal(5, 32, seed=3)
    found = memorisation(train, fake, held_out)
    assert found.copies == 5
    assert found.distances.argsort()[:5].sort().values.equal(planted)
    assert found.indices[planted].equal(source)
    assert found.share >= 5 / 200
    if noise == 0:
        assert found.distances[planted].tolist() == [0.0] * 5


def test_summary_by_hand() -> None:
    """On the line: training at 0 and 10, held out at distances 1 to 4, fakes at 0, 1 and 3."""
    train = torch.tensor([[0.0], [10.0]])
    held_out, fake = torch.tensor([[1.0], [8.0], [-3.0], [14.0]]), torch.tensor([[10.0], [1.0], [7.0]])
    found = memorisation(train, fake, held_out)
    assert found.distances.tolist() == [0.0, 1.0, 3.0]
    assert found.indices.tolist() == [1, 0, 1]
    assert found.threshold == 1.0
    assert found.share == pytest.approx(2 / 3)
    assert found.expected_share == 0.25
    assert found.copies == 1
    # pairs in which the fake is farther: 0, ½ and 2½ of four; expected 6, variance 12 · 8 / 12
    assert found.z == pytest.approx((3 - 6) / math.sqrt(8))


def test_without_held_out_pictures_training_pictures_stand_in() -> None:
    train = normal(250, 8)
    found = memorisation(train, normal(40, 8, seed=1))
    usual = by_differences(train, train).fill_diagonal_(math.inf).amin(dim=1).sort().values
    assert found.threshold == pytest.approx(usual[2].item(), rel=1e-13)  # the third of 250
    # of two that are each other's nearest both count
    assert found.expected_share == (usual < found.threshold * (1 + 1e-12)).double().mean() == 4 / 250


def test_one_in_a_hundred_is_expected() -> None:
    assert memorisation(normal(50, 8), normal(9, 8, seed=1), normal(700, 8, seed=2)).expected_share == 0.01


def test_real_pictures_are_no_copies() -> None:
    """Fakes of the data's own distribution: z over 200 draws is about standard normal, the share about as expected."""
    scores, shares, expected = [], [], []
    for seed in range(0, 600, 3):
        train, fake, held_out = (normal(40, 6, seed=seed + i) for i in range(3))
        found = memorisation(train, fake, held_out)
        scores.append(found.z)
        shares.append(found.share)
        expected.append(found.expected_share)
        assert found.copies == 0
    z = torch.tensor(scores)
    assert abs(z.mean()) < 3 / math.sqrt(200)
    assert 0.85 < z.std() < 1.15
    # the nearest of 40 held out: a fake is as near with probability 1/41
    assert set(expected) == {1 / 40}
    assert sum(shares) / len(shares) == pytest.approx(1 / 41, abs=3 * math.sqrt(1 / 41 / 200 / 40 * 2))


def test_z_points_the_right_way() -> None:
    train, held_out = normal(200, 16), normal(200, 16, seed=1)
    near = train + 0.3 * normal(200, 16, seed=2)
    far = 2 * normal(200, 16, seed=3)
    assert memorisation(train, near, held_out).z < -10
    assert memorisation(train, far, held_out).z > 10
    assert memorisation(train, near, held_out).share > 0.9
    assert memorisation(train, far, held_out).share == 0


def test_mann_whitney_as_scipy_counts_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(50).round(decimals=1), (normal(70, seed=1) + 0.2).round(decimals=1)  # with ties
    u = stats.mannwhitneyu(x.numpy(), y.numpy()).statistic
    assert module._mann_whitney_z(x, y) == pytest.approx((u - 1750) / math.sqrt(50 * 70 * 121 / 12), rel=1e-12)


@pytest.mark.gpu
def test_on_cuda() -> None:
    x, y = normal(300, 256), normal(310, 256, seed=1)
    distances, indices = nearest(x.cuda(), y.cuda(), k=4)
    expected, expected_indices = nearest(x, y, k=4)
    torch.testing.assert_close(distances.cpu(), expected, rtol=1e-13, atol=0)
    assert indices.cpu().equal(expected_indices)
