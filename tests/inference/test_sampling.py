"""Samples as files: names, class folders, grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.errors import UsageFault
from img2img.inference.model import Model
from img2img.inference.sampling import make_grid, write_samples


def test_single_files_and_a_grid(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["dcgan"], "cpu")
    written = write_samples(model, tmp_path / "out", 5, grid=True)
    assert [path.name for path in written] == [*(f"{number:06d}.png" for number in range(5)), "grid.png"]
    expected = model.sample(5)
    assert [Image.open(path).tobytes() for path in written[:5]] == [image.tobytes() for image in expected]
    assert Image.open(written[5]).size == (3 * 18 - 2, 2 * 18 - 2)


def test_a_folder_for_each_class_none_of_them_outside(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    written = write_samples(model, tmp_path / "out", 6, grid=True)
    names = [str(path.relative_to(tmp_path / "out")) for path in written]
    owl = names[2].split("/")[0]
    assert names[:3] == ["cat/000000.png", "dog/000001.png", f"{owl}/000002.png"]
    assert ".." not in owl
    assert Image.open(written[-1]).size == (2 * 18 - 2, 3 * 18 - 2)
    one = write_samples(model, tmp_path / "dogs", 2, label="dog")
    assert [path.name for path in one] == ["000000.png", "000001.png"]


def test_a_file_is_a_picture_or_a_grid(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["dcgan"], "cpu")
    assert write_samples(model, tmp_path / "new" / "one.png", 1) == [tmp_path / "new" / "one.png"]
    assert Image.open(tmp_path / "new" / "one.png").tobytes() == model.sample(1)[0].tobytes()
    write_samples(model, tmp_path / "four.webp", 4)
    assert Image.open(tmp_path / "four.webp").size == (34, 34)
    with pytest.raises(UsageFault, match="too many for a grid"):
        write_samples(model, tmp_path / "many.png", 10_001)


def test_out_in_the_place_of_a_file(model_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageFault, match="out"):
        write_samples(Model.load(model_files["dcgan"], "cpu"), tmp_path / "out", 1)


def test_grid_places_pictures() -> None:
    black, grey = np.zeros((2, 3, 1), np.uint8), np.full((2, 3, 1), 7, np.uint8)
    sheet = make_grid([[black, grey], [grey]])
    assert sheet.shape == (6, 8, 1)
    assert np.array_equal(sheet[:2, 5:], grey)
    assert np.array_equal(sheet[4:, :3], grey)
    assert (sheet[2:4] == 255).all()
    assert (sheet[4:, 3:] == 255).all()
