from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from img2img.config import DataPaths, resolve
from img2img.data import arrays
from img2img.data.arrays import is_arrays, read_arrays
from img2img.data.batches import Loader
from img2img.data.lanes import StackedLane
from img2img.data.pack import pack
from img2img.data.sources import open_source
from img2img.errors import Faults, UsageFault

MakeFolder = Callable[..., Path]


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten grey pictures of 8 × 6 with labels 7, 3, 3, … for training, four for testing."""
    path = tmp_path / "things.npz"
    labels = np.array([7, 3, 3, 9, 7, 7, 3, 9, 9, 9])
    np.savez_compressed(
        path, train_images=pictures(10, 8, 6), train_labels=labels, test_images=pictures(4, 8, 6, seed=1)
    )
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def test_each_part_under_its_name(file: Path) -> None:
    train, test = read_arrays(file, labels=True), read_arrays(file, "test")
    assert np.array_equal(train.images, pictures(10, 8, 6)[..., None])
    assert np.array_equal(test.images, pictures(4, 8, 6, seed=1)[..., None])
    assert train.labels is not None
    assert train.labels.tolist() == [7, 3, 3, 9, 7, 7, 3, 9, 9, 9]
    assert test.labels is None
    assert (train.name, test.name) == ("train_images", "test_images")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_short_names_colours_and_orders(tmp_path: Path, channels: int) -> None:
    images = np.asfortranarray(pictures(5, 4, 4, channels))
    np.savez(tmp_path / "a.NPZ.npz", images=images, labels=np.arange(5, dtype=np.uint8))
    found = read_arrays(tmp_path / "a.NPZ.npz", labels=True)
    assert np.array_equal(found.images, images)
    assert found.labels is not None
    assert found.labels.dtype == np.int64


def test_the_name_tells_a_file_of_arrays(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    names = {name: is_arrays(tmp_path / name) for name in ("a.npz", "A.NPZ", "a.npy", "npz", "folder.npz")}
    assert names == {"a.npz": True, "A.NPZ": True, "a.npy": False, "npz": False, "folder.npz": False}


def test_the_digest_is_of_values_shape_and_labels(tmp_path: Path) -> None:
    images, labels = pictures(6, 4, 4), np.arange(6)
    variants = [
        ({"images": images}, False),
        ({"images": images.reshape(6, 2, 8)}, False),
        ({"images": images[::-1]}, False),
        ({"images": images, "labels": labels}, True),
        ({"images": images, "labels": labels[::-1]}, True),
    ]
    digests = set()
    for members, labelled in variants:
        np.savez(tmp_path / "a.npz", **members)
        digests.add(read_arrays(tmp_path / "a.npz", labels=labelled).digest)
    assert len(digests) == len(variants)
    np.savez_compressed(tmp_path / "b.npz", images=images, more=labels)
    assert read_arrays(tmp_path / "b.npz").digest in digests


# --- refusing --------------------------------------------------------------------------------------------------------


def refusal(path: Path, part: str = "train", labels: bool = False) -> str:
    with pytest.raises(UsageFault) as caught:
        read_arrays(path, part, labels=labels)
    assert caught.value.subject == str(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "images",
    [
        pictures(4, 4),
        pictures(2, 3, 5, 5),
        pictures(2, 3, 4, 2),
        pictures(0, 4, 4),
        pictures(2, 0, 4),
        pictures(2, 4, 4).astype(np.float32),
        pictures(2, 4, 4).astype(np.int8),
        np.zeros((2, 4, 4), bool),
    ],
)
def test_other_arrays(tmp_path: Path, images: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=images)
    message = refusal(tmp_path / "a.npz")
    assert f"images holds {images.dtype} of shape {images.shape}: not uint8 of shape (n, h, w)" in message
    assert "channels last" in message


@pytest.mark.parametrize(
    "labels", [np.zeros(3), np.zeros(2, int), np.zeros((3, 1), int), np.zeros(3, np.uint64), np.array(["a", "b", "c"])]
)
def test_other_labels(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=pictures(3, 4, 4), labels=labels)
    assert "labels holds" in refusal(tmp_path / "a.npz", labels=True)
    assert len(read_arrays(tmp_path / "a.npz").images) == 3


def test_missing_arrays_are_named_with_what_is_there(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=pictures(3, 4, 4), more=np.zeros(1))
    assert "no array called train_images or images (it holds train, more)" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=pictures(3, 4, 4))
    assert "no array called train_labels or labels" in refusal(tmp_path / "b.npz", labels=True)
    assert "no array called test_images" in refusal(tmp_path / "b.npz", "test")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([print, print], dtype=object))
    assert "images holds object of shape (2,): not uint8" in refusal(tmp_path / "a.npz")


def forge(path: Path, header: dict[str, object], content: bytes) -> None:
    """An .npz whose one member says what `header` says."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, **header})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member.getvalue() + content)


@pytest.mark.parametrize("shape", [(1 << 40, 28, 28), (1 << 62, 1 << 62, 1 << 62)])
def test_a_huge_shape_takes_no_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    forge(tmp_path / "a.npz", {"shape": shape}, b"")
    assert "GiB, over the limit of 4" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("num_bytes", [0, 63, 65, 5000])
def test_a_header_that_lies(tmp_path: Path, num_bytes: int) -> None:
    forge(tmp_path / "a.npz", {"shape": (1, 8, 8)}, bytes(num_bytes))
    assert "images does not hold as many bytes as its header says" in refusal(tmp_path / "a.npz")


def test_a_bomb_is_stopped_by_what_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(tmp_path / "a.npz", {"shape": (1000, 100, 100)}, bytes(10_000_000))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    monkeypatch.setattr(arrays, "LARGEST_ARRAY", 9_999_999)
    assert "over the limit" in refusal(tmp_path / "a.npz")


def test_damage(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[300] ^= 1
    broken = tmp_path / "broken.npz"
    for damaged in (b"", b"PK", content[: len(content) // 2], bytes(flipped), b"<html>"):
        broken.write_bytes(damaged)
        assert "is no usable .npz file" in refusal(broken)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x03\x00rest")
    assert "is no usable .npz file" in refusal(broken)


def test_no_file(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "a.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    assert "is no regular file" in refusal(tmp_path / "pipe.npz")


# --- as a source -----------------------------------------------------------------------------------------------------


def test_pictures_as_they_are(file: Path) -> None:
    source = open_source(images=file, resolution=(8, 6), channels=1)
    assert (source.kind, source.names, source.channels) == ("images", {"image": "things.npz"}, {"image": 1})
    assert source.description == "10 images from things.npz at 6×8"
    read = torch.stack([source.read("image", index) for index in range(10)])
    assert np.array_equal(read[:, 0].numpy(), pictures(10, 8, 6))


def test_labels_become_classes_in_ascending_order(file: Path) -> None:
    source = open_source(classes=file, resolution=(8, 6), channels=1)
    assert source.classes == ("3", "7", "9")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 0, 2, 1, 1, 0, 2, 2, 2]
    again = open_source(classes=file, resolution=(8, 6), channels=1, class_names=("9", "3", "7"))
    assert again.labels is not None
    assert again.labels.tolist() == [2, 1, 1, 0, 2, 2, 1, 0, 0, 0]
    with pytest.raises(UsageFault, match="classes differ: model has 1,2; folder has 3,7,9"):
        open_source(classes=file, resolution=(8, 6), channels=1, class_names=("1", "2"))


def test_one_class_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pictures(3, 4, 4), labels=np.full(3, 5))
    with pytest.raises(UsageFault, match="all its labels are 5"):
        open_source(classes=tmp_path / "a.npz", resolution=(4, 4))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_size_and_channels_are_those_of_the_same_pictures_as_files(
    tmp_path: Path, make_folder: MakeFolder, channels: int, kept: int, fit: str
) -> None:
    folder = make_folder(tmp_path / "files", 3)
    whole = open_source(images=folder, resolution=(24, 32), channels=kept)
    images = np.stack([whole.read("image", index).permute(1, 2, 0).numpy() for index in range(3)])
    np.savez(tmp_path / "a.npz", images=images)
    options = {"resolution": (12, 20), "channels": channels, "fit": fit}
    of_arrays = open_source(images=tmp_path / "a.npz", **options)
    if kept == 1 and channels > 1:  # files of one channel, as the arrays are
        grey = open_source(images=folder, resolution=(12, 20), channels=1, fit=fit)
        expected = [grey.read("image", index).expand(3, -1, -1) for index in range(3)]
        found = [of_arrays.read("image", index)[:3] for index in range(3)]
    else:
        of_files = open_source(images=folder, **options)
        expected = [of_files.read("image", index) for index in range(3)]
        found = [of_arrays.read("image", index) for index in range(3)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_opacity_is_laid_on_the_background_as_in_files(tmp_path: Path) -> None:
    images = np.full((1, 4, 4, 4), (255, 0, 0, 0), np.uint8)
    images[0, :2] = (10, 20, 30, 255)
    np.savez(tmp_path / "a.npz", images=images)
    read = open_source(images=tmp_path / "a.npz", resolution=(4, 4)).read("image", 0)
    assert read[:, 3, 0].tolist() == [10, 20, 30]
    assert torch.equal(
        open_source(images=tmp_path / "a.npz", resolution=(4, 4), channels=4).read("image", 0),
        torch.from_numpy(images[0]).permute(2, 0, 1),
    )


def test_the_fingerprint_follows_the_pictures_and_a_pack_keeps_it(file: Path, tmp_path: Path) -> None:
    source = open_source(classes=file, resolution=(8, 6), channels=1)
    pack(source, tmp_path / "packed")
    packed = open_source(classes=tmp_path / "packed", resolution=(8, 6), channels=1)
    assert packed.fingerprint == source.fingerprint
    assert all(torch.equal(packed.read("image", index), source.read("image", index)) for index in range(10))
    np.savez(file, images=pictures(10, 8, 6, seed=2), labels=np.arange(10))
    assert open_source(classes=file, resolution=(8, 6), channels=1).fingerprint != source.fingerprint


def test_paths_of_a_configuration(file: Path, tmp_path: Path) -> None:
    assert DataPaths(images=file).faults() == []
    assert DataPaths(classes=file).faults() == []
    assert "is a file, not a folder" in str(DataPaths(a=file, b=tmp_path).faults()[0])
    assert "there is no folder" in str(DataPaths(images=tmp_path / "b.npz").faults()[0])


# --- stacked ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Forty grey pictures, each of one value: its number."""
    np.savez(tmp_path / "a.npz", images=np.repeat(np.arange(40, dtype=np.uint8), 16).reshape(40, 4, 4))
    return tmp_path / "a.npz"


def triples(path: Path) -> list[tuple[int, ...]]:
    source = open_source(images=path, resolution=(4, 4), stacked=True)
    assert source.channels == {"image": 3}
    read = [source.read("image", index) for index in range(source.count("image"))]
    assert all(bool((picture == picture[:, :1, :1]).all()) for picture in read)
    return [tuple(picture[:, 0, 0].tolist()) for picture in read]


def test_a_stack_is_three_different_pictures_and_two_meet_once(numbered: Path) -> None:
    found = triples(numbered)
    assert len(found) == 40
    assert all(len(set(triple)) == 3 for triple in found)
    for channel in range(3):
        assert sorted(triple[channel] for triple in found) == list(range(40))
    pairs = {frozenset(pair) for a, b, c in found for pair in ((a, b), (b, c), (a, c))}
    assert len(pairs) == 3 * 40


def test_stacks_are_the_same_every_time_and_look_drawn(numbered: Path) -> None:
    found = triples(numbered)
    assert found == triples(numbered)
    differences = {(b - a) % 40 for a, b, _ in found}
    assert len(differences) > 20


def test_batches_of_stacks(numbered: Path) -> None:
    source = open_source(images=numbered, resolution=(4, 4), stacked=True)
    lane = source.lanes["image"]
    assert isinstance(lane, StackedLane)
    with Loader(source, seed=3, resolution=(4, 4)) as loader:
        batch = loader.batch(np.arange(8))
        items = loader.items("image", np.arange(8))
    values = ((batch["image"][:, :, 0, 0] + 1) * 127.5).round().to(torch.int64)
    assert torch.equal(values, torch.from_numpy(lane.parts[items]))


def test_stacks_of_files(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(tmp_path / "files", 5)
    grey = open_source(images=folder, resolution=(8, 8), channels=1)
    source = open_source(images=folder, resolution=(8, 8), stacked=True)
    lane = source.lanes["image"]
    assert isinstance(lane, StackedLane)
    for index, parts in enumerate(lane.parts):
        expected = torch.cat([grey.read("image", part) for part in parts])
        assert torch.equal(source.read("image", index), expected)
    assert source.fingerprint != grey.fingerprint


def test_a_lost_file_is_replaced_by_another_stack(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(tmp_path / "files", 9)
    source = open_source(images=folder, resolution=(8, 8), stacked=True, cache_gb=0)
    (folder / "004.png").unlink()
    for index in range(9):
        source.read("image", index)
    assert source.replaced == 3
    assert len(source.lost) == 3


def test_what_cannot_be_stacked(file: Path, tmp_path: Path, make_folder: MakeFolder) -> None:
    with pytest.raises(UsageFault, match=r"data\.stacked: .*of classes it cannot.*Give --images"):
        open_source(classes=file, resolution=(8, 6), stacked=True)
    for kind in ({"a": file, "b": tmp_path}, {"pairs": (tmp_path,)}):
        with pytest.raises(UsageFault, match=r"data\.stacked"):
            open_source(**kind, resolution=(8, 6), stacked=True)
    np.savez(tmp_path / "colour.npz", images=pictures(5, 4, 4, 3))
    with pytest.raises(UsageFault, match="no grey pictures"):
        open_source(images=tmp_path / "colour.npz", resolution=(4, 4), stacked=True)
    np.savez(tmp_path / "few.npz", images=pictures(2, 4, 4))
    with pytest.raises(UsageFault, match="2 pictures make no stack of three"):
        open_source(images=tmp_path / "few.npz", resolution=(4, 4), stacked=True)
    with pytest.raises(Faults, match=r"data\.stacked: .*data\.channels = 1\. Set data\.channels=3"):
        resolve("dcgan-small", sets=["data.stacked=true", "data.channels=1"])
    assert resolve("dcgan-small", sets=["data.stacked=true"]).data.stacked
