from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from img2img.metrics import kernel_distance as module
from img2img.metrics import neighbours
from img2img.metrics.kernel_distance import KernelDistance, kernel_distance


def features(count: int, dim: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    """Like Inception's: not negative, most of it common to all."""
    noise = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return (0.4 * noise + 0.3 + shift).relu()


def kernel(x: Tensor, y: Tensor) -> float:
    return ((x.double() @ y.double()).item() / len(x) + 1) ** 3


def by_loops(real: Tensor, fake: Tensor) -> float:
    """The definition, pair by pair."""
    n, m = len(real), len(fake)
    within_real = math.fsum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j)
    within_fake = math.fsum(kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j)
    between = math.fsum(kernel(x, y) for x in real for y in fake)
    return within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2 * between / (n * m)


def whole(real: Tensor, fake: Tensor) -> float:
    found = kernel_distance(real, fake, subsets=1)
    assert found.unbiased is not None
    return found.unbiased


@pytest.mark.parametrize(("n", "m", "dim"), [(13, 13, 5), (7, 20, 3), (2, 2, 1)])
def test_the_definition(n: int, m: int, dim: int) -> None:
    real, fake = features(n, dim), features(m, dim, seed=1, shift=0.2)
    assert whole(real.double(), fake.double()) == pytest.approx(by_loops(real, fake), rel=1e-11, abs=1e-13)


def test_subsets_by_the_definition() -> None:
    real, fake = features(20, 4).double(), features(15, 4, seed=1, shift=0.1).double()
    found = kernel_distance(real, fake, subsets=5, subset_size=6, seed=3)
    rows = [module._draw(name, count, 5, 6, 3) for name, count in (("real", 20), ("fake", 15))]
    values = torch.tensor([by_loops(real[i], fake[j]) for i, j in zip(*rows)], dtype=torch.float64)
    assert (found.value, found.std) == pytest.approx((values.mean().item(), values.std(correction=0).item()), rel=1e-10)
    assert (found.subsets, found.subset_size) == (5, 6)


def test_its_mean_over_all_samples_is_the_squared_mmd_of_the_distributions() -> None:
    """Over every sample of 3 and of 2 from distributions on three points, weighted by its probability.

    Σ (p − q)ₐ (p − q)_b k(a, b) is the distance of the distributions; the biased estimate would miss it.
    """
    points = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.1]], dtype=torch.float64)
    p, q = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)
    gram = (points @ points.T / 2 + 1) ** 3
    difference = torch.tensor(p, dtype=torch.float64) - torch.tensor(q, dtype=torch.float64)
    expected = (difference @ gram @ difference).item()
    mean = 0.0
    for real in itertools.product(range(3), repeat=3):
        for fake in itertools.product(range(3), repeat=2):
            chance = math.prod(p[i] for i in real) * math.prod(q[i] for i in fake)
            mean += chance * whole(points[list(real)], points[list(fake)])
    assert mean == pytest.approx(expected, rel=1e-12)


def test_draws_of_one_gaussian_average_to_nothing() -> None:
    """2,000 pairs of 5 and 4 samples; some values are below 0."""
    x = torch.randn(2000, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randn(2000, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one = torch.ones(5, 1, dtype=torch.float64)
    values = torch.cat([module.squared_mmd(a, b, one, one[:4]) for a, b in zip(x, y)])
    assert values.min() < 0
    assert abs(values.mean().item()) < 3 * values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("size", [50, 120])
def test_torch_fidelity_with_the_same_subsets(size: int) -> None:
    """Their indices are drawn again here.

    They are given float64: of float32 features they sum in float32, which costs them up to 2e-4 of these values.
    """
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    np = pytest.importorskip("numpy")
    real, fake = features(150, 64), features(120, 64, seed=1, shift=0.02)
    generator, rows = np.random.RandomState(2020), ([], [])
    for _ in range(8):
        rows[0].append(torch.from_numpy(generator.choice(120, size, replace=False)))
        rows[1].append(torch.from_numpy(generator.choice(150, size, replace=False)))
    fake_rows, real_rows = map(torch.stack, rows)
    theirs = kid.kid_features_to_metric(
        fake.double(), real.double(), kid_subsets=8, kid_subset_size=size, rng_seed=2020, verbose=False
    )
    expected = theirs[kid.KEY_METRIC_KID_MEAN], theirs[kid.KEY_METRIC_KID_STD]
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        values, _ = module._from_all_pairs(real.to(dtype), fake.to(dtype), real_rows, fake_rows)
        assert (values.mean().item(), values.std(correction=0).item()) == pytest.approx(expected, rel=tolerance)


def test_torch_fidelity_of_whole_sets() -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    real, fake = features(90, 32).double(), features(90, 32, seed=1, shift=0.02).double()
    theirs = kid.kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=90, verbose=False)
    assert whole(real, fake) == pytest.approx(theirs[kid.KEY_METRIC_KID_MEAN], rel=1e-10)


def test_both_ways_to_the_subsets_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """From all pairs, and subset by subset where the sets are too large for that."""
    real, fake = features(60, 8), features(70, 8, seed=1)
    every = kernel_distance(real, fake, subsets=9, subset_size=25)
    monkeypatch.setattr(module, "WHOLE_SETS_UP_TO", 69)
    single = kernel_distance(real, fake, subsets=9, subset_size=25)
    assert every.unbiased is not None
    assert single.unbiased is None
    assert (single.value, single.std) == pytest.approx((every.value, every.std), rel=1e-5)


def test_neither_blocks_nor_order_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = features(40, 6).double(), features(33, 6, seed=1).double()
    found = kernel_distance(real, fake, subsets=4, subset_size=10)
    assert whole(real.flip(0), fake.flip(0)) == pytest.approx(found.unbiased, rel=1e-11)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    monkeypatch.setattr(module, "_STRIP", 3)
    monkeypatch.setattr(module, "_ROWS", 5)
    again = kernel_distance(real, fake, subsets=4, subset_size=10)
    assert (again.value, again.std, again.unbiased) == pytest.approx(
        (found.value, found.std, found.unbiased), rel=1e-10
    )


def test_it_is_symmetric() -> None:
    real, fake = features(40, 6).double(), features(33, 6, seed=1).double()
    assert whole(real, fake) == pytest.approx(whole(fake, real), rel=1e-11)


@pytest.mark.parametrize(("offset", "error"), [(0.0, 2e-9), (10.0, 3e-6)])
def test_float32_features_lose_little(offset: float, error: float) -> None:
    """Beside float64 throughout. With a large common part a plain float32 product would be off by more than all of it."""
    real, fake = (features(300, 256, seed=seed, shift=0.01 * seed) + offset for seed in (0, 1))
    exact = whole(real.double(), fake.double())
    assert abs(whole(real, fake) - exact) < error
    if offset:
        plain = [((x @ y.T / 256 + 1) ** 3).fill_diagonal_(0) for x, y in ((real, real), (fake, fake))]
        between = ((real @ fake.T / 256 + 1) ** 3).mean()
        naive = ((plain[0] + plain[1]).sum() / (300 * 299) - 2 * between).item()
        assert abs(naive - exact) > 100 * error


def test_subsets_are_drawn_without_replacement_by_the_seed() -> None:
    rows = module._draw("real", 30, 50, 20, seed=0)
    assert rows.shape == (50, 20)
    assert all(len(set(row.tolist())) == 20 for row in rows)
    assert rows.unique().numel() == 30
    assert not rows.equal(module._draw("fake", 30, 50, 20, seed=0))
    real, fake = features(60, 8), features(70, 8, seed=1)
    first, again, other = (kernel_distance(real, fake, 5, 20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.value != other.value
    assert first.unbiased == other.unbiased


def test_a_subset_is_no_larger_than_the_smaller_set() -> None:
    real, fake = features(12, 4).double(), features(9, 4, seed=1).double()
    assert kernel_distance(real, fake, subsets=3).subset_size == 9
    equal = kernel_distance(real, features(12, 4, seed=2).double(), subsets=3)
    assert equal.subset_size == 12
    assert equal == KernelDistance(
        pytest.approx(equal.unbiased), pytest.approx(0, abs=1e-14), equal.unbiased, subsets=3, subset_size=12
    )


def test_nearer_sets_are_nearer() -> None:
    real = features(500, 16)
    distances = [whole(real, features(500, 16, seed=1, shift=shift)) for shift in (0.0, 0.05, 0.1, 0.2)]
    assert distances == sorted(distances)
    assert abs(distances[0]) < 0.1 * distances[1]


def test_too_few() -> None:
    with pytest.raises(ValueError, match="two images of each set, got 5 real and 1 fake"):
        kernel_distance(features(5, 3), features(1, 3))


@pytest.mark.gpu
def test_on_cuda() -> None:
    real, fake = features(300, 256), features(310, 256, seed=1, shift=0.01)
    on_cpu = kernel_distance(real.double(), fake.double(), 5, 100)
    on_cuda = kernel_distance(real.cuda(), fake.cuda(), 5, 100)
    assert (on_cuda.value, on_cuda.std) == pytest.approx((on_cpu.value, on_cpu.std), rel=1e-6)
