from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from img2img.metrics.frechet import Gaussian, factored, fit, frechet_distance_of
from img2img.metrics.intervals import _gap, _gap_within, _self_pairs, _student, frechet_interval, kernel_interval
from img2img.metrics.kernel_distance import squared_mmd


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The populations, and how often intervals hold their true distance: the full table is the script's."""
    return load_script("measures_scale")


def two_sets(count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Sets of unlike means and covariances."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return real, 1.3 * fake[:-1] + 0.2


# --- coverage of known distances --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dim", "count"),
    [("shifted", 2, 500), ("near", 8, 200), ("apart", 32, 200)],
)
def test_frechet_intervals_hold_the_true_distance(script: ModuleType, name: str, dim: int, count: int) -> None:
    """Of 100 at 95 %, fewer than 88 would be luck of 1 in 250, and so would all be, nearly."""
    population = script.make_population(name, dim)
    found = script.cover(frechet_interval, script.true_frechet(population), population, count, 100)
    assert 0.88 <= found.held < 1
    assert found.above <= 0.07


@pytest.mark.parametrize(("dim", "count"), [(8, 200), (64, 16), (64, 64)])
def test_equal_populations_are_not_told_apart(script: ModuleType, dim: int, count: int) -> None:
    """The true distance is 0: only the low end can miss, in 1 of 40. In many dimensions the samples' own is far above."""
    population = script.make_population("equal", dim)
    found = script.cover(frechet_interval, 0, population, count, 40)
    assert found.below == 0
    assert found.above <= 0.1
    real, fake = population.draw(count, torch.Generator().manual_seed(0))
    interval = frechet_interval(real, fake)
    assert interval.low == 0
    assert dim == 8 or frechet_distance_of(real, fake) > interval.high


@pytest.mark.parametrize("count", [16, 32])
def test_bounds_hold_the_true_distance_with_fewer_samples_than_features(script: ModuleType, count: int) -> None:
    """And the low end is not merely 0: these populations are seen to differ."""
    population = script.make_population("apart", 64)
    true = script.true_frechet(population)
    found = script.cover(frechet_interval, true, population, count, 40)
    assert found.held >= 0.9
    interval = frechet_interval(*population.draw(count, torch.Generator().manual_seed(0)))
    assert interval.kind == "jackknife bounds"
    assert interval.low > 0.2 * true


@pytest.mark.parametrize(("name", "count"), [("equal", 200), ("near", 200), ("apart", 200)])
def test_kernel_intervals_hold_the_true_distance(script: ModuleType, name: str, count: int) -> None:
    population = script.make_population(name, 8)
    found = script.cover(kernel_interval, script.true_kernel(population), population, count, 60)
    assert found.held >= 0.86
    assert found.above <= 0.1


def test_the_true_kernel_distance(script: ModuleType) -> None:
    """The closed form, against the mean kernel of a million pairs of independent samples."""
    population = script.make_population("apart", 3)
    pairs = [population.draw(1_000_000, torch.Generator().manual_seed(seed)) for seed in (1, 2)]

    def kernel(x: Tensor, y: Tensor) -> float:
        return ((x * y).sum(dim=1) / 3 + 1).pow(3).mean().item()

    found = kernel(pairs[0][0], pairs[1][0]) + kernel(pairs[0][1], pairs[1][1]) - 2 * kernel(pairs[0][0], pairs[0][1])
    assert script.true_kernel(population) == pytest.approx(found, rel=0.03)


# --- the construction -------------------------------------------------------------------------------------------------


def test_leaving_out_one_by_one() -> None:
    """With as many groups as samples beside a known Gaussian no shuffle matters: the jackknife, by brute force."""
    real, fake = two_sets(30, 4)
    known = fit(fake)
    found = frechet_interval(real, known, resamples=30)
    count = len(real)
    whole = frechet_distance_of(real, known)
    left_out = [frechet_distance_of(torch.cat((real[:i], real[i + 1 :])), known) for i in range(count)]
    bias = (count - 1) * (np.mean(left_out) - whole)
    variance = (count - 1) * np.var(left_out)
    middle = math.sqrt(whole - bias / 2)
    half = 2.045 * math.sqrt(variance) / (2 * middle)  # Student's t of 29 degrees of freedom
    assert found.resamples == count
    assert found.low == pytest.approx((middle - half) ** 2 - bias / 2, rel=1e-3)
    assert found.high == pytest.approx((middle + half) ** 2 - bias / 2, rel=1e-3)
    assert frechet_interval(known, real, resamples=30).high == pytest.approx(found.high)


def test_students_t() -> None:
    """The usual tables."""
    for level, freedom, expected in ((0.9, 9, 1.833), (0.95, 7, 2.365), (0.95, 19, 2.093), (0.99, 19, 2.861)):
        assert _student(level, freedom) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("count", [12, 200])
def test_what_a_basis_holds_is_at_most_the_distance(count: int) -> None:
    """Of any orthonormal columns; all of them hold the whole distance."""
    dim = 20
    sets = two_sets(count, dim)
    sides = [factored(features) for features in sets]
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    inner = [[factored(features @ axes[:, :kept]) for features in sets] for kept in (1, 5, 10, dim)]
    gaps = [_gap_within(*sides, *inner_sides) for inner_sides in inner]
    assert max(gaps) <= _gap(*sides) * (1 + 1e-6)
    assert gaps[-1] == pytest.approx(_gap(*sides), rel=1e-6)
    assert gaps == sorted(gaps)


def test_the_gap_is_the_frechet_distance() -> None:
    for count in (12, 200):
        real, fake = two_sets(count, 20)
        assert _gap(factored(real), factored(fake)) == pytest.approx(frechet_distance_of(real, fake), rel=1e-6)


def test_what_self_pairs_add() -> None:
    """The squared MMD of all pairs, each sample with itself included, less the unbiased one."""
    real, fake = two_sets(50, 3)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (x @ y.T / 3 + 1).pow(3).mean().item()

    with_self = kernel(real, real) + kernel(fake, fake) - 2 * kernel(real, fake)
    ones = [torch.ones(len(side), 1, dtype=torch.float64) for side in (real, fake)]
    expected = with_self - squared_mmd(real, fake, *ones).item()
    assert _self_pairs(real, 0) + _self_pairs(fake, 0) == pytest.approx(expected, rel=1e-9)


# --- what does not matter, and what does ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [12, 100])
def test_rotation_changes_nothing_and_scale_squares(count: int) -> None:
    real, fake = two_sets(count, 20)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    expected = frechet_interval(real, fake)
    for scale in (1, 10):
        found = frechet_interval(scale * real @ turn + 5, scale * fake @ turn + 5)
        assert found.low == pytest.approx(scale**2 * expected.low, rel=1e-5)
        assert found.high == pytest.approx(scale**2 * expected.high, rel=1e-5)


@pytest.mark.parametrize("make", [frechet_interval, kernel_interval])
def test_the_same_seed_gives_the_same_interval(make) -> None:
    real, fake = two_sets(100, 5)
    assert make(real, fake, seed=3) == make(real, fake, seed=3)
    assert make(real, fake, seed=3) != make(real, fake, seed=4)
    narrow, wide = make(real, fake, level=0.5), make(real, fake, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.level == 0.99


@pytest.mark.parametrize("make", [frechet_interval, kernel_interval])
def test_sorted_classes_are_shuffled(make) -> None:
    """Left out class by class as they come, they would make the interval 4.7 times as wide."""
    real, fake = two_sets(400, 3)
    real[200:] += 5
    fake[200:] += 5
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    in_order, mixed = make(real, fake), make(real[order], fake[order[order < 399]])
    assert 0.4 < (in_order.high - in_order.low) / (mixed.high - mixed.low) < 2.5


def test_a_set_beside_itself() -> None:
    for count in (12, 100):
        real, _ = two_sets(count, 20)
        assert frechet_interval(real, real).low == 0
        assert kernel_interval(real, real).low == 0
    same = torch.ones(10, 4)
    assert (frechet_interval(same, same).low, frechet_interval(same, same).high) == (0, 0)


def test_collapsed_samples_need_no_care() -> None:
    """Fakes that are few pictures over and over: covariances of rank 2, on either side of n = d."""
    for count in (30, 200):
        real, fake = two_sets(count, 40)
        fake = fake[torch.arange(count) % 3]
        interval = frechet_interval(real, fake)
        assert 0 < interval.low < interval.high < math.inf


@pytest.mark.parametrize("make", [frechet_interval, kernel_interval])
def test_few_samples_have_no_interval(make) -> None:
    real, fake = two_sets(8, 3)
    assert make(real, real).resamples == 8
    with pytest.raises(ValueError, match="at least 8 samples of each set, got 7"):
        make(real, fake)
    with pytest.raises(ValueError, match="at least 8 resamples, got 7"):
        make(real, real, resamples=7)


def test_statistics_are_taken_as_the_truth() -> None:
    """Of one and the same Gaussian the fake side's noise alone is left, so that the interval is narrower."""
    real, fake = two_sets(200, 4)
    known = Gaussian(*(getattr(fit(real), name) for name in ("mean", "covariance", "count")))
    found, both = frechet_interval(known, fake), frechet_interval(real, fake)
    assert found.high - found.low < both.high - both.low
