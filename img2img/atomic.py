"""Files that appear whole or not at all: written under a temporary name beside the target, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from img2img.errors import Fault

# no finished file or folder is called so; what a killed process left behind is found by it
TEMPORARY_PATTERN = ".img2img-*.tmp"


def temporary_beside(path: Path) -> Path:
    """A new name in the target's folder, short, since the target's own may already be as long as names can be."""
    return path.parent / f".img2img-{os.getpid()}-{secrets.token_hex(6)}.tmp"


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Create `path` with `data`; the mode comes from the umask. With `sync` the data are on the disk afterwards.

    Plain os.write is used because its OSError says what is wrong with the disk.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview, *, sync: bool = True) -> None:
    """Replace `path` by `data` in one step.

    Args:
        sync: survive a power failure, not only a kill; for what cannot be made again.

    Raises:
        Fault: with the OSError as its cause; an older file of that name is as it was, and nothing is left behind.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        write_new(temporary, data, sync=sync)
        os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise write_fault(path, error, len(data)) from error


def write_text(path: Path, text: str) -> None:
    """write_bytes of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Add UTF-8 text to the end of a file, whole or not at all unless the process is killed meanwhile.

    Raises:
        Fault: with the OSError as its cause; the file is as it was.
    """
    data = memoryview(text.encode("utf-8"))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            length = os.fstat(descriptor).st_size
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_fault(path, error) from error


def write_fault(
    path: str | os.PathLike[str],
    error: OSError,
    needed: int | None = None,
    more_space: str = "Free some space or choose another disk",
) -> Fault:
    """What a user is told when `path` could not be written.

    Args:
        needed: its size in bytes.
        more_space: how to mend a full disk.
    """
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        amounts = "" if needed is None else f" (needs {needed / 1e6:.1f} MB, {_free(Path(path)) / 1e6:.1f} MB free)"
        return Fault(path, f"cannot be written: no space{amounts}", more_space)
    return Fault(path, f"cannot be written ({error.strerror})", "Choose another place or mend its permissions")


def _free(path: Path) -> int:
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(existing).free


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what a killed process had not finished in these folders. Only while nobody else writes there."""
    for folder in folders:
        for path in folder.glob(TEMPORARY_PATTERN):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
