from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from img2img.data.check import check
from img2img.data.files import list_images
from img2img.data.scan import scan
from img2img.data.sources import open_source


@pytest.mark.parametrize("workers", [1, 4])
def test_bad_files_are_listed_in_order(tmp_path: Path, make_folder: Callable[..., Path], workers: int) -> None:
    make_folder(tmp_path, 12)
    (tmp_path / "003.png").write_bytes(b"")
    (tmp_path / "007.png").write_bytes((tmp_path / "007.png").read_bytes()[:-30])
    seen: list[int] = []
    faults = scan(list_images(tmp_path), workers=workers, progress=lambda done, total: seen.append(done))
    assert [Path(fault.subject).name for fault in faults] == ["003.png", "007.png"]
    assert [fault.problem.split(" (")[0] for fault in faults] == ["is empty", "file is cut short"]
    assert seen == list(range(1, 13))


def test_limits(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    files = list_images(make_folder(tmp_path, 2))
    assert scan(files) == []
    assert len(scan(files, max_pixels=24 * 32 - 1)) == 2
    files[0].write_bytes(files[0].read_bytes()[:-30])
    assert scan(files, allow_truncated=True) == []


def make_names(root: Path, count: int) -> Path:
    """So many files without content, a thousand to a folder."""
    for index in range(count):
        folder = root / f"{index // 1000:04d}"
        if index % 1000 == 0:
            folder.mkdir(parents=True)
        os.close(os.open(folder / f"picture-{index:06d}.png", os.O_CREAT | os.O_WRONLY))
    return root


def peak_of(work: Callable[[Path], object], root: Path) -> int:
    """The most bytes that Python and NumPy held for it."""
    tracemalloc.start()
    try:
        work(root)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_name_takes_little_memory(tmp_path: Path) -> None:
    """PROMISES D11: 100,000 of them 60 MB at most."""
    few, many = make_names(tmp_path / "few", 1000), make_names(tmp_path / "many", 3000)
    list_images(few)
    # the least of several: what tests before this one left to be collected may be counted
    most, least = (min(peak_of(list_images, root) for _ in range(3)) for root in (many, few))
    assert (most - least) / 2000 < 600


@pytest.mark.parametrize(
    ("work", "most"),
    [
        (lambda root: open_source(images=root, resolution=(8, 8), workers=1, cache_gb=0), 2500),
        (lambda root: check(images=root, workers=1), 4000),
    ],
    ids=["training", "check"],
)
def test_a_picture_is_forgotten_but_for_what_names_it(
    work: Callable[[Path], object], most: int, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    """Decoded it takes 49,152 bytes."""
    few = make_folder(tmp_path / "few", 20, height=128, width=128)
    many = make_folder(tmp_path / "many", 80, height=128, width=128)
    work(few)
    assert (peak_of(work, many) - peak_of(work, few)) / 60 < most


@pytest.mark.slow
def test_a_hundred_thousand_names_are_listed_in_seconds(tmp_path: Path) -> None:
    """PROMISES D11, in seconds of the processor, since others may want it too."""
    root = make_names(tmp_path / "many", 100_000)
    began = time.process_time()
    assert len(list_images(root)) == 100_000
    assert time.process_time() - began < 5
