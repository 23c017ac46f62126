from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from img2img.data.files import find_images, is_junk, list_images, no_images
from img2img.errors import UsageFault


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(root: Path, **options: object) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_images(root, **options)]  # type: ignore[arg-type]


def test_nested_sorted_and_by_suffix(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a.jpeg", "notes.txt", "a/b/c.tiff", "README", "x.svg", "y.pdf", "i.heic"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.jpeg", "a/b/c.tiff", "a/z.jpg", "b.PNG", "i.heic"]


def test_junk_is_left_out(tmp_path: Path) -> None:
    """PROMISES D7."""
    for name in (
        ".hidden.jpg",
        ".ipynb_checkpoints/x.png",
        "__MACOSX/x.jpg",
        "Thumbs.db",
        "@eaDir/x.jpg",
        "$RECYCLE.BIN/x.png",
        "._a.jpg",
        "good.jpg",
    ):
        touch(tmp_path / name)
    assert names(tmp_path) == ["good.jpg"]
    assert is_junk("THUMBS.DB")


def test_links(tmp_path: Path) -> None:
    """PROMISES D1."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    touch(inside / "a.jpg")
    touch(outside / "b.jpg")
    (inside / "loop").symlink_to(inside)
    (inside / "folder").symlink_to(outside)
    (inside / "file.jpg").symlink_to(outside / "b.jpg")
    (inside / "broken.jpg").symlink_to(inside / "nowhere")
    assert names(inside) == ["a.jpg", "broken.jpg", "file.jpg"]
    assert names(inside, follow_links=True) == ["a.jpg", "broken.jpg", "file.jpg", "folder/b.jpg"]
    notes: list[str] = []
    find_images(inside, notes=notes)
    assert notes == [f"2 links to folders are not followed, such as {inside / 'folder'}"]
    notes.clear()
    find_images(inside, follow_links=True, notes=notes)
    assert notes == []


def test_links_that_cross_are_walked_once(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        touch(tmp_path / one / f"{one}.jpg")
        (tmp_path / one / "other").symlink_to(tmp_path / other)
    assert len(names(tmp_path, follow_links=True)) == 2


def test_pipes_and_folders_named_like_pictures_are_listed_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    touch(tmp_path / "folder.png" / "inside.png")
    assert names(tmp_path) == ["folder.png", "pipe.jpg"]


def test_own_output_is_left_out(tmp_path: Path) -> None:
    """PROMISES D4."""
    for name in ("a.jpg", "out/a.jpg", "out/deep/b.jpg", "skip.jpg"):
        touch(tmp_path / name)
    assert names(tmp_path, exclude=[tmp_path / "out", tmp_path / "skip.jpg", tmp_path / "absent"]) == ["a.jpg"]
    (tmp_path / "alias").symlink_to(tmp_path / "out")
    assert names(tmp_path, exclude=[tmp_path / "alias"]) == ["a.jpg", "skip.jpg"]
    assert names(tmp_path, exclude=[tmp_path]) == []


def test_odd_names(tmp_path: Path) -> None:
    """PROMISES D3."""
    odd = [b"-rf.jpg", b"\xff\xfe.jpg", "é\n😀.jpg".encode(), b"a b.jpg", b"x" * 251 + b".jpg"]
    for name in odd:
        touch(tmp_path / os.fsdecode(name))
    assert sorted(os.fsencode(path.name) for path in list_images(tmp_path)) == sorted(odd)


def test_one_file(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.jpg")
    assert list_images(path) == [path]


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="nowhere: no such folder"):
        list_images(tmp_path / "nowhere")
    assert list_images(tmp_path) == []
    touch(tmp_path / "elsewhere" / "x.jpg")
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert "no images in it (looked for .apng, .avif" in str(no_images(folder))
    assert "1 link to a folder is not followed" in str(no_images(folder))


def test_a_folder_that_fails_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc does, and a disk that dies."""

    class Failing:
        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries())

        def __exit__(self, *error: object) -> None:
            pass

        def entries(self) -> Iterator[os.DirEntry[str]]:
            yield from ()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", lambda folder: Failing())
    with pytest.raises(UsageFault, match=r"cannot be read \(Input/output error\)"):
        list_images(tmp_path)


def test_twenty_thousand_files_in_a_second(tmp_path: Path) -> None:
    """PROMISES D11, a fifth of it."""
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for index in range(1000):
            os.close(os.open(tmp_path / str(folder) / f"{index}.jpg", os.O_CREAT))
    began = time.process_time()  # other programs may keep the cores busy
    assert len(list_images(tmp_path)) == 20_000
    assert time.process_time() - began < 3  # a second, on a core that nobody else slows down


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path, peak_growth: Callable[[], int]) -> None:
    """PROMISES D11: five seconds, and memory for the names alone."""
    for folder in range(100):
        (tmp_path / str(folder)).mkdir()
        for index in range(1000):
            os.close(os.open(tmp_path / str(folder) / f"{index}.jpg", os.O_CREAT))
    began = time.process_time()
    peak_growth()
    found = list_images(tmp_path)
    seconds, grown = time.process_time() - began, peak_growth()
    print(f"{len(found):,} files in {seconds:.2f} s of the processor, {grown / 1e6:.0f} MB")
    assert len(found) == 100_000
    assert seconds < 5
    assert grown < 100e6
