"""A lane: items of a data set that share one order, each read as one tensor (a picture) or two (a pair)."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from img2img.data.decode import Picture, open_by_keys
from img2img.data.resize import fit_to, resize, take_nearest, to_tensor
from img2img.data.threads import map_in_threads
from img2img.draws import permutation
from img2img.errors import Fault, ImageFault


@dataclass(frozen=True)
class Record:
    """What is remembered of a source file: name below its folder (with /), bytes, and the hash of its content."""

    name: str
    size: int
    sha256: str


class Lane(ABC):
    """Items under indices 0…len-1.

    Attributes:
        records: for each item the files that it was read from.
        channels: channels of each tensor of an item: one entry for pictures, two for pairs.
        size: (height, width) of every tensor.
        dtypes: types of each tensor of an item, uint8 or uint16.
        labels: (len,) int64 class of each item, or None.
        replaced: how many reads were answered with another item because the file had become unreadable.
    """

    def __init__(
        self,
        records: list[tuple[Record, ...]],
        channels: tuple[int, ...],
        size: tuple[int, int],
        labels: np.ndarray | None,
        dtypes: tuple[torch.dtype, ...] | None = None,
    ) -> None:
        self.records = records
        self.channels = channels
        self.size = size
        self.dtypes = (torch.uint8,) * len(channels) if dtypes is None else dtypes
        self.labels = labels
        self.replaced = 0
        self.lost: dict[int, ImageFault] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> tuple[Tensor, ...]:
        """The tensors (C, h, w) of one item, not to be written to; raises ImageFault."""

    @abstractmethod
    def subject(self, index: int) -> str:
        """The item's file, for messages."""

    def sample(self, index: int) -> tuple[Tensor, ...]:
        """Like `load`, but an item that cannot be read any more is replaced by the next one (of its class).

        Raises:
            Fault: no item is left that could stand in.
        """
        candidate = index
        for _ in range(len(self)):
            if candidate not in self.lost and self._same_class(index, candidate):
                try:
                    tensors = self.load(candidate)
                except ImageFault as fault:
                    with self._lock:
                        self.lost[candidate] = fault
                else:
                    if candidate != index:
                        with self._lock:
                            self.replaced += 1
                    return tensors
            candidate = (candidate + 1) % len(self)
        raise Fault(
            self.subject(index), "can no longer be read, nor can any other picture in its place", "Restore the files"
        )

    def _same_class(self, index: int, other: int) -> bool:
        return self.labels is None or bool(self.labels[index] == self.labels[other])


@dataclass(frozen=True)
class Reading:
    """How files become tensors of one size; `labels` says for each tensor whether it is a label map."""

    size: tuple[int, int]
    channels: tuple[int, ...]
    fit: str
    max_pixels: int
    allow_truncated: bool
    resize_pairs: bool = False
    labels: tuple[bool, ...] = (False, False)
    depth: int = 8

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Of each tensor: what is grey keeps 16 bits where `depth` asks for it."""
        return tuple(torch.uint16 if self.depth > 8 and count == 1 else torch.uint8 for count in self.channels)


class SizesDiffer(ImageFault):
    """The two pictures of a pair differ in size, which nothing but `data.resize_pairs` makes acceptable."""


class FileLane(Lane):
    """Items decoded from files: one picture each, two pictures (a pair), or two pictures side by side in one file.

    Args:
        files: for each item its path or, for a pair in two files, its two paths.
        roots: the folders of these paths, from which the names in the records are counted.
        reading: size, channels and limits; two entries in `reading.channels` and one file mean side by side.
        labels: class of each item.
    """

    def __init__(
        self,
        files: Sequence[tuple[Path, ...]],
        roots: tuple[Path, ...],
        reading: Reading,
        labels: np.ndarray | None = None,
    ) -> None:
        super().__init__([], reading.channels, reading.size, labels, reading.dtypes)
        self.files = list(files)
        self.roots = roots
        self._reading = reading
        self._rows = np.arange(len(files))
        self._cache: tuple[Tensor, ...] = ()
        self._is_cached = np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def item_bytes(self) -> int:
        values = sum(count * dtype.itemsize for count, dtype in zip(self.channels, self.dtypes, strict=True))
        return values * self.size[0] * self.size[1]

    def subject(self, index: int) -> str:
        return " and ".join(str(path) for path in self.files[index])

    def keep_in_memory(self, num_items: int) -> None:
        """Keep the first `num_items` items once they were read."""
        num_items = min(num_items, len(self))
        self._cache = tuple(
            torch.empty((num_items, count, *self.size), dtype=dtype)
            for count, dtype in zip(self.channels, self.dtypes, strict=True)
        )
        self._is_cached = np.zeros(num_items, bool)

    def load(self, index: int) -> tuple[Tensor, ...]:
        row = self._rows[index]
        if row < len(self._is_cached) and self._is_cached[row]:
            return tuple(cache[row] for cache in self._cache)
        tensors = read_item(self.files[index], self._reading)
        if row < len(self._is_cached):
            for cache, tensor in zip(self._cache, tensors, strict=True):
                cache[row] = tensor
            self._is_cached[row] = True  # last, so that no thread sees a row half written
        return tensors

    def scan(
        self, *, workers: int, timeout: float, progress: Callable[[int, int], None] | None = None
    ) -> dict[int, ImageFault]:
        """Read every item once, filling the memory and the records; returns what is wrong with which item."""

        def read(index: int) -> tuple[Record, ...] | ImageFault:
            try:
                self.load(index)
                return tuple(record_of(path, root) for path, root in zip(self.files[index], self.roots, strict=True))
            except ImageFault as fault:
                return fault

        outcomes = map_in_threads(
            read,
            range(len(self)),
            workers=workers,
            timeout=timeout,
            subject=self.subject,
            progress=progress,
        )
        faults: dict[int, ImageFault] = {}
        self.records = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, ImageFault):
                faults[index] = outcome
                self.records.append(())
            else:
                self.records.append(outcome)
        return faults

    def drop(self, indices: set[int]) -> None:
        """Leave these items out; the others move up and keep their order."""
        kept = [index for index in range(len(self)) if index not in indices]
        self.files = [self.files[index] for index in kept]
        self.records = [self.records[index] for index in kept]
        self._rows = self._rows[kept]
        self.labels = None if self.labels is None else self.labels[kept]


class ArrayLane(Lane):
    """Items held in arrays (len, C, h, w) uint8 or uint16, in memory or mapped from a pack.

    Args:
        arrays: one array for pictures, two for pairs.
        subject: the file or object that holds them, for messages.
    """

    def __init__(
        self,
        arrays: tuple[np.ndarray, ...],
        records: list[tuple[Record, ...]],
        labels: np.ndarray | None = None,
        subject: str = "arrays in memory",
    ) -> None:
        channels = tuple(array.shape[1] for array in arrays)
        dtypes = tuple(torch.uint8 if array.dtype == np.uint8 else torch.uint16 for array in arrays)
        super().__init__(records, channels, (arrays[0].shape[2], arrays[0].shape[3]), labels, dtypes)
        self.arrays = arrays
        self._subject = subject

    def __len__(self) -> int:
        return len(self.arrays[0])

    def subject(self, index: int) -> str:
        return self._subject

    def load(self, index: int) -> tuple[Tensor, ...]:
        # copied, since torch takes no read-only memory such as a pack's
        return tuple(torch.from_numpy(np.array(array[index])) for array in self.arrays)


class StackedLane(Lane):
    """Three grey pictures as the red, green and blue of one: Stacked MNIST (Metz et al. 2017, arXiv:1611.02163).

    Which three does not depend on the run: item i is the pictures at places i, i + 1 and i + 3, in a circle, of one
    fixed random order. They are three different ones, and from seven pictures on no two of them meet in another item.

    Args:
        grey: a lane of at least three pictures of one channel.
    """

    _PLACES = (0, 1, 3)

    def __init__(self, grey: Lane) -> None:
        assert grey.channels == (1,), "each channel is a grey picture"
        order = permutation(0, "data/stacked", 0, len(grey))
        self.parts = np.stack([np.roll(order, -place) for place in self._PLACES], axis=1)
        records = [tuple(record for part in parts for record in grey.records[part]) for parts in self.parts]
        super().__init__(records, (len(self._PLACES),), grey.size, None)
        self.grey = grey

    def __len__(self) -> int:
        return len(self.parts)

    def subject(self, index: int) -> str:
        return " and ".join(self.grey.subject(part) for part in self.parts[index])

    def load(self, index: int) -> tuple[Tensor, ...]:
        return (torch.cat([self.grey.load(part)[0] for part in self.parts[index]]),)


def record_of(path: Path, root: Path) -> Record:
    """The record of a file; raises ImageFault if it has gone since it was decoded."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        raise ImageFault(path, f"cannot be read ({error.strerror})", "Restore it or leave it out") from error
    name = path.name if path == root else path.relative_to(root).as_posix()
    return Record(name, size, digest)


def read_item(files: tuple[Path, ...], reading: Reading) -> tuple[Tensor, ...]:
    """Decode one item and bring it to size: a tensor (C, h, w) for each entry of `reading.channels`."""
    pictures = [
        open_by_keys(path, max_pixels=reading.max_pixels, allow_truncated=reading.allow_truncated) for path in files
    ]
    if len(reading.channels) > len(files):
        pictures = list(halves(pictures[0], files[0]))
    tensors = [
        to_tensor(picture.as_channels(channels, deep=reading.depth > 8))
        for picture, channels in zip(pictures, reading.channels, strict=True)
    ]
    if len(tensors) == 2:
        tensors = _same_size(tensors, files, reading)
    return tuple(
        fit_to(tensor, reading.size, reading.fit, nearest=labels) for tensor, labels in zip(tensors, reading.labels)
    )


def halves(picture: Picture, path: Path) -> tuple[Picture, Picture]:
    """The left and right half of a side-by-side picture."""
    if picture.width % 2:
        raise ImageFault(
            path,
            f"width {picture.width} is odd, so it has no two equal halves",
            "Give both halves the same width, or keep the pair in two folders",
        )
    middle = picture.width // 2

    def half(columns: slice) -> Picture:
        alpha = None if picture.alpha is None else picture.alpha[:, columns]
        return dataclasses.replace(picture, pixels=picture.pixels[:, columns], alpha=alpha)

    return half(slice(0, middle)), half(slice(middle, None))


def _same_size(tensors: list[Tensor], files: tuple[Path, ...], reading: Reading) -> list[Tensor]:
    """Both halves at the size of the first, so that the same crop afterwards shows the same place."""
    first, second = tensors
    if first.shape[1:] == second.shape[1:]:
        return tensors
    if not reading.resize_pairs:
        raise SizesDiffer(
            files[1],
            f"is {second.shape[2]}×{second.shape[1]}, but {files[0]} is {first.shape[2]}×{first.shape[1]}",
            "Give both the same size, or set data.resize_pairs=true",
        )
    change = take_nearest if reading.labels[1] else resize
    return [first, change(second, (first.shape[1], first.shape[2]))]
