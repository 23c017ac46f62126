"""Ways between pictures, mixed styles, noise, sums and neighbours, by identities of closed-form generators."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.errors import UsageFault
from img2img.evaluation.image_set import ArraySet, open_set
from img2img.inference.explore import (
    Term,
    arithmetic,
    find_neighbours,
    interpolate,
    mix,
    parse_expression,
    parse_numbers,
    pixel_features,
    preparation_for,
    rows_of,
    truncations,
    variation,
)
from img2img.inference.latents import Codes, LatentSpace
from img2img.inference.model import Model

Build = Callable[..., Model]


def far(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference, in levels."""
    return int(np.abs(a.astype(int) - b).max())


def pictures(space: LatentSpace, numbers: list[int]) -> list[np.ndarray]:
    return list(space.pixels(space.codes(numbers)))


@pytest.mark.parametrize(("text", "numbers"), [("7", [7]), ("0,3, 5-8", [0, 3, 5, 6, 7, 8]), ("2-2,1", [2, 1])])
def test_numbers(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text, "--pictures") == numbers


@pytest.mark.parametrize("text", ["", "a", "1,", "1.5", "-3", "5-3", "0-100000", "9999999999999999"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(UsageFault, match="--pictures"):
        parse_numbers(text, "--pictures")


# --- interpolation


def test_a_way_passes_its_pictures_in_w(styles: Build) -> None:
    space = LatentSpace(styles(noise=0.0), seed=3)
    (frames,) = interpolate(space, [4, 9, 2], 6)
    assert len(frames) == 13
    for place, expected in zip((0, 6, 12), pictures(space, [4, 9, 2])):
        assert far(frames[place], expected) == 0
    # pictures are affine in w, so the middle of a straight line is the mean
    assert far(frames[3], (frames[0].astype(float) + frames[6]) / 2) <= 1
    (closed,) = interpolate(space, [4, 9, 2], 6, closed=True)
    assert len(closed) == 18
    assert all(np.array_equal(a, b) for a, b in zip(closed, frames))
    assert far(closed[15], (frames[12].astype(float) + frames[0]) / 2) <= 1
    assert [len(row) for row in rows_of(frames, 6)] == [7, 7]
    assert np.array_equal(rows_of(frames, 6)[0][-1], rows_of(frames, 6)[1][0])


def test_great_circles_keep_lengths_that_lines_lose(model_files: dict[str, Path]) -> None:
    space = LatentSpace(Model.load(model_files["dcgan"], "cpu"))
    seen: list[Codes] = []
    space.pixels = lambda codes: seen.append(codes) or iter([])  # type: ignore[method-assign, func-returns-value]
    for curve in (None, "slerp", "linear"):
        interpolate(space, [0, 1], 2, curve=curve)  # type: ignore[arg-type]
    lengths = [codes.values.norm(dim=1) for codes in seen]
    ends, cosine = lengths[0][[0, 2]], torch.cosine_similarity(*space.latents([0, 1]), dim=0)
    assert lengths[0][1].item() == pytest.approx(ends.mean().item(), rel=1e-5)
    assert torch.equal(lengths[0], lengths[1])
    # |a + b|² / 4
    line = math.sqrt((ends.square().sum() + 2 * cosine * ends.prod()).item()) / 2
    assert lengths[2][1].item() == pytest.approx(line, rel=1e-5)
    assert torch.equal(seen[0].draws.numbers, torch.zeros(3, dtype=torch.int64))  # type: ignore[union-attr]


def test_each_class_goes_its_own_way_or_one_leads_across(styles: Build, model_files: dict[str, Path]) -> None:
    space = LatentSpace(Model.load(model_files["cgan"], "cpu"), label=["dog", "cat", "dog"])
    ways = interpolate(space, [0, 1], 3)
    assert len(ways) == 2
    dog = LatentSpace(space.model, label="dog")
    assert far(ways[0][-1], pictures(dog, [1])[0]) <= 1
    with pytest.raises(UsageFault, match="no styles"):
        interpolate(space, [0, 1], 3, across_classes=True)

    space = LatentSpace(styles(3, noise=0.0))
    (frames,) = interpolate(space, [5, 5, 5], 4, across_classes=True)
    for index, name in enumerate(("cat", "dog", "owl")):
        expected = pictures(LatentSpace(space.model, label=name), [5])[0]
        assert far(frames[4 * index], expected) == 0
    with pytest.raises(UsageFault, match="no point of z"):
        interpolate(space, [0, 1], 3, within="z", across_classes=True)
    with pytest.raises(UsageFault, match="one class or none"):
        interpolate(LatentSpace(space.model, label=0), [0, 1], 3, across_classes=True)
    with pytest.raises(UsageFault, match="at least two"):
        interpolate(space, [0], 3)


def test_ways_in_z_of_a_generator_with_styles_are_truncated_in_w(styles: Build) -> None:
    space = LatentSpace(styles(noise=0.0), truncation=0.5)
    for within in ("z", "w"):
        (frames,) = interpolate(space, [1, 2], 2, within=within)  # type: ignore[arg-type]
        assert [far(a, b) for a, b in zip(frames[::2], pictures(space, [1, 2]))] == [0, 0]


# --- styles and noise


def test_mixed_pictures_have_each_row_from_its_source(styles: Build) -> None:
    space = LatentSpace(styles(num_styles=8, noise=0.0))
    table = mix(space, [0, 1], [2, 3, 4], [0, 1, 5])
    assert [len(row) for row in table] == [4, 4, 4]
    assert (table[0][0] == 255).all()
    coarse, fine = [0, 1, 5], [2, 3, 4, 6, 7]
    for row, source in zip(table[1:], pictures(space, [0, 1])):
        assert np.array_equal(row[0], source)
        for mixed, column in zip(row[1:], table[0][1:]):
            # row r of a picture of this generator is of style r
            assert np.array_equal(mixed[coarse], source[coarse])
            assert np.array_equal(mixed[fine], column[fine])
    assert np.array_equal(np.array(mix(space, [0], [1])), np.array(mix(space, [0], [1], [0, 1, 2, 3])))
    with pytest.raises(UsageFault, match="Its 8 styles are 0 to 7"):
        mix(space, [0], [1], [8])


def test_what_noise_does_is_measured(styles: Build, model_files: dict[str, Path]) -> None:
    space = LatentSpace(styles(noise=0.02))
    found = variation(space, [0, 3], noises=2)
    assert [len(row) for row in found.rows] == [3, 3]
    quiet = space.codes([3])
    assert np.array_equal(found.rows[1][0], next(space.pixels(Codes(quiet.values, None, None))))
    assert far(found.rows[0][1], found.rows[0][2]) > 0
    # noise of 0.02 is 2.55 levels; the largest of 128 deviations over 16 draws is less than half as large again
    # (χ² of 15: 0.5 + … below 2.25 · 15 but for 1 in 1e4)
    assert 2.55 < found.largest < 2.55 * 1.9
    means = [deviation.mean() / 255 * found.largest for deviation in found.deviations]
    # E s of n = 16 normals, with the divisor n: 0.952
    assert means == pytest.approx([2.55 * 0.952] * 2, rel=0.1)
    with pytest.raises(UsageFault, match="nothing is random"):
        variation(LatentSpace(Model.load(model_files["dcgan"], "cpu")), [0])


# --- sums


def test_more_pictures_than_anybody_looks_at_are_refused(styles: Build) -> None:
    space = LatentSpace(styles())
    for option, ask in {
        "--steps": lambda: interpolate(space, range(11), 1000),
        "--rows": lambda: mix(space, range(101), range(100)),
        "--values": lambda: truncations(space, range(1000), [0.5] * 11),
    }.items():
        with pytest.raises(UsageFault, match=f"{option}: asks for 1"):
            ask()


@pytest.mark.parametrize("text", ["1,2,3 - 4,5 + 6", "+1 , 2,3-4,5+6", " 1,2,3-4,5 +6 "])
def test_expressions(text: str) -> None:
    assert parse_expression(text) == [Term(1, (1, 2, 3)), Term(-1, (4, 5)), Term(1, (6,))]


@pytest.mark.parametrize("text", ["", "-", "1 2", "1 +", "1 * 2", "1,,2", "1 + a", "1;2"])
def test_no_expression(text: str) -> None:
    with pytest.raises(UsageFault, match="--expr"):
        parse_expression(text)


def test_sums_in_w_are_sums_of_pictures(styles: Build) -> None:
    space = LatentSpace(styles(2, noise=0.0))
    found = arithmetic(space, parse_expression("0,1 - 2 + 3"))
    assert [text for text, _ in found] == ["+ 0,1", "- 2", "+ 3", "="]
    zero, one, two, three = (picture.astype(float) for picture in pictures(space, [0, 1, 2, 3]))
    assert far(found[0][1], (zero + one) / 2) <= 1
    # pictures are linear in w but for the level that stands for 0
    expected = ((zero + one) / 2 - two + three).clip(0, 255)
    assert far(found[3][1], expected) <= 2


def test_sums_in_z_have_the_length_of_latents(model_files: dict[str, Path]) -> None:
    space = LatentSpace(Model.load(model_files["dcgan"], "cpu"))
    seen: list[Codes] = []
    space.pixels = lambda codes: seen.append(codes) or iter([])  # type: ignore[method-assign, func-returns-value]
    arithmetic(space, parse_expression("0,1 - 2 + 3"))
    values = seen[0].values
    z = space.latents([0, 1, 2, 3])
    expected = (z[0] + z[1]) / 2 - z[2] + z[3]
    assert torch.allclose(values.norm(dim=1), z.norm(dim=1).mean().expand(4))
    assert torch.allclose(torch.cosine_similarity(values[3], expected, dim=0), torch.tensor(1.0))
    several = LatentSpace(Model.load(model_files["cgan"], "cpu"))
    with pytest.raises(UsageFault, match="Name one, such as --class cat"):
        arithmetic(several, parse_expression("0 + 1"))
    assert len(arithmetic(LatentSpace(several.model, label="dog"), parse_expression("0 + 1"))) == 3


def test_truncations_side_by_side(styles: Build) -> None:
    space = LatentSpace(styles(2, noise=0.0), seed=1)
    rows = truncations(space, [0, 1, 2], [0.5, 1.0])
    assert [len(row) for row in rows] == [2, 2, 2]
    assert all(np.array_equal(row[1], expected) for row, expected in zip(rows, pictures(space, [0, 1, 2])))
    assert far(rows[0][0], rows[0][1]) > 0
    with pytest.raises(UsageFault, match="no ψ"):
        truncations(space, [0], [0.5, 1.5])


def test_stylegan2_all_the_way(model_files: dict[str, Path]) -> None:
    space = LatentSpace(Model.load(model_files["stylegan2"], "cpu"), truncation=0.8)
    ends = pictures(space, [0, 1])
    (frames,) = interpolate(space, [0, 1], 4, across_classes=True)
    quiet = Codes(space.codes([1]).values, None, space.draws([0]))
    assert far(frames[0], ends[0]) <= 1
    assert far(frames[-1], next(space.pixels(quiet))) <= 1
    count = space.styles.num_styles
    table = mix(space, [0], [1], list(range(count)))
    with_noise_of_the_column = Codes(space.codes([0]).values, None, space.draws([1]))
    assert far(table[1][1], next(space.pixels(with_noise_of_the_column))) <= 1
    assert far(table[1][1], mix(space, [0], [1], [0])[1][1]) > 5
    assert variation(space, [0, 1]).largest > 1


# --- neighbours


def test_copies_among_real_pictures_are_found(model_files: dict[str, Path], tmp_path: Path) -> None:
    space = LatentSpace(Model.load(model_files["dcgan"], "cpu"), seed=5)
    samples = pictures(space, [0, 1, 2])
    for index, sample in enumerate(samples):
        Image.fromarray(sample).save(tmp_path / f"copy-{index}.png")
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"noise-{index}.png")
    real = open_set(tmp_path, preparation_for(space))
    found = find_neighbours(space, [0, 1, 2], real, 4)
    for index, one in enumerate(found):
        assert (one.number, one.label) == (index, None)
        assert one.names[0] == f"copy-{index}"
        assert one.distances == sorted(one.distances)
        assert one.distances[0] < 0.5
        assert np.array_equal(one.pictures[0], samples[index])
        root = np.sqrt(np.mean((samples[index].astype(float) - one.pictures[1]) ** 2))
        assert one.distances[1] == pytest.approx(root, rel=1e-5)
    with pytest.raises(UsageFault, match="6 pictures, not 7"):
        find_neighbours(space, [0], real, 7)


def test_large_pictures_are_compared_at_32_pixels_a_side() -> None:
    assert pixel_features(torch.zeros(2, 3, 64, 96, dtype=torch.uint8)).shape == (2, 3 * 21 * 32)
    white, black = (torch.full((1, 1, 100, 100), level, dtype=torch.uint8) for level in (255, 0))
    assert torch.dist(pixel_features(white), pixel_features(black)).item() == pytest.approx(255)


def test_neighbours_of_grey_and_by_class(model_files: dict[str, Path]) -> None:
    space = LatentSpace(Model.load(model_files["cgan"], "cpu"), label=["dog", "cat"])
    arrays: Any = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), np.uint8)
    found = find_neighbours(space, [0, 1], ArraySet(arrays, preparation_for(space)), 2)
    assert [one.label for one in found] == [1, 0]
    assert found[0].pixels.shape == found[0].pictures[0].shape == (16, 16, 1)
