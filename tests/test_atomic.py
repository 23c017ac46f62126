"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from img2img.atomic import TEMPORARY_PATTERN, remove_leftovers, temporary_beside, write_bytes, write_new, write_text
from img2img.errors import Fault


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def test_content_mode_and_nothing_beside(tmp_path: Path, umask: Callable[[int], None]) -> None:
    """PROMISES E12: the mode comes from the umask."""
    for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        umask(mask)
        write_bytes(tmp_path / "file", bytes([mask]))
        assert (tmp_path / "file").read_bytes() == bytes([mask])
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "pipe"])
def test_a_new_file_is_none_that_is_there(kind: str, tmp_path: Path) -> None:
    """PROMISES E12: O_EXCL, so that nobody's link leads a temporary file elsewhere."""
    path, other = tmp_path / "temporary", tmp_path / "other"
    if kind == "file":
        path.write_bytes(b"theirs")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
        if kind == "link":
            other.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        write_new(path, b"ours")
    assert other.exists() == (kind == "link")
    assert not other.exists() or other.read_bytes() == b"theirs"


def test_temporary_names_are_in_the_targets_folder_new_each_time_and_found_again(tmp_path: Path) -> None:
    names = {temporary_beside(tmp_path / ("n" * 255)) for _ in range(100)}
    assert len(names) == 100
    for path in names:
        assert path.parent == tmp_path
        assert path.match(TEMPORARY_PATTERN)
        write_new(path, b"", sync=False)
    (tmp_path / "kept.tmp").touch()
    remove_leftovers([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["kept.tmp"]


def test_a_target_that_cannot_be_replaced_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Fault, match="folder: cannot be written"):
        write_text(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
