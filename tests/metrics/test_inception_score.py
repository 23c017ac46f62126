from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from img2img.draws import permutation
from img2img.metrics import inception_score as module
from img2img.metrics.inception_score import inception_score


def some_logits(count: int, classes: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_the_same_opinion_of_everything_scores_one() -> None:
    assert inception_score(torch.zeros(40, 7)) == module.InceptionScore(1.0, 0.0, 10)
    alike = some_logits(1, 7).expand(40, 7)
    assert inception_score(alike).mean == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_certain_and_even_over_the_classes_scores_their_number(size: float) -> None:
    """Also where all other classes' probabilities are zero in float64, of which logarithms would be taken."""
    logits = size * torch.eye(8).repeat(5, 1)
    found = inception_score(logits, splits=1)
    assert found.mean == pytest.approx(8, rel=1e-12)


def test_by_hand() -> None:
    """p = (3/4, 1/4) and (1/4, 3/4): KL to (1/2, 1/2) is log 2 − H(1/4), for both."""
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert inception_score(logits, splits=1).mean == pytest.approx(2 * math.exp(-entropy), rel=1e-7)


def test_a_constant_added_to_a_pictures_logits_changes_nothing() -> None:
    logits = some_logits(30, 5).double()
    moved = inception_score(logits + 1e3 * torch.arange(30)[:, None], splits=3)
    assert moved.mean == pytest.approx(inception_score(logits, splits=3).mean, rel=1e-12)


def test_it_is_between_one_and_the_number_of_classes() -> None:
    for scale in (0.1, 1.0, 10.0, 1000.0):
        found = inception_score(scale * some_logits(100, 6), splits=5)
        assert 1 <= found.mean <= 6


def test_sorted_by_class_is_shuffled_first() -> None:
    """Ten classes in a row: in that order every split holds one class and scores 1."""
    logits = 50 * torch.eye(10).repeat_interleave(100, dim=0)
    in_order = module._split_scores(logits, 10, torch.arange(1000))
    torch.testing.assert_close(in_order, torch.ones(10, dtype=torch.float64))
    assert inception_score(logits).mean > 9


def test_the_seed_decides() -> None:
    logits = some_logits(100, 6)
    assert inception_score(logits, seed=1) == inception_score(logits, seed=1)
    assert inception_score(logits, seed=1) != inception_score(logits, seed=2)
    assert inception_score(logits, splits=1, seed=1).mean == pytest.approx(
        inception_score(logits, splits=1, seed=2).mean, rel=1e-13
    )


def test_a_remainder_is_spread_over_the_splits() -> None:
    """11 pictures in 4 splits: 2, 3, 3 and 3, each scored for itself."""
    logits, order = some_logits(11, 3), torch.arange(11)
    scores = module._split_scores(logits, 4, order)
    parts = [logits[0:2], logits[2:5], logits[5:8], logits[8:11]]
    torch.testing.assert_close(scores, torch.stack([module._score(part) for part in parts]), rtol=0, atol=0)


def test_mean_and_deviation_over_splits() -> None:
    """Two splits of two pictures: one split of two certain classes (2), one of a single one (1)."""
    logits = 1e4 * torch.eye(2)[[0, 1, 0, 0]]
    scores = module._split_scores(logits, 2, torch.arange(4))
    torch.testing.assert_close(scores, torch.tensor([2.0, 1.0], dtype=torch.float64))
    # shuffled, of three certain pictures and one that is not: half the difference of two
    logits = 1e4 * torch.eye(2)[[0, 1, 0, 0]] * torch.tensor([1.0, 1.0, 1.0, 1e-4])[:, None]
    found = inception_score(logits, splits=2)
    first, second = module._split_scores(logits, 2, torch.from_numpy(permutation(0, "inception score", 0, 4))).tolist()
    assert found.mean == pytest.approx((first + second) / 2)
    assert found.std == pytest.approx(abs(first - second) / 2)
    assert found.std > 0.1


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_torch_fidelity_of_the_same_order(splits: int) -> None:
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = some_logits(203, 50)
    theirs = isc.isc_features_to_metric(logits, splits=splits, shuffle=False)
    ours = module._split_scores(logits, splits, torch.arange(203))
    assert ours.mean().item() == pytest.approx(theirs[isc.KEY_METRIC_ISC_MEAN], rel=1e-12)
    assert ours.std(correction=0).item() == pytest.approx(theirs[isc.KEY_METRIC_ISC_STD], rel=1e-9, abs=1e-14)
    # with their shuffle they get what we get of their order
    np = pytest.importorskip("numpy")
    order = torch.from_numpy(np.random.RandomState(2020).permutation(203))
    theirs = isc.isc_features_to_metric(logits, splits=splits)
    assert module._split_scores(logits, splits, order).mean().item() == pytest.approx(
        theirs[isc.KEY_METRIC_ISC_MEAN], rel=1e-12
    )


def test_too_few_pictures() -> None:
    with pytest.raises(ValueError, match="10 splits needs at least 10 images, got 9"):
        inception_score(some_logits(9, 4))
