"""What a folder's outputs are called: decided for all of them before any work, so that none overwrites another."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from img2img.data.decode import FORMATS
from img2img.data.encode import WRITABLE

_LONGEST_NAME = 255  # bytes, on nearly every file system
# For pictures that can be read here but not written: what cameras that make them can also make
SUBSTITUTE = "JPEG"


def output_names(names: Sequence[str], format: str | None = None) -> list[str]:
    """The output's relative name for each of the different relative `names` of pictures.

    A name stays as it is where it can. With a `format`, the suffix changes to that format's. Names that would meet in
    one file, also on a file system that ignores case or Unicode composition, get more of their old name: `a.jpg` and
    `a.png` become `a.jpg.png` and `a.png.png`, `A.jpg` and `a.jpg` get a short hash.

    Args:
        names: relative paths with "/" or the system's separator.
        format: Pillow's name of the format to write, or None for each picture's own.
    """
    choices = [_choices(name, format) for name in names]
    rank = [0] * len(names)
    while True:
        folded = [_fold(choice[position]) for choice, position in zip(choices, rank)]
        counts = Counter(folded)
        if len(counts) == len(names):
            return [choice[position] for choice, position in zip(choices, rank)]
        unchanged = Counter(key for key, name, choice, at in zip(folded, names, choices, rank) if choice[at] == name)
        for index, key in enumerate(folded):
            # without a format asked for, the one picture that keeps its name is not moved by those that cannot
            stays = format is None and choices[index][rank[index]] == names[index] and unchanged[key] == 1
            if counts[key] > 1 and not stays and rank[index] + 1 < len(choices[index]):
                rank[index] += 1


def _choices(name: str, format: str | None) -> list[str]:
    """Names for one output, the plainest first; the last one is its own by the width of sha256."""
    folder, last = os.path.split(name)
    stem, suffix = os.path.splitext(last)
    new_suffix = _new_suffix(suffix, format)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    plain = [stem + new_suffix]
    if format is not None or new_suffix != suffix:
        plain.append(last + new_suffix)
    hashed = [_shorten(f"{stem}~{digest[:length]}", new_suffix, keep=length + 1) for length in (8, 64)]
    fitting = [choice for choice in plain if len(os.fsencode(choice)) <= _LONGEST_NAME]
    return [os.path.join(folder, choice) for choice in [*fitting, *hashed]]


def _new_suffix(suffix: str, format: str | None) -> str:
    own = next((key for key, suffixes in FORMATS.items() if suffix.lower() in suffixes), None)
    wanted = format or (own if own in WRITABLE else SUBSTITUTE)
    return suffix if wanted == own else FORMATS[wanted][0]


def _shorten(stem: str, suffix: str, keep: int) -> str:
    """stem + suffix, with characters taken out before the last `keep` of the stem until the file system takes it."""
    head, tail = stem[:-keep], stem[-keep:]
    while len(os.fsencode(head + tail + suffix)) > _LONGEST_NAME:
        head = head[:-1]
    return head + tail + suffix


def _fold(name: str) -> str:
    """The same text for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", PurePath(name).as_posix()).casefold())
