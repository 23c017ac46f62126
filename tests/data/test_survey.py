from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.config import DataPaths
from img2img.data.pack import pack
from img2img.data.sources import open_source
from img2img.data.survey import Survey, survey

MakeFolder = Callable[..., Path]
MakeImage = Callable[..., Path]


def test_counts_and_sizes(tmp_path: Path, make_folder: MakeFolder, make_image: MakeImage) -> None:
    """Turned upright as they will be seen; what is no picture is counted, as training will say what it is."""
    a = make_folder(tmp_path / "a", 2, height=30, width=50)
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image(a / "turned.jpg", height=30, width=50, exif=exif)
    (a / "bad.png").write_bytes(b"")
    b = make_folder(tmp_path / "b", 1)
    found = survey(DataPaths(a=a, b=b))
    assert found.counts == {"a": 4, "b": 1}
    assert found.count == 4
    assert sorted(found.sizes) == [(24, 32), (30, 50), (30, 50), (50, 30)]
    assert found.median_size == (30, 41)
    assert survey(DataPaths(images=a)).counts == {"images": 4}
    assert survey(DataPaths(classes=tmp_path)).counts == {"images": 5}


def test_pairs(tmp_path: Path, make_folder: MakeFolder) -> None:
    a, b = make_folder(tmp_path / "a", 3, height=40, width=60), make_folder(tmp_path / "b", 2, height=40, width=60)
    sides = survey(DataPaths(pairs=(a,)))
    assert (sides.counts, sides.median_size) == ({"pairs": 3}, (40, 30))
    both = survey(DataPaths(pairs=(a, b)))
    assert (both.counts, both.median_size) == ({"pairs": 2}, (40, 60))


def test_packs_and_arrays(tmp_path: Path, make_folder: MakeFolder) -> None:
    a, b = make_folder(tmp_path / "a", 3), make_folder(tmp_path / "b", 2, seed=9)
    packed = tmp_path / "packed"
    pack(open_source(a=a, b=b, resolution=(8, 8)), packed)
    found = survey(DataPaths(a=packed, b=packed))
    assert (found.counts, found.median_size, found.filled((64, 64))) == ({"a": 3, "b": 2}, None, 1.0)
    np.savez(tmp_path / "arrays.npz", images=np.zeros((5, 28, 30), np.uint8))
    found = survey(DataPaths(images=tmp_path / "arrays.npz"))
    assert (found.counts, found.median_size) == ({"images": 5}, (28, 30))


@pytest.mark.parametrize(
    ("sizes", "filled"),
    [([(64, 64)], 1.0), ([(64, 32)], 0.5), ([(128, 96)], 1.5), ([(32, 64), (64, 64), (640, 640)], 1.0)],
)
def test_how_far_pictures_fill_a_size(sizes: list[tuple[int, int]], filled: float) -> None:
    assert Survey({"images": 1}, tuple(sizes), ()).filled((64, 64)) == filled


def test_an_empty_folder(tmp_path: Path) -> None:
    found = survey(DataPaths(images=tmp_path))
    assert (found.count, found.median_size) == (0, None)
