"""Which picture files a folder holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from img2img.data.decode import SUFFIXES
from img2img.errors import UsageFault

# Left by systems and programs; everything that begins with a dot is left out as well
_JUNK = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is a by-product of systems and programs."""
    return name.startswith(".") or name.casefold() in _JUNK


def list_images(
    root: str | os.PathLike[str], *, follow_links: bool = False, exclude: Iterable[str | os.PathLike[str]] = ()
) -> list[Path]:
    """All entries below `root` whose suffix is a picture's, sorted by name; `root` may also be one file.

    Nothing is opened: pipes, empty files and folders named like pictures are listed, so that whoever opens them can
    say what is wrong. Links to files are followed, broken ones listed; links to folders are followed only with
    `follow_links`, and no folder is entered twice.

    Args:
        exclude: files or folders (with everything below) that are left out, such as the output of this very run.

    Raises:
        UsageFault: `root` does not exist or a folder cannot be read.
    """
    root = Path(root)
    excluded = {identity for path in exclude if (identity := _identity(path)) is not None}
    try:
        status = os.stat(root)
    except OSError as error:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UsageFault(root, reason, "Check the path") from error
    if not stat.S_ISDIR(status.st_mode):
        return [root]
    found: list[str] = []
    visited = {(status.st_dev, status.st_ino)}
    if excluded.isdisjoint(visited):
        _walk(str(root), found, visited, excluded, follow_links)
    found.sort(key=os.fsencode)
    return [Path(name) for name in found]


def _walk(
    top: str,
    found: list[str],
    visited: set[tuple[int, int]],
    excluded: set[tuple[int, int]],
    follow_links: bool,
) -> None:
    folders = [top]
    while folders:
        folder = folders.pop()
        for entry in _entries(folder):
            if is_junk(entry.name):
                continue
            named_like_picture = os.path.splitext(entry.name)[1].lower() in SUFFIXES
            if named_like_picture:
                if not excluded or _identity(entry.path) not in excluded:
                    found.append(entry.path)
            elif _is_folder(entry, follow_links):
                identity = _identity(entry.path)
                if identity is not None and identity not in visited and identity not in excluded:
                    visited.add(identity)
                    folders.append(entry.path)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:  # also in the middle, of a disk or share that fails
        raise UsageFault(
            folder, f"cannot be read ({error.strerror})", "Give yourself the right to read it, or move it away"
        ) from error


def _is_folder(entry: os.DirEntry[str], follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:
        return False


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def no_images(root: str | os.PathLike[str]) -> UsageFault:
    """The fault for a folder without pictures."""
    looked_for = ", ".join(sorted(SUFFIXES))
    links = _folder_links(root)
    hint = f"; {links} of its entries are links to folders, which are not followed" if links else ""
    return UsageFault(root, f"no images in it (looked for {looked_for}{hint})", "Check the path")


def _folder_links(root: str | os.PathLike[str]) -> int:
    with os.scandir(root) as entries:
        return sum(entry.is_symlink() and os.path.isdir(entry.path) for entry in entries)
