"""Files that appear whole or not at all: written under a temporary name beside the target, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from img2img.errors import Fault

TEMPORARY_PREFIX = ".tmp-"


def temporary_beside(path: Path) -> Path:
    """A name in the target's folder that no finished file ever has."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"[:240])


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Create `path` with `data` and sync it; the mode comes from the umask.

    Plain os.write is used because its OSError says what is wrong with the disk.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one step. A full disk raises a Fault and leaves the old file as it was."""
    temporary = temporary_beside(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        write_new(temporary, data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise write_fault(path, error, len(data)) from error


def write_text(path: Path, text: str) -> None:
    """write_bytes of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_fault(path: Path, error: OSError, needed: int) -> Fault:
    """What a user is told when `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return Fault(
            path,
            f"cannot be written: no space (needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB free)",
            "Free space on this disk, then go on with --resume or --skip-existing",
        )
    return Fault(path, f"cannot be written: {error.strerror}", "Choose a folder that you may write to")
