"""Look through the data before it is trained from: what there is, what is wrong, what is there twice."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from img2img.data.decode import MAX_PIXELS, Picture, open_image
from img2img.data.files import find_images
from img2img.data.lanes import halves
from img2img.data.pack import is_pack, open_pack, verify_pack
from img2img.data.resize import resize, to_tensor
from img2img.data.sources import class_folders, match_pairs
from img2img.data.threads import map_in_threads
from img2img.errors import Fault, ImageFault, UsageFault, counted, some_names

PathLike = str | os.PathLike[str]

# Two pictures count as nearly equal when at most so many of the 64 bits of their gradient hashes differ, and their
# 16×16 thumbnails differ by at most so many levels of 255 on average: a JPEG saved again, or another size, passes both
MAX_HASH_DISTANCE = 4
MAX_THUMBNAIL_DIFFERENCE = 3.0
# Beyond this many pictures only equal hashes are compared: all pairs would take minutes
MAX_ALL_PAIRS = 20_000
UNEVEN_CLASSES = 10
_HALVES = ("left", "right")
# Pillow's modes as people call them; opacity is told apart by itself, and the rest by Pillow's names
_MODES = {"L": "grey", "LA": "grey", "1": "black and white", "P": "palette", "PA": "palette", "RGBA": "RGB"}
SMALL_SIDE = 32


@dataclass
class Report:
    """What `check` found.

    Attributes:
        kind: "images", "classes", "pairs" or "unpaired".
        counts: what it holds -> number of pictures: a folder, a class, "pairs".
        usable: how many of all of them can be opened.
        faults: what training would refuse.
        warnings: what training accepts but the user should know.
        sizes: (width, height) -> number of pictures.
        formats: such as "JPEG" -> number of pictures.
        modes: how files keep colours, such as "palette with opacity" or "16-bit grey" -> number of pictures.
        depths: bits that the file keeps of a channel -> number of pictures.
        notes: remark of the decoder -> number of pictures.
        duplicates: groups of files with exactly the same pixels.
        near_duplicates: groups of files that look the same.
        leaks: those groups of both kinds whose files lie in more than one part (train, test, …) of the data.
        unmatched: of pairs in two folders: folder -> names of the files without a partner.

    Of side-by-side pairs, the groups are of halves, since a pair of which one half is known is known.
    """

    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    usable: int = 0
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    leaks: list[list[str]] = field(default_factory=list)
    unmatched: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        return sum(self.counts.values())

    @property
    def balance(self) -> Balance | None:
        """How even the classes are; None without classes, or where one is empty."""
        return Balance.of(self.counts) if self.kind == "classes" and self.counts and all(self.counts.values()) else None


@dataclass(frozen=True)
class Balance:
    """How evenly pictures are spread over classes.

    Attributes:
        largest, smallest: the names of the classes with the most and with the fewest pictures.
        ratio: of their numbers of pictures, at least 1.
        effective_classes: exp of the entropy of the shares: as many even classes would be as hard to guess.
    """

    largest: str
    smallest: str
    ratio: float
    effective_classes: float

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Balance:
        """Of number of pictures by class, none of them 0."""
        largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        total = sum(counts.values())
        entropy = -sum(count / total * math.log(count / total) for count in counts.values())
        return cls(largest, smallest, counts[largest] / counts[smallest], math.exp(entropy))


@dataclass(frozen=True, slots=True)
class _Look:
    """What is remembered of pixels, in as few bytes as will do: there may be a hundred thousand of them."""

    path: Path
    half: str
    sha256: bytes
    gradient_hash: int
    thumbnail: bytes

    @property
    def name(self) -> str:
        return f"{self.path} ({self.half})" if self.half else str(self.path)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is remembered of one decoded file."""

    size: tuple[int, int]
    format: str
    mode: str
    bits: int
    notes: tuple[str, ...]
    looks: tuple[_Look, ...]


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
    others = {str(root): find_images(root, notes=report.warnings) for root in against}
    report.counts |= {} if report.counts else {name: len(files) for name, files in groups.items()}
    files = [path for group in (*groups.values(), *others.values()) for path in group]

    def look(path: Path) -> _Seen | ImageFault:
        try:
            picture = open_image(path, max_pixels=max_pixels, allow_truncated=allow_truncated)
            if report.kind == "pairs" and len(pairs) == 1:
                return _remember(path, picture, halves(picture, path))
        except ImageFault as fault:
            return fault
        return _remember(path, picture)

    seen: dict[Path, _Seen] = {}
    outcomes = map_in_threads(look, files, workers=workers, timeout=timeout, progress=progress)
    for path, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, ImageFault):
            report.faults.append(outcome)
        else:
            seen[path] = outcome
    own = {path: seen[path] for group in groups.values() for path in group if path in seen}
    report.usable = len(own)
    _tally(report, list(own.values()))
    if report.kind == "pairs" and len(pairs) == 2:
        _compare_pairs(report, groups, pairs, seen)
    looks = [one for outcome in seen.values() for one in outcome.looks]
    _find_duplicates(report, looks, [Path(path) for path in given], [Path(path) for path in against])
    _judge(report, own)
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
            return {str(Path(classes)): find_images(classes)}
        groups: dict[str, list[Path]] = {}
        for folder in folders:
            try:
                groups[folder.name] = find_images(folder, notes=report.warnings)
            except UsageFault as fault:
                report.faults.append(fault)
                groups[folder.name] = []
        return groups
    roots = [root for root in (images, a, b, *pairs) if root is not None]
    if len(roots) == 2 and all(os.path.exists(root) for root in roots) and os.path.samefile(*roots):
        raise UsageFault(roots[1], "is given twice", "Give two different folders")
    return {str(Path(root)): find_images(root, notes=report.warnings) for root in roots}


def _remember(path: Path, picture: Picture, parts: Sequence[Picture] = ()) -> _Seen:
    """What is kept of a file, and how it looks, or how each of its `parts` does."""
    mode = "16-bit grey" if picture.pixels.dtype == np.uint16 else _MODES.get(picture.mode, picture.mode)
    mode += "" if picture.alpha is None else " with opacity"
    looks = [_look(path, half, part) for half, part in zip(_HALVES, parts)] or [_look(path, "", picture)]
    size = picture.width, picture.height
    return _Seen(size, sys.intern(picture.format), sys.intern(mode), picture.bits, picture.notes, tuple(looks))


def _look(path: Path, half: str, picture: Picture) -> _Look:
    pixels = picture.pixels
    digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode())
    digest.update(pixels.tobytes())
    if picture.alpha is not None:
        digest.update(picture.alpha.tobytes())
    medium = resize(to_tensor(picture.as_channels(3)), (64, 64))
    return _Look(path, half, digest.digest(), gradient_hash(medium), resize(medium, (16, 16)).numpy().tobytes())


def gradient_hash(pixels: Tensor) -> int:
    """64 bits of a (3, H, W) uint8 picture: whether, on an 8×9 grid, each cell is darker than its right neighbour."""
    grid = resize(pixels, (8, 9)).numpy().astype(np.int64).sum(axis=0)
    bits = np.packbits(grid[:, :-1] < grid[:, 1:])
    return int.from_bytes(bits.tobytes(), "big")


def _tally(report: Report, seen: Sequence[_Seen]) -> None:
    report.sizes = dict(Counter(one.size for one in seen).most_common())
    report.formats = dict(Counter(one.format for one in seen).most_common())
    report.modes = dict(Counter(one.mode for one in seen).most_common())
    report.depths = dict(Counter(one.bits for one in seen).most_common())
    report.notes = dict(Counter(note for one in seen for note in one.notes).most_common())


def _compare_pairs(
    report: Report, groups: dict[str, list[Path]], pairs: Sequence[PathLike], seen: dict[Path, _Seen]
) -> None:
    a, b = Path(pairs[0]), Path(pairs[1])
    try:
        matched = match_pairs(groups[str(a)], groups[str(b)], a, b, policy="strict", notes=report.warnings)
    except UsageFault as fault:
        report.faults.append(fault)
        try:
            matched = match_pairs(groups[str(a)], groups[str(b)], a, b, policy="intersect", notes=[])
        except UsageFault:  # no pairs at all, or no telling which
            return
    for root, partners in zip((a, b), zip(*matched)):
        lonely = sorted(set(groups[str(root)]) - set(partners))
        report.unmatched |= {str(root): [path.relative_to(root).as_posix() for path in lonely]} if lonely else {}
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


def _judge(report: Report, seen: Mapping[Path, _Seen]) -> None:
    balance = report.balance
    if balance is not None and balance.ratio > UNEVEN_CLASSES:
        counts = ", ".join(f"{name} {report.counts[name]:,}" for name in (balance.largest, balance.smallest))
        report.warnings.append(
            f"the largest class has {balance.ratio:.0f} times the pictures of the smallest ({counts}), and is seen as "
            f"much more often. Add pictures to {balance.smallest}, or leave it out"
        )
    parts = sorted(name for name in report.counts if name.lower() in _PART_NAMES)
    if report.kind == "classes" and len(parts) > 1:
        report.warnings.append(
            f"{' and '.join(parts)} are taken for classes. If they are parts of the data, give --classes the folder "
            "train in it, and test as --against"
        )
    if report.kind == "unpaired":
        report.warnings += [f"{name} holds 1 image" for name, count in report.counts.items() if count == 1]
    small = [path for path, one in seen.items() if min(one.size) < SMALL_SIDE]
    if small:
        report.warnings.append(
            f"{_are(len(small))} less than {SMALL_SIDE} pixels high or wide ({some_names(map(str, small))})"
        )
    if report.leaks:
        report.warnings.append(f"{_are(len(report.leaks))} in more than one part of the data")


def _are(count: int) -> str:
    return f"{counted(count, 'picture')} {'is' if count == 1 else 'are'}"


# ---------------------------------------------------------------------------------------------------- duplicates


def _find_duplicates(report: Report, looks: Sequence[_Look], roots: Sequence[Path], against: Sequence[Path]) -> None:
    by_pixels: dict[bytes, list[_Look]] = {}
    for one in looks:
        by_pixels.setdefault(one.sha256, []).append(one)
    equal = [group for group in by_pixels.values() if len(group) > 1]
    distinct = [group[0] for group in by_pixels.values()]
    near = [[one for first in group for one in by_pixels[first.sha256]] for group in _near_groups(distinct)]
    report.duplicates = [[one.name for one in group] for group in equal]
    report.near_duplicates = [[one.name for one in group] for group in near]
    # Equal pictures that others resemble are in the group of those already, and the halves of a pair are one file
    inside = {one.sha256 for group in near for one in group}
    groups = {
        frozenset(one.path for one in group): group
        for group in (*near, *(group for group in equal if group[0].sha256 not in inside))
    }
    report.leaks = [
        [one.name for one in group]
        for group in groups.values()
        if len({_part_of(one.path, roots, against) for one in group}) > 1
    ]
    if report.kind == "unpaired":
        both = sum(
            len({root for root in roots for path in paths if path.is_relative_to(root)}) == 2 for paths in groups
        )
        if both:
            report.warnings.append(f"{_are(both)} in both folders, which shows no difference to learn")


_PART_NAMES = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))


def _part_of(path: Path, roots: Sequence[Path], against: Sequence[Path]) -> str:
    """The folder of `against` that a file is under, or train, test and the like inside the data's own `roots`.

    The folders of pairs, or of two domains, are no parts: a and b of one pair belong together.
    """
    for root in against:
        if path.is_relative_to(root):
            return f"against {root}"
    for root in roots:
        if path.is_relative_to(root):
            first = path.relative_to(root).parts[0].lower()
            return first if first in _PART_NAMES else ""
    return ""


def _near_groups(looks: Sequence[_Look]) -> list[list[_Look]]:
    """Groups of pictures that look the same, from distinct ones."""
    # A picture without any gradient, such as a blank page, resembles every other
    candidates = [one for one in looks if one.gradient_hash != 0]
    leaders = list(range(len(candidates)))

    def leader(index: int) -> int:
        while leaders[index] != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    for first, second in _close_hashes(candidates):
        ours, theirs = (np.frombuffer(candidates[index].thumbnail, np.uint8) for index in (first, second))
        difference = ours.astype(np.int16) - theirs
        if np.abs(difference).mean() <= MAX_THUMBNAIL_DIFFERENCE:
            leaders[leader(second)] = leader(first)
    groups: dict[int, list[_Look]] = {}
    for index, one in enumerate(candidates):
        groups.setdefault(leader(index), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def _close_hashes(looks: Sequence[_Look]) -> Iterable[tuple[int, int]]:
    """Pairs of indices whose gradient hashes are close."""
    hashes = np.array([one.gradient_hash for one in looks], np.uint64)
    if len(looks) > MAX_ALL_PAIRS:
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
            report.usable += len(lane)
            height, width = lane.size
            report.sizes[width, height] = report.sizes.get((width, height), 0) + len(lane)
    return report
