from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from img2img.data.split import split
from img2img.errors import Faults, ImageFault, UsageFault

MakeFolder = Callable[..., Path]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """200 stand-ins in two class folders; split looks at names only."""
    for index in range(200):
        path = tmp_path / "src" / ("cat" if index % 2 else "dog") / f"{index:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(index))
    return tmp_path / "src"


def parts(root: Path) -> dict[str, str]:
    """Relative name of each file -> its part."""
    return {
        path.relative_to(root).relative_to(path.relative_to(root).parts[0]).as_posix(): path.relative_to(root).parts[0]
        for path in root.rglob("*.*")
    }


def test_shares_trees_and_contents(many: Path, tmp_path: Path) -> None:
    counts = split([many], tmp_path / "out", fractions=(0.7, 0.2, 0.1))
    where = parts(tmp_path / "out")
    assert sorted(where) == sorted(path.relative_to(many).as_posix() for path in many.rglob("*.jpg"))
    totals = {part: sum(folders.values()) for part, folders in counts.items()}
    assert totals == {part: list(where.values()).count(part) for part in ("train", "validation", "test")}
    assert 115 < totals["train"] < 165
    assert 20 < totals["validation"] < 60
    assert set(counts["train"]) == {"cat", "dog"}
    for name, part in where.items():
        assert (tmp_path / "out" / part / name).read_text() == (many / name).read_text()


def test_a_picture_that_goes_away_meanwhile_is_named(many: Path, tmp_path: Path) -> None:
    def lose(done: int, total: int) -> None:
        for path in many.rglob("*.jpg"):
            path.unlink()

    with pytest.raises(ImageFault, match=r"jpg: is not there any more"):
        split([many], tmp_path / "out", progress=lose)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_more_pictures_move_no_other(many: Path, tmp_path: Path) -> None:
    split([many], tmp_path / "before")
    for index in range(200, 260):
        (many / "cat" / f"{index}.jpg").touch()
    split([many], tmp_path / "after")
    before, after = parts(tmp_path / "before"), parts(tmp_path / "after")
    assert len(after) == 260
    assert {name: after[name] for name in before} == before


def test_seed(many: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split([many], tmp_path / name, seed=seed)
    assert parts(tmp_path / "a") == parts(tmp_path / "b")
    assert parts(tmp_path / "a") != parts(tmp_path / "c")


def test_a_share_of_zero_is_not_made(many: Path, tmp_path: Path) -> None:
    counts = split([many], tmp_path / "out", fractions=(0.9, 0.0, 0.1))
    assert list(counts) == ["train", "test"]
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]


def test_every(many: Path, tmp_path: Path) -> None:
    counts = split([many], tmp_path / "out", every=10)
    assert counts["test"] == {"cat": 10, "dog": 10}
    assert counts["train"] == {"cat": 90, "dog": 90}


def test_pairs_stay_together(tmp_path: Path) -> None:
    for index in range(50):
        for folder, suffix in (("photos", ".jpg"), ("maps", ".png")):
            path = tmp_path / folder / f"{index}{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    split([tmp_path / "photos", tmp_path / "maps"], tmp_path / "out")
    where = parts(tmp_path / "out")
    assert len(where) == 100
    for index in range(50):
        assert where[f"photos/{index}.jpg"] == where[f"maps/{index}.png"]
    (tmp_path / "maps" / "7.png").unlink()
    with pytest.raises(UsageFault, match="Remove or add"):
        split([tmp_path / "photos", tmp_path / "maps"], tmp_path / "again")


def test_links(many: Path, tmp_path: Path) -> None:
    split([many], tmp_path / "out", link=True)
    name, part = next(iter(parts(tmp_path / "out").items()))
    assert (tmp_path / "out" / part / name).samefile(many / name)


def test_nothing_is_overwritten(many: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageFault, match="exists already"):
        split([many], tmp_path / "out")
    with pytest.raises(UsageFault, match="lies inside"):
        split([many], many / "out")


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (1.2, -0.2, 0.0)])
def test_shares_that_are_none(many: Path, tmp_path: Path, fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UsageFault, match="--fractions"):
        split([many], tmp_path / "out", fractions=fractions)


def test_odd_files_and_empty_folders(tmp_path: Path, make_folder: MakeFolder) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageFault, match="no images in it"):
        split([tmp_path / "empty"], tmp_path / "out")
    make_folder(tmp_path / "src", 2)
    os.mkfifo(tmp_path / "src" / "pipe.png")
    with pytest.raises(Faults, match=r"pipe\.png: is not an ordinary file"):
        split([tmp_path / "src"], tmp_path / "out")
    with pytest.raises(UsageFault, match="is a file"):
        split([tmp_path / "src" / "000.png"], tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["empty", "src"]


def test_a_target_that_cannot_be_made(many: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageFault, match=r"cannot be made: .*file is no folder"):
        split([many], tmp_path / "file" / "out")
