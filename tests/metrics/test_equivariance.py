"""EQ-T and EQ-R of generators that obey, that are deaf, and that obey a little too late."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from img2img.metrics.equivariance import eq_r, eq_t, lanczos_kernel, radial_kernel, read_between

SIZE = (48, 32)


def waves(latents: Tensor, transforms: Tensor, delay: float = 1.0) -> Tensor:
    """Three waves of 2, 4 and 6 cycles a shorter side, of directions and phases from 9 latents; exact at any place."""
    height, width = SIZE
    rows = (torch.arange(height) - (height - 1) / 2)[:, None].expand(SIZE) / width
    columns = (torch.arange(width) - (width - 1) / 2).expand(SIZE) / width
    transforms = transforms.double().clone()
    transforms[:, :, 2] *= delay
    places = torch.einsum("nij,jhw->nihw", transforms, torch.stack((columns, rows, torch.ones(SIZE))).double())
    directions = latents[:, :6].double().view(-1, 3, 2)
    frequencies = directions / directions.norm(dim=2, keepdim=True) * torch.tensor([2.0, 4.0, 6.0])[:, None]
    phases = torch.einsum("nci,nihw->nchw", frequencies, places)
    return torch.sin(2 * math.pi * phases + latents[:, 6:9, None, None])


def deaf(latents: Tensor, transforms: Tensor) -> Tensor:
    return waves(latents, torch.eye(2, 3).expand_as(transforms))


def few(measure: object, generate: object, **settings: object) -> float:
    return measure(generate, 9, count=24, batch=8, **settings)  # type: ignore[operator,no-any-return]


def test_who_obeys_is_found_exact() -> None:
    """Between pixels as far as Lanczos' kernel is."""
    assert few(eq_t, waves) > 100
    assert few(eq_t, waves, whole=False) > 45
    assert few(eq_r, waves) > 70


@pytest.mark.parametrize("measure", [eq_t, eq_r])
def test_who_is_deaf_is_as_far_off_as_two_pictures(measure: object) -> None:
    """sin² is ½ on average, so the mean squared difference of unrelated waves is 1: 10 log10(4) = 6 dB."""
    assert few(measure, deaf) == pytest.approx(10 * math.log10(4), abs=1)


def test_an_error_ten_times_as_small_is_twenty_db_more() -> None:
    late, later = (few(eq_t, lambda z, t: waves(z, t, delay)) for delay in (1 - 1e-4, 1 - 1e-3))
    assert late - later == pytest.approx(20, abs=0.01)
    assert 20 < later < 100


def test_batches_do_not_matter() -> None:
    values = [eq_t(waves, 9, whole=False, count=7, batch=batch) for batch in (2, 7)]
    assert values[0] == pytest.approx(values[1])


def test_the_wrong_direction_is_found() -> None:
    """A picture that goes left when told to go right, or turns the other way, does not obey."""

    def mirrored(latents: Tensor, transforms: Tensor) -> Tensor:
        transforms = transforms.clone()
        transforms[:, :, 2] *= -1
        transforms[:, 0, 1], transforms[:, 1, 0] = transforms[:, 1, 0].clone(), transforms[:, 0, 1].clone()
        return waves(latents, transforms)

    assert few(eq_t, mirrored) < 10
    assert few(eq_r, mirrored) < 10


class TestReading:
    def test_a_whole_shift_moves_pixels(self) -> None:
        """Offset -2/8 of the shorter side: a pixel shows what was two pixels to its left."""
        images = torch.randn(1, 2, 8, 12, dtype=torch.float64)
        transform = torch.tensor([[[1.0, 0.0, -2 / 8], [0.0, 1.0, 3 / 8]]], dtype=torch.float64)
        moved, seen = read_between(images, transform, lanczos_kernel, 1)
        torch.testing.assert_close(moved[:, :, :5, 2:], images[:, :, 3:, :-2])
        expected = torch.zeros(1, 8, 12, dtype=torch.bool)
        expected[:, :5, 2:] = True
        assert torch.equal(seen, expected)

    def test_a_quarter_turn_is_that_of_the_picture_seen_through_the_kernel(self) -> None:
        images = torch.randn(1, 1, 24, 24, dtype=torch.float64)
        straight = torch.eye(2, 3, dtype=torch.float64)[None]
        turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]], dtype=torch.float64)
        still, inside = read_between(images, straight, radial_kernel, 6)
        turned, _ = read_between(images, turn, radial_kernel, 6)
        window = inside[:, None]
        assert int(window.sum()) == 14 * 14
        torch.testing.assert_close(turned[window], torch.rot90(still, 1, (2, 3))[window], rtol=0, atol=1e-5)

    def test_the_kernel_for_rotation_passes_low_and_stops_high_frequencies(self) -> None:
        """Gain about 1 to 0.2 cycles a pixel, none from 0.5 on, in any direction."""
        index = torch.arange(-6, 7, dtype=torch.float64)
        y, x = torch.meshgrid(index, index, indexing="ij")
        kernel = radial_kernel(x, y)
        for angle in (0.0, 0.4, math.pi / 4):
            gains = [
                ((2 * math.pi * f * (math.cos(angle) * x + math.sin(angle) * y)).cos() * kernel).sum().item()
                for f in (0.0, 0.1, 0.2, 0.5)
            ]
            assert gains[:3] == pytest.approx([1, 1, 1], abs=0.02)
            assert abs(gains[3]) < 0.02
