from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.data.decode import open_image
from img2img.data.resize import fit_to, to_tensor
from img2img.data.sources import array_source, match_classes, match_pairs, open_source
from img2img.errors import Fault, Faults, UsageFault

MakeFolder = Callable[..., Path]
MakeImage = Callable[..., Path]
SIZE = (16, 16)


def expected_tensor(path: Path, size: tuple[int, int] = SIZE, channels: int = 3, fit: str = "crop") -> torch.Tensor:
    return fit_to(to_tensor(open_image(path).as_channels(channels)), size, fit)


class TestImages:
    def test_nested_folder(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path, 3)
        make_folder(tmp_path / "deep" / "er", 2, seed=9)
        source = open_source(images=tmp_path, resolution=SIZE)
        assert (source.kind, source.domains, source.classes, source.aligned) == ("images", ("image",), (), False)
        assert source.count("image") == 5
        assert source.size == SIZE
        assert source.labels is None
        assert source.names == {"image": tmp_path.name}
        assert "5 images from" in source.description
        assert torch.equal(source.read("image", 1), expected_tensor(tmp_path / "001.png"))
        assert torch.equal(source.read("image", 3), expected_tensor(tmp_path / "deep" / "er" / "000.png"))

    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("fit", ["crop", "stretch"])
    def test_channels_and_rectangles(self, tmp_path: Path, make_folder: MakeFolder, channels: int, fit: str) -> None:
        make_folder(tmp_path, 1, height=30, width=20)
        source = open_source(images=tmp_path, resolution=(8, 12), load_size=(10, 14), channels=channels, fit=fit)
        assert source.channels == {"image": channels}
        assert torch.equal(
            source.read("image", 0), expected_tensor(tmp_path / "000.png", (10, 14), channels=channels, fit=fit)
        )

    @pytest.mark.parametrize("cache_gb", [0.0, 1.5 * 3 * 16 * 16 / 2**30, 1.0])
    def test_memory_changes_nothing(self, tmp_path: Path, make_folder: MakeFolder, cache_gb: float) -> None:
        make_folder(tmp_path, 4)
        source = open_source(images=tmp_path, resolution=SIZE, cache_gb=cache_gb)
        for _ in range(2):
            for index in range(4):
                assert torch.equal(source.read("image", index), expected_tensor(tmp_path / f"{index:03d}.png"))

    def test_memory_spares_the_files(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        source = open_source(images=make_folder(tmp_path, 3), resolution=SIZE)
        wanted = expected_tensor(tmp_path / "002.png")
        for path in tmp_path.iterdir():
            path.unlink()
        assert torch.equal(source.read("image", 2), wanted)
        assert source.replaced == 0

    def test_fingerprint(self, tmp_path: Path, make_folder: MakeFolder, make_image: MakeImage) -> None:
        def fingerprint(**options: object) -> str:
            return open_source(images=tmp_path, resolution=SIZE, **options).fingerprint  # type: ignore[arg-type]

        make_folder(tmp_path, 3)
        first = fingerprint()
        assert fingerprint(workers=3, cache_gb=0.0, fit="stretch") == first
        make_image(tmp_path / "001.png", seed=77)
        second = fingerprint()
        assert second != first
        (tmp_path / "002.png").rename(tmp_path / "003.png")
        assert fingerprint() not in (first, second)

    def test_empty_and_missing(self, tmp_path: Path) -> None:
        """PROMISES D7."""
        with pytest.raises(UsageFault, match=r"no images in it \(looked for .*\.jpg"):
            open_source(images=tmp_path, resolution=SIZE)
        with pytest.raises(UsageFault, match="no such folder"):
            open_source(images=tmp_path / "nowhere", resolution=SIZE)

    def test_exactly_one_kind(self, tmp_path: Path) -> None:
        with pytest.raises(UsageFault, match="no pictures are given"):
            open_source(resolution=SIZE)
        with pytest.raises(UsageFault, match="more than one kind"):
            open_source(images=tmp_path, classes=tmp_path, resolution=SIZE)
        with pytest.raises(UsageFault, match="--b: is not given"):
            open_source(a=tmp_path, resolution=SIZE)
        with pytest.raises(UsageFault, match="3 folders are given"):
            open_source(pairs=[tmp_path] * 3, resolution=SIZE)


class TestBadFiles:
    """PROMISES C: listed together before anything begins."""

    def test_all_are_listed(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path, 5)
        (tmp_path / "bad1.jpg").write_bytes(b"<html>")
        (tmp_path / "bad2.png").write_bytes(b"")
        os.mkfifo(tmp_path / "bad3.gif")
        with pytest.raises(Faults) as caught:
            open_source(images=tmp_path, resolution=SIZE)
        lines = str(caught.value).splitlines()
        assert [line.split(":")[0].rsplit("/", 1)[-1] for line in lines[:3]] == ["bad1.jpg", "bad2.png", "bad3.gif"]
        assert "3 of 8 files cannot be used" in lines[3]
        assert "too many to leave out: mend or remove them" in lines[3]
        assert caught.value.exit_code == 2

    def test_up_to_a_tenth_may_be_left_out(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path, 10)
        (tmp_path / "005.png").write_bytes(b"")
        source = open_source(images=tmp_path, resolution=SIZE, skip_bad=True)
        assert source.count("image") == 9
        assert [Path(fault.subject).name for fault in source.bad] == ["005.png"]
        assert source.notes == ["left out 1 of 10 files that cannot be used"]
        assert torch.equal(source.read("image", 5), expected_tensor(tmp_path / "006.png"))
        (tmp_path / "006.png").write_bytes(b"")
        with pytest.raises(Faults, match="More than a tenth"):
            open_source(images=tmp_path, resolution=SIZE, skip_bad=True)

    def test_a_long_list_is_shortened(self, tmp_path: Path) -> None:
        for index in range(50):
            (tmp_path / f"{index}.jpg").write_bytes(b"")
        with pytest.raises(Faults, match="50 of 50 files cannot be used, 30 of them not listed") as caught:
            open_source(images=tmp_path, resolution=SIZE)
        assert len(caught.value.faults) == 21

    def test_lost_files_are_replaced(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        """PROMISES C16."""
        source = open_source(images=make_folder(tmp_path, 4), resolution=SIZE, cache_gb=0.0)
        (tmp_path / "001.png").unlink()
        (tmp_path / "002.png").write_bytes(b"changed")
        assert torch.equal(source.read("image", 1), expected_tensor(tmp_path / "003.png"))
        assert source.replaced == 1
        assert torch.equal(source.read("image", 3), expected_tensor(tmp_path / "003.png"))
        assert source.replaced == 1
        assert sorted(Path(fault.subject).name for fault in source.lost) == ["001.png", "002.png"]
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(Fault, match="can no longer be read"):
            source.read("image", 0)

    def test_a_replacement_is_of_the_same_class(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        for index, name in enumerate("ab"):
            make_folder(tmp_path / name, 3, seed=10 * index)
        source = open_source(classes=tmp_path, resolution=SIZE, cache_gb=0.0)
        (tmp_path / "a" / "002.png").unlink()
        assert source.label(2) == 0
        assert torch.equal(source.read("image", 2), expected_tensor(tmp_path / "a" / "000.png"))


class TestClasses:
    def test_labels_follow_the_folders(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path / "dog", 2, seed=5)
        make_folder(tmp_path / "cat" / "nested", 3)
        (tmp_path / ".hidden").mkdir()
        source = open_source(classes=tmp_path, resolution=SIZE)
        assert source.kind == "classes"
        assert source.classes == ("cat", "dog")
        assert source.labels is not None
        assert source.labels.tolist() == [0, 0, 0, 1, 1]
        assert source.label(4) == 1
        assert "5 images of 2 classes" in source.description

    def test_order_comes_from_the_model(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        for name in ("cat", "dog"):
            make_folder(tmp_path / name, 1)
        source = open_source(classes=tmp_path, resolution=SIZE, class_names=["dog", "cat"])
        assert source.classes == ("dog", "cat")
        assert source.labels is not None
        assert source.labels.tolist() == [1, 0]

    def test_classes_that_differ(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        """PROMISES D8."""
        for name in ("cat", "dgo"):
            make_folder(tmp_path / name, 1)
        with pytest.raises(UsageFault, match=r"model has cat,dog; folder has cat,dgo\. Did you mean dog\? Give the"):
            open_source(classes=tmp_path, resolution=SIZE, class_names=["cat", "dog"])
        match_classes(["a", "b"], ["b", "a"], "x")

    def test_wrong_folders(self, tmp_path: Path, make_folder: MakeFolder, make_image: MakeImage) -> None:
        make_folder(tmp_path / "cat", 2)
        with pytest.raises(UsageFault, match=r"only one class folder \(cat\)"):
            open_source(classes=tmp_path, resolution=SIZE)
        for name in ("dog", "eel"):
            (tmp_path / name).mkdir()
        with pytest.raises(Faults) as caught:
            open_source(classes=tmp_path, resolution=SIZE)
        assert [Path(fault.subject).name for fault in caught.value.faults] == ["dog", "eel"]
        make_image(tmp_path / "loose.png")
        with pytest.raises(UsageFault, match=r"1 image lies loose beside the class folders \(loose\.png\)"):
            open_source(classes=tmp_path, resolution=SIZE)
        (tmp_path / "none").mkdir()
        with pytest.raises(UsageFault, match="no class folders"):
            open_source(classes=tmp_path / "none", resolution=SIZE)

    def test_bad_files_keep_labels_in_step(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        for index, name in enumerate("ab"):
            make_folder(tmp_path / name, 10, seed=10 * index)
        (tmp_path / "a" / "003.png").write_bytes(b"")
        source = open_source(classes=tmp_path, resolution=SIZE, skip_bad=True)
        assert source.labels is not None
        assert source.labels.tolist() == [0] * 9 + [1] * 10
        assert torch.equal(source.read("image", 9), expected_tensor(tmp_path / "b" / "000.png"))


class TestUnpaired:
    def test_two_folders(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        a, b = make_folder(tmp_path / "photos", 3), make_folder(tmp_path / "drawings", 2, seed=9)
        source = open_source(a=a, b=b, resolution=SIZE, channels={"a": 3, "b": 1})
        assert (source.kind, source.domains, source.aligned) == ("unpaired", ("a", "b"), False)
        assert (source.count("a"), source.count("b")) == (3, 2)
        assert source.names == {"a": "photos", "b": "drawings"}
        assert source.read("b", 1).shape == (1, 16, 16)
        back = open_source(a=a, b=b, resolution=SIZE, channels={"a": 1, "b": 3}, direction="b2a")
        assert back.names == {"a": "drawings", "b": "photos"}
        assert (back.count("a"), back.channels) == (2, {"a": 1, "b": 3})
        assert torch.equal(back.read("a", 1), source.read("b", 1))
        assert back.fingerprint == source.fingerprint

    def test_faults(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        """PROMISES D10."""
        a = make_folder(tmp_path / "a", 3)
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(UsageFault, match="no images in it"):
            open_source(a=a, b=empty, resolution=SIZE)
        with pytest.raises(UsageFault, match="is the same folder as --a"):
            open_source(a=a, b=tmp_path / "." / "a", resolution=SIZE)
        link = tmp_path / "link"
        link.symlink_to(a)
        with pytest.raises(UsageFault, match="is the same folder as --a"):
            open_source(a=a, b=link, resolution=SIZE)
        inner = make_folder(a / "inner", 1)
        with pytest.raises(UsageFault, match="inside the other"):
            open_source(a=a, b=inner, resolution=SIZE)

    def test_one_image_is_a_warning(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        a, b = make_folder(tmp_path / "a", 3), make_folder(tmp_path / "b", 1)
        assert open_source(a=a, b=b, resolution=SIZE).notes == ["b holds 1 image"]


class TestPairs:
    def test_side_by_side(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path / "maps", 3, height=20, width=40)
        source = open_source(pairs=[tmp_path / "maps"], resolution=(20, 20))
        assert (source.kind, source.aligned, source.count("a"), source.count("b")) == ("pairs", True, 3, 3)
        whole = to_tensor(open_image(tmp_path / "maps" / "001.png").pixels)
        item = source.sample("pair", 1)
        assert torch.equal(item["a"], whole[:, :, :20])
        assert torch.equal(item["b"], whole[:, :, 20:])
        assert torch.equal(source.read("b", 1), item["b"])
        back = open_source(pairs=[tmp_path / "maps"], resolution=(20, 20), direction="b2a")
        assert torch.equal(back.sample("pair", 1)["a"], item["b"])
        assert back.names == {"a": "right of maps", "b": "left of maps"}
        assert back.fingerprint == source.fingerprint

    def test_odd_width(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path, 2, width=33)
        with pytest.raises(Faults, match=r"000\.png: width 33 is odd"):
            open_source(pairs=[tmp_path], resolution=SIZE)

    def test_two_folders_match_by_stem(self, tmp_path: Path, make_image: MakeImage) -> None:
        """PROMISES D9: never by position."""
        names = ["zebra", "ant", "x/mole", "Owl"]
        for index, name in enumerate(names):
            make_image(tmp_path / "a" / f"{name}.png", seed=index)
        for index, name in enumerate(["zebra", "ant", "x/mole", "owl"]):
            make_image(tmp_path / "b" / f"{name}.webp", seed=100 + index, lossless=True)
        source = open_source(pairs=[tmp_path / "a", tmp_path / "b"], resolution=SIZE, fit="stretch")
        assert source.count("a") == 4
        assert source.notes == ["1 pairs have names that differ in upper and lower case"]
        pairs = {"ant": 1, "Owl": 3, "x/mole": 2, "zebra": 0}
        for index in range(4):
            item = source.sample("pair", index)
            stem = source.lanes["pair"].records[index][0].name.removesuffix(".png")
            b = tmp_path / "b" / f"{stem.lower()}.webp"
            assert torch.equal(item["a"], expected_tensor(tmp_path / "a" / f"{stem}.png", fit="stretch"))
            assert torch.equal(item["b"], expected_tensor(b, fit="stretch"))
            assert stem in pairs

    def test_files_without_partner(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        a, b = make_folder(tmp_path / "a", 14), make_folder(tmp_path / "b", 3)
        (b / "002.png").rename(b / "other.png")
        with pytest.raises(UsageFault) as caught:
            open_source(pairs=[a, b], resolution=SIZE)
        message = str(caught.value)
        assert "has 14 images" in message
        assert "002, 003" in message
        assert "and 2 more" in message
        assert "other" in message
        assert "data.pairs_policy=intersect" in message
        source = open_source(pairs=[a, b], resolution=SIZE, pairs_policy="intersect")
        assert source.count("a") == 2
        assert "left out without partner" in source.notes[0]

    def test_no_partner_at_all(self, tmp_path: Path, make_image: MakeImage) -> None:
        make_image(tmp_path / "a" / "x.png")
        make_image(tmp_path / "b" / "y.png")
        for policy in ("strict", "intersect"):
            with pytest.raises(UsageFault, match="no file has the name of one in"):
                open_source(pairs=[tmp_path / "a", tmp_path / "b"], resolution=SIZE, pairs_policy=policy)

    def test_equal_stems_in_one_folder(self, tmp_path: Path) -> None:
        files = [tmp_path / "a" / name for name in ("x.jpg", "x.png")]
        with pytest.raises(UsageFault, match=r"a: files share one name but for the suffix: x\.jpg and x\.png"):
            match_pairs(files, files[:1], tmp_path / "a", tmp_path / "a", policy="strict", notes=[])
        files += [tmp_path / "a" / name for name in ("y.bmp", "y.png", "z.png")]
        with pytest.raises(UsageFault, match=r"2 names .*: x\.jpg and x\.png, y\.bmp and y\.png"):
            match_pairs(files[:1], files, tmp_path / "a", tmp_path / "a", policy="strict", notes=[])

    def test_composed_and_decomposed_names_match(self, tmp_path: Path) -> None:
        """PROMISES D3."""
        matched = match_pairs(
            [tmp_path / "é.png"], [tmp_path / "e\u0301.png"], tmp_path, tmp_path, policy="strict", notes=[]
        )
        assert len(matched) == 1

    def test_sizes_that_differ(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        a, b = make_folder(tmp_path / "a", 2), make_folder(tmp_path / "b", 2, height=48, width=64)
        with pytest.raises(Faults, match=r"000\.png: is 64×48, but .* is 32×24.*data\.resize_pairs=true"):
            open_source(pairs=[a, b], resolution=SIZE, skip_bad=True)
        source = open_source(pairs=[a, b], resolution=SIZE, resize_pairs=True)
        assert source.sample("pair", 0)["b"].shape == (3, 16, 16)

    def test_a_bad_half_takes_the_pair_with_it(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        a, b = make_folder(tmp_path / "a", 10), make_folder(tmp_path / "b", 10, seed=50)
        (b / "004.png").write_bytes(b"")
        source = open_source(pairs=[a, b], resolution=SIZE, skip_bad=True)
        assert source.count("a") == 9
        item = source.sample("pair", 4)
        assert torch.equal(item["a"], expected_tensor(a / "005.png"))
        assert torch.equal(item["b"], expected_tensor(b / "005.png"))

    def test_the_same_folder_twice(self, tmp_path: Path, make_folder: MakeFolder) -> None:
        make_folder(tmp_path, 2)
        with pytest.raises(UsageFault, match="the same"):
            open_source(pairs=[tmp_path, tmp_path], resolution=SIZE)


class TestOddNames:
    def test_names_of_any_bytes(self, tmp_path: Path, make_image: MakeImage) -> None:
        """PROMISES D3, E11."""
        for index, name in enumerate([b"\xff.png", b"-x.png", b"new\nline.png", "😀 é.png".encode()]):
            make_image(tmp_path / os.fsdecode(name), seed=index)
        source = open_source(images=tmp_path, resolution=SIZE)
        assert source.count("image") == 4
        assert len(source.fingerprint) == 64
        (tmp_path / "\x1b[31m.png").write_bytes(b"")
        with pytest.raises(Faults) as caught:
            open_source(images=tmp_path, resolution=SIZE)
        assert "\x1b" not in str(caught.value)


def test_tiny_pictures(tmp_path: Path, make_image: MakeImage) -> None:
    """PROMISES C11."""
    for height, width in [(1, 1), (1, 40), (40, 1), (3, 400)]:
        make_image(tmp_path / f"{height}x{width}.png", height=height, width=width)
    source = open_source(images=tmp_path, resolution=SIZE)
    assert [source.read("image", index).shape for index in range(4)] == [(3, 16, 16)] * 4


def test_arrays() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    labels = np.array([0, 1, 1, 0, 1])
    source = array_source({"image": images}, labels=labels, classes=("x", "y"))
    assert (source.kind, source.classes, source.label(1)) == ("classes", ("x", "y"), 1)
    assert np.array_equal(source.read("image", 2), images[2])
    assert array_source({"image": images}).kind == "images"
    pairs = array_source({"a": images, "b": 255 - images}, aligned=True)
    item = pairs.sample("pair", 4)
    assert torch.equal(item["a"], 255 - item["b"])
    unpaired = array_source({"a": images, "b": images[:2]})
    assert (unpaired.kind, unpaired.count("b")) == ("unpaired", 2)
    assert unpaired.fingerprint != pairs.fingerprint


def test_real_pairs(shared_data: Path) -> None:
    source = open_source(pairs=[shared_data / "facades" / "test"], resolution=(32, 32))
    assert source.count("a") == 106
    photo, labels = source.sample("pair", 0).values()
    # a label map has few colours, a photograph many
    assert len(torch.unique(labels.flatten(1), dim=1)) <= 3 * 32 * 32
    assert photo.float().std() > 10
    with Image.open(sorted((shared_data / "facades" / "test").iterdir())[0]) as image:
        assert image.size == (512, 256)
