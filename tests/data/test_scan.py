from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from img2img.data.files import list_images
from img2img.data.scan import scan


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
