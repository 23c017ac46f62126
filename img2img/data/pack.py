"""A data set decoded and resized once: uint8 or uint16 arrays that training maps into memory, and an index.

A pack is a folder with `index.json` and, for each domain, `DOMAIN.npy` of shape (count, C, h, w). Training from it
gives the same bits as training from the files, and its fingerprint is theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from img2img.atomic import temporary_beside, write_fault
from img2img.data.lanes import ArrayLane, Record
from img2img.data.threads import map_in_threads
from img2img.errors import Fault, UsageFault

if TYPE_CHECKING:
    from img2img.data.sources import Source

INDEX = "index.json"
FORMAT = "img2img-pack-1"
_MAX_INDEX_BYTES = 1 << 30
_DESCRIPTIONS = {torch.uint8: "|u1", torch.uint16: "<u2"}  # of arrays, as .npy files write them


@dataclass(eq=False)
class Pack:
    """An opened pack.

    Attributes:
        path: its folder.
        kind: "images", "classes", "pairs" or "unpaired".
        lanes: "image", "pair", or "a" and "b".
        names: domain -> what people call it.
        classes: class names in the order of the labels.
        fit: how pictures were fitted, "crop" or "stretch".
        fingerprint: of the files it was made from.
        sha256: array file -> hash of its content, for `verify_pack`.
    """

    path: Path
    kind: str
    lanes: dict[str, ArrayLane]
    names: dict[str, str]
    classes: tuple[str, ...]
    fit: str
    fingerprint: str
    sha256: dict[str, str]


def is_pack(path: str | os.PathLike[str]) -> bool:
    """Whether this folder was made by `pack`."""
    index = Path(path) / INDEX
    try:
        if not index.is_file():  # a pipe would block
            return False
        with index.open("rb") as stream:
            return FORMAT.rsplit("-", 1)[0].encode() in stream.read(200)
    except OSError:
        return False


def require_new_folder(path: str | os.PathLike[str]) -> None:
    """Raise UsageFault unless `path` can be made: nothing is overwritten, and no work is begun for nothing."""
    if os.path.lexists(path):
        raise UsageFault(path, "exists already, and nothing is overwritten", "Choose another name or remove it")
    parent = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise UsageFault(path, f"cannot be made: {parent} is no folder", "Choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageFault(path, f"cannot be made: {parent} cannot be written to", "Choose another place")


def pack(
    source: Source,
    path: str | os.PathLike[str],
    *,
    workers: int = 2,
    timeout: float = 120.0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the pictures of `source`, at its size, as a new folder `path`, which appears when it is complete.

    Raises:
        UsageFault: `path` exists.
        Fault: a file became unreadable meanwhile, or the disk is full; nothing is left behind.
    """
    assert source.direction == "a2b", "a pack keeps a and b as they are; the direction is chosen when it is read"
    path = Path(path)
    require_new_folder(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            index = _write_arrays(source, temporary, workers, timeout, progress)
            if source.replaced:
                raise Fault(source.lost[0].subject, "became unreadable while it was packed", "Mend it and pack again")
            with (temporary / INDEX).open("w", encoding="ascii") as stream:
                json.dump(index, stream, separators=(",", ":"))
                _to_disk(stream)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise write_fault(path, error) from error


def _write_arrays(
    source: Source, folder: Path, workers: int, timeout: float, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    hashes: dict[str, str] = {}
    lanes: dict[str, Any] = {}
    total, done = sum(len(lane) for lane in source.lanes.values()), 0
    for name, lane in source.lanes.items():
        streams = [_HashedFile(folder / f"{domain}.npy") for domain in source.outputs[name]]
        try:
            for stream, channels, dtype in zip(streams, lane.channels, lane.dtypes, strict=True):
                shape = (len(lane), channels, *lane.size)
                header = {"descr": _DESCRIPTIONS[dtype], "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
            samples = map_in_threads(
                lane.sample, range(len(lane)), workers=workers, timeout=timeout, subject=lane.subject
            )
            # Written as a file and not through a memory map, where a full disk is a signal instead of an error
            for tensors in samples:
                for stream, tensor in zip(streams, tensors, strict=True):
                    stream.write(tensor.numpy().astype(_DESCRIPTIONS[tensor.dtype], copy=False).tobytes())
                done += 1
                if progress is not None:
                    progress(done, total)
        finally:
            for stream in streams:
                stream.close()
        hashes |= {stream.path.name: stream.digest.hexdigest() for stream in streams}
        lanes[name] = {
            "domains": source.outputs[name],
            "records": [[list(asdict(record).values()) for record in records] for records in lane.records],
            "labels": None if lane.labels is None else lane.labels.tolist(),
        }
    return {
        "format": FORMAT,
        "kind": source.kind,
        "names": source.names,
        "classes": source.classes,
        "size": source.size,
        "channels": source.channels,
        "fit": source.fit,
        "fingerprint": source.fingerprint,
        "sha256": hashes,
        "lanes": lanes,
    }


def _to_disk(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


class _HashedFile:
    """A file being written, with the hash of what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self._stream: BinaryIO = path.open("xb")

    def write(self, content: bytes | memoryview) -> None:
        self.digest.update(content)
        self._stream.write(content)

    def close(self) -> None:
        if not self._stream.closed:
            _to_disk(self._stream)
            self._stream.close()


def open_pack(path: str | os.PathLike[str]) -> Pack:
    """Open a pack; its arrays are mapped, not read.

    Raises:
        UsageFault: index or arrays are damaged, or do not belong together.
    """
    path = Path(path)
    try:
        if (path / INDEX).stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("index.json is over the limit of 1 GiB")
        index = json.loads((path / INDEX).read_text(encoding="ascii"))
        if index["format"] != FORMAT:
            raise UsageFault(path, f"is a pack of format {index['format']!r}, not {FORMAT!r}", "Pack the data again")
        lanes = {name: _open_lane(path, index, lane) for name, lane in index["lanes"].items()}
        expected = {"pairs": ["pair"], "unpaired": ["a", "b"], "images": ["image"], "classes": ["image"]}[index["kind"]]
        if sorted(lanes) != expected:
            raise ValueError(f"a pack of kind {index['kind']} has lanes {expected}, not {sorted(lanes)}")
        return Pack(
            path,
            index["kind"],
            lanes,
            {str(domain): str(name) for domain, name in index["names"].items()},
            tuple(str(name) for name in index["classes"]),
            str(index["fit"]),
            str(index["fingerprint"]),
            {str(name): str(value) for name, value in index["sha256"].items()},
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise UsageFault(path, f"is a damaged pack ({reason})", "Pack the data again") from error


def _open_lane(path: Path, index: dict[str, Any], lane: dict[str, Any]) -> ArrayLane:
    records = [tuple(Record(str(n), int(size), str(h)) for n, size, h in files) for files in lane["records"]]
    arrays = []
    for domain in lane["domains"]:
        if domain not in ("image", "a", "b"):
            raise ValueError(f"unknown domain {domain!r}")
        array = np.lib.format.open_memmap(path / f"{domain}.npy", mode="r")  # refuses pickled objects
        shape = (len(records), index["channels"][domain], *index["size"])
        if array.dtype.str not in _DESCRIPTIONS.values() or array.shape != shape:
            raise ValueError(f"{domain}.npy holds {array.dtype} {array.shape}, the index says 8 or 16 bits of {shape}")
        arrays.append(array)
    labels = None
    if lane["labels"] is not None:
        labels = np.array(lane["labels"], np.int64)
        if labels.shape != (len(records),) or labels.min() < 0 or labels.max() >= len(index["classes"]):
            raise ValueError("labels and classes do not fit")
    return ArrayLane(tuple(arrays), records, labels, subject=str(path))


def verify_pack(opened: Pack) -> list[Fault]:
    """Read the arrays and compare them with the hashes of the index; returns a fault for each that differs."""
    faults: list[Fault] = []
    for name, expected in opened.sha256.items():
        with (opened.path / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
                faults.append(UsageFault(opened.path / name, "has changed since it was packed", "Pack the data again"))
    return faults
