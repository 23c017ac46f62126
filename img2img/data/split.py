"""Divide folders into train, validation and test, so that a picture's part depends on its name alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from img2img.atomic import temporary_beside, write_fault
from img2img.data.decode import open_regular
from img2img.data.files import find_images
from img2img.data.pack import require_new_folder
from img2img.data.sources import match_pairs
from img2img.errors import Fault, Faults, UsageFault

PARTS = ("train", "validation", "test")


def split(
    roots: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    every: int | None = None,
    seed: int = 0,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, int]]:
    """Copy pictures into the new folders `target`/train, `target`/validation and `target`/test.

    By fractions, a hash of the name below its root, without suffix, decides: parts have about that share, and pictures
    that are added later change the part of no other. Trees, and with them class folders, are kept. Of two roots, which
    must match by name, both files of a pair go to the same part, into folders named after the roots.

    Args:
        roots: one folder, or two folders of pairs.
        target: must not exist; it appears when it is complete.
        fractions: shares of train, validation and test, which add up to 1; a part of share 0 is not made.
        every: instead of fractions, each so-many-th picture of every folder, by name, goes to test, the rest to train.
        seed: another seed, another division by fractions.
        link: make hard links instead of copies.
        progress: called with (files done, files).

    Returns:
        part -> folder inside it -> number of pictures.

    Raises:
        UsageFault: wrong fractions, folders or files.
        Fault: a file cannot be read or the target not be written; nothing is left behind.
    """
    folders, target = [Path(root) for root in roots], Path(target)
    _check(folders, target, fractions, every)
    groups = _groups(folders)
    part_of = _parts_by_order(groups, every) if every else _parts_by_hash(groups, fractions, seed)
    names = _folder_names(folders)
    plan: list[tuple[Path, str, Path]] = []
    for key, files in groups.items():
        for path, root, name in files:
            plan.append((path, part_of[key], Path(names[name]) / path.relative_to(root)))
    _refuse_odd_files([path for path, _, _ in plan])
    _carry_out(plan, target, link, progress)
    counts: dict[str, Counter[str]] = {part: Counter() for part in dict.fromkeys(part_of.values())}
    for _, part, place in plan:
        counts[part][place.parent.as_posix()] += 1
    return {part: dict(sorted(counts[part].items())) for part in PARTS if part in counts}


Group = list[tuple[Path, Path, int]]  # files that stay together: (file, its root, which root)


def _check(roots: Sequence[Path], target: Path, fractions: tuple[float, float, float], every: int | None) -> None:
    if every is not None and every < 2:
        raise UsageFault("--every", f"{every} leaves nothing to train on", "Give 2 or more")
    if every is None and (min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0):
        shares = " + ".join(f"{share:g}" for share in fractions)
        raise UsageFault(
            "--fractions", f"{shares} is not a division of 1 with something to train on", "Give such as 0.8,0.1,0.1"
        )
    require_new_folder(target)
    for root in roots:
        if root.exists() and not root.is_dir():
            raise UsageFault(root, "is a file, not a folder", "Give the folder that holds the pictures")
        if root.resolve() in target.resolve().parents:
            raise UsageFault(target, f"lies inside {root}, which is being split", "Choose a place outside")


def _groups(roots: Sequence[Path]) -> dict[str, Group]:
    """Name without suffix -> the files that share it: a pair, or one picture (or, rarely, a.jpg and a.png)."""
    files = [find_images(root) for root in roots]
    groups: dict[str, Group] = {}
    if len(roots) == 2:
        for a, b in match_pairs(files[0], files[1], roots[0], roots[1], policy="strict", notes=[]):
            groups[_key(a, roots[0])] = [(a, roots[0], 0), (b, roots[1], 1)]
    else:
        for path in files[0]:
            groups.setdefault(_key(path, roots[0]), []).append((path, roots[0], 0))
    return groups


def _key(path: Path, root: Path) -> str:
    # Composed Unicode, so that the division is the same on file systems that decompose names
    return unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix())


def _parts_by_hash(groups: dict[str, Group], fractions: tuple[float, float, float], seed: int) -> dict[str, str]:
    parts = {}
    for key in groups:
        digest = hashlib.blake2b(f"{seed}/{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        part = 0
        # The last part with a share takes what rounding leaves over
        while position >= sum(fractions[: part + 1]) and any(fractions[part + 1 :]):
            part += 1
        parts[key] = PARTS[part]
    return parts


def _parts_by_order(groups: dict[str, Group], every: int) -> dict[str, str]:
    seen: Counter[str] = Counter()
    parts = {}
    for key in sorted(groups):
        folder = key.rpartition("/")[0]
        seen[folder] += 1
        parts[key] = "test" if seen[folder] % every == 0 else "train"
    return parts


def _folder_names(roots: Sequence[Path]) -> list[str]:
    if len(roots) == 1:
        return ["."]
    names = [root.resolve().name for root in roots]
    return names if names[0].casefold() != names[1].casefold() else ["a", "b"]


def _refuse_odd_files(files: Sequence[Path]) -> None:
    faults: list[Fault] = [
        UsageFault(path, "is not an ordinary file", "Remove it or restore what it points to")
        for path in files
        if not path.is_file()
    ]
    if faults:
        raise Faults(faults)


def _carry_out(
    plan: Sequence[tuple[Path, str, Path]], target: Path, link: bool, progress: Callable[[int, int], None] | None
) -> None:
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            for done, (path, part, place) in enumerate(plan, start=1):
                destination = temporary / part / place
                destination.parent.mkdir(parents=True, exist_ok=True)
                if link:
                    os.link(path.resolve(), destination)
                else:
                    with open_regular(path) as original, open(destination, "xb") as copy:
                        shutil.copyfileobj(original, copy)
                if progress is not None:
                    progress(done, len(plan))
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        if link:
            raise Fault(
                target, f"a link cannot be made there ({error.strerror})", "Copy instead: leave out --link"
            ) from error
        raise write_fault(target, error) from error
