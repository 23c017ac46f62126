"""From numbers of images in the run to batches on the device, decoded ahead in threads.

Number n of the run is, in each lane of the source, item permutation(seed, "order/" + lane, n // count)[n % count]: a
batch depends on nothing but its numbers and the seed, however many threads, ranks or micro-batches there are. What else
is drawn for an image, a class and pictures of that class, follows from its number in the same way.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from img2img.data.augment import augment
from img2img.data.sources import Source
from img2img.data.threads import Pool, Task, worker_count
from img2img.data.values import to_float
from img2img.draws import Draws, permutation
from img2img.errors import UsageFault


@dataclass(eq=False)
class References:
    """For every second image of a batch, pictures of the class that was drawn for it.

    Attributes:
        rows: (M,) int64, which images: those with odd numbers.
        images: so many times (M, C, H, W) as were asked for; each drawn by itself.
    """

    rows: Tensor
    images: tuple[Tensor, ...]


@dataclass(eq=False)
class Batch:
    """Images of the run, on the device.

    Attributes:
        images: for each domain (N, C, H, W) float in [-1, 1].
        labels: (N,) int64 classes, or None.
        numbers: (N,) int64, the images' numbers in the run.
        seed: seed of the run.
        targets: (N,) int64, a class drawn for each image, all equally often; None where nobody asked for references.
        references: pictures of these classes; None also where no image of the batch has any.
    """

    images: dict[str, Tensor]
    labels: Tensor | None
    numbers: Tensor
    seed: int
    targets: Tensor | None = field(default=None, kw_only=True)
    references: References | None = field(default=None, kw_only=True)

    def __getitem__(self, domain: str) -> Tensor:
        return self.images[domain]

    def __len__(self) -> int:
        return len(self.numbers)

    def first(self, count: int) -> Batch:
        """Its first images."""
        labels = None if self.labels is None else self.labels[:count]
        return Batch(
            {key: images[:count] for key, images in self.images.items()}, labels, self.numbers[:count], self.seed
        )

    def split(self, parts: int) -> list[Batch]:
        """Its images as so many batches of equal size, in order; `parts` divides their number."""
        if parts == 1:
            return [self]
        size = len(self) // parts
        return [self._rows(start, start + size) for start in range(0, len(self), size)]

    def _rows(self, start: int, stop: int) -> Batch:
        rows, references = slice(start, stop), self.references
        if references is not None:
            mine = (references.rows >= start) & (references.rows < stop)
            images = tuple(pictures[mine] for pictures in references.images)
            references = References(references.rows[mine] - start, images) if mine.any() else None
        return Batch(
            {key: images[rows] for key, images in self.images.items()},
            None if self.labels is None else self.labels[rows],
            self.numbers[rows],
            self.seed,
            targets=None if self.targets is None else self.targets[rows],
            references=references,
        )

    def draws(self, stream: str) -> Draws:
        """Random numbers for these images; see img2img.draws."""
        return Draws(self.seed, stream, self.numbers)


class Augmentation(Protocol):
    """The part of the configuration that the loader reads."""

    @property
    def flip(self) -> bool: ...

    @property
    def zoom(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class NoAugmentation:
    """Every image as it is (cropped, where the source is larger than the resolution)."""

    flip: bool = False
    zoom: tuple[float, float] = (1.0, 1.0)


class _Reading:
    """One batch on its way: buffers of whole numbers and the tasks that fill them.

    `buffers` are by lane, `references` one buffer for each picture that goes with the images `rows`.
    """

    def __init__(self, labels: np.ndarray | None) -> None:
        self.buffers: dict[str, tuple[Tensor, ...]] = {}
        self.labels = labels
        self.targets: np.ndarray | None = None
        self.rows = np.zeros(0, np.int64)
        self.references: list[Tensor] = []
        self.tasks: list[Task[None]] = []

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancelled = True


class Loader:
    """Serves any images of a run by their numbers.

    Args:
        source: where the pictures come from.
        seed: seed of the run: order and augmentation follow from it.
        resolution: (H, W) of the batches; the source's pictures are at least that large.
        device: where the batches go.
        dtype: float type of the images.
        augmentation: flip and zoom, such as the configuration's; None for neither.
        workers: threads that decode; 0: by the number of cores.
        prefetch: batches that are read ahead while nobody called `expect`.
        timeout: seconds after which a file that does not answer is a Fault.
        references: how many pictures of a class of its own every second image comes with; of sources with classes.

    Attributes:
        waited: seconds that `batch` has waited for data so far.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        resolution: tuple[int, int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        augmentation: Augmentation | None = None,
        workers: int = 2,
        prefetch: int = 2,
        timeout: float = 120.0,
        references: int = 0,
    ) -> None:
        self.source = source
        self.seed = seed
        self.resolution = resolution
        self.device = torch.device(device)
        self.dtype = dtype
        self.augmentation: Augmentation = NoAugmentation() if augmentation is None else augmentation
        self.prefetch = prefetch
        self.timeout = timeout
        self.waited = 0.0
        self._classes = _Classes(source) if references else None
        self._num_references = references
        self._workers = worker_count(workers)
        self._pool = Pool(self._workers)
        self._pending: OrderedDict[bytes, _Reading] = OrderedDict()
        self._orders: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._told = False
        self._previous: np.ndarray | None = None

    def items(self, lane: str, numbers: np.ndarray) -> np.ndarray:
        """The items of `lane` that the images `numbers` of the run are, as int64."""
        count = len(self.source.lanes[lane])
        epochs, positions = np.divmod(numbers, count)
        items = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            items[of_epoch] = self._order(lane, int(epoch), count)[positions[of_epoch]]
        return items

    def _order(self, lane: str, epoch: int, count: int) -> np.ndarray:
        key = (lane, epoch)
        if key not in self._orders:
            self._orders[key] = permutation(self.seed, f"order/{lane}", epoch, count)
            while len(self._orders) > 3 * len(self.source.lanes):
                self._orders.popitem(last=False)
        return self._orders[key]

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """Begin to read the batches that will be asked for next, in this order; what was expected before and is not
        among them is given up. Without any call the loader guesses that the numbers go on as they did."""
        self._told = True
        self._read_ahead(upcoming)

    def batch(self, numbers: np.ndarray) -> Batch:
        """The images with these numbers (N,) int64.

        Raises:
            Fault: a file does not answer, or no picture is left to stand in for one that was lost.
        """
        numbers = np.ascontiguousarray(numbers, np.int64)
        reading = self._pending.pop(numbers.tobytes(), None) or self._start(numbers)
        if not self._told:
            self._read_ahead(self._guess(numbers))
        started = time.perf_counter()
        for task in reading.tasks:
            task.wait(self.timeout)
        self.waited += time.perf_counter() - started
        return self._finish(reading, numbers)

    def close(self) -> None:
        """End the threads."""
        for reading in self._pending.values():
            reading.cancel()
        self._pending.clear()
        self._pool.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guess(self, numbers: np.ndarray) -> list[np.ndarray]:
        stride = len(numbers)
        if self._previous is not None and len(self._previous) == len(numbers) and numbers[0] > self._previous[0]:
            stride = int(numbers[0] - self._previous[0])
        self._previous = numbers
        return [numbers + stride * ahead for ahead in range(1, self.prefetch + 1)]

    def _read_ahead(self, upcoming: Sequence[np.ndarray]) -> None:
        wanted = OrderedDict(
            (array.tobytes(), array) for array in (np.ascontiguousarray(n, np.int64) for n in upcoming)
        )
        for key in [key for key in self._pending if key not in wanted]:
            self._pending.pop(key).cancel()
        for key, numbers in wanted.items():
            if key not in self._pending:
                self._pending[key] = self._start(numbers)

    def _start(self, numbers: np.ndarray) -> _Reading:
        items = {name: self.items(name, numbers) for name in self.source.lanes}
        labels = [lane.labels[items[name]] for name, lane in self.source.lanes.items() if lane.labels is not None]
        reading = _Reading(labels[0] if labels else None)
        for name in self.source.lanes:
            reading.buffers[name] = self._read(reading, name, items[name])
        if self._classes is not None:
            reading.targets = self._classes.draw(self.seed, numbers)
            reading.rows = np.flatnonzero(numbers % 2)
            for index in range(self._num_references):
                chosen = self._classes.pictures(
                    reading.targets[reading.rows], Draws(self.seed, f"reference{index}", _odd(numbers))
                )
                reading.references += self._read(reading, "image", chosen)
        return reading

    def _read(self, reading: _Reading, name: str, items: np.ndarray) -> tuple[Tensor, ...]:
        """Buffers that tasks of the reading will fill with these items of a lane."""
        lane, pinned = self.source.lanes[name], self.device.type == "cuda"
        buffers = tuple(
            torch.empty((len(items), channels, *lane.size), dtype=dtype, pin_memory=pinned)
            for channels, dtype in zip(lane.channels, lane.dtypes, strict=True)
        )
        for rows in np.array_split(np.arange(len(items)), self._workers):
            if len(rows):
                reading.tasks.append(self._pool.submit(self._filler(name, rows, items, buffers), name))
        return buffers

    def _filler(
        self, name: str, rows: np.ndarray, items: np.ndarray, buffers: tuple[Tensor, ...]
    ) -> Callable[[Task[None]], None]:
        lane = self.source.lanes[name]

        def fill(task: Task[None]) -> None:
            for row in rows:
                if task.cancelled:
                    return
                item = int(items[row])
                task.progress(lane.subject(item))
                for buffer, tensor in zip(buffers, lane.sample(item), strict=True):
                    buffer[row] = tensor

        return fill

    def _finish(self, reading: _Reading, numbers: np.ndarray) -> Batch:
        on_device = torch.from_numpy(numbers).to(self.device)
        images: dict[str, Tensor] = {}
        for name, buffers in reading.buffers.items():
            draws = Draws(self.seed, f"augment/{name}", on_device)
            for domain, buffer in zip(self.source.outputs[name], buffers, strict=True):
                images[domain] = self._augmented(buffer, draws)
        labels = None if reading.labels is None else torch.from_numpy(reading.labels).to(self.device)
        batch = Batch(images, labels, on_device, self.seed)
        if reading.targets is not None:
            batch.targets = torch.from_numpy(reading.targets).to(self.device)
        if len(reading.rows):
            theirs = _odd(numbers).to(self.device)
            pictures = (
                self._augmented(buffer, Draws(self.seed, f"augment/reference{index}", theirs))
                for index, buffer in enumerate(reading.references)
            )
            batch.references = References(torch.from_numpy(reading.rows).to(self.device), tuple(pictures))
        return batch

    def _augmented(self, buffer: Tensor, draws: Draws) -> Tensor:
        """Pictures of whole numbers as a batch has them, on the device."""
        interpolates = self.augmentation.zoom != (1.0, 1.0)
        pixels = buffer.to(self.device, non_blocking=True)
        if interpolates or pixels.dtype != torch.uint8:  # of 16 bits torch can do next to nothing
            pixels = to_float(pixels, self.dtype)
        pixels = augment(
            pixels,
            draws,
            resolution=self.resolution,
            flip=self.augmentation.flip,
            zoom=self.augmentation.zoom,
        )
        # crop and flip move a quarter of the bytes while the values are still uint8
        return pixels if pixels.is_floating_point() else to_float(pixels, self.dtype)


class _Classes:
    """The pictures of each class of a source.

    Raises:
        UsageFault: a class has none, since all that it had were left out.
    """

    def __init__(self, source: Source) -> None:
        labels = source.labels
        assert labels is not None, "references are of classes"
        self._order = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels, minlength=len(source.classes))
        self._starts = np.cumsum(self._counts) - self._counts
        for name, count in zip(source.classes, self._counts):
            if count == 0:
                problem = "none of its pictures can be used"
                raise UsageFault(f"class {name}", problem, "Add pictures, or remove its folder")

    def draw(self, seed: int, numbers: np.ndarray) -> np.ndarray:
        """A class for each image, (N,) int64."""
        return Draws(seed, "target", torch.from_numpy(numbers)).integers(len(self._counts)).numpy()

    def pictures(self, labels: np.ndarray, draws: Draws) -> np.ndarray:
        """A picture of each of these classes, (M,) int64; within a class all equally often."""
        return self._order[self._starts[labels] + draws.integers(2**62).numpy() % self._counts[labels]]


def _odd(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(numbers[numbers % 2 == 1])
