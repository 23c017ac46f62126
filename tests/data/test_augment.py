from __future__ import annotations

import pytest
import torch
from torch import Tensor

from img2img.data.augment import _crop_by_index, _crop_by_slices, augment, load_size
from img2img.draws import Draws


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, "augment", torch.arange(count))


def coordinates(count: int, height: int, width: int) -> Tensor:
    """(N, 2, H, W): each pixel's own row and column, in [-1, 1]."""
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width)[None].expand(height, width)
    return torch.stack((rows, columns)).expand(count, 2, height, width).clone()


def test_load_size() -> None:
    assert load_size((256, 256), 286 / 256) == (286, 286)
    assert load_size((64, 96), 1.0) == (64, 96)


def test_nothing_to_do_is_identity() -> None:
    images = coordinates(3, 8, 6)
    assert augment(images, draws(3), resolution=(8, 6)) is images


def test_crops_are_windows_of_the_input() -> None:
    images = coordinates(64, 12, 10)
    crops = augment(images, draws(64), resolution=(8, 7), flip=True)
    assert crops.shape == (64, 2, 8, 7)
    corners, flips = set(), 0
    for crop, image in zip(crops, images, strict=True):
        mirrored = bool(crop[1, 0, 0] > crop[1, 0, -1])
        upright = crop.flip(-1) if mirrored else crop
        flips += mirrored
        top = int((image[0, :, 0] == upright[0, 0, 0]).nonzero())
        left = int((image[1, 0] == upright[1, 0, 0]).nonzero())
        corners.add((top, left))
        assert torch.equal(upright, image[:, top : top + 8, left : left + 7])
    assert {top for top, _ in corners} == set(range(5))
    assert {left for _, left in corners} == set(range(4))
    assert 16 <= flips <= 48


def test_both_ways_to_crop_agree() -> None:
    images = torch.randn(9, 3, 11, 13)
    top, left = torch.arange(9) % 4, torch.arange(9) % 5
    mirrored = torch.arange(9) % 2 == 0
    by_slices = _crop_by_slices(images, top, left, mirrored, (8, 9))
    assert torch.equal(by_slices, _crop_by_index(images, top, left, mirrored, (8, 9)))


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (1.0, 1.3), (0.8, 1.0)])
def test_pairs_stay_aligned(zoom: tuple[float, float]) -> None:
    a = torch.rand(16, 3, 20, 24)
    b = a.mean(dim=1, keepdim=True)
    options = {"resolution": (16, 16), "flip": True, "zoom": zoom}
    cropped_a = augment(a, draws(16), **options)  # type: ignore[arg-type]
    cropped_b = augment(b, draws(16), **options)  # type: ignore[arg-type]
    assert torch.allclose(cropped_a.mean(dim=1, keepdim=True), cropped_b, atol=1e-6)


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.9, 1.2)])
def test_a_batch_may_be_cut_anywhere(zoom: tuple[float, float]) -> None:
    images = torch.rand(8, 3, 20, 24)
    whole = augment(images, draws(8), resolution=(16, 16), flip=True, zoom=zoom)
    numbers = torch.arange(8)
    for part in (slice(0, 3), slice(3, 8)):
        of_part = augment(images[part], Draws(0, "augment", numbers[part]), resolution=(16, 16), flip=True, zoom=zoom)
        assert torch.equal(of_part, whole[part])


def test_zoom_magnifies_within_its_bounds() -> None:
    images = coordinates(200, 32, 32)
    zoomed = augment(images, draws(200), resolution=(32, 32), zoom=(1.25, 2.0))
    # along a row the columns rise by 2 / 31 a pixel; magnified by z, by that over z
    step = (zoomed[:, 1, 16, 20] - zoomed[:, 1, 16, 10]) / 10
    magnification = (2 / 31) / step
    assert magnification.min() >= 1.25 - 1e-3
    assert magnification.max() <= 2.0 + 1e-3
    assert magnification.std() > 0.1
    assert zoomed.abs().max() <= 1 + 1e-5


def test_zoom_of_one_with_enlargement_is_a_window_of_the_resolution() -> None:
    images = coordinates(50, 40, 40)
    zoomed = augment(images, draws(50), resolution=(32, 32), zoom=(1.0, 1.0 + 1e-9))
    step = (zoomed[:, 1, 16, 20] - zoomed[:, 1, 16, 10]) / 10
    assert torch.allclose(step, torch.full((50,), 2 / 39), atol=1e-5)


def test_shrinking_goes_on_as_reflection() -> None:
    zoomed = augment(torch.ones(4, 1, 16, 16), draws(4), resolution=(16, 16), zoom=(0.5, 0.5))
    assert torch.allclose(zoomed, torch.ones(4, 1, 16, 16))


def test_flip_with_zoom_mirrors() -> None:
    images = coordinates(40, 16, 16)
    zoomed = augment(images, draws(40), resolution=(16, 16), flip=True, zoom=(1.1, 1.1))
    mirrored = zoomed[:, 1, 0, 0] > zoomed[:, 1, 0, -1]
    expected = draws(40).stream("flip").uniform() < 0.5
    assert torch.equal(mirrored, expected)


@pytest.mark.gpu
def test_same_bits_on_the_gpu() -> None:
    images = torch.rand(8, 3, 20, 24)
    on_cpu = augment(images, draws(8), resolution=(16, 16), flip=True)
    on_gpu = augment(images.cuda(), Draws(0, "augment", torch.arange(8, device="cuda")), resolution=(16, 16), flip=True)
    assert torch.equal(on_gpu.cpu(), on_cpu)
