"""Which picture files a folder holds."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from img2img.data.decode import SUFFIXES, open_regular, upright_size
from img2img.errors import ImageFault, UsageFault, counted

# Left by systems and programs; everything that begins with a dot is left out as well
_JUNK = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is a by-product of systems and programs."""
    return name.startswith(".") or name.casefold() in _JUNK


def find_images(
    root: str | os.PathLike[str],
    *,
    follow_links: bool = False,
    exclude: Iterable[str | os.PathLike[str]] = (),
    notes: list[str] | None = None,
) -> list[Path]:
    """list_images, of which there must be some.

    Args:
        notes: receives remarks on what is passed over: pictures without a suffix, and links to folders.

    Raises:
        UsageFault: there are none, or as of list_images.
    """
    nameless: list[str] = []
    links: list[str] = []
    files = list_images(root, follow_links=follow_links, exclude=exclude, nameless=nameless, links=links)
    if not files:
        raise no_images(root, nameless)
    if notes is not None and (pictures := _pictures(nameless)):
        notes.append(f"left out for want of a suffix such as .jpg: {_some(pictures)}")
    if notes is not None and links:
        notes.append(f"{_links(len(links))}, such as {min(links)}")
    return files


def list_images(
    root: str | os.PathLike[str],
    *,
    follow_links: bool = False,
    exclude: Iterable[str | os.PathLike[str]] = (),
    nameless: list[str] | None = None,
    links: list[str] | None = None,
) -> list[Path]:
    """All entries below `root` whose suffix is a picture's, sorted by name; `root` may also be one file.

    Nothing is opened: pipes, empty files and folders named like pictures are listed, so that whoever opens them can
    say what is wrong. Links to files are followed, broken ones listed; links to folders are followed only with
    `follow_links`, and no folder is entered twice.

    Args:
        exclude: files or folders (with everything below) that are left out, such as the output of this very run.
        nameless: receives the paths of files without any suffix, which are passed over.
        links: receives those of links to folders that are not followed.

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
        passed_over = ([] if nameless is None else nameless, [] if links is None else links)
        _walk(str(root), found, visited, excluded, follow_links, *passed_over)
    found.sort(key=os.fsencode)
    return [Path(name) for name in found]


def _walk(
    top: str,
    found: list[str],
    visited: set[tuple[int, int]],
    excluded: set[tuple[int, int]],
    follow_links: bool,
    nameless: list[str],
    links: list[str],
) -> None:
    folders = [top]
    while folders:
        folder = folders.pop()
        for entry in _entries(folder):
            if is_junk(entry.name):
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in SUFFIXES:
                if not excluded or _identity(entry.path) not in excluded:
                    found.append(entry.path)
            elif _is_folder(entry, follow_links):
                identity = _identity(entry.path)
                if identity is not None and identity not in visited and identity not in excluded:
                    visited.add(identity)
                    folders.append(entry.path)
            elif entry.is_symlink() and _is_folder(entry, follow_links=True):
                links.append(entry.path)
            elif not suffix and entry.is_file(follow_symlinks=False):
                nameless.append(entry.path)


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


def _pictures(paths: Iterable[str]) -> list[str]:
    """Those of the files that are pictures by their headers, sorted."""
    found = []
    for path in sorted(paths):
        with contextlib.suppress(ImageFault), open_regular(path) as stream:
            upright_size(stream, path)
            found.append(path)
    return found


def _some(pictures: list[str]) -> str:
    return f"{counted(len(pictures), 'picture')}, such as {pictures[0]}"


def _links(count: int) -> str:
    return f"{counted(count, 'link')} to {'a folder is' if count == 1 else 'folders are'} not followed"


def no_images(root: str | os.PathLike[str], nameless: Iterable[str] = ()) -> UsageFault:
    """The fault for a folder without pictures, which may hold `nameless` files without a suffix."""
    looked_for = ", ".join(sorted(SUFFIXES))
    links = _folder_links(root)
    hint = f"; {_links(links)}" if links else ""
    if pictures := _pictures(nameless):
        hint += f"; without any suffix there are {_some(pictures)}"
    return UsageFault(root, f"no images in it (looked for {looked_for}{hint})", "Check the path, or add pictures")


def _folder_links(root: str | os.PathLike[str]) -> int:
    with os.scandir(root) as entries:
        return sum(entry.is_symlink() and os.path.isdir(entry.path) for entry in entries)
