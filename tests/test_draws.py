"""Keyed draws: distribution, independence, and that a slice of the stream is the stream's slice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from img2img.draws import Draws, permutation

NUMBERS = torch.arange(2000)


@given(seed=st.integers(0, 2**40), start=st.integers(0, 1990), length=st.integers(1, 10))
def test_a_slice_of_images_draws_the_slice_of_the_stream(seed: int, start: int, length: int) -> None:
    part = slice(start, start + length)
    whole, sliced = Draws(seed, "z", NUMBERS), Draws(seed, "z", NUMBERS[part])
    assert torch.equal(whole.normal(3, 2)[part], sliced.normal(3, 2))
    assert torch.equal(whole.uniform(5)[part], sliced.uniform(5))
    assert torch.equal(whole.integers(7, 5)[part], sliced.integers(7, 5))


def test_normal_has_the_moments_of_a_standard_normal() -> None:
    values = Draws(1, "z", NUMBERS).normal(500).double()
    count = values.numel()
    # standard errors of mean, variance and fourth moment of a standard normal: 1, sqrt 2, sqrt 96, each over sqrt n
    assert abs(values.mean()) < 5 / math.sqrt(count)
    assert abs(values.square().mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs(values.pow(4).mean() - 3) < 5 * math.sqrt(96 / count)


def test_uniform_fills_its_cells_evenly() -> None:
    values = Draws(2, "crop", NUMBERS).uniform(500)
    counts = torch.histc(values, 100, 0, 1)
    expected = values.numel() / 100
    chi_squared = ((counts - expected).square() / expected).sum()
    assert values.min() >= 0
    assert values.max() < 1
    assert chi_squared < 99 + 5 * math.sqrt(2 * 99)


@pytest.mark.parametrize("bound", [1, 2, 10, 50])
def test_integers_stay_in_range_and_are_even(bound: int) -> None:
    values = Draws(3, "place", NUMBERS).integers(bound, 50)
    counts = torch.bincount(values.flatten(), minlength=bound)
    assert len(counts) == bound
    assert (counts / values.numel() - 1 / bound).abs().max() < 5 * math.sqrt(1 / (bound * values.numel()))


@pytest.mark.parametrize("other", [Draws(1, "z", NUMBERS + 1), Draws(2, "z", NUMBERS), Draws(1, "y", NUMBERS)])
def test_another_image_seed_or_stream_is_uncorrelated(other: Draws) -> None:
    values = Draws(1, "z", NUMBERS).normal(100)
    correlation = (values * other.normal(100)).mean()
    assert abs(correlation) < 5 / math.sqrt(values.numel())


def test_sub_streams_differ() -> None:
    draws = Draws(0, "pool", NUMBERS)
    assert not torch.equal(draws.uniform(1), draws.stream("place").uniform(1))


def test_permutation_is_one_and_depends_on_every_part_of_its_key() -> None:
    base = permutation(0, "order/a", 0, 100)
    assert sorted(base) == list(range(100))
    assert np.array_equal(base, permutation(0, "order/a", 0, 100))
    for other in (
        permutation(1, "order/a", 0, 100),
        permutation(0, "order/b", 0, 100),
        permutation(0, "order/a", 1, 100),
    ):
        assert not np.array_equal(base, other)
