from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from folder_zoo import png

from img2img.data.check import Balance, check, gradient_hash
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
    names = ", ".join(str(tmp_path / f"{number:03d}.png") for number in range(3))
    assert report.warnings == [f"3 pictures are less than 32 pixels high or wide ({names})"]


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
    report = check(classes=tmp_path)
    assert "the largest class has 12 times the pictures of the smallest (cat 23, dog 2)" in report.warnings[0]
    assert "Add pictures to dog" in report.warnings[0]
    assert report.balance is not None
    assert (report.balance.largest, report.balance.smallest, report.balance.ratio) == ("cat", "dog", 11.5)
    assert report.balance.effective_classes == pytest.approx(25 / (23 ** (23 / 25) * 2 ** (2 / 25)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30))
def test_balance_lies_between_one_class_and_all(counts: list[int]) -> None:
    named = {str(index): count for index, count in enumerate(counts)}
    found = Balance.of(named)
    assert found.ratio == max(counts) / min(counts)
    assert 1 - 1e-9 <= found.effective_classes <= len(counts) + 1e-9
    even = Balance.of(dict.fromkeys(named, counts[0]))
    assert (even.ratio, even.effective_classes) == (1, pytest.approx(len(counts)))
    doubled = Balance.of({name: 2 * count for name, count in named.items()})
    assert doubled.effective_classes == pytest.approx(found.effective_classes)


def test_parts_in_the_place_of_classes(tmp_path: Path, make_folder: MakeFolder) -> None:
    make_folder(tmp_path / "train" / "cat", 2, height=40, width=40)
    make_folder(tmp_path / "test" / "cat", 2, seed=5, height=40, width=40)
    (warning,) = check(classes=tmp_path).warnings
    assert warning.startswith("test and train are taken for classes")
    assert "--against" in warning


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
    report = check(pairs=[a, b])
    assert "1 only in" in str(report.faults[0])
    assert "is 40×40, but" in str(report.faults[1])
    assert report.unmatched == {str(a): ["002.png"]}
    make_folder(b / "more", 12, seed=40)
    assert check(pairs=[a, b]).unmatched[str(b)] == [f"more/{number:03d}.png" for number in range(12)]


def test_side_by_side(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "odd.png", width=33)
    assert "width 33 is odd" in str(check(pairs=[tmp_path]).faults[0])


def side_by_side(path: Path, left: int, right: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8) for seed in (left, right)]
    Image.fromarray(np.concatenate(blocks, axis=1)).resize((80, 40), Image.Resampling.NEAREST).save(path)


def test_leaks_of_pairs(tmp_path: Path, make_image: MakeImage) -> None:
    """A pair of which one half is in the test set is known; a and b of one pair may well be alike."""
    side_by_side(tmp_path / "sides" / "train" / "1.png", 1, 2)
    side_by_side(tmp_path / "sides" / "train" / "2.png", 3, 3)
    side_by_side(tmp_path / "sides" / "test" / "3.png", 4, 2)
    report = check(pairs=[tmp_path / "sides"])
    first, third = tmp_path / "sides" / "train" / "1.png", tmp_path / "sides" / "test" / "3.png"
    assert report.leaks == [[f"{third} (right)", f"{first} (right)"]]
    assert len(report.duplicates) == 2
    assert "1 picture is in more than one part of the data" in report.warnings
    side_by_side(tmp_path / "sides" / "test" / "3.png", 1, 2)
    assert len(check(pairs=[tmp_path / "sides"]).leaks) == 1  # of both halves
    for folder, seeds in (("a", (1, 2, 3)), ("b", (1, 5, 6))):
        for name, seed in zip(("train/1", "train/2", "test/3"), seeds):
            make_image(tmp_path / folder / f"{name}.png", seed=seed, height=40, width=40)
    assert check(pairs=[tmp_path / "a", tmp_path / "b"]).leaks == []
    make_image(tmp_path / "b" / "test" / "3.png", seed=5, height=40, width=40)
    b = tmp_path / "b"
    assert check(pairs=[tmp_path / "a", b]).leaks == [[str(b / "test" / "3.png"), str(b / "train" / "2.png")]]


def _saved(image: Image.Image, suffix: str) -> tuple[str, bytes]:
    stream = io.BytesIO()
    image.save(stream, {"png": "PNG", "tif": "TIFF", "jpg": "JPEG"}[suffix])
    return suffix, stream.getvalue()


def test_equal_pictures_that_others_resemble_are_one_leak(tmp_path: Path, make_image: MakeImage) -> None:
    for name in ("train/a.png", "test/b.png"):
        make_image(tmp_path / name, seed=2, height=96, width=128)
    make_image(tmp_path / "test" / "again.jpg", seed=2, height=96, width=128, quality=60)
    report = check(images=tmp_path)
    assert [len(group) for group in report.leaks] == [3]
    assert "1 picture is in more than one part of the data" in report.warnings


def test_pictures_without_a_suffix_are_told_of(tmp_path: Path, make_folder: MakeFolder) -> None:
    root = make_folder(tmp_path / "x", 2, height=40, width=40)
    shutil.copy(root / "000.png", root / "IMG_1")
    (root / "README").write_text("of no interest")
    told = f"left out for want of a suffix such as .jpg: 1 picture, such as {root / 'IMG_1'}"
    assert check(images=root).warnings == [told]
    assert open_source(images=root, resolution=(8, 8)).notes == [told]


@pytest.mark.parametrize(
    ("mode", "told"),
    [("RGBA", "RGB with opacity"), ("L", "grey"), ("1", "black and white"), ("P", "palette"), ("I;16", "16-bit grey")],
)
def test_modes_are_those_of_the_files(mode: str, told: str, tmp_path: Path) -> None:
    Image.new(mode, (40, 40)).save(tmp_path / "a.png")
    assert check(images=tmp_path).modes == {told: 1}
    Image.new("CMYK", (40, 40)).save(tmp_path / "b.jpg")
    assert check(images=tmp_path).modes == {told: 1, "CMYK": 1}


@pytest.mark.parametrize(
    ("bits", "saved"),
    [
        (1, _saved(Image.new("1", (40, 40)), "png")),
        (8, _saved(Image.new("L", (40, 40)), "png")),
        (8, _saved(Image.new("P", (40, 40)), "png")),
        (8, _saved(Image.new("CMYK", (40, 40)), "jpg")),
        (16, _saved(Image.fromarray(np.zeros((40, 40), np.uint16)), "png")),
        (16, _saved(Image.fromarray(np.zeros((40, 40), np.uint16)), "tif")),
        (16, ("png", png(8, 8, 16, 2, bytes(8 * 49)))),
        (32, _saved(Image.fromarray(np.zeros((40, 40), np.float32)), "tif")),
    ],
)
def test_depths(bits: int, saved: tuple[str, bytes], tmp_path: Path) -> None:
    suffix, content = saved
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert check(images=tmp_path).depths == {bits: 1}


def test_unpaired(tmp_path: Path, make_folder: MakeFolder) -> None:
    a, b = make_folder(tmp_path / "a", 3, height=40, width=40), make_folder(tmp_path / "b", 1, seed=9)
    report = check(a=a, b=b)
    assert report.counts == {str(a): 3, str(b): 1}
    small = f"1 picture is less than 32 pixels high or wide ({b / '000.png'})"
    assert report.warnings == [f"{b} holds 1 image", small]
    shutil.copy(a / "000.png", b / "again.png")
    report = check(a=a, b=b)
    assert "1 picture is in both folders, which shows no difference to learn" in report.warnings
    assert report.leaks == []
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
