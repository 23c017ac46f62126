"""The schedule of progressive growing."""

from __future__ import annotations

import pytest
import torch

from img2img.config import resolve
from img2img.growth import GrowthSchedule, Stage
from img2img.networks.growing import enlarge, shrink

SCHEDULE = GrowthSchedule(doublings=2, stable_images=1000, fade_images=500, batch=4, max_batch=20)


@pytest.mark.parametrize(
    ("images", "halvings", "alpha", "batch"),
    [
        (0, 2, 1.0, 16),
        (999, 2, 1.0, 16),
        (1000, 1, 0.0, 8),
        (1250, 1, 0.5, 8),
        (1500, 1, 1.0, 8),
        (2499, 1, 1.0, 8),
        (2500, 0, 0.0, 4),
        (2999, 0, 0.998, 4),
        (3000, 0, 1.0, 4),
        (10**9, 0, 1.0, 4),
    ],
)
def test_stages_follow_each_other(images: int, halvings: int, alpha: float, batch: int) -> None:
    assert SCHEDULE.at(images) == Stage(halvings, pytest.approx(alpha), batch)


def test_the_last_size_is_there_when_the_images_needed_are_seen() -> None:
    assert SCHEDULE.images_needed == 3000
    assert SCHEDULE.starts() == [0, 1000, 2500]


def test_what_does_not_grow_has_one_stage() -> None:
    schedule = GrowthSchedule.of(resolve("dcgan-small"))
    assert (schedule.images_needed, schedule.starts()) == (0, [0])
    assert schedule.at(0) == schedule.at(12345) == Stage(0, 1.0, 32)


def test_batches_double_at_coarser_sizes_up_to_a_bound() -> None:
    for most, batches in ((0, [4, 4, 4]), (8, [8, 8, 4]), (31, [16, 8, 4]), (4, [4, 4, 4])):
        schedule = GrowthSchedule(2, 1000, 500, batch=4, max_batch=most)
        assert [schedule.at(images).batch for images in schedule.starts()] == batches


def test_without_fading_a_size_begins_whole() -> None:
    schedule = GrowthSchedule(1, 100, 0, batch=4, max_batch=0)
    assert schedule.at(99) == Stage(1, 1.0, 4)
    assert schedule.at(100) == Stage(0, 1.0, 4)


def test_real_images_are_means_of_their_pixels() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8)
    halved = shrink(images, 1, 1.0)
    assert halved[0, 0, 0, 0] == (0 + 1 + 8 + 9) / 4
    torch.testing.assert_close(shrink(images, 2, 1.0), shrink(halved, 1, 1.0))
    assert shrink(images, 0, 1.0) is images


def test_a_fade_begins_with_the_coarser_size_made_larger_and_ends_with_the_finer_one() -> None:
    images = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(shrink(images, 1, 0.0), enlarge(shrink(images, 2, 1.0), (4, 6)))
    torch.testing.assert_close(shrink(images, 1, 0.25), 0.25 * shrink(images, 1, 1.0) + 0.75 * shrink(images, 1, 0.0))
