"""Pictures from the arrays of an .npz file: uint8 (n, h, w) or (n, h, w, c), with or without labels.

An .npz is a zip of .npy members. Each member's header is read and judged before memory is taken for its values, and
pickled objects are never loaded.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from img2img.config import ARRAYS_SUFFIX
from img2img.data.decode import Picture
from img2img.data.lanes import Lane, Reading, Record
from img2img.data.resize import fit_to, to_tensor
from img2img.errors import UsageFault

PathLike = str | os.PathLike[str]

# A file may declare anything; more than this nobody holds in memory
LARGEST_ARRAY = 4 << 30  # bytes
# part -> (names of its pictures, names of its labels), in the order in which they are looked for
_NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train": (("train_images", "images"), ("train_labels", "labels")),
    "test": (("test_images",), ("test_labels",)),
}
UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Arrays:
    """The pictures of one part of an .npz file.

    Attributes:
        images: (n, h, w, c) uint8 with c = 1, 3 or 4.
        labels: (n,) integers, or None where they were not asked for.
        name: the name of the pictures in the file.
        digest: sha256 over shapes and values of all that was read.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    digest: str


def is_arrays(path: PathLike) -> bool:
    """Whether this is an .npz file, by its name; a folder of that name is none."""
    return Path(path).suffix.lower() == ARRAYS_SUFFIX and not Path(path).is_dir()


def has_labels(path: PathLike, part: str = "train") -> bool:
    """Whether an .npz file holds labels beside the pictures of `part`; False where it cannot be read."""
    if not Path(path).is_file():  # a pipe would block
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(f"{name}.npy" in archive.namelist() for name in _NAMES[part][1])
    except UNREADABLE:
        return False


def read_arrays(path: PathLike, part: str = "train", *, labels: bool = False) -> Arrays:
    """The pictures of `part` ("train" or "test") and, where asked for, their labels.

    Training pictures are called train_images or images (labels: train_labels or labels), test pictures test_images.

    Raises:
        UsageFault: no such file, no .npz file, damaged, without these arrays, or with arrays of another kind.
    """
    path = Path(path)
    image_names, label_names = _NAMES[part]
    if not path.is_file():  # a pipe would block
        problem = "is no regular file" if path.exists() else "there is no such file"
        raise UsageFault(path, problem, "Give the path of an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            name, images = _read_first(archive, path, image_names, None)
            digest = hashlib.sha256(f"{images.shape}".encode())
            digest.update(images.data)
            found = None
            if labels:
                _, found = _read_first(archive, path, label_names, len(images))
                digest.update(found.data)
    except UNREADABLE as error:
        raise UsageFault(
            path, f"is no usable .npz file ({error})", "Copy it again, or write it by numpy.savez"
        ) from error
    return Arrays(images if images.ndim == 4 else images[..., None], found, name, digest.hexdigest())


def _read_first(
    archive: zipfile.ZipFile, path: Path, names: Sequence[str], count: int | None
) -> tuple[str, np.ndarray]:
    """The first of the members `names` that is there: pictures, or `count` labels as int64."""
    held = [name.removesuffix(".npy") for name in archive.namelist()]
    name = next((name for name in names if name in held), None)
    if name is None:
        raise UsageFault(
            path,
            f"has no array called {' or '.join(names)} (it holds {', '.join(held[:10]) or 'nothing'})",
            "Write it by numpy.savez under that name",
        )

    def judge(shape: tuple[int, ...], dtype: np.dtype) -> None:
        problem, mend = _image_problem(shape, dtype) if count is None else _label_problem(shape, dtype, count)
        size = math.prod(shape) * dtype.itemsize
        if not problem and size > LARGEST_ARRAY:
            problem, mend = f"{size / 2**30:.1f} GiB, over the limit of {LARGEST_ARRAY / 2**30:.0f}", "Keep fewer in it"
        if problem:
            raise UsageFault(path, f"{name} holds {dtype} of shape {shape}: {problem}", mend)

    return name, np.ascontiguousarray(read_member(archive, name, judge), np.uint8 if count is None else np.int64)


def read_member(archive: zipfile.ZipFile, name: str, judge: Callable[[tuple[int, ...], np.dtype], None]) -> np.ndarray:
    """The array `name` of an open .npz file, read-only.

    Args:
        judge: called with shape and type, as the header has them, before memory is taken; raises what it refuses. It
            must not let pass a type that holds objects.

    Raises:
        Whatever is in UNREADABLE: there is none of that name, or it is damaged.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{name} is of the unknown version {version}")
        shape, fortran, dtype = _HEADERS[version](stream)
        judge(shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        if info.file_size != stream.tell() + size:
            raise ValueError(f"{name} does not hold as many bytes as its header says")
        # the checksum is looked at when the last byte has been read
        content = stream.read(size) + stream.read()
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


_HEADERS: Mapping[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _image_problem(shape: tuple[int, ...], dtype: np.dtype) -> tuple[str, str]:
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))
    if dtype == np.uint8 and fits and min(shape) > 0:
        return "", ""
    return (
        "not uint8 of shape (n, h, w) or (n, h, w, c) with c = 1, 3 or 4",
        "Convert it by numpy: values 0 to 255, channels last",
    )


def _label_problem(shape: tuple[int, ...], dtype: np.dtype, count: int) -> tuple[str, str]:
    # unsigned numbers of 64 bits do not all fit into the int64 of labels
    if dtype.kind in "iu" and dtype != np.uint64 and shape == (count,):
        return "", ""
    return f"not whole numbers of shape ({count},), one for each picture", "Write one number for each picture"


class ArraysLane(Lane):
    """Pictures of an .npz file, brought to channels and size as they are read.

    Args:
        arrays: the pictures; their labels are not used.
        path: the file, for messages.
        reading: size, channels and fit.
        labels: (n,) int64 class of each picture, counted from 0.
    """

    def __init__(self, arrays: Arrays, path: PathLike, reading: Reading, labels: np.ndarray | None = None) -> None:
        num_bytes = arrays.images[0].nbytes
        # one hash stands for all: sixty thousand small ones take longer and say no more
        records: list[tuple[Record, ...]] = [
            (Record(f"{arrays.name}[{index}]", num_bytes, arrays.digest),) for index in range(len(arrays.images))
        ]
        super().__init__(records, reading.channels, reading.size, labels)
        self.images = arrays.images
        self._path = path
        self._fit = reading.fit

    def __len__(self) -> int:
        return len(self.images)

    def subject(self, index: int) -> str:
        return f"{self._path}, picture {index}"

    def load(self, index: int) -> tuple[Tensor, ...]:
        pixels = np.array(self.images[index])  # copied, since torch takes no read-only memory
        if pixels.shape[2] != self.channels[0]:
            colours, alpha = (pixels[..., :3], pixels[..., 3]) if pixels.shape[2] == 4 else (pixels, None)
            pixels = Picture(colours, alpha, "array", None, ()).as_channels(self.channels[0])
        return (fit_to(to_tensor(pixels), self.size, self._fit),)
