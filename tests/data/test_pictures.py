from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from img2img.data.pictures import draw_points, field_points, write_gif
from img2img.data.worlds import WORLDS, PointWorld
from img2img.errors import Fault

RING, GAUSSIAN, DIRAC = WORLDS["ring"], WORLDS["gaussian"], WORLDS["dirac"]
NOTHING = torch.empty(0, 2)


def pixel(world: PointWorld, x: float, y: float, size: int = 256) -> tuple[int, int]:
    """(row, column) of a place."""
    low, high = world.extent
    return int((high - y) / (high - low) * size), int((x - low) / (high - low) * size)


def redness(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 2]


def test_field_points_cover_the_extent_evenly_from_the_top_left() -> None:
    places = field_points(RING)
    assert len(places) == 64**2
    low, high = RING.extent
    half = (high - low) / 128
    torch.testing.assert_close(places[0], torch.tensor([low + half, high - half]))
    torch.testing.assert_close(places[-1], torch.tensor([high - half, low + half]))
    torch.testing.assert_close(places[1] - places[0], torch.tensor([2 * half, 0.0]), atol=1e-6, rtol=0)
    assert field_points(GAUSSIAN).shape == (256, 1)


def test_points_appear_where_they_are() -> None:
    """A generated point is red at its place, a real one grey, and both are nowhere else."""
    picture = draw_points(RING, torch.tensor([[0.5, 1.0]]), torch.tensor([[-1.0, -0.25]]))
    real, generated = pixel(RING, 0.5, 1.0), pixel(RING, -1.0, -0.25)
    empty = picture[128, 128]
    assert redness(picture)[generated] > 100
    assert abs(redness(picture)[real]) < 20
    assert picture[real].max() < empty.min() - 50
    for row, column in np.argwhere((picture[:256] != empty).any(2)):
        assert min(max(abs(row - r), abs(column - c)) for r, c in (real, generated)) <= 4


def test_a_point_has_the_same_weight_wherever_it_lies_between_pixels() -> None:
    """Smooth edges: the light that a point takes changes by little as it moves by parts of a pixel."""
    step = (RING.extent[1] - RING.extent[0]) / 256
    taken = []
    for part in np.linspace(0, 1, 7):
        picture = draw_points(RING, NOTHING, torch.tensor([[part * step, 0.3 * part * step]]))[:256]
        taken.append((picture[0, 0].astype(float) - picture).sum())
    assert max(taken) < 1.1 * min(taken)


def test_the_field_is_blue_where_real_orange_where_generated_and_pale_at_zero() -> None:
    places = field_points(RING)
    picture = draw_points(RING, NOTHING, NOTHING, places[:, 0])
    left, middle, right = picture[128, 5], picture[128, 128], picture[128, 250]
    assert redness(left) > 60
    assert redness(right) < -50
    assert abs(redness(middle)) < 10
    # up is up
    assert redness(draw_points(RING, NOTHING, NOTHING, places[:, 1])[5, 128]) < -50


def test_only_the_field_relative_to_its_strength_matters_but_a_faint_one_stays_pale() -> None:
    field = field_points(RING)[:, 0]
    assert np.array_equal(draw_points(RING, NOTHING, NOTHING, field), draw_points(RING, NOTHING, NOTHING, 40 * field))
    faint = draw_points(RING, NOTHING, NOTHING, 1e-3 * field)[:256]
    assert np.abs(redness(faint)).max() < 12


def test_what_is_not_finite_or_outside_is_left_out() -> None:
    lost = torch.tensor([[np.nan, 0.0], [np.inf, 0.0], [99.0, 0.0]])
    field = torch.full((64**2,), torch.nan)
    without = draw_points(RING, NOTHING, NOTHING, torch.zeros(64**2))
    assert np.array_equal(draw_points(RING, lost, lost, field), without)
    assert draw_points(DIRAC, lost[:, :1], lost[:, :1], torch.full((256,), torch.nan)).shape == without.shape


@pytest.mark.parametrize("size", [128, 256, 400])
@pytest.mark.parametrize("world", [RING, GAUSSIAN], ids=["plane", "line"])
def test_a_legend_stands_beneath(world: PointWorld, size: int) -> None:
    points = torch.zeros(3, world.dim)
    bare = draw_points(world, points, points, size=size)
    full = draw_points(world, points, points, torch.zeros(len(field_points(world))), size=size)
    assert bare.dtype == np.uint8
    assert bare.shape[1:] == full.shape[1:] == (size, 3)
    assert full.shape[0] - size == 2 * (bare.shape[0] - size)
    assert bare[size:].min() < 130


def line_peak(picture: np.ndarray, mask: np.ndarray) -> int:
    """The column where what `mask` shows reaches highest."""
    return int(np.argmax(mask[:256].any(0) * (256 - mask[:256].argmax(0))))


def test_densities_on_the_line_peak_where_points_are() -> None:
    generator = torch.Generator().manual_seed(0)
    fake = 0.2 * torch.randn(2000, 1, generator=generator)
    picture = draw_points(GAUSSIAN, torch.ones(10, 1), fake)
    generated, real = redness(picture) > 100, (picture.max(2) < 130) & (np.abs(redness(picture)) < 20)
    assert abs(line_peak(picture, generated) - pixel(GAUSSIAN, 0.0, 0.0)[1]) < 8
    # the real side is the world's own density, however few points are given
    assert abs(line_peak(picture, real) - pixel(GAUSSIAN, 1.0, 0.0)[1]) < 8


def test_the_curve_of_the_discriminator_runs_from_zero_to_one() -> None:
    nothing: Tensor = torch.empty(0, 1)
    for value, row in ((0.0, 128), (np.log(3.0), 64), (-np.log(3.0), 192)):
        picture = draw_points(DIRAC, nothing, nothing, torch.full((256,), float(value)))
        blue = np.argwhere(redness(picture[:250, 100]) < -90)
        assert abs(blue.mean() - row) < 2


def test_a_gif_holds_every_frame(tmp_path: Path) -> None:
    frames = [
        draw_points(RING, torch.zeros(1, 2), torch.tensor([[x, 0.0]]), field_points(RING)[:, 0] - x)
        for x in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    path = tmp_path / "ring.gif"
    write_gif(frames, path, 0.2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ring.gif"]
    with Image.open(path) as gif:
        assert gif.n_frames == 5  # type: ignore[attr-defined]
        assert gif.info["loop"] == 0
        for index, frame in enumerate(frames):
            gif.seek(index)
            assert gif.info["duration"] == 200
            difference = np.abs(np.asarray(gif.convert("RGB")).astype(int) - frame)
            assert difference.mean() < 4


def test_a_gif_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="cannot be written"):
        write_gif([np.zeros((2, 2, 3), np.uint8)], tmp_path / "missing" / "a.gif", 0.1)
