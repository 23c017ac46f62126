"""Look through the data before it is trained from: what there is, what is wrong, what is there twice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from img2img.data.decode import MAX_PIXELS, Picture, open_image
from img2img.data.files import list_images, no_images
from img2img.data.lanes import halves
from img2img.data.pack import is_pack, open_pack, verify_pack
from img2img.data.resize import resize, to_tensor
from img2img.data.sources import class_folders, match_pairs
from img2img.data.threads import map_in_threads
from img2img.errors import Fault, ImageFault, UsageFault

PathLike = str | os.PathLike[str]

# Two pictures count as nearly equal when at most so many of the 64 bits of their gradient hashes differ, and their
# 16×16 thumbnails differ by at most so many levels of 255 on average: a JPEG saved again, or another size, passes both
MAX_HASH_DISTANCE = 4
MAX_THUMBNAIL_DIFFERENCE = 3.0
# Beyond this many pictures only equal hashes are compared: all pairs would take minutes
MAX_ALL_PAIRS = 20_000
UNEVEN_CLASSES = 10
SMALL_SIDE = 32


@dataclass
class Report:
    """What `check` found.

    Attributes:
        kind: "images", "classes", "pairs" or "unpaired".
        counts: what it holds -> number of pictures: a folder, a class, "pairs".
        faults: what training would refuse.
        warnings: what training accepts but the user should know.
        sizes: (width, height) -> number of pictures.
        formats: such as "JPEG" -> number of pictures.
        modes: such as "RGB" or "16-bit grey with opacity" -> number of pictures.
        notes: remark of the decoder -> number of pictures.
        duplicates: groups of files with exactly the same pixels.
        near_duplicates: groups of files that look the same.
        leaks: those groups of both kinds whose files lie in more than one part (train, test, …) of the data.
    """

    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    leaks: list[list[str]] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class _Seen:
    """What is remembered of one decoded picture."""

    path: Path
    size: tuple[int, int]
    format: str
    mode: str
    notes: tuple[str, ...]
    pixels_sha256: str
    gradient_hash: int
    thumbnail: np.ndarray


def check(
    images: PathLike | None = None,
    classes: PathLike | None = None,
    a: PathLike | None = None,
    b: PathLike | None = None,
    pairs: Sequence[PathLike] = (),
    *,
    against: Sequence[PathLike] = (),
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    timeout: float = 120.0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Open every picture of a data set and report on it.

    Args:
        images, classes, a, b, pairs: as for sources.open_source; a pack has its arrays verified.
        against: more folders, such as the test set, only to be searched for pictures that are in the data as well.
        workers, max_pixels, allow_truncated, timeout, progress: as for scan.scan.

    Raises:
        UsageFault: a folder is missing or empty.
    """
    given = [path for path in (images, classes, a, b, *pairs) if path is not None]
    if any(is_pack(path) for path in given):
        return _check_packs(given)
    report = Report(_kind(images, classes, a, b, pairs))
    groups = _collect(report, images, classes, a, b, pairs)
    others = {str(root): _files(root) for root in against}
    report.counts |= {} if report.counts else {name: len(files) for name, files in groups.items()}
    files = [path for group in (*groups.values(), *others.values()) for path in group]

    def look(path: Path) -> _Seen | ImageFault:
        try:
            picture = open_image(path, max_pixels=max_pixels, allow_truncated=allow_truncated)
            if report.kind == "pairs" and len(pairs) == 1:
                halves(picture, path)
        except ImageFault as fault:
            return fault
        return _remember(path, picture)

    outcomes = dict(
        zip(files, map_in_threads(look, files, workers=workers, timeout=timeout, progress=progress), strict=True)
    )
    seen = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, _Seen)}
    report.faults += [outcome for outcome in outcomes.values() if isinstance(outcome, ImageFault)]
    own = [path for group in groups.values() for path in group]
    _tally(report, [seen[path] for path in own if path in seen])
    if report.kind == "pairs" and len(pairs) == 2:
        _compare_pairs(report, groups, pairs, seen)
    _find_duplicates(report, list(seen.values()), [Path(path) for path in (*given, *against)])
    _judge(report)
    if report.kind == "classes":
        _find_contradictions(report, groups)
    return report


def _kind(
    images: PathLike | None, classes: PathLike | None, a: PathLike | None, b: PathLike | None, pairs: Sequence[PathLike]
) -> str:
    kinds = [
        kind
        for kind, value in (("images", images), ("classes", classes), ("unpaired", a or b), ("pairs", pairs))
        if value
    ]
    if len(kinds) != 1 or (kinds[0] == "unpaired" and not (a and b)):
        raise UsageFault(
            "data",
            "one kind of data is checked at a time",
            "Give --images DIR, --classes DIR, --a DIR --b DIR or --pairs",
        )
    return kinds[0]


def _files(root: PathLike) -> list[Path]:
    files = list_images(root)
    if not files:
        raise no_images(root)
    return files


def _collect(
    report: Report,
    images: PathLike | None,
    classes: PathLike | None,
    a: PathLike | None,
    b: PathLike | None,
    pairs: Sequence[PathLike],
) -> dict[str, list[Path]]:
    """The files of each folder or class."""
    if classes is not None:
        try:
            folders = class_folders(classes, report.warnings)
        except UsageFault as fault:
            report.faults.append(fault)
            return {str(Path(classes)): _files(classes)}
        groups = {folder.name: list_images(folder) for folder in folders}
        report.faults += [no_images(Path(classes) / name) for name, files in groups.items() if not files]
        return groups
    roots = [root for root in (images, a, b, *pairs) if root is not None]
    if len(roots) == 2 and all(os.path.exists(root) for root in roots) and os.path.samefile(*roots):
        raise UsageFault(roots[1], "is given twice", "Give two different folders")
    return {str(Path(root)): _files(root) for root in roots}


def _remember(path: Path, picture: Picture) -> _Seen:
    pixels = picture.pixels
    digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode())
    digest.update(pixels.tobytes())
    if picture.alpha is not None:
        digest.update(picture.alpha.tobytes())
    mode = "RGB" if pixels.shape[2] == 3 else "grey"
    mode = "16-bit grey" if pixels.dtype == np.uint16 else mode
    mode += "" if picture.alpha is None else " with opacity"
    colours = to_tensor(picture.as_channels(3))
    medium = resize(colours, (64, 64))
    return _Seen(
        path,
        (picture.width, picture.height),
        picture.format,
        mode,
        picture.notes,
        digest.hexdigest(),
        gradient_hash(medium),
        resize(medium, (16, 16)).numpy(),
    )


def gradient_hash(pixels: Tensor) -> int:
    """64 bits of a (3, H, W) uint8 picture: whether, on an 8×9 grid, each cell is darker than its right neighbour."""
    grid = resize(pixels, (8, 9)).numpy().astype(np.int64).sum(axis=0)
    bits = np.packbits(grid[:, :-1] < grid[:, 1:])
    return int.from_bytes(bits.tobytes(), "big")


def _tally(report: Report, seen: Sequence[_Seen]) -> None:
    report.sizes = dict(Counter(one.size for one in seen).most_common())
    report.formats = dict(Counter(one.format for one in seen).most_common())
    report.modes = dict(Counter(one.mode for one in seen).most_common())
    report.notes = dict(Counter(note for one in seen for note in one.notes).most_common())


def _compare_pairs(
    report: Report, groups: dict[str, list[Path]], pairs: Sequence[PathLike], seen: dict[Path, _Seen]
) -> None:
    a, b = Path(pairs[0]), Path(pairs[1])
    try:
        matched = match_pairs(groups[str(a)], groups[str(b)], a, b, policy="strict", notes=report.warnings)
    except UsageFault as fault:
        report.faults.append(fault)
        return
    for first, second in matched:
        if first in seen and second in seen and seen[first].size != seen[second].size:
            sizes = [f"{width}×{height}" for width, height in (seen[second].size, seen[first].size)]
            report.faults.append(
                ImageFault(
                    second,
                    f"is {sizes[0]}, but {first} is {sizes[1]}",
                    "Give both the same size, or set data.resize_pairs=true",
                )
            )


def _judge(report: Report) -> None:
    if report.kind == "classes" and report.counts:
        largest, smallest = max(report.counts.values()), min(report.counts.values())
        if largest > UNEVEN_CLASSES * smallest > 0:
            report.warnings.append(f"the largest class has {largest / smallest:.0f} times the pictures of the smallest")
    if report.kind == "unpaired":
        report.warnings += [f"{name} holds 1 image" for name, count in report.counts.items() if count == 1]
    small = sum(count for size, count in report.sizes.items() if min(size) < SMALL_SIDE)
    if small:
        report.warnings.append(f"{small} pictures have a side below {SMALL_SIDE} pixels")
    if report.leaks:
        report.warnings.append(f"{len(report.leaks)} pictures are in more than one part of the data")


# ---------------------------------------------------------------------------------------------------- duplicates


def _find_duplicates(report: Report, seen: Sequence[_Seen], roots: Sequence[Path]) -> None:
    by_pixels: dict[str, list[_Seen]] = {}
    for one in seen:
        by_pixels.setdefault(one.pixels_sha256, []).append(one)
    equal = [group for group in by_pixels.values() if len(group) > 1]
    distinct = [group[0] for group in by_pixels.values()]
    near = [[one for first in group for one in by_pixels[first.pixels_sha256]] for group in _near_groups(distinct)]
    report.duplicates = [[str(one.path) for one in group] for group in equal]
    report.near_duplicates = [[str(one.path) for one in group] for group in near]
    report.leaks = [
        [str(one.path) for one in group]
        for group in (*equal, *near)
        if len({_part_of(one.path, roots) for one in group}) > 1
    ]


_PART_NAMES = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))


def _part_of(path: Path, roots: Sequence[Path]) -> str:
    """The root that a file is under and, where that holds train, test and the like, which of them."""
    for root in roots:
        if path.is_relative_to(root):
            first = path.relative_to(root).parts[0]
            return str(root / first) if first.lower() in _PART_NAMES else str(root)
    return ""


def _near_groups(seen: Sequence[_Seen]) -> list[list[_Seen]]:
    """Groups of pictures that look the same, from distinct ones."""
    # A picture without any gradient, such as a blank page, resembles every other
    candidates = [one for one in seen if one.gradient_hash != 0]
    leaders = list(range(len(candidates)))

    def leader(index: int) -> int:
        while leaders[index] != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    for first, second in _close_hashes(candidates):
        difference = candidates[first].thumbnail.astype(np.int16) - candidates[second].thumbnail
        if np.abs(difference).mean() <= MAX_THUMBNAIL_DIFFERENCE:
            leaders[leader(second)] = leader(first)
    groups: dict[int, list[_Seen]] = {}
    for index, one in enumerate(candidates):
        groups.setdefault(leader(index), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def _close_hashes(seen: Sequence[_Seen]) -> Iterable[tuple[int, int]]:
    """Pairs of indices whose gradient hashes are close."""
    hashes = np.array([one.gradient_hash for one in seen], np.uint64)
    if len(seen) > MAX_ALL_PAIRS:
        order = np.argsort(hashes, kind="stable")
        for position in np.flatnonzero(np.diff(hashes[order]) == 0):
            yield int(order[position]), int(order[position + 1])
        return
    for start in range(0, len(hashes), 512):
        distance = np.bitwise_count(hashes[start : start + 512, None] ^ hashes[None, start:])
        for row, column in zip(*np.nonzero(distance <= MAX_HASH_DISTANCE), strict=True):
            if column > row:
                yield start + int(row), start + int(column)


def _find_contradictions(report: Report, groups: dict[str, list[Path]]) -> None:
    """Warn of pictures that two classes claim."""
    class_of = {str(path): name for name, files in groups.items() for path in files}
    for group in (*report.duplicates, *report.near_duplicates):
        claims = sorted({class_of[path] for path in group if path in class_of})
        if len(claims) > 1:
            report.warnings.append(f"{' and '.join(claims)} both hold this picture: {', '.join(group)}")


# ---------------------------------------------------------------------------------------------------- packs


def _check_packs(paths: Sequence[PathLike]) -> Report:
    """Report on packs: their contents were checked when they were made, so only their bytes are."""
    report = Report("packs")
    for path in dict.fromkeys(map(str, paths)):
        if not is_pack(path):
            raise UsageFault(path, "is no pack, but another folder given with it is", "Check them one by one")
        opened = open_pack(path)
        report.faults += verify_pack(opened)
        for name, lane in opened.lanes.items():
            report.counts[f"{path} ({name})"] = len(lane)
            height, width = lane.size
            report.sizes[width, height] = report.sizes.get((width, height), 0) + len(lane)
    return report
