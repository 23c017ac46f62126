"""Pictures larger than memory: a network's output tile by tile, equal to that of the whole picture up to rounding.

Plain tiling shows seams where a network normalises over the picture: each tile has statistics of its own. Here the
network is recorded (regions.py) and run in sweeps over all tiles: one for each norm, in their order, which takes the
statistics of what goes into it over the whole picture, and a last one for the output. A ResNet-9 has 24 sweeps, but
none repeats what is dear: the input of a norm is kept in a temporary file where computing it again would cost more than
reading it. Between what is kept, a tile's overlap is what the layers between need, not the network's receptive field.
Memory holds one tile of those layers, the disk a few whole layers at a time.

For a ResNet-6 of width 32 that is 1.2 times the products of one run, since only what lies before and after the blocks
is computed more than once, and four layers of the blocks' size on the disk: 14 GB for 12,000 × 9,000 pixels.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

from img2img.inference.regions import (
    CannotTile,
    Held,
    Layer,
    LazyPicture,
    Moments,
    Normalisation,
    PlaneMean,
    Region,
    Span,
    Whole,
    crop,
    hull,
)

# Bytes that a tile's activations may take. Larger tiles gain nothing: overlaps are a few pixels.
TILE_BYTES = 512 << 20
# Products for a byte of a layer, from which on it is kept: a core does some 30 thousand million products a second in
# float32, and a disk writes and reads some hundred million bytes.
_DEAR = 250
_WORKSPACE = 2.0  # as in memory.py: convolutions keep a copy of their input beside it
SMALLEST_TILE = 16  # pixels of a side


# Layers in the order in which they are computed, each with those that it is computed from; none for what is read
_Course = dict[Layer, tuple[Layer, ...]]


def readable_bytes(count: int) -> str:
    """Such as "0.3 MB" and "1.5 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True)
class Plan:
    """What a run in tiles takes, known before it begins.

    Attributes:
        tile: (height, width) of the output's tiles.
        num_sweeps: passes over the picture.
        disk_bytes: the most that is in temporary files at once.
    """

    tile: tuple[int, int]
    num_sweeps: int
    disk_bytes: int


@dataclass(eq=False)
class _Sweep:
    """One pass over all of one layer.

    Attributes:
        target: that layer.
        course: what is read and computed for a tile; the target is the last.
        rows, columns: the target's tiles are all pairs of these.
        stored: layers that are written to files on the way.
        ended: layers whose files nobody reads any more.
    """

    target: Layer
    course: _Course
    rows: list[Span]
    columns: list[Span]
    stored: list[Layer]
    ended: list[Layer]


class TiledRun:
    """function(picture) for one picture (1, C, H, W), tile by tile.

    Args:
        function: a network, with what comes before and after it. It is called once, on a LazyPicture.
        picture: on the CPU or on the device.
        side: of the tiles, in the picture's pixels; None is as large as `tile_bytes` allows.

    Raises:
        CannotTile: the network sees all of a picture at once, or a tile does not fit into `tile_bytes`.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        picture: Tensor,
        device: torch.device,
        *,
        side: int | None = None,
        tile_bytes: int = TILE_BYTES,
    ) -> None:
        # outside inference mode, in which torch would hand over operations that it has not taken apart
        with torch.inference_mode(False), torch.no_grad():
            output = function(LazyPicture.of(picture, device))
        assert isinstance(output, LazyPicture), "the output depends on the picture"
        self._device = device
        self._size = picture.shape[-2:]
        self._side, self._tile_bytes = side, tile_bytes
        self._output = output.layer
        self._order = _ancestors([self._output], behind_held=True)
        self._files: dict[Layer, _File] = {}
        self._sweeps, disk_bytes = self._schedule()
        (top, bottom), (left, right) = self._sweeps[-1].rows[0], self._sweeps[-1].columns[0]
        self.plan = Plan((bottom - top, right - left), len(self._sweeps), disk_bytes)

    def run(self) -> Tensor:
        """The output (1, C', H', W') on the CPU.

        Raises:
            CannotTile: the disk for temporary files is too small.
        """
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if self.plan.disk_bytes > free:
            needed = f"needs {readable_bytes(self.plan.disk_bytes)} for temporary files"
            raise CannotTile(f"it {needed} and {folder} has {readable_bytes(free)}; TMPDIR may name another folder")
        try:
            with torch.inference_mode():
                return self._run()
        except OSError as error:
            raise CannotTile(f"temporary files cannot be written to {folder} ({error.strerror})") from error
        finally:
            self._close(list(self._files))

    def _run(self) -> Tensor:
        moments: dict[Layer, Moments] = {}
        sweeps = iter(self._sweeps)
        for layer in self._order:
            rule = layer.rule
            if isinstance(rule, Normalisation | PlaneMean):
                (source,) = layer.inputs
                if source not in moments:
                    moments[source] = self._measure(next(sweeps))
                rule.settle(moments[source])
            elif isinstance(rule, Whole):
                rule.run(
                    [
                        source.rule.compute(source.whole, ())
                        if isinstance(source.rule, Held)
                        else self._gather(next(sweeps), self._device)
                        for source in layer.inputs
                    ]
                )
        return self._gather(next(sweeps), torch.device("cpu"))

    def _measure(self, sweep: _Sweep) -> Moments:
        moments = Moments()
        for _region, values in self._tiles(sweep):
            moments.add(values)
        return moments

    def _gather(self, sweep: _Sweep, device: torch.device) -> Tensor:
        whole = torch.empty(sweep.target.shape, dtype=sweep.target.dtype, device=device)
        for region, values in self._tiles(sweep):
            crop(whole, sweep.target.whole, region).copy_(values)
        return whole

    def _tiles(self, sweep: _Sweep) -> Iterator[tuple[Region, Tensor]]:
        """The target's values, tile by tile."""
        self._files.update({layer: _File(layer) for layer in sweep.stored})
        for region in itertools.product(sweep.rows, sweep.columns):
            yield region, self._compute(sweep, region)
        self._close(sweep.ended)

    def _compute(self, sweep: _Sweep, region: Region) -> Tensor:
        regions = _regions(sweep.course, sweep.target, region)
        users = _num_users(sweep.course)
        values: dict[Layer, Tensor] = {}
        for layer, inputs in sweep.course.items():
            wanted = regions[layer]
            if layer in self._files and layer not in sweep.stored:
                values[layer] = self._files[layer].read(wanted).to(self._device)
                continue
            needs = layer.rule.needs(wanted)
            pieces = [crop(values[source], regions[source], needed) for source, needed in zip(inputs, needs)]
            values[layer] = layer.rule.compute(wanted, pieces)
            if layer in sweep.stored:
                self._files[layer].write(wanted, values[layer])
            del pieces
            for source in inputs:
                users[source] -= 1
                if users[source] == 0:
                    del values[source]
        return values[sweep.target]

    def _close(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            self._files.pop(layer).close()

    # --- before anything is computed ---

    def _schedule(self) -> tuple[list[_Sweep], int]:
        """The sweeps in order, and the most bytes in files at once."""
        kept = self._worth_keeping()
        targets = self._targets()
        in_files: set[Layer] = set()
        most = 0
        sweeps = []
        for index, target in enumerate(targets):
            course = _ancestors([target], in_files)
            rows, columns = self._grid(target, course)
            new = [layer for layer in course if layer in kept and layer not in in_files]
            new = [layer for layer in new if _covers(course, target, layer, rows, columns)]
            in_files |= set(new)
            most = max(most, sum(layer.bytes() for layer in in_files))
            needed = in_files.intersection(_ancestors(targets[index + 1 :], in_files))
            sweeps.append(_Sweep(target, course, rows, columns, new, list(in_files - needed)))
            in_files = needed
        return sweeps, most

    def _targets(self) -> list[Layer]:
        """What each sweep goes over, in the order of `_run`."""
        targets: list[Layer] = []
        measured: set[Layer] = set()
        for layer in self._order:
            if isinstance(layer.rule, Normalisation | PlaneMean):
                targets += [source for source in layer.inputs if source not in measured]
                measured.update(layer.inputs)
            elif isinstance(layer.rule, Whole):
                targets += [source for source in layer.inputs if not isinstance(source.rule, Held)]
        return [*targets, self._output]

    def _worth_keeping(self) -> set[Layer]:
        """Layers that are read again rather than computed again.

        Those are inputs of norms that are dear, and what several layers use and is made of several that are kept: else
        the sums of residual blocks would be computed from all blocks before.
        """
        measured = {
            source
            for layer in self._order
            if isinstance(layer.rule, Normalisation | PlaneMean)
            for source in layer.inputs
        }
        users = _num_users(self._order)
        kept: set[Layer] = set()
        again: dict[Layer, set[Layer]] = {}  # what computing a layer computes, and what it reads
        for layer in self._order:
            if isinstance(layer.rule, Held):
                again[layer] = set()
                continue
            parts = {layer}.union(*(again[source] for source in layer.inputs))
            reads = parts & kept
            cost = sum(part.rule.products() for part in parts - reads)
            dear = layer in measured and cost > _DEAR * layer.bytes()
            if dear or (users[layer] > 1 and len(reads) > 1):
                kept.add(layer)
                parts = {layer}
            again[layer] = parts
        return kept

    def _grid(self, target: Layer, course: _Course) -> tuple[list[Span], list[Span]]:
        height, width = target.shape[-2:]
        if self._side is not None:
            tile = [math.ceil(self._side * side / whole) for side, whole in zip((height, width), self._size)]
            return _split(height, tile[0]), _split(width, tile[1])
        side = max(height, width)
        while True:
            rows, columns = _split(height, side), _split(width, side)
            middle = rows[len(rows) // 2], columns[len(columns) // 2]
            if _bytes_of_tile(course, target, middle) <= self._tile_bytes:
                return rows, columns
            if side <= SMALLEST_TILE:
                raise CannotTile("even its smallest tiles need too much memory")
            side = max(SMALLEST_TILE, side * 3 // 4)


def _split(length: int, most: int) -> list[Span]:
    """0…length in equal parts of at most `most`."""
    count = math.ceil(length / most)
    edges = [index * length // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _ancestors(layers: Sequence[Layer], in_files: Collection[Layer] = (), *, behind_held: bool = False) -> _Course:
    """These layers and all that they are computed from, in order.

    Nothing is behind what is in a file, nor behind what is held, unless that is to be computed, too.
    """
    found: dict[Layer, tuple[Layer, ...]] = {}
    waiting = list(layers)
    while waiting:
        layer = waiting.pop()
        if layer not in found:
            read = layer in in_files or (isinstance(layer.rule, Held) and not behind_held)
            found[layer] = () if read else layer.inputs
            waiting += found[layer]
    return dict(sorted(found.items(), key=lambda item: item[0].number))


def _num_users(course: _Course) -> Counter[Layer]:
    return Counter(itertools.chain.from_iterable(course.values()))


def _regions(course: _Course, target: Layer, region: Region) -> dict[Layer, Region]:
    """The part of each layer that this part of the target needs."""
    regions = {target: region}
    for layer, inputs in reversed(course.items()):
        needs = layer.rule.needs(regions[layer]) if inputs else ()
        for source, needed in zip(inputs, needs):
            regions[source] = hull(regions[source], needed) if source in regions else needed
    return regions


def _covers(course: _Course, target: Layer, layer: Layer, rows: Sequence[Span], columns: Sequence[Span]) -> bool:
    """Whether the tiles' needs of `layer` leave out nothing of it."""
    for axis, tiles in enumerate(([(span, columns[0]) for span in rows], [(rows[0], span) for span in columns])):
        reached = 0
        for first, stop in sorted(_regions(course, target, tile)[layer][axis] for tile in tiles):
            if first > reached:
                return False
            reached = max(reached, stop)
        if reached < layer.shape[axis - 2]:
            return False
    return True


def _bytes_of_tile(course: _Course, target: Layer, region: Region) -> int:
    """The most bytes that computing one tile holds at once."""
    regions = _regions(course, target, region)
    users = _num_users(course)
    held = most = 0
    for layer, inputs in course.items():
        held += layer.bytes(regions[layer])
        most = max(most, held)
        for source in inputs:
            users[source] -= 1
            if users[source] == 0:
                held -= source.bytes(regions[source])
    return int(most * _WORKSPACE)


class _File:
    """One layer (1, C, H, W) in a temporary file, rows first, then columns, then channels."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._row = layer.shape[1] * layer.dtype.itemsize * layer.shape[3]
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="img2img-", buffering=0)  # noqa: SIM115

    def write(self, region: Region, values: Tensor) -> None:
        pixels = values[0].permute(1, 2, 0).contiguous().cpu()
        for offset, row in zip(self._offsets(region), pixels.view(torch.uint8).flatten(1).numpy()):
            self._file.seek(offset)
            waiting = memoryview(row)
            while waiting:
                waiting = waiting[self._file.write(waiting) :]

    def read(self, region: Region) -> Tensor:
        (top, bottom), (left, right) = region
        pixels = torch.empty(bottom - top, right - left, self._layer.shape[1], dtype=self._layer.dtype)
        for offset, row in zip(self._offsets(region), pixels.view(torch.uint8).flatten(1).numpy()):
            self._file.seek(offset)
            waiting = memoryview(row)
            while waiting:
                waiting = waiting[self._file.readinto(waiting) :]  # type: ignore[attr-defined]
        return pixels.permute(2, 0, 1)[None]

    def _offsets(self, region: Region) -> Iterator[int]:
        (top, bottom), (left, _right) = region
        column = self._row // self._layer.shape[3]
        return (row * self._row + left * column for row in range(top, bottom))

    def close(self) -> None:
        self._file.close()
