"""New pictures as files: one each, or all in a grid."""

from __future__ import annotations

import functools
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from img2img.data.decode import FORMATS, open_image
from img2img.data.encode import WRITABLE, format_of, refuse_strangers, refuse_unknown_suffix, save_sample
from img2img.data.threads import Pool, Task, worker_count
from img2img.errors import UsageFault
from img2img.inference.folder import require_folder
from img2img.inference.latents import AT_ONCE, Centre, LatentSpace
from img2img.inference.model import ANY_CLASS, Label, Model
from img2img.inference.sheets import make_grid, make_square

Sample = tuple[int | None, np.ndarray]  # class index and (H, W, C) uint8

_SUFFIXES = frozenset(suffix for name in WRITABLE for suffix in FORMATS[name])
# A grid keeps its pictures in memory; more of them than this nobody looks at
_LARGEST_GRID = 10_000
_PATIENCE = 600.0  # seconds that writing one picture may take before the run stops and names it
_ROUNDING = 2  # levels of 255 by which two machines may differ


def write_samples(
    model: Model,
    out: str | os.PathLike[str],
    count: int,
    *,
    label: Label | Sequence[Label] | None = None,
    seed: int = 0,
    truncation: float | None = None,
    centre: Centre | None = None,
    grid: bool = False,
    class_folders: bool = False,
    skip_existing: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `count` new pictures and return the files.

    Every file is whole or not there, so a run that was stopped goes on with `skip_existing`.

    Args:
        out: a picture file: one picture, or a grid of all. Else a folder for single PNG files called by number, in a
            folder for each class where there are several classes.
        label, seed, truncation, centre: as in Model.sample.
        grid: with a folder, also write grid.png in it.
        class_folders: a folder for each class even where there is only one.
        skip_existing: leave files that are there as they are, if the first and last of them are what this model makes.
        progress: called with (pictures there, pictures in all), for single files.

    Raises:
        UsageFault: the model makes no samples, does not know a class, or `out` cannot be used, such as a folder in
            which other pictures have these names; or what is to be skipped is not of this model, seed and options.
        Fault: the disk refused.
    """
    target = Path(out)
    space = LatentSpace(model, seed=seed, label=label, truncation=truncation, centre=centre)
    made = functools.partial(model.samples, label=label, seed=seed, truncation=truncation, centre=centre)
    to_file = not target.is_dir() and target.suffix.lower() in _SUFFIXES
    if not to_file:
        refuse_unknown_suffix(target)
    if (grid or to_file) and count > _LARGEST_GRID:
        raise UsageFault("--count", f"{count} pictures are too many for a grid", "Give a folder to --out, no --grid")
    if skip_existing and (grid or to_file):
        raise UsageFault(
            "--skip-existing", "is for single files, and a grid needs all pictures", "Leave one of them out"
        )
    if class_folders and not space.classes:
        raise UsageFault("--per-class", f"{model.path} knows no classes", "Use --count")
    if to_file:
        format_of(target)
        refuse_strangers([target])
    require_folder(target.parent if to_file else target)
    if to_file:
        save_sample(target, _arrange(list(made(count))))
        return [target]
    names = [*model.info.classes, ANY_CLASS][: max(space.classes, default=0) + 1]
    folders = _class_folders(names) if class_folders or len(set(space.classes)) > 1 else None
    paths = []
    for number in range(count):
        folder = target if folders is None else target / folders[space.classes[number % len(space.classes)]]
        paths.append(folder / f"{number:06d}.png")
    refuse_strangers([*paths, target / "grid.png"] if grid else paths)
    for folder in dict.fromkeys(path.parent for path in paths):
        require_folder(folder)
    missing = [not (skip_existing and _is_whole(path)) for path in paths]
    if skip_existing:
        _check_existing(paths, missing, made)
    shown = _write_missing(paths, missing, made, progress, keep=grid)
    if grid:
        paths.append(target / "grid.png")
        save_sample(paths[-1], _arrange(shown))
    return paths


def _write_missing(
    paths: Sequence[Path],
    missing: Sequence[bool],
    made: Callable[..., Iterator[Sample]],
    progress: Callable[[int, int], None] | None,
    *,
    keep: bool,
) -> list[Sample]:
    """Make and write the missing pictures; the samples themselves come back with `keep`.

    Threads encode behind the network. Whole batches are left out where nothing of them is missing; which pictures share
    a batch does not change.
    """
    kept: list[Sample] = []
    done = missing.count(False)
    writing: deque[Task[None]] = deque()
    workers = worker_count(0)
    writers = Pool(workers)

    def finish() -> None:
        nonlocal done
        writing.popleft().wait(_PATIENCE)
        done += 1
        if progress is not None:
            progress(done, len(paths))

    try:
        for first in range(0, len(paths), AT_ONCE):
            stop = min(first + AT_ONCE, len(paths))
            if not any(missing[first:stop]):
                continue
            for number, sample in enumerate(made(stop - first, start=first), first):
                if keep:
                    kept.append(sample)
                if missing[number]:
                    writing.append(writers.submit(functools.partial(_save, paths[number], sample[1]), paths[number]))
                while len(writing) > 2 * workers:
                    finish()
        while writing:
            finish()
    finally:
        writers.close()
    return kept


def _save(path: Path, pixels: np.ndarray, task: Task[None]) -> None:
    save_sample(path, pixels)


def _is_whole(path: Path) -> bool:
    """Whether a PNG is there that begins and ends as one; a power failure can leave less."""
    try:
        with open(path, "rb") as file:
            begins = file.read(8) == b"\x89PNG\r\n\x1a\n"
            file.seek(-8, os.SEEK_END)
            return begins and file.read(4) == b"IEND"
    except OSError:
        return False


def _check_existing(paths: Sequence[Path], missing: Sequence[bool], made: Callable[..., Iterator[Sample]]) -> None:
    """Refuse to go on among pictures that this model would not make: the first and the last are made again."""
    there = [number for number, absent in enumerate(missing) if not absent]
    for number in dict.fromkeys(there[:1] + there[-1:]):
        ((_, pixels),) = made(1, start=number)
        found = open_image(paths[number]).as_channels(pixels.shape[2])
        # the same model on another machine differs by rounding
        if found.shape != pixels.shape or np.abs(found.astype(int) - pixels).max() > _ROUNDING:
            raise UsageFault(
                paths[number],
                "is not what this model makes with this seed and these options",
                "Choose another --out, or leave out --skip-existing to replace what is there",
            )


def _arrange(pictures: Sequence[tuple[int | None, np.ndarray]]) -> np.ndarray:
    """A row for each class; without classes, or with one, nearly a square."""
    order = list(dict.fromkeys(index for index, _ in pictures))
    if len(order) > 1:
        return make_grid([[pixels for index, pixels in pictures if index == row] for row in order])
    return make_square([pixels for _, pixels in pictures])


def _class_folders(classes: Sequence[str]) -> list[str]:
    """A folder name for each class. Names in a model file are a stranger's: none may lead out of the output folder."""
    plain = [re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ")[:80] for name in classes]
    unique = len({name.casefold() for name in plain}) == len(plain) and all(plain)
    return plain if unique else [f"{index:04d}-{name}" for index, name in enumerate(plain)]
