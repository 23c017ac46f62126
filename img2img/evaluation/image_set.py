"""The pictures of one side of a comparison, wherever they come from: files, arrays, or a model that makes them.

A set has one order of its own, by the content of its pictures: what is measured depends neither on how files are called
nor on the order in which they are found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from img2img.data.arrays import has_labels, is_arrays, read_arrays
from img2img.data.decode import MAX_PIXELS, Picture, open_image, open_regular, upright_size
from img2img.data.files import find_images
from img2img.data.resize import fit_to, to_tensor
from img2img.data.sources import TIMEOUT, class_folders, match_classes, shortened
from img2img.data.threads import map_in_threads
from img2img.errors import Faults, ImageFault, UsageFault
from img2img.inference.model import Model

Size = tuple[int, int]
Reported = Callable[[int, int], None]

_log = logging.getLogger(__name__)
_BATCHES_WAITING = 4


@dataclass(frozen=True)
class Preparation:
    """What is done to every picture before it is looked at.

    Attributes:
        resolution: (height, width) that it is brought to; None leaves its size.
        fit: "crop" or "stretch", see resize.fit_to.
        channels: 3, or 1 where all are compared in grey.
        max_pixels, allow_truncated: see decode.open_image.
        labels: they are label maps, whose pixels keep their colours.
    """

    resolution: Size | None = None
    fit: str = "crop"
    channels: int = 3
    max_pixels: int = MAX_PIXELS
    allow_truncated: bool = False
    labels: bool = False

    def open(self, file: BinaryIO) -> Picture:
        """A picture within the limits."""
        return open_image(file, max_pixels=self.max_pixels, allow_truncated=self.allow_truncated)

    def apply(self, pixels: Tensor) -> Tensor:
        """(C, H, W) uint8 at the size that is compared."""
        return pixels if self.resolution is None else fit_to(pixels, self.resolution, self.fit, nearest=self.labels)

    def described(self) -> dict[str, Any]:
        """For a card: what changes pixels."""
        size = None if self.resolution is None else list(self.resolution)
        return {"resolution": size, **({"fit": self.fit} if size else {}), "channels": self.channels}


class ImageSet(ABC):
    """Pictures 0 … n − 1, (C, h, w) uint8 each.

    Attributes:
        subject: what the user called it, for messages.
        names: what each picture is called, without suffix, such as "sub/photo".
        labels: each picture's class, or None.
        identity: sha256 over what the pictures are and how they are prepared.
        sizes: (height, width) -> how many pictures have it.
        source: for a card, where the pictures come from.
    """

    subject: str
    names: Sequence[str]
    labels: Sequence[str] | None = None
    identity: str
    sizes: Mapping[Size, int]
    source: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """These pictures, in this order."""

    def batches(self, indices: Sequence[int], batch: int) -> Iterator[tuple[list[int], Tensor]]:
        """All of `indices` as (their indices, (N, C, h, w)) with N at most `batch`, pictures of one size together.

        Where sizes are many, no more than a few batches of pictures wait for others of their size.
        """
        waiting: dict[Size, tuple[list[int], list[Tensor]]] = {}
        held = 0
        for index, picture in zip(indices, self.read(indices), strict=True):
            size = (picture.shape[1], picture.shape[2])
            numbers, pictures = waiting.setdefault(size, ([], []))
            numbers.append(index)
            pictures.append(picture)
            held += 1
            if len(numbers) == batch or held == _BATCHES_WAITING * batch:
                fullest = max(waiting, key=lambda size: len(waiting[size][0]))
                numbers, pictures = waiting.pop(fullest)
                held -= len(numbers)
                yield numbers, torch.stack(pictures)
        for numbers, pictures in waiting.values():
            yield numbers, torch.stack(pictures)


def open_set(
    path: str | Path,
    preparation: Preparation = Preparation(),
    *,
    part: str = "train",
    classes: bool | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    workers: int = 0,
    progress: Reported | None = None,
) -> ImageSet:
    """The pictures of a folder, of one file, or of an .npz file of arrays.

    Args:
        part: of an .npz file, "train" or "test".
        classes: take class folders (of an .npz file its labels) as classes; None where they are there to be taken.
        skip_bad: leave out files that cannot be used.
        limit: take this many at most, chosen by their content, so that the choice is the same in every order.
        workers: threads that read; 0: by the number of cores.
        progress: called with (files looked at, files).

    Raises:
        UsageFault: no pictures, or (as Faults, one line each) files that cannot be used.
    """
    path = Path(path)
    if is_arrays(path):
        arrays = read_arrays(path, part, labels=has_labels(path, part) if classes is None else classes)
        labels = None if arrays.labels is None else [str(label) for label in arrays.labels.tolist()]
        return ArraySet(arrays.images.transpose(0, 3, 1, 2), preparation, str(path), labels, limit)
    files = find_images(path)
    labels = _class_names(path, files, classes)
    return FileSet(path, files, preparation, labels, skip_bad, limit, workers, progress)


def _class_names(root: Path, files: Sequence[Path], classes: bool | None) -> list[str] | None:
    """The class folder of each file; None without classes."""
    if classes is False:
        return None
    try:
        folders = class_folders(root)
    except UsageFault as fault:
        if classes:
            mend = "Give a folder of class folders, or leave out what needs classes"
            raise UsageFault(fault.subject, fault.problem, mend) from fault
        return None
    known = {folder.name for folder in folders}
    names = [path.relative_to(root).parts[0] for path in files]
    return names if set(names) <= known else None


@dataclass(frozen=True)
class _Header:
    """What is known of a file before it is decoded."""

    digest: str
    size: Size


class FileSet(ImageSet):
    """Picture files below a folder; each is read whole once, for its content's hash, before any is decoded."""

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        preparation: Preparation,
        labels: Sequence[str] | None = None,
        skip_bad: bool = False,
        limit: int | None = None,
        workers: int = 0,
        progress: Reported | None = None,
    ) -> None:
        self.subject = str(root)
        self.preparation = preparation
        self.workers = workers
        base = root if root.is_dir() else root.parent
        names = [path.relative_to(base).with_suffix("").as_posix() for path in files]
        looked = list(
            map_in_threads(
                lambda path: _look(path, preparation, decode=skip_bad),
                files,
                workers=workers,
                timeout=TIMEOUT,
                progress=progress,
            )
        )
        bad = [found for found in looked if isinstance(found, ImageFault)]
        _refuse(bad, len(files), self.subject, skip_bad)
        for fault in bad:
            _log.warning("left out: %s", fault)
        headers = {index: found for index, found in enumerate(looked) if isinstance(found, _Header)}
        order = sorted(headers, key=lambda index: (headers[index].digest, names[index]))[:limit]
        _tell_if_fewer(len(order), limit, self.subject)
        self.files = [files[index] for index in order]
        self.names = [names[index] for index in order]
        self.labels = None if labels is None else [labels[index] for index in order]
        self.sizes = Counter(preparation.resolution or headers[index].size for index in order)
        digests = [headers[index].digest for index in order]
        self._digests = digests
        self.identity = _identity(digests, preparation)
        self.source = {
            "kind": "files",
            "name": root.resolve().name,
            "sha256": _identity(digests),
            **({"left_out": len(bad)} if bad else {}),
        }

    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        def load(index: int) -> Tensor | ImageFault:
            try:
                return _decode(self.files[index], self._digests[index], self.preparation)
            except ImageFault as fault:  # raised by the caller, so that all are named together
                return fault

        bad: list[ImageFault] = []
        subject = [str(path) for path in self.files]
        for picture in map_in_threads(
            load, indices, workers=self.workers, timeout=TIMEOUT, subject=lambda index: subject[index]
        ):
            if isinstance(picture, ImageFault):
                bad.append(picture)
            elif not bad:
                yield picture
        _refuse(bad, len(self.files), self.subject, skip_bad=False)


def _look(path: Path, preparation: Preparation, decode: bool) -> _Header | ImageFault:
    """The hash of a file's content and the size that its picture will have.

    Args:
        decode: find out whether the whole picture can be used, which is otherwise seen when its turn comes.
    """
    try:
        content = _read(path)
        if decode:
            preparation.open(content)
        size = preparation.resolution or upright_size(content, path, preparation.max_pixels)
        return _Header(_sha256(content), size)
    except ImageFault as fault:
        return fault


def _decode(path: Path, digest: str, preparation: Preparation) -> Tensor:
    """The picture of the content with this hash: features are kept under it."""
    content = _read(path)
    if _sha256(content) != digest:
        raise ImageFault(path, "changed while it was measured", "Measure again when nothing writes to it")
    return preparation.apply(to_tensor(preparation.open(content).as_channels(preparation.channels)))


def _read(path: Path) -> io.BytesIO:
    """The content of an ordinary file, under the file's name."""
    try:
        with open_regular(path) as stream:
            content = io.BytesIO(stream.read())
    except OSError as error:
        raise ImageFault(path, f"cannot be read ({error.strerror})", "Check its disk and its permissions") from error
    content.name = str(path)
    return content


def _sha256(content: io.BytesIO) -> str:
    return hashlib.sha256(content.getbuffer()).hexdigest()


def _tell_if_fewer(count: int, limit: int | None, subject: str) -> None:
    if limit is not None and count < limit:
        _log.warning("%s: has %d pictures, fewer than the %d that --count asks for", subject, count, limit)


def _refuse(bad: Sequence[ImageFault], total: int, subject: str, skip_bad: bool) -> None:
    if not bad or (skip_bad and len(bad) < total):
        return
    raise Faults(shortened(bad, subject, total, "Mend or remove them, or leave them out by --skip-bad"))


class ArraySet(ImageSet):
    """Pictures in memory.

    Args:
        images: (n, C, h, w) uint8, C = 1, 3 or 4; opacity is left away.
        labels: the class of each.
    """

    def __init__(
        self,
        images: np.ndarray,
        preparation: Preparation = Preparation(),
        subject: str = "arrays",
        labels: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> None:
        self.subject = subject
        self.preparation = preparation
        digests = [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in images]
        order = sorted(range(len(images)), key=lambda index: (digests[index], index))[:limit]
        _tell_if_fewer(len(order), limit, subject)
        self._images, self._order = images, order
        self.names = [str(index) for index in order]
        self.labels = None if labels is None else [labels[index] for index in order]
        size = preparation.resolution or (images.shape[2], images.shape[3])
        self.sizes = Counter({size: len(order)})
        digests = [digests[index] for index in order]
        self.identity = _identity([str(images.shape[1:]), *digests], preparation)
        self.source = {"kind": "arrays", "name": Path(subject).name, "sha256": _identity(digests)}

    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        for index in indices:
            pixels = torch.from_numpy(np.array(self._images[self._order[index]]))
            yield self.preparation.apply(_as_channels(pixels[:3], self.preparation.channels))


def _as_channels(pixels: Tensor, channels: int) -> Tensor:
    """(1 or 3, H, W) uint8 with `channels` of them."""
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return pixels.expand(3, -1, -1)
    grey = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).convert("L")
    return torch.from_numpy(np.array(grey))[None]


class SampleSet(ImageSet):
    """New pictures of a model; its classes are as frequent as those of `like`, or come in turn.

    Raises:
        UsageFault: the model makes no samples, or `like` has a class that it does not know.
    """

    def __init__(
        self, model: Model, count: int, seed: int, preparation: Preparation, like: Sequence[str] | None = None
    ) -> None:
        self.subject = str(model.path)
        self.preparation = preparation
        self._model, self._seed = model, seed
        self._classes = _classes_like(model, count, like)
        known = model.info.classes
        self.names = [str(number) for number in range(count)]
        if self._classes:
            self.labels = [known[self._classes[number % len(self._classes)]] for number in range(count)]
        self.sizes = Counter({preparation.resolution or model.info.resolution: count})
        facts = {
            "kind": "samples",
            "model": model.digest,
            "seed": seed,
            "precision": model.precision,
            "classes": digest_of(self._classes),
        }
        self.identity = digest_of([facts, count, preparation.described()])
        self.source = {**facts, "recipe": model.info.recipe, "images_seen": model.info.images_seen}

    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        if not indices:
            return
        assert list(indices) == list(range(indices[0], indices[0] + len(indices))), "samples are made in their order"
        made = self._model.samples(len(indices), label=self._classes or None, seed=self._seed, start=indices[0])
        for _, pixels in made:
            yield self.preparation.apply(_as_channels(to_tensor(pixels)[:3], self.preparation.channels))


def _classes_like(model: Model, count: int, like: Sequence[str] | None) -> list[int]:
    """The class of each sample; empty without classes."""
    known = model.info.classes
    if not known or like is None:
        return model.class_indices()
    if not set(like) <= set(known):
        match_classes(known, sorted(set(like)), "REAL")
    # canonical order is by content, so any run of it has the classes in their proportions
    return [known.index(like[number % len(like)]) for number in range(count)]


class TranslatedSet(ImageSet):
    """The pictures of another set as a model translates them."""

    def __init__(self, model: Model, inputs: ImageSet, direction: str | None, seed: int, channels: int) -> None:
        self.subject = str(model.path)
        self._model, self._inputs, self._seed = model, inputs, seed
        self._direction = model.direction(direction)
        self._channels = channels
        self.names, self.labels, self.sizes = inputs.names, inputs.labels, inputs.sizes
        facts = {
            "kind": "translations",
            "model": model.digest,
            "direction": self._direction,
            "seed": seed,
            "precision": model.precision,
            "inputs": inputs.source["sha256"],
        }
        self.identity = digest_of([facts, inputs.identity, channels])
        self.source = {**facts, "recipe": model.info.recipe, "images_seen": model.info.images_seen}

    def read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        for picture in self._inputs.read(indices):
            pixels = picture.permute(1, 2, 0).numpy()
            translated = self._model.translate(pixels, direction=self._direction, seed=self._seed)
            yield _as_channels(to_tensor(translated)[:3], self._channels)


def _identity(digests: Sequence[str], preparation: Preparation | None = None) -> str:
    return digest_of([list(digests), None if preparation is None else dataclasses.astuple(preparation)])


def digest_of(value: Any) -> str:
    """sha256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
