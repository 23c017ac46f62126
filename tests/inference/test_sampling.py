"""Samples as files: names, class folders, grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.data.encode import refuse_strangers, save_animation
from img2img.errors import UsageFault
from img2img.inference.model import Model
from img2img.inference.sampling import write_samples


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
    with pytest.raises(UsageFault, match=r"many\.xyz: no picture format is known by the suffix"):
        write_samples(model, tmp_path / "many.xyz", 4)
    assert len(write_samples(model, tmp_path / "psi-0.7", 4)) == 4


def test_out_in_the_place_of_a_file(model_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageFault, match="out"):
        write_samples(Model.load(model_files["dcgan"], "cpu"), tmp_path / "out", 1)


def test_class_folders_even_for_one_class(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    written = write_samples(model, tmp_path / "out", 2, label="dog", class_folders=True)
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == ["dog/000000.png", "dog/000001.png"]
    with pytest.raises(UsageFault, match="Use --count"):
        write_samples(Model.load(model_files["dcgan"], "cpu"), tmp_path / "none", 2, class_folders=True)
    assert not (tmp_path / "none").exists()


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_files(
    model_files: dict[str, Path], tmp_path: Path
) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    expected = [path.read_bytes() for path in write_samples(model, tmp_path / "whole", 40)]

    def stop(done: int, total: int) -> None:
        if done == 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(model, tmp_path / "out", 40, progress=stop)
    made = sorted((tmp_path / "out").rglob("*"))
    pictures = [path for path in made if path.is_file()]
    assert 21 <= len(pictures) < 40
    assert all(path.suffix == ".png" for path in pictures)
    Image.open(pictures[0]).verify()
    victim, kept = pictures[3], pictures[4]
    victim.write_bytes(victim.read_bytes()[:-20])  # as after a power failure
    before = kept.stat().st_mtime_ns
    reports: list[tuple[int, int]] = []
    paths = write_samples(
        model, tmp_path / "out", 40, skip_existing=True, progress=lambda *report: reports.append(report)
    )
    assert [path.read_bytes() for path in paths] == expected
    assert kept.stat().st_mtime_ns == before
    assert [done for done, _ in reports] == list(range(len(pictures), 41))
    assert write_samples(model, tmp_path / "out", 40, skip_existing=True, progress=stop) == paths


def test_samples_replace_earlier_ones_and_nothing_else(model_files: dict[str, Path], tmp_path: Path) -> None:
    model = Model.load(model_files["dcgan"], "cpu")
    write_samples(model, tmp_path, 3, grid=True)
    (tmp_path / "000002.png").write_bytes(b"")
    before = (tmp_path / "000001.png").read_bytes()
    write_samples(model, tmp_path, 3, seed=5, grid=True)
    assert (tmp_path / "000001.png").read_bytes() != before
    for name in ("000001.png", "grid.png"):
        mine = Image.new("RGB", (16, 16))
        mine.save(tmp_path / name)
        kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UsageFault, match=rf"{name}: is there already and is no sample of an earlier run\. Give"):
            write_samples(model, tmp_path, 3, grid=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
        (tmp_path / name).unlink()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif"])
def test_a_file_of_samples_replaces_its_like_and_nothing_else(
    suffix: str, model_files: dict[str, Path], tmp_path: Path
) -> None:
    model = Model.load(model_files["dcgan"], "cpu")
    out = tmp_path / f"out.{suffix}"
    write_samples(model, out, 4)
    before = out.read_bytes()
    write_samples(model, out, 4, seed=3)
    assert out.read_bytes() != before
    Image.new("RGB", (34, 34)).save(out)
    mine = out.read_bytes()
    with pytest.raises(UsageFault, match="is there already and is no sample of an earlier run"):
        write_samples(model, out, 4)
    assert out.read_bytes() == mine
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (0, 200)]
    if suffix in ("gif", "webp"):
        save_animation(out, frames, seconds=0.1)
        refuse_strangers([out])
        assert getattr(Image.open(out), "n_frames", 1) == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"truncation": 0.1}, {"label": "cat"}])
def test_other_pictures_are_not_gone_on_with(
    change: dict[str, object], model_files: dict[str, Path], tmp_path: Path
) -> None:
    model = Model.load(model_files["cgan"], "cpu")
    write_samples(model, tmp_path, 3, label="dog")
    with pytest.raises(UsageFault, match="is not what this model makes"):
        write_samples(model, tmp_path, 9, skip_existing=True, **{"label": "dog", **change})  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.png"))) == 3
    with pytest.raises(UsageFault, match="needs all pictures"):
        write_samples(model, tmp_path, 9, skip_existing=True, grid=True)
