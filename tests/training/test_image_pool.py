"""The image pool: filling, swapping, and that dividing a batch changes nothing."""

from __future__ import annotations

import torch

from img2img.draws import Draws
from img2img.training.image_pool import ImagePool


def numbered(count: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + count, dtype=torch.float32)[:, None, None, None]


def draws(count: int, start: int = 0) -> Draws:
    return Draws(0, "pool", torch.arange(start, start + count))


def test_a_pool_that_is_not_full_returns_what_it_is_given() -> None:
    pool = ImagePool(10)
    images = numbered(10)
    assert torch.equal(pool.exchange((images,), draws(10))[0], images)
    assert len(pool.entries) == 10


def test_nothing_is_lost_and_about_half_is_swapped() -> None:
    pool = ImagePool(20)
    returned = pool.exchange((numbered(1000),), draws(1000))[0].flatten()
    kept = torch.stack([entry[0].flatten()[0] for entry in pool.entries])
    # the first 20 fill the pool and are handed on too; every later image leaves once or is still kept
    assert set(returned.tolist()) | set(kept.tolist()) == set(range(1000))
    swapped = (returned[20:] != torch.arange(20, 1000)).float().mean()
    assert 0.45 < swapped < 0.55


def test_division_into_batches_does_not_matter() -> None:
    whole, parts = ImagePool(5), ImagePool(5)
    expected = whole.exchange((numbered(40),), draws(40))[0]
    got = torch.cat([parts.exchange((numbered(4, start),), draws(4, start))[0] for start in range(0, 40, 4)])
    assert torch.equal(expected, got)


def test_a_condition_stays_with_its_image() -> None:
    pool = ImagePool(5)
    images, labels = pool.exchange((numbered(100), torch.arange(100)), draws(100))
    assert torch.equal(images.flatten().long(), labels)


def test_state_round_trip() -> None:
    first, second = ImagePool(5), ImagePool(5)
    first.exchange((numbered(30),), draws(30))
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    expected = first.exchange((numbered(30, 30),), draws(30, 30))[0]
    assert torch.equal(second.exchange((numbered(30, 30),), draws(30, 30))[0], expected)
