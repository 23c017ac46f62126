"""Which outputs of a folder are done: one line per output, appended before the output gets its name.

A run that was killed at any moment is gone on with by `--skip-existing`: an output counts as done only if its line, its
content and its source's content agree. Clocks and file times are not believed.

Each shard of a run has a file of its own, since lines that several machines append to one file on a network disk may
overwrite each other. All of them together are the manifest; since content decides, no order matters between them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from img2img.atomic import write_fault

MANIFEST_NAME = ".img2img-manifest.jsonl"

# Which part of how many, both counted from 1 on
Shard = tuple[int, int]
WHOLE: Shard = (1, 1)


def part_name(name: str, shard: Shard) -> str:
    """What a shard calls its part of a file: `a.jsonl` is `a-2-of-4.jsonl`; of one that is the whole, `a.jsonl`."""
    stem, suffix = os.path.splitext(name)
    return name if shard == WHOLE else f"{stem}-{shard[0]}-of-{shard[1]}{suffix}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One output: sha256 of its source, of the model and options that made it, and of itself."""

    source: str
    recipe: str
    output: str


class Manifest:
    """The manifest of `folder`, open for new lines of one shard; `entries` are those that all shards had."""

    def __init__(self, folder: Path, read_entries: bool = True, shard: Shard = WHOLE) -> None:
        self.path = folder / part_name(MANIFEST_NAME, shard)
        self._lock = threading.Lock()
        try:
            self.entries = read_entries_of(folder) if read_entries else {}
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if os.fstat(self._descriptor).st_size and not _ends_with_newline(self._descriptor):
                os.write(self._descriptor, b"\n")  # a line that a crash cut off must not swallow the next
            # the file that all shards hold a lock of
            self._common = (
                self._descriptor if shard == WHOLE else os.open(folder / MANIFEST_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            )
        except OSError as error:
            raise write_fault(self.path, error) from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._common != self._descriptor:
            os.close(self._common)
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

    def join(self, tidy: Callable[[], None]) -> None:
        """Let other processes know of this one. If it is the only one, call `tidy` before any other goes on."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._common, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tidy()
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks: nobody can be seen
            return
        fcntl.flock(self._common, fcntl.LOCK_SH)


def content_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts_of(folder: Path) -> list[Path]:
    stem, suffix = os.path.splitext(MANIFEST_NAME)
    return sorted(folder.glob(f"{stem}*{suffix}"))


def has_manifest(folder: Path) -> bool:
    """Whether a run has written into this folder before."""
    return bool(_parts_of(folder))


def read_entries_of(folder: Path) -> dict[str, set[Entry]]:
    """The entries of each name in a folder's manifest, without making one; empty where there is none."""
    entries: dict[str, set[Entry]] = {}
    for path in _parts_of(folder):
        with open(path, "rb") as lines:
            for line in lines:
                # a line cut off by a crash, or edited: its output is made again
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    fields = json.loads(line)
                    entry = Entry(str(fields["source"]), str(fields["recipe"]), str(fields["output"]))
                    entries.setdefault(str(fields["name"]), set()).add(entry)
    return entries


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"
