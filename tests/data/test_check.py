from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from img2img.data.check import check, gradient_hash
from img2img.data.pack import pack
from img2img.data.resize import to_tensor
from img2img.data.sources import open_source
from img2img.errors import UsageFault

MakeFolder = Callable[..., Path]
MakeImage = Callable[..., Path]


def test_a_clean_folder(tmp_path: Path, make_folder: MakeFolder, make_image: MakeImage) -> None:
    make_folder(tmp_path / "x", 4, height=64, width=48)
    make_image(tmp_path / "x" / "grey.jpg", seed=9, height=40, width=40)
    Image.new("L", (50, 50), 3).save(tmp_path / "x" / "dark.png")
    report = check(images=tmp_path / "x")
    assert report.num_images == 6
    assert report.faults == []
    assert report.sizes == {(48, 64): 4, (40, 40): 1, (50, 50): 1}
    assert report.formats == {"PNG": 5, "JPEG": 1}
    assert report.modes == {"RGB": 5, "grey": 1}
    assert report.duplicates == report.near_duplicates == report.leaks == []


def test_bad_files(tmp_path: Path, make_folder: MakeFolder) -> None:
    make_folder(tmp_path, 3)
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    report = check(images=tmp_path)
    assert [Path(fault.subject).name for fault in report.faults] == ["bad.jpg"]
    assert report.warnings == ["3 pictures have a side below 32 pixels"]


def test_duplicates_by_pixels(tmp_path: Path, make_image: MakeImage) -> None:
    """PROMISES D12: the same picture in another format, size or quality, and across train and test."""
    make_image(tmp_path / "train" / "a.png", seed=1, height=96, width=128)
    make_image(tmp_path / "train" / "b.png", seed=2, height=96, width=128)
    make_image(tmp_path / "train" / "c.png", seed=3, height=96, width=128)
    make_image(tmp_path / "train" / "d.png", seed=3, height=96, width=128)
    make_image(tmp_path / "test" / "same.bmp", seed=1, height=96, width=128)
    make_image(tmp_path / "test" / "again.jpg", seed=2, height=96, width=128, quality=60)
    Image.open(tmp_path / "train" / "b.png").resize((64, 48)).save(tmp_path / "test" / "small.png")
    make_image(tmp_path / "test" / "other.png", seed=50, height=96, width=128)
    report = check(images=tmp_path)

    def names(groups: list[list[str]]) -> set[frozenset[str]]:
        return {frozenset(Path(path).name for path in group) for group in groups}

    assert names(report.duplicates) == {frozenset({"a.png", "same.bmp"}), frozenset({"c.png", "d.png"})}
    assert names(report.near_duplicates) == {frozenset({"b.png", "again.jpg", "small.png"})}
    assert names(report.leaks) == {frozenset({"a.png", "same.bmp"}), frozenset({"b.png", "again.jpg", "small.png"})}
    against = check(images=tmp_path / "train", against=[tmp_path / "test"])
    assert names(against.leaks) == names(report.leaks)
    assert against.num_images == 4


def test_different_pictures_are_not_taken_for_each_other(tmp_path: Path, make_folder: MakeFolder) -> None:
    report = check(images=make_folder(tmp_path, 150))
    assert report.near_duplicates == []


def test_classes(tmp_path: Path, make_folder: MakeFolder) -> None:
    make_folder(tmp_path / "cat", 23, height=40, width=40)
    make_folder(tmp_path / "dog", 2, seed=22, height=40, width=40)
    (tmp_path / "eel").mkdir()
    report = check(classes=tmp_path)
    assert report.counts == {"cat": 23, "dog": 2, "eel": 0}
    assert [Path(fault.subject).name for fault in report.faults] == ["eel"]
    (contradiction,) = report.warnings
    assert contradiction.startswith("cat and dog both hold this picture")
    (tmp_path / "eel").rmdir()
    assert "the largest class has 12 times" in check(classes=tmp_path).warnings[0]


def test_one_class_is_a_fault(tmp_path: Path, make_folder: MakeFolder) -> None:
    make_folder(tmp_path / "cat", 2)
    report = check(classes=tmp_path)
    assert "only one class folder" in str(report.faults[0])


def test_pairs(tmp_path: Path, make_folder: MakeFolder, make_image: MakeImage) -> None:
    a, b = make_folder(tmp_path / "a", 3), make_folder(tmp_path / "b", 3, seed=20)
    assert check(pairs=[a, b]).faults == []
    make_image(b / "001.png", height=40, width=40)
    assert "is 40×40, but" in str(check(pairs=[a, b]).faults[0])
    (b / "002.png").unlink()
    assert "1 only in" in str(check(pairs=[a, b]).faults[0])


def test_side_by_side(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "odd.png", width=33)
    assert "width 33 is odd" in str(check(pairs=[tmp_path]).faults[0])


def test_unpaired(tmp_path: Path, make_folder: MakeFolder) -> None:
    a, b = make_folder(tmp_path / "a", 3, height=40, width=40), make_folder(tmp_path / "b", 1, seed=9)
    report = check(a=a, b=b)
    assert report.counts == {str(a): 3, str(b): 1}
    assert report.warnings == [f"{b} holds 1 image", "1 pictures have a side below 32 pixels"]
    with pytest.raises(UsageFault, match="given twice"):
        check(a=a, b=a)
    with pytest.raises(UsageFault, match="one kind of data"):
        check(a=a)


def test_packs(tmp_path: Path, make_folder: MakeFolder) -> None:
    source = open_source(images=make_folder(tmp_path / "x", 3), resolution=(8, 8))
    pack(source, tmp_path / "packed")
    report = check(images=tmp_path / "packed")
    assert report.num_images == 3
    assert report.faults == []
    content = bytearray((tmp_path / "packed" / "image.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "packed" / "image.npy").write_bytes(content)
    assert "has changed since it was packed" in str(check(images=tmp_path / "packed").faults[0])


def test_gradient_hash_by_hand() -> None:
    rising = np.repeat(np.arange(9, dtype=np.uint8)[None, :, None] * 20, 8, axis=0)
    pixels = to_tensor(np.repeat(rising, 3, axis=2))
    assert gradient_hash(pixels) == 2**64 - 1
    assert gradient_hash(pixels.flip(-1)) == 0
