"""What training reads: `open_source` turns folders or packs into a Source of uint8 tensors of one size.

Every file is opened once before training begins. Files that cannot be used are listed together; a run never meets
one for the first time at step 40,000.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from img2img.config import Config, DataPaths
from img2img.data.arrays import ArraysLane, is_arrays, read_arrays
from img2img.data.augment import load_size
from img2img.data.decode import MAX_PIXELS
from img2img.data.files import find_images, is_junk, list_images
from img2img.data.lanes import ArrayLane, FileLane, Lane, Reading, Record, SizesDiffer, StackedLane
from img2img.data.pack import Pack, is_pack, open_pack
from img2img.errors import Fault, Faults, ImageFault, UsageFault, counted, some_names

PathLike = str | os.PathLike[str]

NUM_FAULTS_SHOWN = 20
LARGEST_BAD_SHARE = 0.1
# Seconds before a file that does not answer is a fault; decoding the largest picture allowed takes a few
TIMEOUT = 120.0


class Source:
    """A data set at one size.

    Attributes:
        kind: "images", "classes", "pairs" or "unpaired".
        lanes: name -> Lane. One lane "image" or "pair" (one order for both halves), or two lanes "a" and "b".
        outputs: lane -> the domains that its tensors are: ("image",), ("a", "b"), ("a",) or ("b",).
        names: domain -> what people call it, such as the folder's name.
        classes: class names in the order of the labels; empty without classes.
        fingerprint: sha256 over names and contents of the files; the same for a pack made from them.
        direction: "a2b", or "b2a" where a and b were swapped.
        notes: remarks for the user.
        bad: files left out by data.skip_bad.
        members: games that the data are for, 1.
    """

    members = 1

    def __init__(
        self,
        kind: str,
        lanes: Mapping[str, Lane],
        outputs: Mapping[str, tuple[str, ...]],
        *,
        names: Mapping[str, str],
        classes: Sequence[str] = (),
        fit: str = "crop",
        fingerprint: str = "",
        direction: str = "a2b",
        notes: Iterable[str] = (),
        bad: Iterable[ImageFault] = (),
    ) -> None:
        self.kind = kind
        self.lanes = dict(lanes)
        self.outputs = dict(outputs)
        self.names = dict(names)
        self.classes = tuple(classes)
        self.fit = fit
        self.fingerprint = fingerprint or _fingerprint(kind, self.lanes.values(), self.classes)
        self.direction = direction
        self.notes = list(notes)
        self.bad = list(bad)

    @property
    def domains(self) -> tuple[str, ...]:
        """("image",) or ("a", "b")."""
        return tuple(sorted(domain for domains in self.outputs.values() for domain in domains))

    @property
    def aligned(self) -> bool:
        """Whether a and b are two views of the same thing."""
        return self.kind == "pairs"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every picture."""
        return next(iter(self.lanes.values())).size

    @property
    def channels(self) -> dict[str, int]:
        """domain -> channels."""
        return {
            domain: count
            for name, domains in self.outputs.items()
            for domain, count in zip(domains, self.lanes[name].channels, strict=True)
        }

    @property
    def labels(self) -> np.ndarray | None:
        """(count,) int64 class of each picture, or None."""
        return self.lanes["image"].labels if "image" in self.lanes else None

    @property
    def replaced(self) -> int:
        """How many reads were answered with another picture because a file had become unreadable."""
        return sum(lane.replaced for lane in self.lanes.values())

    @property
    def lost(self) -> list[ImageFault]:
        """What was wrong with the files that became unreadable after the scan."""
        # copied in one go: threads that decode may add to it meanwhile
        return [fault for lane in self.lanes.values() for fault in list(lane.lost.values())]

    @property
    def description(self) -> str:
        """One line for people: how many pictures of what."""
        height, width = self.size
        size = f"at {width}×{height}"
        if self.kind == "unpaired":
            counts = " and ".join(f"{self.count(domain):,} of {self.names[domain]}" for domain in self.domains)
            return f"{counts} {size}"
        if self.kind == "pairs":
            return f"{counted(self.count('a'), 'pair')} ({self.names['a']} → {self.names['b']}) {size}"
        classes = f" of {len(self.classes)} classes" if self.classes else ""
        return f"{counted(self.count('image'), 'image')}{classes} from {self.names['image']} {size}"

    def count(self, domain: str) -> int:
        """Number of pictures of a domain."""
        return len(self.lanes[self.lane_of(domain)])

    def lane_of(self, domain: str) -> str:
        """The lane that a domain's pictures are in."""
        return next(name for name, domains in self.outputs.items() if domain in domains)

    def read(self, domain: str, index: int) -> Tensor:
        """One picture, (C, h, w) uint8, not to be written to. To read both halves of a pair use `sample`."""
        return self.sample(self.lane_of(domain), index)[domain]

    def sample(self, lane: str, index: int) -> dict[str, Tensor]:
        """All pictures of one item: domain -> (C, h, w) uint8, not to be written to."""
        return dict(zip(self.outputs[lane], self.lanes[lane].sample(index), strict=True))

    def label(self, index: int) -> int:
        """The class of a picture."""
        assert self.labels is not None, "only a source with classes has labels"
        return int(self.labels[index])


def array_source(
    images: Mapping[str, np.ndarray],
    *,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
    aligned: bool = False,
    names: Mapping[str, str] | None = None,
) -> Source:
    """A Source over arrays in memory.

    Args:
        images: {"image": …} or {"a": …, "b": …}, each (count, C, h, w) uint8.
        labels: (count,) classes of {"image": …}.
        classes: names of the classes.
        aligned: a and b are pairs.
    """
    if labels is not None:
        labels = np.asarray(labels, np.int64)

    def lane(*domains: str) -> ArrayLane:
        arrays = tuple(np.ascontiguousarray(images[domain]) for domain in domains)
        records = [
            tuple(Record(str(index), array[index].nbytes, hashlib.sha256(array[index]).hexdigest()) for array in arrays)
            for index in range(len(arrays[0]))
        ]
        return ArrayLane(arrays, records, labels)

    names = dict(names) if names else {domain: domain for domain in images}
    if aligned:
        return Source("pairs", {"pair": lane("a", "b")}, {"pair": ("a", "b")}, names=names)
    kind = "unpaired" if "a" in images else "classes" if labels is not None else "images"
    lanes = {domain: lane(domain) for domain in images}
    return Source(kind, lanes, {domain: (domain,) for domain in images}, names=names, classes=classes)


def open_source(
    images: PathLike | None = None,
    classes: PathLike | None = None,
    a: PathLike | None = None,
    b: PathLike | None = None,
    pairs: Sequence[PathLike] = (),
    *,
    resolution: tuple[int, int],
    channels: int | Mapping[str, int] = 3,
    fit: str = "crop",
    load_size: tuple[int, int] | None = None,
    direction: str = "a2b",
    skip_bad: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    resize_pairs: bool = False,
    pairs_policy: str = "strict",
    cache_gb: float = 2.0,
    class_names: Sequence[str] | None = None,
    stacked: bool = False,
    labels: bool = False,
    depth: int = 8,
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Open the data of a run: exactly one of `images`, `classes`, `a` with `b`, or `pairs`.

    Each may be a folder, or a pack made from such a folder; a pack of unpaired pictures is given as `a`, or as both.
    Pictures and classes may also be an .npz file of arrays, see arrays.read_arrays.

    Args:
        images: folder of pictures, however nested.
        classes: folder with one folder per class.
        a, b: two folders of unpaired pictures.
        pairs: one folder of side-by-side pictures (left is a), or two folders with the same file names but suffix.
        resolution: (H, W) that training sees.
        channels: 1, 3 or 4; or a number for each domain.
        fit: "crop" or "stretch", see resize.fit_to.
        load_size: (H, W) that pictures are brought to, at least `resolution`, which is also its default.
        direction: "b2a" swaps a and b, so that a translator always learns a -> b.
        skip_bad: leave out files that cannot be used, up to a tenth of all.
        workers: threads that decode; 0: by the number of cores.
        max_pixels, allow_truncated: see decode.open_image.
        resize_pairs: bring the b of a pair to the size of its a where they differ.
        pairs_policy: "strict" refuses pictures without partner, "intersect" leaves them out.
        cache_gb: memory for decoded pictures, in GiB.
        class_names: the class names and their order that a model was trained with.
        labels: a of `pairs`, as it is after `direction`, holds label maps: its pixels keep their colours.
        stacked: of `images` and with three channels: each channel is a grey picture of its own, see lanes.StackedLane.
        depth: 16: domains of one channel come as uint16, which keeps grey of more than 8 bits as it is in the files.
        timeout: seconds after which a file that does not answer is a Fault.
        progress: called with (files done, files) while the files are checked.

    Raises:
        UsageFault: wrong folders, or files that cannot be used (as Faults, one line each).
    """
    kind = _kind_of(images, classes, a, b, pairs)
    size = resolution if load_size is None else load_size
    assert min(size[0] - resolution[0], size[1] - resolution[1]) >= 0, "load_size must cover resolution"
    counts = _channels_of(kind, channels, direction)
    if stacked:
        _check_stacked(kind)
        assert counts["image"] == 3, "three pictures make one of three channels"
        counts["image"] = 1

    maps = ("b" if direction == "b2a" else "a") if labels else ""
    if labels and any(is_pack(path) for path in pairs):
        problem = "a pack holds pictures that were resized smoothly, which mixes the colours of label maps"
        raise UsageFault("data.labels", problem, "Give the folders that it was made from")

    def reading(*domains: str) -> Reading:
        return Reading(
            size,
            tuple(counts[domain] for domain in domains),
            fit,
            max_pixels,
            allow_truncated,
            resize_pairs,
            labels=tuple(domain == maps for domain in domains),
            depth=depth,
        )

    notes: list[str] = []
    found_classes: tuple[str, ...] = ()
    lanes: dict[str, Lane]
    if kind == "images":
        assert images is not None
        lane, name = _open_domain(images, reading("image"), notes)
        lanes, names = {"image": lane}, {"image": name}
    elif kind == "classes":
        assert classes is not None
        lane, name, found_classes = _open_classes(classes, reading("image"), class_names, notes)
        lanes, names = {"image": lane}, {"image": name}
    elif kind == "pairs":
        lane, names = _open_pairs(pairs, reading("a", "b"), pairs_policy, notes)
        lanes = {"pair": lane}
    else:
        assert a is not None
        lanes, names = _open_unpaired(a, b, reading("a"), reading("b"), notes)
    subject = " and ".join(str(path) for path in (images or classes, a, b, *pairs) if path)
    bad = _scan(lanes, subject, skip_bad, cache_gb, workers, timeout, progress, notes)
    notes += [f"{names[name]} holds 1 image" for name in ("a", "b") if name in lanes and len(lanes[name]) == 1]
    if stacked:
        lanes = {"image": _stack(lanes["image"], subject)}
    outputs = {name: ("a", "b") if name == "pair" else (name,) for name in lanes}
    source = Source(kind, lanes, outputs, names=names, classes=found_classes, fit=fit, notes=notes, bad=bad)
    return _swapped(source) if direction == "b2a" and kind in ("pairs", "unpaired") else source


def open_configured(
    config: Config,
    paths: DataPaths,
    *,
    direction: str = "a2b",
    class_names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """open_source with what a configuration says; the other arguments and errors are open_source's."""
    data = config.data
    return open_source(
        paths.images,
        paths.classes,
        paths.a,
        paths.b,
        paths.pairs,
        resolution=data.resolution,
        channels=data.channels_of,
        fit=data.fit,
        load_size=load_size(data.resolution, config.augment.enlarge),
        direction=direction,
        skip_bad=data.skip_bad,
        workers=data.workers,
        max_pixels=data.max_pixels,
        allow_truncated=data.allow_truncated,
        resize_pairs=data.resize_pairs,
        pairs_policy=data.pairs_policy,
        cache_gb=data.cache_gb,
        class_names=class_names,
        stacked=data.stacked,
        labels=data.labels > 0,
        depth=data.depth,
        progress=progress,
    )


def match_classes(expected: Sequence[str], found: Sequence[str], subject: object) -> None:
    """Refuse a folder whose classes are not those of the model, with a guess at what was meant.

    Raises:
        UsageFault: the two sets of names differ.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if not missing and not unknown:
        return
    guesses = [guess for name in unknown for guess in difflib.get_close_matches(name, missing, n=1)]
    hint = f"Did you mean {' and '.join(guesses)}? " if guesses else ""
    raise UsageFault(
        subject,
        f"classes differ: model has {','.join(expected)}; folder has {','.join(found)}",
        f"{hint}Give the folders the names that the model knows",
    )


# ---------------------------------------------------------------------------------------------------- opening


def _kind_of(
    images: PathLike | None, classes: PathLike | None, a: PathLike | None, b: PathLike | None, pairs: Sequence[PathLike]
) -> str:
    ways = "--images DIR, --classes DIR, --a DIR --b DIR, --pairs DIR, or --pairs A B"
    given = [
        kind
        for kind, value in (("images", images), ("classes", classes), ("unpaired", a or b), ("pairs", pairs))
        if value
    ]
    if len(given) != 1:
        problem = "no pictures are given" if not given else "more than one kind of data is given"
        raise UsageFault("data", problem, f"Give one of {ways}")
    if given[0] == "pairs" and len(pairs) > 2:
        raise UsageFault("--pairs", f"{len(pairs)} folders are given", "Give one folder of side-by-side files, or two")
    if given[0] == "unpaired" and (a is None or (b is None and not is_pack(a))):
        missing = "--a" if a is None else "--b"
        raise UsageFault(missing, "is not given", f"Unpaired data needs two folders: give {missing} DIR as well")
    return given[0]


def _channels_of(kind: str, channels: int | Mapping[str, int], direction: str) -> dict[str, int]:
    """Channels of each domain as it lies on the disk, before `direction` swaps a and b."""
    domains = ("image",) if kind in ("images", "classes") else ("a", "b")
    counts = {domain: channels if isinstance(channels, int) else channels[domain] for domain in domains}
    if direction == "b2a" and "a" in counts:
        counts = {"a": counts["b"], "b": counts["a"]}
    return counts


def _name_of(path: PathLike) -> str:
    return Path(path).resolve().name or str(path)


def _pair_of_names(a: PathLike, b: PathLike) -> dict[str, str]:
    first, second = Path(a).resolve(), Path(b).resolve()
    if first.name == second.name:
        return {"a": f"{first.parent.name}/{first.name}", "b": f"{second.parent.name}/{second.name}"}
    return {"a": first.name, "b": second.name}


def _open_domain(root: PathLike, reading: Reading, notes: list[str]) -> tuple[Lane, str]:
    """The pictures of one folder or of a pack with one lane, and their name."""
    if is_pack(root):
        pack = open_pack(root)
        if len(pack.lanes) != 1 or "pair" in pack.lanes:
            raise UsageFault(root, f"is a pack of kind {pack.kind}", _pack_mend(pack))
        return _lane_of_pack(pack, "image", reading), pack.names["image"]
    if is_arrays(root):
        return ArraysLane(read_arrays(root), root, reading), _name_of(root)
    return FileLane([(path,) for path in find_images(root, notes=notes)], (Path(root),), reading), _name_of(root)


def _lane_of_pack(pack: Pack, name: str, reading: Reading) -> Lane:
    lane = pack.lanes[name]
    differences = []
    if lane.size != reading.size:
        differences.append(f"pictures of {lane.size[1]}×{lane.size[0]}, not {reading.size[1]}×{reading.size[0]}")
    if lane.channels != reading.channels:
        differences.append(f"{_channels_text(lane.channels)} channels, not {_channels_text(reading.channels)}")
    if lane.dtypes != reading.dtypes:
        differences.append(f"{_bits_text(lane.dtypes)} bits, not {_bits_text(reading.dtypes)}")
    if pack.fit != reading.fit:
        differences.append(f'pictures fitted by "{pack.fit}", not "{reading.fit}"')
    if differences:
        raise UsageFault(
            pack.path,
            f"holds {' and '.join(differences)}",
            "Pack it again as the configuration wants it, or set data.resolution, data.channels, data.depth, data.fit "
            "and augment.enlarge as they were when it was packed",
        )
    return lane


def _bits_text(dtypes: tuple[torch.dtype, ...]) -> str:
    return " and ".join(str(bits) for bits in sorted({8 * dtype.itemsize for dtype in dtypes}))


def _channels_text(channels: tuple[int, ...]) -> str:
    return " and ".join(str(count) for count in sorted(set(channels)))


def _pack_mend(pack: Pack) -> str:
    option = {"images": "--images", "classes": "--classes", "pairs": "--pairs", "unpaired": "--a"}[pack.kind]
    return f"Give it as {option} {pack.path}"


def _open_classes(
    root: PathLike, reading: Reading, class_names: Sequence[str] | None, notes: list[str]
) -> tuple[Lane, str, tuple[str, ...]]:
    if is_pack(root):
        pack = open_pack(root)
        if pack.kind != "classes":
            raise UsageFault(root, f"is a pack of kind {pack.kind}", _pack_mend(pack))
        lane, found = _lane_of_pack(pack, "image", reading), pack.classes
        order = _class_order(found, class_names, root)
        assert lane.labels is not None
        lane.labels = np.array([order.index(name) for name in found], np.int64)[lane.labels]
        return lane, pack.names["image"], order
    if is_arrays(root):
        return _open_labelled_arrays(root, reading, class_names)
    folders = class_folders(root, notes)
    order = _class_order(tuple(folder.name for folder in folders), class_names, root)
    files: list[tuple[Path, ...]] = []
    labels: list[int] = []
    faults: list[Fault] = []
    for folder in folders:
        try:
            of_class = find_images(folder, notes=notes)
        except UsageFault as fault:
            faults.append(fault)
            continue
        files += [(path,) for path in of_class]
        labels += [order.index(folder.name)] * len(of_class)
    if faults:
        raise Faults(faults)
    return FileLane(files, (Path(root),), reading, np.array(labels, np.int64)), _name_of(root), order


def _open_labelled_arrays(
    root: PathLike, reading: Reading, class_names: Sequence[str] | None
) -> tuple[Lane, str, tuple[str, ...]]:
    """The pictures of an .npz file; its labels in ascending order are the classes, and their digits the names."""
    arrays = read_arrays(root, labels=True)
    assert arrays.labels is not None, "asked for"
    values, labels = np.unique_inverse(arrays.labels)
    found = tuple(str(value) for value in values)
    if len(found) < 2:
        raise UsageFault(root, f"all its labels are {found[0]}", "Train without classes by --images")
    order = _class_order(found, class_names, root)
    labels = np.array([order.index(name) for name in found], np.int64)[labels]
    return ArraysLane(arrays, root, reading, labels), _name_of(root), order


def _check_stacked(kind: str) -> None:
    if kind != "images":
        raise UsageFault(
            "data.stacked",
            f"makes new pictures from those of --images, of {kind} it cannot",
            "Give --images, or set data.stacked=false",
        )


def _stack(lane: Lane, subject: str) -> Lane:
    if isinstance(lane, ArraysLane) and lane.images.shape[3] != 1:
        raise UsageFault(subject, "holds no grey pictures, as data.stacked needs", "Set data.stacked=false")
    if len(lane) < 3:
        raise UsageFault(subject, f"{counted(len(lane), 'picture')} make no stack of three", "Add pictures")
    return StackedLane(lane)


def class_folders(root: PathLike, notes: list[str] | None = None) -> list[Path]:
    """The folders in `root`, one per class, sorted by name.

    Raises:
        UsageFault: fewer than two, or pictures lie loose beside them.
    """
    # list_images gives the messages for a folder that is missing or cannot be read
    images = list_images(root)
    if images == [Path(root)]:
        raise UsageFault(root, "is a file, not a folder of class folders", "Give the folder that holds them")
    folders = []
    for entry in sorted(Path(root).iterdir(), key=lambda path: os.fsencode(path.name)):
        if is_junk(entry.name) or not entry.is_dir():
            continue
        if entry.is_symlink():
            if notes is not None:
                notes.append(f"{entry} is a link to a folder and not followed")
        else:
            folders.append(entry)
    loose = [path for path in images if path.parent == Path(root)]
    if loose:
        lie = "lies" if len(loose) == 1 else "lie"
        beside = "beside the class folders" if folders else "and there are no class folders"
        raise UsageFault(
            root,
            f"{counted(len(loose), 'image')} {lie} loose {beside} ({some_names(path.name for path in loose)})",
            "Move each into the folder of its class, or train without classes by --images",
        )
    if len(folders) < 2:
        count = "no class folders" if not folders else f"only one class folder ({folders[0].name})"
        raise UsageFault(
            root, f"holds {count}", "Make one folder per class, at least two, or train without classes by --images"
        )
    return folders


def _class_order(found: tuple[str, ...], class_names: Sequence[str] | None, root: PathLike) -> tuple[str, ...]:
    if class_names is None:
        return found
    match_classes(class_names, found, root)
    return tuple(class_names)


def _open_unpaired(
    a: PathLike, b: PathLike | None, reading_a: Reading, reading_b: Reading, notes: list[str]
) -> tuple[dict[str, Lane], dict[str, str]]:
    if is_pack(a) and open_pack(a).kind == "unpaired" and (b is None or _same(a, b)):
        pack = open_pack(a)
        return {
            "a": _lane_of_pack(pack, "a", reading_a),
            "b": _lane_of_pack(pack, "b", reading_b),
        }, pack.names
    if b is None:
        raise UsageFault("--b", "is not given", "Unpaired data needs two folders: give --b DIR as well")
    for path in (a, b):
        if not os.path.exists(path):
            list_images(path)  # raises, naming it
    if _same(a, b):
        raise UsageFault(b, "is the same folder as --a", "Give two different folders")
    first, second = Path(a).resolve(), Path(b).resolve()
    if first in second.parents or second in first.parents:
        raise UsageFault(b, f"one of the two folders lies inside the other ({a})", "Give two separate folders")
    lane_a, name_a = _open_domain(a, reading_a, notes)
    lane_b, name_b = _open_domain(b, reading_b, notes)
    names = _pair_of_names(a, b) if name_a == name_b else {"a": name_a, "b": name_b}
    return {"a": lane_a, "b": lane_b}, names


def _same(a: PathLike, b: PathLike) -> bool:
    return os.path.samefile(a, b)


def _open_pairs(
    pairs: Sequence[PathLike], reading: Reading, policy: str, notes: list[str]
) -> tuple[Lane, dict[str, str]]:
    if len(pairs) == 1 and is_pack(pairs[0]):
        pack = open_pack(pairs[0])
        if pack.kind != "pairs":
            raise UsageFault(pairs[0], f"is a pack of kind {pack.kind}", _pack_mend(pack))
        return _lane_of_pack(pack, "pair", reading), pack.names
    if len(pairs) == 1:
        root = Path(pairs[0])
        name = _name_of(root)
        lane = FileLane([(path,) for path in find_images(root, notes=notes)], (root,), reading)
        return lane, {"a": f"left of {name}", "b": f"right of {name}"}
    a, b = Path(pairs[0]), Path(pairs[1])
    for root in (a, b):
        if is_pack(root):
            raise UsageFault(root, "a pack of pairs holds both halves", "Give it alone, as --pairs PACK")
    files_a, files_b = (find_images(root, notes=notes) for root in (a, b))
    if _same(a, b):
        raise UsageFault(b, "both folders of --pairs are the same", "Give two different folders")
    matched = match_pairs(files_a, files_b, a, b, policy=policy, notes=notes)
    return FileLane(matched, (a, b), reading), _pair_of_names(a, b)


def match_pairs(
    files_a: Sequence[Path], files_b: Sequence[Path], a: Path, b: Path, *, policy: str, notes: list[str]
) -> list[tuple[Path, ...]]:
    """Pairs of files whose names below `a` and `b` agree but for the suffix; what is left over agrees but for case.

    Raises:
        UsageFault: two files of one folder share a name but for the suffix; or, unless `policy` is "intersect", files
            without partner; or no pair at all.
    """
    stems_a, stems_b = _by_stem(files_a, a), _by_stem(files_b, b)
    partners = {stem: stem for stem in stems_a if stem in stems_b}
    left_a = _by_folded([stem for stem in stems_a if stem not in partners])
    left_b = _by_folded([stem for stem in stems_b if stem not in partners])
    folded = {left_a[key]: left_b[key] for key in left_a if key in left_b}
    if folded:
        notes.append(f"{len(folded)} pairs have names that differ in upper and lower case")
    partners |= folded
    only_a = sorted(set(stems_a) - set(partners))
    only_b = sorted(set(stems_b) - set(partners.values()))
    if not partners:
        raise UsageFault(
            b,
            f"no file has the name of one in {a} ({some_names(only_a)}; {some_names(only_b)})",
            "Give both files of a pair one name",
        )
    if only_a or only_b:
        lonely = "; ".join(
            f"{len(names)} only in {root}: {some_names(names)}" for root, names in ((a, only_a), (b, only_b)) if names
        )
        if policy != "intersect":
            raise UsageFault(
                "--pairs",
                f"{a} has {len(files_a)} images and {b} {len(files_b)}; {lonely}",
                "Remove or add these, or set data.pairs_policy=intersect to leave them out",
            )
        notes.append(f"left out without partner: {lonely}")
    order = sorted(partners, key=lambda stem: os.fsencode(stems_a[stem]))
    return [(stems_a[stem], stems_b[partners[stem]]) for stem in order]


def _by_stem(files: Sequence[Path], root: Path) -> dict[str, Path]:
    stems: dict[str, list[Path]] = {}
    for path in files:
        stem = unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix())
        stems.setdefault(stem, []).append(path)
    shared = [" and ".join(path.name for path in same) for same in stems.values() if len(same) > 1]
    if shared:
        names = "one name" if len(shared) == 1 else f"{len(shared)} names"
        raise UsageFault(
            root,
            f"files share {names} but for the suffix: {some_names(shared)}",
            "Keep one of each, or rename the others",
        )
    return {stem: path for stem, (path,) in stems.items()}


def _by_folded(stems: Iterable[str]) -> dict[str, str]:
    """casefolded -> stem, without those that several stems share."""
    folded: dict[str, list[str]] = {}
    for stem in stems:
        folded.setdefault(stem.casefold(), []).append(stem)
    return {key: several[0] for key, several in folded.items() if len(several) == 1}


# ---------------------------------------------------------------------------------------------------- checking


def _scan(
    lanes: Mapping[str, Lane],
    subject: str,
    skip_bad: bool,
    cache_gb: float,
    workers: int,
    timeout: float,
    progress: Callable[[int, int], None] | None,
    notes: list[str],
) -> list[ImageFault]:
    """Read every file once, remembering what fits into memory; leaves out bad ones or raises."""
    file_lanes = [lane for lane in lanes.values() if isinstance(lane, FileLane)]
    total_bytes = sum(len(lane) * lane.item_bytes for lane in file_lanes)
    share = min(1.0, cache_gb * 2**30 / max(1, total_bytes))
    total, done = sum(len(lane) for lane in file_lanes), 0
    bad: list[ImageFault] = []
    for lane in file_lanes:
        lane.keep_in_memory(int(len(lane) * share))
        before = done
        report = None if progress is None else lambda part, _, before=before: progress(before + part, total)
        faults = lane.scan(workers=workers, timeout=timeout, progress=report)
        done += len(lane)
        bad += faults.values()
        lane.drop(set(faults))
    if not bad:
        return bad
    mismatched = [fault for fault in bad if isinstance(fault, SizesDiffer)]
    if mismatched:
        raise Faults(shortened(mismatched, subject, total, "Set data.resize_pairs=true if they fit nevertheless"))
    too_many = len(bad) > LARGEST_BAD_SHARE * total
    if not skip_bad and not too_many:
        raise Faults(shortened(bad, subject, total, "Mend or remove them, or set data.skip_bad=true to leave them out"))
    if too_many:
        raise Faults(shortened(bad, subject, total, "More than a tenth is too many to leave out: mend or remove them"))
    notes.append(f"left out {len(bad)} of {total} files that cannot be used")
    return bad


def shortened(faults: Sequence[Fault], subject: str, total: int, mend: str) -> list[Fault]:
    """The first of the faults of some of `total` files, and one that counts them all."""
    shown = list(faults[:NUM_FAULTS_SHOWN])
    more = f", {len(faults) - len(shown)} of them not listed here" if len(faults) > len(shown) else ""
    return [*shown, UsageFault(subject, f"{len(faults)} of {total} files cannot be used{more}", mend)]


def _fingerprint(kind: str, lanes: Iterable[Lane], classes: Sequence[str]) -> str:
    """sha256 over the records in their order, and over the classes by name."""
    digest = hashlib.sha256(json.dumps([kind, sorted(classes)]).encode())
    for lane in lanes:
        for records in lane.records:
            # JSON escapes what UTF-8 cannot hold: names of any bytes have one form
            digest.update(json.dumps([list(asdict(record).values()) for record in records]).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _swapped(source: Source) -> Source:
    """The source with a and b exchanged; its fingerprint stays that of the files."""
    other = {"a": "b", "b": "a"}
    lanes, outputs = source.lanes, source.outputs
    if source.aligned:
        outputs = {"pair": ("b", "a")}
    else:
        lanes = {other[name]: lanes[name] for name in ("b", "a")}
    return Source(
        source.kind,
        lanes,
        outputs,
        names={other[domain]: name for domain, name in source.names.items()},
        fit=source.fit,
        fingerprint=source.fingerprint,
        direction="b2a",
        notes=source.notes,
        bad=source.bad,
    )
