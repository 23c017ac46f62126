"""Translate a folder of pictures, unattended: same tree, names, sizes and formats out.

Reading, the network and writing overlap: threads decode ahead and encode behind, a bounded number of pictures apart, so
that memory does not grow with the folder; small pictures on the CPU take turns with the network instead. A picture that
cannot be used is named, counted and left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from img2img.atomic import remove_leftovers, temporary_beside, write_bytes, write_fault, write_new
from img2img.data.decode import (
    FORMATS,
    MAX_PIXELS,
    Picture,
    count_frames,
    naming_frame,
    open_frames,
    open_image,
    reduce_to_8_bits,
)
from img2img.data.encode import KEEPS_FRAMES, WRITABLE, encode_frames, format_of, refuse_unknown_suffix
from img2img.data.files import find_images
from img2img.data.threads import Pool, Task
from img2img.distributed import World
from img2img.errors import Fault, ImageFault, UsageFault
from img2img.inference.manifest import (
    WHOLE,
    Entry,
    Manifest,
    Shard,
    content_digest,
    has_manifest,
    part_name,
    read_entries_of,
)
from img2img.inference.memory import OutOfMemory
from img2img.inference.model import (
    LARGEST_USUAL_SCALE,
    Model,
    Prepared,
    Scale,
    Tile,
    far_from_trained,
    is_far,
    too_large,
)
from img2img.inference.names import SUBSTITUTE, output_names

Frames = Literal["first", "all"]

SKIPPED_NAME = "skipped.jsonl"
_SUFFIXES = frozenset(suffix for name in WRITABLE for suffix in FORMATS[name])
_log = logging.getLogger(__name__)
_NUM_REMARKS = 20  # about pictures that were used all the same; the rest is only counted
# One picture may take this long to read or write before the run stops and names it: a dead disk, not a slow one.
_PATIENCE = 600.0
# On a GPU single pictures leave most of it idle; on the CPU batches gain nothing.
_BATCH = {"cuda": 8}
# Batches of one size are made of so many batches' pictures that follow each other: upright and lying photos alternate.
_WINDOW = 4
# On the CPU the network's layers are cut into one piece a core, so that a thread that decodes on one of them holds up
# all the others. Small pictures, whose files cost most beside the network, are read and written between turns of it, on
# all cores at once. A turn ends after so many pictures or pixels.
_TURN, _TURN_PIXELS = 8, 2**23


@dataclass(frozen=True)
class Skip:
    """A picture that was left out: its path, the reason, and what would mend it."""

    path: str
    reason: str
    mend: str


@dataclass
class Summary:
    """What became of a folder.

    Attributes:
        translated, existing: pictures translated now, and found done already.
        skipped: pictures left out.
        shard: which part of the pictures this run was for.
        seconds: wall-clock time of the whole run.
        network_seconds: the part of it in which the network ran.
    """

    translated: int = 0
    existing: int = 0
    skipped: list[Skip] = field(default_factory=list)
    shard: Shard = WHOLE
    seconds: float = 0.0
    network_seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        return self.translated / self.seconds if self.seconds else 0.0

    @property
    def exit_code(self) -> int:
        """0, or 3 where something was skipped, or 2 where nothing but bad files was there at all."""
        if not self.skipped:
            return 0
        return 3 if self.translated or self.existing or self.shard != WHOLE else 2

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "images_per_second": self.images_per_second}

    def line(self) -> str:
        parts = [f"translated {self.translated}"]
        if self.existing:
            parts.append(f"already there {self.existing}")
        if self.skipped:
            parts.append(f"skipped {len(self.skipped)} (see {SKIPPED_NAME})")
        return ", ".join(parts)


@dataclass(frozen=True)
class Options:
    """How the pictures of one run are read, translated and written."""

    direction: str
    scale: Scale
    seed: int
    tile: Tile
    format: str | None
    quality: int
    background: str
    side_by_side: bool
    frames: Frames
    max_pixels: int
    allow_truncated: bool
    in_place: bool
    skip_existing: bool


@dataclass(eq=False)
class _Item:
    """One picture of the run.

    `name` is its output's, below the target folder; `digest` its source's sha256; `prepared` is there between reading
    and writing, unless there are several frames; `done` says that its output is there already.
    """

    source: Path
    name: str
    target: Path
    digest: str = ""
    prepared: Prepared | None = None
    num_frames: int = 1
    done: bool = False


def translate_folder(
    model: Model,
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    direction: str | None = None,
    scale: Scale = "auto",
    seed: int = 0,
    tile: Tile = "auto",
    batch: int | None = None,
    workers: int | None = None,
    skip_existing: bool = False,
    format: str | None = None,
    quality: int = 95,
    background: str = "white",
    side_by_side: bool = False,
    frames: Frames = "first",
    shard: Shard = WHOLE,
    strict: bool = False,
    in_place: bool = False,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Translate every picture below the folder `src` (or the one file `src`) into the folder `dst`.

    Args:
        direction, scale, seed, tile: as in Model.translate.
        batch: pictures of equal size, near each other in order, that go through the network together; None is 1 on
            the CPU and 8 on a GPU.
        workers: threads that read, and as many that write; None is one per processor, at most 8.
        skip_existing: leave out pictures whose output is there, made from the same content by the same model and
            options, and intact; everything else is made anew.
        format: Pillow's name of the format to write; None keeps each picture's.
        quality: 1…100 of JPEG, WebP and AVIF.
        background: colour behind transparent pixels where the written format keeps no opacity.
        side_by_side: write the picture and, to the right of it, its translation.
        frames: "all" translates an animation into an animation and a TIFF of several pages into one of as many;
            "first" takes the first picture of it.
        shard: (number, count): only every count-th picture, from the number-th on, so that `count` runs, at once or
            not, do them all. They know each other's outputs and list what they skip in one file.
        strict: raise at the first picture that cannot be used.
        in_place: allow `dst` to be `src`. A picture that is this model's output already is then left alone.
        follow_links: enter links to folders.
        max_pixels, allow_truncated: as in open_image and, for all frames together, open_frames.
        progress: called with (pictures done, pictures in all).

    Remarks, warnings and skipped pictures are logged as they come.

    Raises:
        UsageFault: nothing was begun: no pictures, `dst` cannot be used, options that do not fit the model.
        Fault: the disk refused or `strict`; finished outputs are whole, and `skip_existing` goes on from them.
    """
    options = Options(
        model.direction(direction),
        scale,
        seed,
        tile,
        _known_format(format),
        quality,
        background,
        side_by_side,
        _known_frames(frames),
        max_pixels,
        allow_truncated,
        in_place,
        skip_existing or in_place,
    )
    root, target = Path(src), Path(dst)
    if not root.is_dir():
        refuse_unknown_suffix(target)
    if root.is_dir() and not target.exists() and target.suffix.lower() in _SUFFIXES:
        raise UsageFault(target, "is a picture's name, but the input is a folder", "Give a folder")
    if _same(root, target) and not in_place:
        raise UsageFault(target, "output and input are the same folder", "Give another folder, or --in-place")
    notes: list[str] = []
    exclude = [] if _same(root, target) else [target]
    sources = find_images(root, follow_links=follow_links, exclude=exclude, notes=notes)
    for note in notes:
        _log.warning("%s", note)
    items = _plan(root, sources, target, options)
    if not in_place:
        _refuse_overlap(items, root, target)
        _refuse_strangers(items, target)
    with _open_manifest(target, options.skip_existing, shard) as manifest:
        manifest.join(lambda: remove_leftovers({item.target.parent for item in items}))
        run = _Run(model, manifest, options, SkipList(target, shard), shard, strict=strict, progress=progress)
        return run.run(
            items[shard[0] - 1 :: shard[1]],
            batch=batch or _BATCH.get(model.device.type, 1),
            workers=workers or min(8, os.cpu_count() or 1),
        )


def translate_file(
    model: Model,
    src: str | os.PathLike[str] | BinaryIO,
    dst: str | os.PathLike[str] | BinaryIO,
    *,
    direction: str | None = None,
    scale: Scale = "auto",
    seed: int = 0,
    tile: Tile = "auto",
    format: str | None = None,
    quality: int = 95,
    background: str = "white",
    side_by_side: bool = False,
    frames: Frames = "first",
    in_place: bool = False,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
) -> Summary:
    """Translate one picture into the file `dst`, whose suffix names the format unless `format` does.

    Either may be a binary stream, `src` a seekable one. Into a stream the picture's own format is written, or JPEG
    where that can only be read.

    Raises:
        UsageFault: `dst` is `src` without `in_place`, is there already without `overwrite`, or its format is unknown.
        Fault: the picture cannot be used or `dst` cannot be written.
    """
    started = time.monotonic()
    direction = model.direction(direction)
    frames = _known_frames(frames)
    known = _known_format(format)
    if isinstance(dst, str | os.PathLike):
        known = known or format_of(dst)
        itself = isinstance(src, str | os.PathLike) and _same(Path(src), Path(dst))
        if itself and not in_place:
            raise UsageFault(dst, "is the picture itself", "Give another name, or --in-place to replace it")
        if not itself and os.path.lexists(dst) and not overwrite:
            raise UsageFault(dst, "is there already", "Give another name, or --overwrite to replace it")
    if isinstance(src, str | os.PathLike) and not os.path.exists(src):
        raise UsageFault(src, "no such file", "Check the path")
    if isinstance(dst, str | os.PathLike):
        require_folder(Path(dst).parent)
    subject = src if isinstance(src, str | os.PathLike) else getattr(src, "name", "picture")
    count = count_frames(src, max_pixels=max_pixels) if frames == "all" else 1
    opened: Iterable[Picture]
    if frames == "all":
        opened = open_frames(src, max_pixels=max_pixels, allow_truncated=allow_truncated)
    else:
        opened = [open_image(src, max_pixels=max_pixels, allow_truncated=allow_truncated)]
    translated: list[Picture] = []
    network_seconds = 0.0
    for group in _prepare_alike(model, opened, direction, scale, _BATCH.get(model.device.type, 1)):
        if not translated:
            first = group[0].picture
            known = known or (first.format if first.format in WRITABLE else SUBSTITUTE)
            _require_room(known, count, subject)
            for remark in first.notes:
                _log.info("note: %s: %s", subject, remark)
            if is_far(group[0], scale):
                _log.warning("%s", far_from_trained(subject, group[0].enlargement))
        before = time.monotonic()
        values = torch.stack([one.values for one in group])
        results = model.run_each(values, direction, seed, tile=tile, subjects=[subject] * len(group))
        network_seconds += time.monotonic() - before
        for one, result in zip(group, results):
            with naming_frame(subject, len(translated) + 1, count):
                if isinstance(result, OutOfMemory):
                    raise too_large(subject, one.picture, result)
                translated.append(_finished(model, one.picture, result, side_by_side, subject))
    assert known is not None, "every file has a first picture"
    encoded = _encode(subject, translated, known, quality, background)
    if isinstance(dst, str | os.PathLike):
        write_bytes(dst, encoded, sync=False)
    else:
        dst.write(encoded)
        dst.flush()
    return Summary(1, seconds=time.monotonic() - started, network_seconds=network_seconds)


class SkipList:
    """`skipped.jsonl` of an output folder, written as it happens, for a run that is killed.

    A shard writes its part beside it; whichever ends puts the parts together. Two that end at once both look again
    after writing, so that the later one has seen all.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._path = folder / SKIPPED_NAME
        self._shard = shard
        self._part = self._path if shard == WHOLE else folder / part_name(f".img2img-{SKIPPED_NAME}", shard)
        self._begun = False

    def add(self, skip: Skip) -> None:
        try:
            with open(self._part, "a" if self._begun else "w", encoding="utf-8") as file:
                file.write(_json_line(skip))
        except OSError as error:
            raise write_fault(self._part, error) from error
        self._begun = True

    def close(self, skips: Sequence[Skip]) -> None:
        """Write all skips of this run in their order; a list of an earlier run vanishes."""
        self._replace(self._part, [_json_line(skip) for skip in skips], keep=self._shard != WHOLE)
        if self._shard == WHOLE:
            for path in self._parts("*"):
                path.unlink(missing_ok=True)
            return
        known: list[str] | None = None
        while (found := self._lines_of_parts()) != known:
            self._replace(self._path, found)
            known = found

    def _lines_of_parts(self) -> list[str]:
        lines = {line for path in self._parts(str(self._shard[1])) for line in path.read_text("utf-8").splitlines(True)}
        return sorted(lines)

    def _parts(self, count: str) -> list[Path]:
        stem, suffix = os.path.splitext(SKIPPED_NAME)
        return sorted(self._path.parent.glob(f".img2img-{stem}-*-of-{count}{suffix}"))

    @staticmethod
    def _replace(path: Path, lines: Sequence[str], *, keep: bool = False) -> None:
        if lines or keep:
            write_bytes(path, "".join(lines).encode(), sync=False)
        else:
            path.unlink(missing_ok=True)


class _Run:
    """One pass over a folder: its options, its manifest and its counts."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        options: Options,
        skip_list: SkipList,
        shard: Shard,
        *,
        strict: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.model = model
        self.manifest = manifest
        self.options = options
        self.strict = strict
        self.progress = progress
        self.summary = Summary(shard=shard)
        self._skip_list = skip_list
        self._recipe = _recipe_digest(model, options)
        self._num_items = 0
        self._num_far = 0
        self._num_remarks = 0
        self._disk_fault: Fault | None = None
        self._on_cpu = model.device.type == "cpu"

    def run(self, items: Sequence[_Item], *, batch: int, workers: int) -> Summary:
        started = time.monotonic()
        self._num_items = len(items)
        readers, writers = Pool(workers), Pool(workers)
        writing: deque[Task[ImageFault | None]] = deque()
        try:
            for chunk in self._read_chunks(items, readers, batch, ahead=workers + batch):
                results = self._translate_chunk(chunk, batch)
                if self._on_cpu and len(chunk) >= max(2, workers):
                    while writing:
                        self._finish(writing.popleft())
                    results = iter(list(results))
                for item, result in results:
                    still = self._still(item, result)
                    writing.append(writers.submit(partial(self._write, item, still), item.target))
                    while len(writing) > workers:
                        self._finish(writing.popleft())
                    # looked at before it is that output's turn: on a full disk nothing more is to be done
                    if self._disk_fault is not None:
                        raise self._disk_fault
                for item in chunk:
                    if item.num_frames > 1:
                        self._do_frames(item, readers, writers, batch)
            while writing:
                self._finish(writing.popleft())
        finally:
            readers.close()
            writers.close()
        self.summary.skipped.sort(key=lambda skip: skip.path)
        self._skip_list.close(self.summary.skipped)
        self._close_remarks()
        self.summary.seconds = time.monotonic() - started
        return self.summary

    def _do_frames(self, item: _Item, readers: Pool, writers: Pool, batch: int) -> None:
        """Translate and write one file of several frames. It is waited for, so that no other's are in memory."""
        try:
            frames = self._translate_frames(item, readers, batch)
        except ImageFault as fault:
            self._skip(fault)
        else:
            self._finish(writers.submit(partial(self._write, item, frames), item.target))

    def _advance(self) -> None:
        summary = self.summary
        if self.progress is not None:
            self.progress(summary.translated + summary.existing + len(summary.skipped), self._num_items)

    # --- reading ---

    def _read_chunks(self, items: Sequence[_Item], readers: Pool, batch: int, ahead: int) -> Iterator[list[_Item]]:
        """Decoded pictures in the order of `items`: a few batches, or a turn of the network, at a time.

        Which pictures share a batch depends on the list alone: the last bits of a result may depend on the shape of its
        batch, and a run that was interrupted must end in the same bytes as one that was not. So a picture that is done
        is decoded all the same where another one of its batches is not.
        """
        takes_turns = self._on_cpu and batch == 1
        window = batch * _WINDOW if batch > 1 else _TURN if takes_turns else 1
        fetching: deque[Task[None]] = deque()
        reading: deque[Task[None]] = deque()
        num_submitted = num_taken = 0
        while num_taken < len(items):
            while fetching:
                fetching.popleft().wait(_PATIENCE)
            end = min(len(items), num_taken + window)
            chunk: list[_Item] = []
            num_pixels = 0
            while num_taken < end and not (takes_turns and num_pixels >= _TURN_PIXELS):
                submitted_end = min(end, num_taken + 1 + ahead) if takes_turns else min(len(items), end + ahead)
                for item in items[num_submitted:submitted_end]:
                    reading.append(readers.submit(partial(self._read, item), item.source))
                num_submitted = max(num_submitted, submitted_end)
                item = items[num_taken]
                num_taken += 1
                try:
                    reading.popleft().wait(_PATIENCE)
                except ImageFault as fault:
                    self._skip(fault)
                    continue
                chunk.append(item)
                if item.done:
                    self.summary.existing += 1
                    self._advance()
                elif item.prepared is not None:
                    own = item.prepared.picture.height * item.prepared.picture.width
                    num_pixels += max(own, item.prepared.values.shape[-2:].numel())
                    self._remark(item.source, item.prepared)
            if batch > 1 and any(item.prepared is not None for item in chunk):
                for item in chunk:
                    if item.done:
                        with contextlib.suppress(ImageFault):
                            self._decode(item)
            if takes_turns:
                for item in items[num_submitted : num_taken + window]:
                    fetching.append(readers.submit(partial(self._fetch, item), item.source))
            yield [item for item in chunk if item.prepared is not None or (item.num_frames > 1 and not item.done)]

    def _fetch(self, item: _Item, task: Task[None]) -> None:
        """Read a file beside the network, so that its turn to be decoded finds it in the system's memory."""
        item.digest = _digest_or_nothing(item.source)

    def _read(self, item: _Item, task: Task[None]) -> None:
        item.done = self.options.skip_existing and self._is_done(item)
        if not item.done:
            self._decode(item)

    def _decode(self, item: _Item) -> None:
        options = self.options
        if options.frames == "all":
            num_frames = count_frames(item.source, max_pixels=options.max_pixels)
            if num_frames > 1:
                _require_room(format_of(item.target), num_frames, item.source)
                item.digest = item.digest or _digest_or_nothing(item.source)
                item.num_frames = num_frames
                return
        picture = open_image(item.source, max_pixels=options.max_pixels, allow_truncated=options.allow_truncated)
        item.digest = item.digest or _digest_or_nothing(item.source)
        item.prepared = self.model.prepare(picture, options.direction, options.scale)

    def _is_done(self, item: _Item) -> bool:
        """Whether the output is there and intact, made from this source by this model and these options."""
        known = self.manifest.entries.get(item.name, set())
        entries = [entry for entry in known if entry.recipe == self._recipe]
        in_place = item.source == item.target
        if not entries and not (in_place and known):
            return False
        item.digest = item.digest or _digest_or_nothing(item.source)
        if in_place:
            if any(item.digest == entry.output for entry in entries):
                return True
            if any(item.digest == entry.output for entry in known):
                raise ImageFault(
                    item.source,
                    "is what an earlier run made in this place, with another model or other options",
                    "Put the original back, or translate it into another folder",
                )
            return False
        output = _digest_or_nothing(item.target)
        return any((item.digest, output) == (entry.source, entry.output) for entry in entries)

    def _remark(self, source: Path, prepared: Prepared) -> None:
        for remark in prepared.picture.notes:
            self._num_remarks += 1
            if self._num_remarks <= _NUM_REMARKS:
                _log.info("note: %s: %s", source, remark)
        if is_far(prepared, self.options.scale):
            self._num_far += 1
            if self._num_far == 1:
                _log.warning("%s", far_from_trained(source, prepared.enlargement))

    def _close_remarks(self) -> None:
        if self._num_remarks > _NUM_REMARKS:
            _log.info("note: %d more such notes", self._num_remarks - _NUM_REMARKS)
        if self._num_far > 1:
            _log.warning("%d pictures are above %g times the trained scale", self._num_far, LARGEST_USUAL_SCALE)

    # --- the network ---

    def _translate_chunk(self, chunk: Sequence[_Item], batch: int) -> Iterator[tuple[_Item, Tensor | ImageFault]]:
        """What the network makes of the decoded pictures of a chunk, but for those that were done already."""
        for group in _batches([item for item in chunk if item.prepared is not None], batch):
            results = [] if all(item.done for item in group) else self._translate(group)
            yield from ((item, result) for item, result in zip(group, results) if not item.done)
            for item in group:
                if item.done:
                    item.prepared = None

    def _translate(self, group: Sequence[_Item]) -> list[Tensor | ImageFault]:
        """The network's output, or why there is none, for pictures of one working size."""
        prepared = [item.prepared for item in group if item.prepared is not None]
        failure = None
        started = time.monotonic()
        try:
            values = torch.stack([one.values for one in prepared])
            results = self.model.run_each(
                values,
                self.options.direction,
                self.options.seed,
                tile=self.options.tile,
                subjects=[item.source for item in group],
            )
        except RuntimeError as error:
            failure = error
        self.summary.network_seconds += time.monotonic() - started
        if failure is not None:
            self._require_device(failure)
            if len(group) > 1:
                return [self._translate([item])[0] for item in group]
            mend = "Try --device cpu or another --scale"
            return [ImageFault(group[0].source, f"the network failed on it ({_first_line(failure)})", mend)]
        return [
            too_large(item.source, one.picture, result) if isinstance(result, OutOfMemory) else result
            for item, one, result in zip(group, prepared, results)
        ]

    def _translate_frames(self, item: _Item, readers: Pool, batch: int) -> list[Picture]:
        """All frames of one file, read a batch ahead of the network.

        Raises:
            ImageFault: one of them cannot be used; it is named.
        """
        options = self.options
        opened = open_frames(item.source, max_pixels=options.max_pixels, allow_truncated=options.allow_truncated)
        groups = _prepare_alike(self.model, opened, options.direction, options.scale, batch)
        translated: list[Picture] = []
        reading = readers.submit(lambda task: next(groups, None), item.source)
        while group := reading.wait(_PATIENCE):
            reading = readers.submit(lambda task: next(groups, None), item.source)
            if not translated:
                self._remark(item.source, group[0])
            results = self._translate([replace(item, prepared=one) for one in group])
            for one, result in zip(group, results):
                with naming_frame(item.source, len(translated) + 1, item.num_frames):
                    if isinstance(result, ImageFault):
                        raise result
                    translated.append(_finished(self.model, one.picture, result, options.side_by_side, item.source))
        return translated

    def _require_device(self, error: RuntimeError) -> None:
        """Stop where the device itself has failed: every further picture would be skipped for nothing."""
        try:
            torch.zeros(1, device=self.model.device).cpu()
        except RuntimeError:
            device = self.model.device
            raise Fault(device, f"has failed ({_first_line(error)})", "Go on with --skip-existing") from error

    # --- writing ---

    def _still(self, item: _Item, result: Tensor | ImageFault) -> Iterator[Picture]:
        """The one picture of `item`, made when it is asked for."""
        assert item.prepared is not None, "only decoded pictures are written"
        picture, item.prepared = item.prepared.picture, None
        if isinstance(result, ImageFault):
            raise result
        yield _finished(self.model, picture, result, self.options.side_by_side, item.source)

    def _write(self, item: _Item, frames: Iterable[Picture], task: Task[ImageFault | None]) -> ImageFault | None:
        """Encode and publish one output; returns the fault of a picture that is to be skipped.

        Raises:
            Fault: the disk refused, which ends the run.
        """
        try:
            if self._disk_fault is None:
                self._publish(item, list(frames))
        except ImageFault as fault:
            return fault
        except Fault as fault:
            self._disk_fault = Fault(item.target, fault.problem, f"{fault.mend}; --skip-existing goes on from here")
            raise self._disk_fault from fault
        return None

    def _publish(self, item: _Item, frames: Sequence[Picture]) -> None:
        options, known = self.options, format_of(item.target)
        temporary = temporary_beside(item.target)
        try:
            item.target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_fault(item.target, error) from error
        encoded = _encode(item.source, frames, known, options.quality, options.background)
        try:
            write_new(temporary, encoded, sync=False)
            # the line comes first: in place, an output must never be there without it
            output = hashlib.sha256(encoded).hexdigest()
            self.manifest.append(item.name, Entry(item.digest, self._recipe, output))
            os.replace(temporary, item.target)
        except OSError as error:
            raise write_fault(item.target, error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _finish(self, task: Task[ImageFault | None]) -> None:
        fault = task.wait(_PATIENCE)
        if fault is None:
            self.summary.translated += 1
            self._advance()
        else:
            self._skip(fault)

    # --- what is skipped ---

    def _skip(self, fault: ImageFault) -> None:
        if self.strict:
            raise fault
        _log.error("%s", fault)
        skip = Skip(fault.subject, fault.problem, fault.mend)
        self.summary.skipped.append(skip)
        self._skip_list.add(skip)
        self._advance()


def total(summary: Summary, folder: str | os.PathLike[str], world: World) -> Summary:
    """What became of all shards that the processes of `world` did into `folder`; waits for every one of them."""
    numbers = [summary.translated, summary.existing, len(summary.skipped), summary.seconds, summary.network_seconds]
    counts = world.total(torch.tensor(numbers, dtype=torch.float64))
    translated, existing, num_skipped = (int(count) for count in counts[:3])
    skipped = []
    if num_skipped:
        with open(Path(folder) / SKIPPED_NAME, encoding="utf-8") as lines:
            skipped = [Skip(**json.loads(line)) for line in lines]
    seconds, network_seconds = (counts[3:] / world.size).tolist()
    return Summary(translated, existing, skipped, WHOLE, seconds, network_seconds)


# --- before the run --------------------------------------------------------------------------------------------------


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _known_format(format: str | None) -> str | None:
    """Pillow's name of a format given by that name or by a suffix."""
    if format is None:
        return None
    for known in WRITABLE:
        if format.upper() == known or f".{format.lower()}" in FORMATS[known]:
            return known
    raise UsageFault("--format", f"{format!r} is not written here", f"Use one of {', '.join(WRITABLE).lower()}")


def _known_frames(frames: Frames) -> Frames:
    if frames not in ("first", "all"):
        raise UsageFault("--frames", f"{frames!r} is unknown", "Use first or all")
    return frames


def parse_shard(text: str) -> Shard:
    """`--shard`: "2/4" is the second of four.

    Raises:
        UsageFault: anything else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageFault("--shard", f"{text!r} is no part", "Give number/count, such as 1/4, 2/4, 3/4 and 4/4")
    return int(found[1]), int(found[2])


def require_folder(folder: Path) -> None:
    """Make the folder where it is missing.

    Raises:
        UsageFault: it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageFault(folder, "is a file, not a folder", "Choose another output folder") from error
    except OSError as error:
        raise UsageFault(
            folder, f"cannot be made ({error.strerror})", "Choose a folder that you may write to"
        ) from error


def _open_manifest(folder: Path, read_entries: bool, shard: Shard) -> Manifest:
    """Make the output folder and see that it takes files, before anything is read."""
    require_folder(folder)
    try:
        return Manifest(folder, read_entries, shard)
    except Fault as fault:
        raise UsageFault(fault.subject, fault.problem, fault.mend) from fault


def _plan(root: Path, sources: Sequence[Path], target: Path, options: Options) -> list[_Item]:
    """What is made of what, decided before any work."""
    base = root if root.is_dir() else root.parent
    names = [str(source.relative_to(base)) for source in sources]
    in_place = options.in_place and _same(base, target)
    if in_place and options.format is None:
        return [_Item(source, name, source) for source, name in zip(sources, names)]
    if in_place:
        # what this wrote beside the pictures is no picture to translate
        entries = read_entries_of(target)
        kept = [index for index, name in enumerate(names) if not _is_own_output(sources[index], entries.get(name, ()))]
        sources, names = [sources[index] for index in kept], [names[index] for index in kept]
    outputs = output_names(names, options.format)
    return [_Item(source, output, target / output) for source, output in zip(sources, outputs)]


def _is_own_output(path: Path, entries: Collection[Entry]) -> bool:
    return bool(entries) and _digest_or_nothing(path) in {entry.output for entry in entries}


def _refuse_overlap(items: Sequence[_Item], root: Path, target: Path) -> None:
    """An output folder around the input must not get an output where a picture is."""
    folder = Path(os.path.realpath(target))
    if folder not in (Path(os.path.realpath(root)), *Path(os.path.realpath(root)).parents):
        return
    pictures = {os.path.realpath(item.source) for item in items}
    for item in items:
        if os.path.realpath(item.target) in pictures:
            raise UsageFault(item.target, "is one of the pictures to translate", "Give another folder, or --in-place")


def _refuse_strangers(items: Sequence[_Item], target: Path) -> None:
    """What somebody put into a folder must not be replaced by outputs of the same names.

    A folder that a run has written into is its own: after a power failure, lines of the manifest may be missing there.
    """
    there = [item.target for item in items if os.path.lexists(item.target)]
    if there and not has_manifest(target):
        others = f", as are {len(there) - 1} more," if len(there) > 1 else ""
        raise UsageFault(
            there[0],
            f"is there already{others} and is no output of an earlier run",
            "Give another folder, or move it away first",
        )


def _recipe_digest(model: Model, options: Options) -> str:
    """sha256 of everything but the picture that its output depends on."""
    decisive = {
        "model": model.digest,
        "precision": model.precision,
        "direction": options.direction,
        "scale": options.scale,
        "seed": options.seed,
        "format": options.format,
        "quality": options.quality,
        "background": options.background,
        "side_by_side": options.side_by_side,
        "frames": options.frames,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _require_room(format: str, num_frames: int, subject: object) -> None:
    """Refuse to write several frames as a single picture, before they are translated."""
    if num_frames > 1 and format not in KEEPS_FRAMES:
        raise ImageFault(
            subject,
            f"has {num_frames} frames, and {format} holds a single picture",
            "Write it as GIF, WebP, PNG or TIFF, or take its first with --frames first",
        )


def beside(picture: Picture, pixels: np.ndarray, alpha: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture and its translation (H, W, 1|3) as one picture (H, 2W, 1|3), and its opacity."""
    pair = [picture.pixels, pixels]
    if picture.pixels.dtype != pixels.dtype:
        pair = [reduce_to_8_bits(half) for half in pair]
    channels = max(half.shape[2] for half in pair)
    together = np.concatenate([np.broadcast_to(half, (*half.shape[:2], channels)) for half in pair], axis=1)
    if picture.alpha is None and alpha is None:
        return together, None
    opaque = np.full(pixels.shape[:2], 255, np.uint8)
    halves = [opaque if opacity is None else opacity for opacity in (picture.alpha, alpha)]
    return together, np.concatenate(halves, axis=1)


# --- small things ----------------------------------------------------------------------------------------------------


def _prepare_alike(
    model: Model, pictures: Iterable[Picture], direction: str, scale: Scale, most: int
) -> Iterator[list[Prepared]]:
    """`pictures`, prepared, in their order: at most so many at a time that follow each other and are of one shape."""
    group: list[Prepared] = []
    for picture in pictures:
        prepared = model.prepare(picture, direction, scale)
        if group and (len(group) == most or _shape(prepared) != _shape(group[0])):
            yield group
            group = []
        group.append(prepared)
    if group:
        yield group


def _finished(model: Model, picture: Picture, result: Tensor, side_by_side: bool, subject: object) -> Picture:
    """The translated picture, with all that is kept of `picture`."""
    pixels, alpha = model.finish(result, picture, subject)
    if side_by_side:
        pixels, alpha = beside(picture, pixels, alpha)
    return replace(picture, pixels=pixels, alpha=alpha)


def _encode(source: object, frames: Sequence[Picture], format: str, quality: int, background: str) -> memoryview:
    """encode_frames; an encoder's own limit (65,535 pixels a side in JPEG, 16,383 in WebP) is the picture's fault."""
    try:
        return encode_frames(frames, format, quality=quality, background=background)
    except (OSError, ValueError, struct.error) as error:
        better = "png" if len(frames) == 1 else "tiff"
        raise ImageFault(
            source, f"its result cannot be written as {format} ({error})", f"Use --format {better}"
        ) from error


def _batches(items: Sequence[_Item], most: int) -> Iterator[list[_Item]]:
    """Batches of at most `most` whose working size and depth are equal, in order of first appearance."""
    groups: dict[tuple[object, ...], list[_Item]] = {}
    for item in items:
        assert item.prepared is not None, "only decoded pictures are grouped"
        groups.setdefault(_shape(item.prepared), []).append(item)
    for group in groups.values():
        yield from (group[first : first + most] for first in range(0, len(group), most))


def _shape(prepared: Prepared) -> tuple[object, ...]:
    """What pictures of one batch have in common."""
    return (prepared.values.dtype, *prepared.values.shape)


def _digest_or_nothing(path: Path) -> str:
    """sha256 of an ordinary file that can be read, else ""."""
    try:
        return content_digest(path) if stat.S_ISREG(os.stat(path).st_mode) else ""
    except OSError:
        return ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _json_line(skip: Skip) -> str:
    return json.dumps(asdict(skip)) + "\n"
