from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from img2img.data.pack import INDEX, is_pack, open_pack, pack, verify_pack
from img2img.data.sources import Source, array_source, open_source
from img2img.errors import Fault, UsageFault

MakeFolder = Callable[..., Path]
SIZE = (16, 12)


def same(first: Source, second: Source) -> bool:
    """Whether two sources cannot be told apart."""
    assert first.fingerprint == second.fingerprint
    assert (first.kind, first.names, first.classes, first.channels, first.size, first.direction) == (
        second.kind,
        second.names,
        second.classes,
        second.channels,
        second.size,
        second.direction,
    )
    return all(
        torch.equal(first.read(domain, index), second.read(domain, index))
        for domain in first.domains
        for index in range(first.count(domain))
    )


@pytest.fixture
def folders(tmp_path: Path, make_folder: MakeFolder) -> Path:
    make_folder(tmp_path / "images", 5)
    for index, name in enumerate(("cat", "dog")):
        make_folder(tmp_path / "classes" / name, 3, seed=10 * index)
    make_folder(tmp_path / "a", 4, seed=30)
    make_folder(tmp_path / "b", 4, seed=40)
    make_folder(tmp_path / "c", 2, seed=50)
    return tmp_path


def arguments(root: Path) -> dict[str, dict[str, Any]]:
    return {
        "images": {"images": root / "images"},
        "classes": {"classes": root / "classes"},
        "pairs": {"pairs": [root / "a", root / "b"]},
        "beside": {"pairs": [root / "images"]},
        "unpaired": {"a": root / "a", "b": root / "c"},
    }


def of_pack(kind: str, path: Path) -> dict[str, Any]:
    if kind == "unpaired":
        return {"a": path, "b": path}
    return {"pairs": [path]} if kind in ("pairs", "beside") else {kind: path}


@pytest.mark.parametrize("kind", ["images", "classes", "pairs", "beside", "unpaired"])
@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_a_pack_is_the_files(folders: Path, kind: str, direction: str) -> None:
    """PROMISES A13."""
    files = arguments(folders)[kind]
    pack(open_source(**files, resolution=SIZE), folders / "packed")
    assert is_pack(folders / "packed")
    packed = open_source(**of_pack(kind, folders / "packed"), resolution=SIZE, direction=direction)
    assert same(packed, open_source(**files, resolution=SIZE, direction=direction))
    if kind == "classes":
        assert packed.labels is not None
        assert packed.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert verify_pack(open_pack(folders / "packed")) == []


def test_packs_of_single_folders_combine(folders: Path) -> None:
    for name in ("a", "c"):
        pack(open_source(images=folders / name, resolution=SIZE), folders / f"packed-{name}")
    combined = open_source(a=folders / "packed-a", b=folders / "packed-c", resolution=SIZE)
    files = open_source(a=folders / "a", b=folders / "c", resolution=SIZE)
    assert combined.fingerprint == files.fingerprint
    assert torch.equal(combined.read("b", 1), files.read("b", 1))


def test_class_order_of_a_model_holds_for_packs(folders: Path) -> None:
    pack(open_source(classes=folders / "classes", resolution=SIZE), folders / "packed")
    source = open_source(classes=folders / "packed", resolution=SIZE, class_names=["dog", "cat"])
    assert source.labels is not None
    assert source.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_what_does_not_fit_is_refused(folders: Path) -> None:
    path = folders / "packed"
    pack(open_source(images=folders / "images", resolution=SIZE), path)
    with pytest.raises(UsageFault, match=r"pictures of 12×16, not 8×8.*Pack it again"):
        open_source(images=path, resolution=(8, 8))
    with pytest.raises(UsageFault, match="3 channels, not 1"):
        open_source(images=path, resolution=SIZE, channels=1)
    with pytest.raises(UsageFault, match='fitted by "crop", not "stretch"'):
        open_source(images=path, resolution=SIZE, fit="stretch")
    with pytest.raises(UsageFault, match=r"is a pack of kind images\. Give it as --images"):
        open_source(classes=path, resolution=SIZE)
    with pytest.raises(UsageFault, match="is a pack of kind images"):
        open_source(pairs=[path], resolution=SIZE)
    with pytest.raises(UsageFault, match="same folder"):
        open_source(a=path, b=path, resolution=SIZE)


def test_nothing_is_overwritten(folders: Path) -> None:
    source = open_source(images=folders / "images", resolution=SIZE)
    with pytest.raises(UsageFault, match="exists already"):
        pack(source, folders / "a")
    (folders / "file").write_text("mine")
    with pytest.raises(UsageFault, match=r"cannot be made: .*file is no folder"):
        pack(source, folders / "file" / "new" / "pack")


def test_a_file_lost_meanwhile_ends_it(folders: Path) -> None:
    source = open_source(images=folders / "images", resolution=SIZE, cache_gb=0.0)
    (folders / "images" / "002.png").unlink()
    before = sorted(os.listdir(folders))
    with pytest.raises(Fault, match=r"002\.png: became unreadable while it was packed"):
        pack(source, folders / "packed")
    assert sorted(os.listdir(folders)) == before


def test_full_disk_leaves_nothing(folders: Path) -> None:
    source = open_source(images=folders / "images", resolution=(64, 64))
    before = sorted(os.listdir(folders))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(Fault, match="no space"):
            pack(source, folders / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(folders)) == before


class TestDamage:
    @pytest.fixture
    def packed(self, tmp_path: Path) -> Path:
        images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8)).astype(np.uint8)
        pack(array_source({"image": images}, labels=np.arange(6) % 2, classes=("x", "y")), tmp_path / "packed")
        return tmp_path / "packed"

    def refused(self, path: Path) -> str:
        with pytest.raises(UsageFault, match="is a damaged pack") as caught:
            open_pack(path)
        return str(caught.value)

    def test_flipped_bit(self, packed: Path) -> None:
        content = bytearray((packed / "image.npy").read_bytes())
        content[-5] ^= 1
        (packed / "image.npy").write_bytes(content)
        (fault,) = verify_pack(open_pack(packed))
        assert "image.npy: has changed since it was packed" in str(fault)

    def test_cut_array(self, packed: Path) -> None:
        content = (packed / "image.npy").read_bytes()
        for length in (0, 20, len(content) - 1):
            (packed / "image.npy").write_bytes(content[:length])
            self.refused(packed)
        (packed / "image.npy").unlink()
        self.refused(packed)

    def test_pickled_array_is_never_loaded(self, packed: Path) -> None:
        np.save(packed / "image.npy", np.array([print], dtype=object), allow_pickle=True)
        self.refused(packed)

    def test_other_array(self, packed: Path) -> None:
        np.save(packed / "image.npy", np.zeros((6, 3, 8, 9), np.uint8))
        assert "the index says" in self.refused(packed)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("kind", "nonsense"),
            ("kind", "pairs"),
            ("lanes", {"image": {}}),
            ("lanes", None),
            ("lanes", {"image": {"domains": ["../../secret"], "records": [], "labels": None}}),
            ("size", "big"),
            ("classes", ["x"]),
            ("names", 3),
            ("sha256", []),
        ],
    )
    def test_other_index(self, packed: Path, key: str, value: object) -> None:
        index = json.loads((packed / INDEX).read_text())
        index[key] = value
        (packed / INDEX).write_text(json.dumps(index))
        self.refused(packed)

    def test_future_format(self, packed: Path) -> None:
        (packed / INDEX).write_text((packed / INDEX).read_text().replace("img2img-pack-1", "img2img-pack-7"))
        with pytest.raises(UsageFault, match="format 'img2img-pack-7'"):
            open_pack(packed)

    def test_cut_index(self, packed: Path) -> None:
        (packed / INDEX).write_text((packed / INDEX).read_text()[:300])
        self.refused(packed)

    def test_no_pack(self, tmp_path: Path) -> None:
        assert not is_pack(tmp_path)
        (tmp_path / INDEX).write_text("{}")
        assert not is_pack(tmp_path)
