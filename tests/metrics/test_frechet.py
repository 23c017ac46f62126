from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from img2img.draws import permutation
from img2img.metrics.frechet import (
    Gaussian,
    Moments,
    fit,
    frechet_distance,
    frechet_distance_of,
    frechet_infinity,
    frechet_per_class,
)

DIM = 24


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(dim, dim, seed=seed)).Q


def gaussian(mean: Tensor, covariance: Tensor) -> Gaussian:
    return Gaussian(mean, covariance, 1000)


def two_sets(count: int, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Sets of unlike means and covariances, float32 as features are."""
    real = normal(count, dim) @ normal(dim, dim, seed=1) + 3
    fake = normal(count + 7, dim, seed=2) @ normal(dim, dim, seed=3) + 2.5
    return real.float(), fake.float()


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_equal_covariances_leave_the_means() -> None:
    """Σ₁ = Σ₂ gives |μ₁ − μ₂|²."""
    root = normal(DIM, DIM)
    step = normal(DIM, seed=1)
    found = frechet_distance(gaussian(step * 0, root @ root.T), gaussian(step, root @ root.T))
    assert found == pytest.approx(step.square().sum().item(), rel=1e-10)


def test_commuting_covariances() -> None:
    """Of common eigenvectors: the sum of (√λ₁ − √λ₂)², zeros among them; c²Σ beside Σ is (c − 1)² tr Σ."""
    axes, zero = rotation(DIM), torch.zeros(DIM, dtype=torch.float64)
    first, second = normal(DIM, seed=1).square(), normal(DIM, seed=2).square()
    first[:5] = 0
    second[3:9] = 0
    expected = (first.sqrt() - second.sqrt()).square().sum().item()
    for turn in (torch.eye(DIM, dtype=torch.float64), axes):
        covariances = [(turn * values) @ turn.T for values in (first, second)]
        found = frechet_distance(*(gaussian(zero, covariance) for covariance in covariances))
        assert found == pytest.approx(expected, rel=1e-7)
    scaled = frechet_distance(gaussian(zero, covariances[0]), gaussian(zero, 9 * covariances[0]))
    assert scaled == pytest.approx(4 * first.sum().item(), rel=1e-10)


def test_two_dimensions() -> None:
    """tr (Σ₁Σ₂)^½ of 2 × 2 matrices is √(tr(Σ₁Σ₂) + 2√(det Σ₁ det Σ₂))."""
    zero = torch.zeros(2, dtype=torch.float64)
    first, second = torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double(), torch.tensor([[1.0, -0.9], [-0.9, 3.0]]).double()
    root = ((first @ second).trace() + 2 * (first.det() * second.det()).sqrt()).sqrt()
    expected = (first.trace() + second.trace() - 2 * root).item()
    assert frechet_distance(gaussian(zero, first), gaussian(zero, second)) == pytest.approx(expected, rel=1e-12)


def test_sets_in_orthogonal_subspaces_share_nothing() -> None:
    """No root is left of Σ₁Σ₂ = 0: both traces count whole, however singular the covariances are."""
    real, fake = torch.zeros(9, DIM), torch.zeros(30, DIM)
    real[:, :4], fake[:, 4:] = normal(9, 4).float(), normal(30, DIM - 4, seed=1).float()
    fitted = fit(real), fit(fake)
    means = (fitted[0].mean - fitted[1].mean).square().sum()
    expected = (means + fitted[0].covariance.trace() + fitted[1].covariance.trace()).item()
    assert frechet_distance(*fitted) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance_of(real, fake) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("count", [5, 60])
def test_one_picture_over_and_over(count: int) -> None:
    """It has no covariance: what is left are the means and the other's trace."""
    real, _ = two_sets(60)
    fake = torch.full((count, DIM), 2.0)
    fitted = fit(real)
    expected = ((fitted.mean - 2).square().sum() + fitted.covariance.trace()).item()
    assert frechet_distance_of(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fitted, fit(fake)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance_of(fake, fake) == 0


# --- routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, DIM, DIM + 1, 400])
def test_all_routes_agree(count: int) -> None:
    """From statistics, from samples, and from one of each, with fewer samples than features and with more."""
    real, fake = two_sets(count)
    expected = frechet_distance(fit(real), fit(fake))
    scale = fit(real).covariance.trace().item()
    for found in (
        frechet_distance_of(real, fake),
        frechet_distance_of(fit(real), fake),
        frechet_distance_of(real, fit(fake)),
        frechet_distance_of(fake, real),
        frechet_distance(fit(fake), fit(real)),
    ):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7 * scale)


@pytest.mark.parametrize("count", [2, 10, DIM, 400])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    real, _ = two_sets(count)
    again = real[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    scale = fit(real).covariance.trace().item()
    for found in (
        frechet_distance_of(real, real),
        frechet_distance_of(real, again),
        frechet_distance(fit(real), fit(again)),
        frechet_distance_of(fit(real), again),
    ):
        assert 0 <= found <= 1e-6 * scale


@pytest.mark.parametrize("count", [10, 400])
def test_rotation_and_a_common_shift_change_nothing_and_scale_squares(count: int) -> None:
    real, fake = (features.double() for features in two_sets(count))
    turn, step = rotation(DIM), 100 * normal(DIM)
    expected = frechet_distance_of(real, fake)
    assert frechet_distance_of(real @ turn + step, fake @ turn + step) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance_of(3 * real, 3 * fake) == pytest.approx(9 * expected, rel=1e-9)


# --- other tools ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 400], ids=["fewer samples than features", "more"])
def test_agrees_with_other_tools(count: int) -> None:
    pytorch_fid = pytest.importorskip("pytorch_fid.fid_score")
    torch_fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    real, fake = (features.double() for features in two_sets(count))
    found = frechet_distance_of(real, fake)
    statistics = [(np.mean(x.numpy(), axis=0), np.cov(x.numpy(), rowvar=False)) for x in (real, fake)]
    assert pytorch_fid.calculate_frechet_distance(*statistics[0], *statistics[1]) == pytest.approx(found, rel=1e-6)
    of_torch_fidelity = torch_fidelity.fid_statistics_to_metric(
        *(torch_fidelity.fid_features_to_statistics(features) for features in (real, fake)), verbose=False
    )
    assert of_torch_fidelity["frechet_inception_distance"] == pytest.approx(found, rel=1e-6)


# --- moments ----------------------------------------------------------------------------------------------------------


def assert_same(found: Gaussian, expected: Gaussian, rtol: float = 1e-11) -> None:
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=rtol, atol=1e-11)


def test_moments_are_numpys() -> None:
    features = two_sets(300)[0].double()
    expected = Gaussian(features.mean(dim=0), torch.from_numpy(np.cov(features.numpy(), rowvar=False)), len(features))
    assert_same(fit(features), expected)
    parts = Moments(DIM)
    for part in features.split([1, 150, 2, 147]):
        parts.update(part)
    assert_same(parts.gaussian(), expected)
    halves = [Moments(DIM), Moments(DIM), Moments(DIM)]
    halves[1].update(features[200:])
    halves[2].update(features[:200])
    for half in halves[1:]:
        halves[0].merge(half)
    halves[0].merge(Moments(DIM))
    assert_same(halves[0].gaussian(), expected)


def test_moments_without_a_part_are_those_of_the_rest() -> None:
    features = two_sets(300)[0]
    whole, part = Moments(DIM), Moments(DIM)
    whole.update(features)
    part.update(features[40:70])
    assert_same(whole.without(part).gaussian(), fit(torch.cat((features[:40], features[70:]))))


def test_a_huge_mean_costs_no_digits() -> None:
    """Multiples of 1/256 plus 2⁴⁰ are exact in float64, so that the covariance is that without 2⁴⁰."""
    features = (256 * normal(500, 6)).round() / 256
    far = features + 2.0**40
    expected = fit(features)
    moments = Moments(6)
    for part in far.split(77):
        moments.update(part)
    torch.testing.assert_close(moments.gaussian().covariance, expected.covariance, rtol=1e-13, atol=1e-13)
    other = Moments(6)
    other.update(far[300:])
    first = Moments(6)
    first.update(far[:300])
    first.merge(other)
    torch.testing.assert_close(first.gaussian().covariance, expected.covariance, rtol=1e-13, atol=1e-13)


RANKS = """
import os, sys
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from img2img.metrics.frechet import Moments

rank = 0 if os.fork() else 1
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
features = torch.load(f"{sys.argv[1]}/features.pt", weights_only=True)
for name, first in (("uneven", 31), ("empty", 0)):
    moments = Moments(features.shape[1])
    for part in (features[:first] if rank == 0 else features[first:]).split(9):
        moments.update(part)
    moments.all_reduce()
    found = moments.gaussian()
    torch.save([found.mean, found.covariance, found.count], f"{sys.argv[1]}/{name}-{rank}.pt")
dist.destroy_process_group()
if rank == 0:
    assert os.wait()[1] == 0
"""


def test_moments_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    features = two_sets(100)[0].double() + 1e9
    torch.save(features, tmp_path / "features.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", RANKS, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    expected = fit(features)
    for name in ("uneven", "empty"):
        first, second = (Gaussian(*torch.load(tmp_path / f"{name}-{rank}.pt")) for rank in (0, 1))
        assert torch.equal(first.mean, second.mean)
        assert torch.equal(first.covariance, second.covariance)
        assert first.count == expected.count
        torch.testing.assert_close(first.mean, expected.mean, rtol=1e-15, atol=0)
        torch.testing.assert_close(first.covariance, expected.covariance, rtol=1e-11, atol=1e-11)


def test_alone_all_reduce_does_nothing() -> None:
    features = two_sets(50)[0]
    moments = Moments(DIM)
    moments.update(features)
    moments.all_reduce()
    assert_same(moments.gaussian(), fit(features), rtol=0)


# --- without the bias of few samples ----------------------------------------------------------------------------------


def test_infinity_is_a_line_through_means_over_disjoint_parts() -> None:
    real, fake = two_sets(6 * 20, dim=4)
    fake = fake[:120]
    found = frechet_infinity(real, fake, seed=5)
    order = permutation(5, "frechet-infinity", 0, 120)
    expected = [
        float(np.mean([frechet_distance_of(real, fake[part]) for part in np.split(order, parts)]))
        for parts in (1, 2, 3)
    ]
    assert found.sizes == (120, 60, 40)
    assert found.count == 120
    assert found.values == pytest.approx(expected, rel=1e-9)
    assert found.value + found.slope * 2 / 120 == pytest.approx(np.mean(expected), rel=1e-9)
    assert found.slope / 120 == pytest.approx((expected[2] - expected[0]) / 2, rel=1e-9)
    assert frechet_infinity(fit(real), fake, seed=5).value == pytest.approx(found.value, rel=1e-9)
    assert frechet_infinity(real, fake, seed=6).value != found.value


def test_infinity_removes_most_of_the_bias() -> None:
    """Samples of the real Gaussian itself, at n = 10 d, over 20 sets: at most a tenth of the bias is left."""
    identity = torch.eye(DIM, dtype=torch.float64)
    real = gaussian(torch.zeros(DIM, dtype=torch.float64), identity)
    found = [frechet_infinity(real, normal(10 * DIM, DIM, seed=seed)) for seed in range(20)]
    assert abs(np.mean([one.value for one in found])) < 0.1 * np.mean([one.values[0] for one in found])


def test_infinity_refuses_parts_that_are_smaller_than_the_features() -> None:
    real, fake = two_sets(60)
    with pytest.raises(ValueError, match="24 features need 75 fake samples to extrapolate, got 67"):
        frechet_infinity(real, fake)


# --- per class --------------------------------------------------------------------------------------------------------


def test_swapped_classes_are_seen_within_classes_alone() -> None:
    real, _ = two_sets(40)
    real[20:] += 10
    labels = ["cat"] * 20 + ["dog"] * 20
    swapped = ["dog"] * 20 + ["cat"] * 20
    assert frechet_distance_of(real, real) < 1e-3
    assert frechet_per_class(real, labels, real, labels).mean < 1e-3
    found = frechet_per_class(real, labels, real, swapped)
    between = frechet_distance_of(real[:20], real[20:])
    assert found.distances == {"cat": pytest.approx(between), "dog": pytest.approx(between)}
    assert found.mean == pytest.approx(between)


def test_classes_weigh_alike_and_may_come_in_any_order() -> None:
    real, fake = two_sets(60)
    real_labels = [row % 3 for row in range(len(real))]
    fake_labels = [0 if row % 10 else 1 + row % 20 // 10 for row in range(len(fake))]
    found = frechet_per_class(real, real_labels, fake, fake_labels)
    assert list(found.distances) == [0, 1, 2]
    assert found.mean == pytest.approx(sum(found.distances.values()) / 3)
    order = permutation(0, "test", 0, len(fake))
    shuffled = frechet_per_class(real, real_labels, fake[order], [fake_labels[row] for row in order])
    assert shuffled.distances == pytest.approx(found.distances, rel=1e-9)


def test_a_class_without_two_samples_is_named() -> None:
    real, fake = two_sets(6)
    with pytest.raises(ValueError, match="class 1 has 5 real and 1 fake samples; each side needs two"):
        frechet_per_class(real[:5], [1] * 5, fake[:1], [1])
    with pytest.raises(ValueError, match="class 7 has 0 real"):
        frechet_per_class(real, [0] * 6, fake, [0] * 9 + [7] * 4)


# --- what cannot be measured ------------------------------------------------------------------------------------------


def test_fewer_than_two_samples_have_no_covariance() -> None:
    real, fake = two_sets(8)
    for few in (real[:0], real[:1]):
        with pytest.raises(ValueError, match=f"at least two samples, got {len(few)}"):
            fit(few)
        with pytest.raises(ValueError, match=f"at least two samples, got {len(few)}"):
            frechet_distance_of(few, fake)


def test_features_of_different_networks_are_refused() -> None:
    real, fake = two_sets(8)
    with pytest.raises(ValueError, match="real has 24 features and fake 20"):
        frechet_distance_of(real, fake[:, :20])


@pytest.mark.parametrize("count", [8, 60])
def test_features_that_are_no_numbers_are_refused(count: int) -> None:
    real, fake = two_sets(count)
    fake[3, 4] = float("nan")
    with pytest.raises(ValueError, match="some features are NaN or infinite"):
        frechet_distance_of(real, fake)
