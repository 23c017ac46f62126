"""Which outputs of a folder are done: one line per output, appended before the output gets its name.

A run that was killed at any moment is gone on with by `--skip-existing`: an output counts as done only if its line, its
content and its source's content agree. Clocks and file times are not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from img2img.atomic import write_fault

MANIFEST_NAME = ".img2img-manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One output: sha256 of its source, of the model and options that made it, and of itself."""

    source: str
    recipe: str
    output: str


class Manifest:
    """The manifest of `folder`, open for new lines; `entries` are those it had, the last one of each name."""

    def __init__(self, folder: Path, read_entries: bool = True) -> None:
        self.path = folder / MANIFEST_NAME
        self._lock = threading.Lock()
        try:
            self.entries = read_entries_of(folder) if read_entries else {}
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if os.fstat(self._descriptor).st_size and not _ends_with_newline(self._descriptor):
                os.write(self._descriptor, b"\n")  # a line that a crash cut off must not swallow the next
        except OSError as error:
            raise write_fault(self.path, error) from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def append(self, name: str, entry: Entry) -> None:
        """Record that the output `name` is about to appear."""
        fields = {"name": name, "source": entry.source, "recipe": entry.recipe, "output": entry.output}
        line = json.dumps(fields, sort_keys=True).encode() + b"\n"
        with self._lock:
            try:
                written = os.write(self._descriptor, line)
                if written < len(line):  # a disk that fills up takes the first part; the rest says why
                    os.write(self._descriptor, line[written:])
            except OSError as error:
                raise write_fault(self.path, error) from error

    def is_alone(self) -> bool:
        """Whether no other process has this manifest open; from then on others know of this one."""
        try:
            import fcntl
        except ImportError:  # Windows
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return alone


def content_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_entries_of(folder: Path) -> dict[str, Entry]:
    """The entries of a folder's manifest, without making one; empty where there is none."""
    entries: dict[str, Entry] = {}
    with contextlib.suppress(FileNotFoundError), open(folder / MANIFEST_NAME, "rb") as lines:
        for line in lines:
            # a line cut off by a crash, or edited: its output is made again
            with contextlib.suppress(ValueError, KeyError, TypeError):
                fields = json.loads(line)
                entries[str(fields["name"])] = Entry(
                    str(fields["source"]), str(fields["recipe"]), str(fields["output"])
                )
    return entries


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"
