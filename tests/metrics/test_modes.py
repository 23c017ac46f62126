from __future__ import annotations

import math

import pytest
import torch

from img2img.data.worlds import WORLDS
from img2img.draws import Draws
from img2img.metrics.modes import class_coverage, mode_coverage

LINE = torch.tensor([[0.0], [10.0]])


@pytest.mark.parametrize(("name", "share"), [("ring", 1 - math.exp(-4.5)), ("grid", 1 - math.exp(-4.5))])
def test_a_perfect_sampler(name: str, share: float) -> None:
    """All modes, and 98.9 % within 3σ to four standard errors; twice the KL times n is about χ² with M − 1 degrees."""
    world, n = WORLDS[name], 2500
    assert world.modes is not None
    coverage = mode_coverage(world.points(Draws(0, "points", torch.arange(n))), world.modes, world.std)
    assert coverage.modes_found == coverage.num_modes == len(world.modes)
    assert abs(coverage.high_quality - share) < 4 * math.sqrt(share * (1 - share) / n)
    degrees = len(world.modes) - 1
    assert 0 <= coverage.reverse_kl < (degrees + 5 * math.sqrt(2 * degrees)) / (2 * n)


def test_three_standard_deviations_on_the_line() -> None:
    world = WORLDS["two-gaussians"]
    assert world.modes is not None
    coverage = mode_coverage(world.points(Draws(0, "points", torch.arange(20_000))), world.modes, world.std)
    assert coverage.high_quality == pytest.approx(math.erf(3 / math.sqrt(2)), abs=0.002)


@pytest.mark.parametrize("found", [1, 3, 8])
def test_modes_that_are_missing(found: int) -> None:
    """Samples exactly on k of 8 modes, equally many: KL = log(8/k)."""
    modes = WORLDS["ring"].modes
    assert modes is not None
    coverage = mode_coverage(modes[:found].repeat(5, 1), modes, 0.01)
    assert coverage.modes_found == found
    assert coverage.high_quality == 1
    assert coverage.reverse_kl == pytest.approx(math.log(8 / found), abs=1e-12)


def test_the_samples_come_first_in_the_divergence() -> None:
    """Shares ¾ and ¼: KL(samples ‖ uniform) = ¾ log 3/2 + ¼ log 1/2; the other way round it is −½ log(4·¾·¼)."""
    coverage = mode_coverage(torch.tensor([[0.0], [0.0], [0.0], [10.0]]), LINE, 1.0)
    assert coverage.reverse_kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_a_mode_is_found_by_a_sample_of_high_quality_only() -> None:
    """Two of four samples lie at 3σ or beyond: they count in the shares of the modes, and find none."""
    samples = torch.tensor([[0.0], [2.9], [7.0], [6.0]])
    coverage = mode_coverage(samples, LINE, 1.0)
    assert coverage.modes_found == 1
    assert coverage.high_quality == 0.5
    assert coverage.reverse_kl == 0
    assert mode_coverage(samples, LINE, 1.0, counted_within=4.5).modes_found == 2


def test_samples_that_are_not_finite_are_near_nothing() -> None:
    lost = torch.tensor([[math.nan], [math.inf]])
    coverage = mode_coverage(lost, LINE, 1.0)
    assert (coverage.modes_found, coverage.high_quality) == (0, 0)
    assert coverage.reverse_kl == pytest.approx(math.log(2))
    coverage = mode_coverage(torch.cat((lost, LINE)), LINE, 1.0)
    assert (coverage.modes_found, coverage.high_quality, coverage.reverse_kl) == (2, 0.5, 0)


def test_far_from_the_origin_distances_keep_their_digits() -> None:
    modes = 1e6 + torch.arange(60, dtype=torch.float64)[:, None]
    assert mode_coverage(modes + 0.0029, modes, 0.001).high_quality == 1
    assert mode_coverage(modes + 0.0031, modes, 0.001).high_quality == 0


@pytest.mark.parametrize("found", [1, 250, 1000])
def test_classes_of_stacked_mnist(found: int) -> None:
    coverage = class_coverage(torch.arange(found).repeat(26), 1000)
    assert (coverage.modes_found, coverage.num_modes) == (found, 1000)
    assert coverage.reverse_kl == pytest.approx(math.log(1000 / found), abs=1e-12)
