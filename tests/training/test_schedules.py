"""Schedules are functions of images seen."""

from __future__ import annotations

import pytest

from img2img.training.ema import ema_decay
from img2img.training.schedules import due, lazy_correction, learning_rate_factor


def test_learning_rate_is_constant_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(seen, 1000, 400) for seen in (0, 600, 700, 800, 1000, 1200)]
    assert factors == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]


def test_no_decay_is_constant() -> None:
    assert learning_rate_factor(10**9, 1000, 0) == 1.0


def test_lazy_correction_of_one_penalty_is_n_over_n_plus_one() -> None:
    assert lazy_correction([16]) == pytest.approx(16 / 17)
    assert lazy_correction([]) == 1.0
    # 16 main steps with a penalty step each 16 and each 4: 16 of 21 steps
    assert lazy_correction([16, 4]) == pytest.approx(16 / 21)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_due_fires_once_per_interval_whatever_the_batch(batch: int) -> None:
    steps = [(seen, seen + batch) for seen in range(0, 10_000 - batch, batch)]
    fired = sum(due(0.5, before, after) for before, after in steps)
    assert fired == steps[-1][1] // 500


def test_due_never_fires_for_zero() -> None:
    assert not due(0, 0, 10**9)


def test_ema_half_life() -> None:
    """After `half-life` images an old value counts half, whatever the batch."""
    for batch in (1, 10, 100):
        weight = 1.0
        for _ in range(10_000 // batch):
            weight *= ema_decay(10_000, 0.0, 0, batch)
        assert weight == pytest.approx(0.5)


def test_ema_warm_up_shortens_the_half_life() -> None:
    assert ema_decay(10_000, 0.05, 1000, 50) == pytest.approx(0.5)
    assert ema_decay(10_000, 0.05, 10**7, 10_000) == pytest.approx(0.5)
    assert ema_decay(0, 0.0, 1000, 50) == 0.0
