"""What each augmentation does to an image, against closed forms, and how often it does it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img import augmentation
from img2img.augmentation import ADA_PARTS, DIFFAUGMENT_PARTS, PARTS, ada, diffaugment, parts_named
from img2img.draws import Draws

CPU, F64 = torch.device("cpu"), torch.float64
GEOMETRY = ("blit", "geometry")


def draws(count: int, stream: str = "augment", start: int = 0) -> Draws:
    return Draws(0, stream, torch.arange(start, start + count))


def noise(*shape: int) -> Tensor:
    """Uniform in [−1, 1], float64."""
    return Draws(5, "images", torch.arange(shape[0])).uniform(*shape[1:]).double() * 2 - 1


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.0, torch.zeros(1)])
def test_with_probability_zero_every_bit_stays(channels: int, dtype: torch.dtype, p: Tensor | float) -> None:
    images = noise(5, channels, 12, 8).to(dtype)
    assert torch.equal(ada(images, draws(5), parts=ADA_PARTS, p=p), images)


@pytest.mark.parametrize("part", ADA_PARTS)
def test_an_image_stays_or_changes_by_chance(part: str) -> None:
    """Of an image that stays every bit does, and about as many change as `p` and the transformation's own luck say."""
    count, p = 400, 0.25
    images = noise(count, 3, 8, 8)
    changed = (ada(images, draws(count), parts=[part], p=p) != images).flatten(1).any(1).double().mean()
    transformations = {
        # mirroring and a turn by 0, and the half of all shifts within an eighth of 8 that round to 0, change nothing
        "blit": [p / 2, p * 3 / 4, p / 2, p / 2],
        "geometry": [p] * 5,  # two scales, two shifts, and the two rotations together
        "colour": [p, p, p / 2, p, p],
        "filter": [p] * 4,
        "noise": [p],
        "cutout": [p],
    }[part]
    expected = 1 - math.prod(1 - chance for chance in transformations)
    assert changed == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))


@pytest.mark.parametrize("method", PARTS)
def test_the_gradient_is_right_and_so_is_its_gradient(method: str) -> None:
    probability = torch.tensor([0.8], dtype=F64)

    def change(images: Tensor) -> Tensor:
        if method == "ada":
            return ada(images, draws(3), parts=ADA_PARTS, p=probability)
        return diffaugment(images, draws(3), parts=tuple(DIFFAUGMENT_PARTS))

    images = noise(3, 4, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(change, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda images: change(images).pow(2), images, fast_mode=True)


@pytest.mark.parametrize("method", PARTS)
def test_a_batch_may_be_cut_anywhere(method: str) -> None:
    def change(images: Tensor, start: int) -> Tensor:
        own = draws(len(images), start=start)
        return ada(images, own, parts=ADA_PARTS, p=0.7) if method == "ada" else diffaugment(images, own, parts=both)

    both = tuple(DIFFAUGMENT_PARTS)
    images = noise(7, 3, 8, 8)
    whole = change(images, 0)
    torch.testing.assert_close(torch.cat((change(images[:3], 0), change(images[3:], 3))), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("parts", [(part,) for part in ADA_PARTS if part != "noise"], ids=lambda parts: parts[0])
def test_grey_images_change_as_greys_among_colours(parts: Sequence[str]) -> None:
    grey = noise(20, 1, 8, 8)
    among_colours = ada(grey.expand(-1, 3, -1, -1), draws(20), parts=parts, p=0.8)
    changed = ada(grey, draws(20), parts=parts, p=0.8)
    torch.testing.assert_close(changed.expand(-1, 3, -1, -1), among_colours, rtol=0, atol=1e-12)


def test_alpha_moves_with_its_picture_and_has_no_colour() -> None:
    images = noise(10, 4, 8, 8)
    alpha = images[:, 3:]
    assert torch.equal(ada(images, draws(10), parts=["colour"], p=1.0)[:, 3:], alpha)
    assert torch.equal(diffaugment(images, draws(10), parts=["colour"])[:, 3:], alpha)
    moved = ada(images, draws(10), parts=GEOMETRY, p=0.8)
    torch.testing.assert_close(moved[:, 3:], ada(alpha, draws(10), parts=GEOMETRY, p=0.8), rtol=0, atol=1e-12)


def test_parts_are_named_in_any_order_and_wrong_names_kept() -> None:
    assert parts_named("ada", "") == ("blit", "geometry", "colour")
    assert parts_named("diffaugment", "") == ("colour", "translation", "cutout")
    assert parts_named("ada", " colour,blit, color") == ("blit", "colour", "color")


# --- ADA: blit and geometry -------------------------------------------------------------------------------------------


def test_a_blit_is_a_mirroring_a_quarter_turn_and_a_shift_into_the_reflection() -> None:
    """Each image is one of the 2 · 4 · 5 · 5 that there can be, made by slicing, and all mirrorings and turns occur."""
    count, size, reach = 100, 16, 2
    images = noise(count, 1, size, size)
    blits = ada(images, draws(count), parts=["blit"], p=0.9)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    candidates = {}
    for mirrored in (False, True):
        for turns in range(4):
            turned = torch.rot90(padded.flip(-1) if mirrored else padded, turns, (2, 3))
            for top in range(2 * reach + 1):
                for left in range(2 * reach + 1):
                    candidates[mirrored, turns, top, left] = turned[:, :, top : top + size, left : left + size]
    errors = torch.stack([(blits - candidate).abs().amax((1, 2, 3)) for candidate in candidates.values()])
    nearest = errors.min(0)
    assert nearest.values.max() < 1e-12
    assert errors.topk(2, dim=0, largest=False).values[1].min() > 0.1
    found = {list(candidates)[index] for index in nearest.indices.tolist()}
    assert {(mirrored, turns) for mirrored, turns, _, _ in found} == {(m, t) for m in (False, True) for t in range(4)}
    assert {top for _, _, top, _ in found} == {left for _, _, _, left in found} == set(range(2 * reach + 1))


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (4, 6), (64, 48)])
def test_mirroring_is_exact_at_every_size(size: tuple[int, int]) -> None:
    images = noise(2, 3, *size)
    for x, y, dims in ((-1.0, 1.0, [3]), (1.0, -1.0, [2]), (-1.0, -1.0, [2, 3])):
        inverse = torch.diag(torch.tensor([x, y, 1.0], dtype=F64)).expand(2, 3, 3)
        torch.testing.assert_close(augmentation._warp(images, inverse), images.flip(dims), rtol=0, atol=1e-12)


def test_a_smooth_image_is_read_where_the_matrix_says() -> None:
    """cos(k·x) under x ↦ Ax + b is cos(k·(Ax + b)), wherever the filters do not reach beyond the edge."""
    height, width = 48, 40
    y, x = torch.meshgrid(*(torch.arange(n, dtype=F64) - (n - 1) / 2 for n in (height, width)), indexing="ij")

    def picture(x: Tensor, y: Tensor) -> Tensor:
        return torch.cos(0.21 * x + 0.13 * y + 0.5)

    inverse = augmentation._affine(noise(30, 1, height, width), draws(30), 1.0, GEOMETRY)
    warped = augmentation._warp(picture(x, y).expand(30, 1, -1, -1), inverse)[:, 0]
    places = inverse @ torch.stack((x, y, torch.ones_like(x))).flatten(1)
    there_x, there_y = (places[:, axis].unflatten(1, (height, width)) for axis in (0, 1))
    inside = (there_x.abs() < width / 2 - 4) & (there_y.abs() < height / 2 - 4)
    # and two pixels away from the edge of the result, beyond which its own filter sees a reflection
    assert inside.double().mean() > 0.3
    torch.testing.assert_close(warped[inside], picture(there_x, there_y)[inside], rtol=0, atol=0.01)


def test_what_is_too_fine_for_a_smaller_picture_becomes_grey() -> None:
    """A checkerboard at ⅖ of its size is finer than the pixels; read without filters it would come out as stripes."""
    checkers = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).double().mul(2).sub(1)
    inverse = torch.diag(torch.tensor([2.5, 2.5, 1.0], dtype=F64))[None]
    assert augmentation._warp(checkers[None, None], inverse).abs().max() < 0.05


def test_geometry_is_drawn_as_the_paper_says() -> None:
    """Scales 2^N(0, 0.2²), stretching likewise, shifts N(0, (size/8)²); a rotation with probability p in all."""
    count, p = 20_000, 0.3
    shape = torch.empty(1, 1, 64, 32, dtype=F64).expand(count, -1, -1, -1)
    inverse = augmentation._affine(shape, draws(count), 1.0, ["geometry"])
    linear = inverse[:, :2, :2]
    octaves = torch.linalg.det(linear).log2() / 2
    assert octaves.mean().abs() < 0.01
    assert octaves.std() == pytest.approx(0.2, rel=0.03)
    values = torch.linalg.svdvals(linear)
    stretch = (values[:, 0] / values[:, 1]).log2() / 2
    assert stretch.square().mean().sqrt() == pytest.approx(0.2, rel=0.03)
    shifts = torch.linalg.solve(linear, inverse[:, :2, 2:])[..., 0]
    assert shifts.mean(0).abs().max() < 0.2
    torch.testing.assert_close(shifts.std(0), torch.tensor([4.0, 8.0], dtype=F64), rtol=0.03, atol=0)
    sometimes = augmentation._affine(shape, draws(count), p, ["geometry"])
    assert (sometimes[:, 0, 1] != 0).double().mean() == pytest.approx(p, abs=0.01)


# --- ADA: colour ------------------------------------------------------------------------------------------------------


def test_colours_are_drawn_as_the_paper_says() -> None:
    """Greys stay greys; the axis of greys and the plane of colours each have a factor, the plane a rotation."""
    count = 20_000
    shape = torch.empty(1, 3, 1, 1, dtype=F64).expand(count, -1, -1, -1)
    matrix = augmentation._colour_matrix(shape, draws(count), 1.0)
    linear, offset = matrix[:, :, :3], matrix[:, :, 3]
    grey = torch.ones(3, dtype=F64) / 3**0.5
    axis = linear @ grey
    on_axis = axis @ grey
    torch.testing.assert_close(axis, on_axis[:, None] * grey, rtol=0, atol=1e-12)
    assert (on_axis < 0).double().mean() == pytest.approx(0.5, abs=0.02)
    contrast = on_axis.abs().log2()
    assert contrast.mean().abs() < 0.02
    assert contrast.std() == pytest.approx(0.5, rel=0.03)
    torch.testing.assert_close(offset, offset[:, :1].expand(-1, 3), rtol=0, atol=1e-12)
    assert (offset[:, 0] / on_axis).std() == pytest.approx(0.2, rel=0.03)
    one = torch.tensor([1.0, -1.0, 0.0], dtype=F64) / 2**0.5
    other = torch.linalg.cross(grey, one)
    turned = linear @ one
    saturation = (turned.norm(dim=1) / on_axis.abs()).log2()
    assert saturation.mean().abs() < 0.03
    assert saturation.std() == pytest.approx(1.0, rel=0.03)
    hue = torch.atan2(turned @ other, turned @ one)
    quarters = torch.histc(hue, bins=4, min=-math.pi, max=math.pi) / count
    torch.testing.assert_close(quarters, torch.full((4,), 0.25, dtype=F64), rtol=0, atol=0.02)
    # in the plane it is a rotation and a factor: what is right-angled stays so
    torch.testing.assert_close((linear @ other), torch.linalg.cross(axis / on_axis[:, None], turned), rtol=0, atol=1e-9)


def test_one_matrix_does_what_its_steps_do_one_after_another() -> None:
    """Brightness, contrast, luma flip, hue, saturation in this order, each in its own formula."""
    count = 12
    images = noise(count, 3, 4, 4)
    chances = augmentation._Chances(images, draws(count, "augment/colour"), 0.7, 5)
    at = (slice(None), None, None, None)
    brightness, contrast = chances.normal(0.2)[at], chances.factor(0.5)[at]
    flipped, hue, saturation = chances.whole(2)[at], chances.between(-math.pi, math.pi)[at], chances.factor(1.0)[at]
    steps = (images + brightness) * contrast
    steps = torch.where(flipped == 1, steps - 2 * steps.mean(1, keepdim=True), steps)
    grey = steps.mean(1, keepdim=True)
    # Rodrigues' formula about (1, 1, 1)/√3
    axis = torch.full_like(steps, 3**-0.5)
    steps = grey + (steps - grey) * hue.cos() + torch.linalg.cross(axis, steps, dim=1) * hue.sin()
    steps = grey + (steps - grey) * saturation
    result = ada(images, draws(count), parts=["colour"], p=0.7)
    torch.testing.assert_close(result, steps, rtol=0, atol=1e-12)


# --- ADA: filter, noise, cutout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 16, 33])
def test_the_bands_part_the_frequencies(size: int) -> None:
    """cos(πk i/(n−1)) is what a row continued by reflection is made of, and every symmetric filter only scales it."""
    bands = augmentation._bands(size, F64, CPU)
    assert torch.equal(bands.sum(0), torch.eye(size, dtype=F64))
    for k in range(size):
        frequency = math.pi * k / (size - 1)
        wave = torch.cos(frequency * torch.arange(size, dtype=F64))
        for band, response in zip(bands, responses(frequency)):
            torch.testing.assert_close(band @ wave, response * wave, rtol=0, atol=1e-12)


def responses(frequency: float) -> Tensor:
    """What each band has of a wave of this frequency, by the half-band filter's response at it, twice and four times."""
    low = [0.5 + 9 / 16 * math.cos(f) - 1 / 16 * math.cos(3 * f) for f in (frequency, 2 * frequency, 4 * frequency)]
    return torch.tensor(
        [low[0] * low[1] * low[2], low[0] * low[1] * (1 - low[2]), low[0] * (1 - low[1]), 1 - low[0]], dtype=F64
    )


def test_filtering_has_the_gains_of_the_paper() -> None:
    """g ← g · t / √(Σ λⱼtⱼ²) for each band that is drawn, t its factor 2^N(0, 1) in that band and 1 in the others."""
    count, size = 10, 17
    power = torch.tensor([10, 1, 1, 1], dtype=F64) / 13
    chances = augmentation._Chances(noise(count, 1, 4, 4), draws(count, "augment/filter"), 0.5, 4)
    gains = torch.ones(count, 4, dtype=F64)
    for band in range(4):
        factors = torch.ones(count, 4, dtype=F64)
        factors[:, band] = chances.factor(1.0)
        gains *= factors / (factors.square() @ power).sqrt()[:, None]
    assert (gains != 1).any()
    for down, across in ((0, 0), (2, 9), (16, 5)):
        waves = [torch.cos(math.pi * k / (size - 1) * torch.arange(size, dtype=F64)) for k in (down, across)]
        images = torch.outer(*waves).expand(count, 1, -1, -1)
        scale = math.prod(gains @ responses(math.pi * k / (size - 1)) for k in (down, across))
        filtered = ada(images, draws(count), parts=["filter"], p=0.5)
        torch.testing.assert_close(filtered, scale[:, None, None, None] * images, rtol=0, atol=1e-12)


def test_noise_is_as_strong_as_drawn() -> None:
    count = 2000
    noisy = ada(torch.zeros(count, 1, 16, 16, dtype=F64), draws(count), parts=["noise"], p=1.0)
    std = noisy.flatten(1).std(1)
    assert std.square().mean().sqrt() == pytest.approx(0.1, rel=0.05)
    assert std.mean() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


@pytest.mark.parametrize("method", PARTS)
def test_a_cutout_is_a_grey_window_of_half_the_size(method: str) -> None:
    count, height, width = 400, 16, 24
    ones = torch.ones(count, 3, height, width)
    cut = (
        ada(ones, draws(count), parts=["cutout"], p=1.0)
        if method == "ada"
        else diffaugment(ones, draws(count), parts=["cutout"])
    )
    hole = cut[:, 0] == 0
    assert torch.equal(hole, (cut == 0).all(1))
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None])
    for line, extent in ((rows, height), (columns, width)):
        whole = line[:, 0].logical_not() & line[:, -1].logical_not()
        assert (line[whole].sum(1) == extent // 2).all()
        assert whole.double().mean() == pytest.approx(0.5, abs=0.1)
        # wherever the centre is, at least a quarter of the side is cut; the middle of the window may be anywhere
        assert line.sum(1).min() == extent // 4
        assert line.any(0).all()


# --- DiffAugment ------------------------------------------------------------------------------------------------------


def test_translation_shifts_by_up_to_an_eighth_and_fills_with_grey() -> None:
    count, height, width = 200, 16, 24
    images = noise(count, 1, height, width)
    moved = diffaugment(images, draws(count), parts=["translation"])
    padded = F.pad(images, (3, 3, 2, 2))
    candidates = {
        (top, left): padded[:, :, top : top + height, left : left + width] for top in range(5) for left in range(7)
    }
    equal = torch.stack([(moved == candidate).flatten(1).all(1) for candidate in candidates.values()])
    assert equal.any(0).all()
    assert equal.any(1).all()  # every shift occurs


def test_colours_of_diffaugment() -> None:
    """Of one colour: brightness moves it, saturation its distance from grey; around the mean contrast does nothing."""
    count = 4000
    colour = torch.tensor([0.6, -0.2, -0.1], dtype=F64)
    plain = colour[:, None, None].expand(count, 3, 4, 4)
    changed = diffaugment(plain, draws(count), parts=["colour"])
    assert (changed - changed[:, :, :1, :1]).abs().max() < 1e-12
    changed = changed[:, :, 0, 0]
    brightness = changed.mean(1) - colour.mean()
    distances = (changed - changed.mean(1, keepdim=True)) / (colour - colour.mean())
    # the level that contrast keeps is the mean over pixels and channels, so it scales the distance from grey too
    torch.testing.assert_close(distances, distances[:, :1].expand(-1, 3), rtol=0, atol=1e-10)
    assert brightness.abs().max() <= 0.5
    assert brightness.std() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    assert distances.min() >= 0
    assert distances.max() <= 3
    assert distances[:, 0].mean() == pytest.approx(1.0, rel=0.05)
    grey = noise(count, 1, 4, 4)
    contrast = diffaugment(grey, draws(count), parts=["colour"]).flatten(1).std(1, correction=0) / grey.flatten(1).std(
        1, correction=0
    )
    assert contrast.min() >= 0.5
    assert contrast.max() <= 1.5
    assert contrast.mean() == pytest.approx(1.0, rel=0.03)
