"""Make pairs out of one folder: from each picture another one that a model can learn to turn back.

Sketches from photos (edges), grey ones (colouring), small ones brought back to size (super-resolution), ones with holes
(inpainting), noisy and blurred ones (restoration). The derived folder has the same tree and names, as PNG, so that its
pictures and the originals are pairs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.atomic import temporary_beside, write_fault
from img2img.data.decode import MAX_PIXELS, Picture, open_image
from img2img.data.encode import save_image
from img2img.data.files import find_images
from img2img.data.pack import require_new_folder
from img2img.data.threads import map_in_threads
from img2img.draws import Draws
from img2img.errors import Faults, ImageFault, UsageFault, some_names, unknown_name

SKIPPED_NAME = "skipped.jsonl"
_SUFFIX = ".png"  # lines and holes stay exact
_PATIENCE = 600.0  # seconds for one picture: a dead disk, not a large one
_HOLE = 0.5  # grey between black and white
_NOISE_AT_ONCE = 1 << 20  # values of a strip; part of what a picture's noise depends on
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """A number that a kind can be given: what it means, what it is without, and its bounds."""

    meaning: str
    default: float
    lowest: float
    highest: float


# kind -> its settings by name; each is an option of `data derive`
KINDS: dict[str, dict[str, Setting]] = {
    "edges": {
        "sigma": Setting("blur before edges are looked for, in pixels", 1.0, 0.1, 50.0),
        "threshold": Setting("contrast of an edge; half of it continues one", 0.2, 0.001, 10.0),
    },
    "gray": {},
    "small": {"factor": Setting("how many times smaller, before it is enlarged again", 4.0, 1.0, 256.0)},
    "holes": {"amount": Setting("share of the picture that is covered, at least", 0.25, 0.001, 0.9)},
    "noise": {"amount": Setting("standard deviation, as a share of black to white", 0.1, 0.001, 1.0)},
    "blur": {"sigma": Setting("of the Gaussian, in pixels", 2.0, 0.1, 50.0)},
}


@dataclass
class Derived:
    """What became of a folder: pictures made, and those left out, each with path, reason and mend."""

    made: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0, or 3 where something was left out."""
        return 3 if self.skipped else 0


def derive(
    kind: str,
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    settings: dict[str, float] | None = None,
    seed: int = 0,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Derived:
    """Make a picture of `kind` from every picture below the folder `src`, in the new folder `dst`.

    Pictures are upright sRGB; grey stays grey, 16-bit grey stays so; what lies behind transparent pixels is filled as
    it is in training. A picture that cannot be used is logged, left out and listed in `dst`/skipped.jsonl. The same
    folder, settings and seed give the same bytes.

    Args:
        kind: a key of KINDS.
        settings: numbers by name, those of KINDS[kind]; what is left out has its default.
        seed: of holes and noise, which also depend on the picture's name below `src`.
        workers: threads; 0 takes the number of cores.
        max_pixels, allow_truncated: as in open_image.
        progress: called with (pictures done, pictures in all), before the first and after each.

    Raises:
        UsageFault: unknown kind, a setting that is not its own or out of bounds, no usable pictures, or `dst` exists.
        Fault: the disk refused; nothing is left behind.
    """
    started = time.monotonic()
    change = _change(kind, settings or {}, seed)
    root, target = Path(src), Path(dst)
    require_new_folder(target)
    if root.exists() and not root.is_dir():
        raise UsageFault(root, "is a file, not a folder", "Give the folder that holds the pictures")
    sources = find_images(root)
    if root.resolve() in target.resolve().parents:
        raise UsageFault(target, f"lies inside {root}, whose pictures it is made of", "Choose a place outside")
    names = _names(root, sources)
    derived = Derived()
    temporary = temporary_beside(target)

    def make(index: int) -> ImageFault | None:
        try:
            picture = open_image(sources[index], max_pixels=max_pixels, allow_truncated=allow_truncated)
            place = temporary / names[index]
            save_image(place, change(picture, names[index]), format="PNG")
        except ImageFault as fault:
            return fault
        return None

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        if progress is not None:
            progress(0, len(sources))
        outcomes = map_in_threads(
            make,
            range(len(sources)),
            workers=workers,
            timeout=_PATIENCE,
            subject=lambda index: sources[index],
            progress=progress,
        )
        faults = [fault for fault in outcomes if fault is not None]
        if len(faults) == len(sources):
            raise Faults(faults)
        for fault in faults:
            _log.error("%s", fault)
            derived.skipped.append({"path": fault.subject, "reason": fault.problem, "mend": fault.mend})
        derived.made = len(sources) - len(faults)
        if faults:
            lines = "".join(json.dumps(skip) + "\n" for skip in derived.skipped)
            (temporary / SKIPPED_NAME).write_text(lines, encoding="utf-8")
        temporary.rename(target)
    except OSError as error:
        raise write_fault(target, error) from error
    finally:
        _remove_in_use(temporary)
    derived.seconds = time.monotonic() - started
    return derived


def _remove_in_use(folder: Path) -> None:
    """Remove a folder into which threads may still write: under another name, they find it no more."""
    doomed = temporary_beside(folder)
    with contextlib.suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _names(root: Path, sources: list[Path]) -> list[str]:
    """The derived pictures' names below the target: the originals', as PNG.

    Raises:
        UsageFault: two originals differ in their suffix alone, so that no pair would be told from the other.
    """
    names = [source.relative_to(root).with_suffix(_SUFFIX).as_posix() for source in sources]
    alike: dict[str, list[str]] = {}
    for name, source in zip(names, sources):
        alike.setdefault(name.casefold(), []).append(str(source.relative_to(root)))
    shared = [" and ".join(same) for same in alike.values() if len(same) > 1]
    if shared:
        raise UsageFault(
            root,
            f"several files would be made into one: {some_names(shared)}",
            "Rename all but one of each: pairs are matched by name, without suffix and case",
        )
    return names


def _change(kind: str, settings: dict[str, float], seed: int) -> Callable[[Picture, str], np.ndarray]:
    """From a picture and its name to pixels (H, W, C)."""
    if kind not in KINDS:
        raise unknown_name("KIND", kind, KINDS)
    values = {name: setting.default for name, setting in KINDS[kind].items()}
    for name, value in settings.items():
        if name not in values:
            of = " and ".join(other for other, own in KINDS.items() if name in own)
            raise UsageFault(f"--{name}", f"is for {of or 'no kind'}, not for {kind}", "Leave it out")
        setting = KINDS[kind][name]
        if not setting.lowest <= value <= setting.highest:  # NaN is refused as well
            raise UsageFault(
                f"--{name}",
                f"{value:g} is out of range",
                f"Use a number from {setting.lowest:g} to {setting.highest:g}",
            )
        values[name] = value
    return partial(_changed, kind, values, seed)


def _changed(kind: str, settings: dict[str, float], seed: int, picture: Picture, name: str) -> np.ndarray:
    if kind == "gray":
        return picture.pixels if _is_opaque_grey(picture) else picture.as_channels(1)
    if kind == "edges":
        return _to_pixels(find_edges(_to_values(picture.as_channels(1)), **settings), np.uint8)
    pixels = _opaque(picture)
    values = _to_values(pixels)
    if kind == "small":
        values = shrink_and_enlarge(values, **settings)
    elif kind == "holes":
        values = cut_holes(values, **settings, draws=_draws(seed, kind, name))
    elif kind == "noise":
        values = add_noise(values, **settings, seed=seed, name=name)
    else:
        assert kind == "blur", f"unknown kind {kind}"
        values = blur(values, **settings)
    return _to_pixels(values, pixels.dtype.type)


def _is_opaque_grey(picture: Picture) -> bool:
    return picture.alpha is None and picture.pixels.shape[2] == 1


def _opaque(picture: Picture) -> np.ndarray:
    """(H, W, 1 or 3), uint16 only where nothing is transparent."""
    return picture.pixels if picture.alpha is None else picture.as_channels(picture.pixels.shape[2])


def _to_values(pixels: np.ndarray) -> Tensor:
    """(H, W, C) -> (1, C, H, W) in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)).permute(2, 0, 1)[None]


def _to_pixels(values: Tensor, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """(1, C, H, W) in [0, 1] -> (H, W, C)."""
    scaled = (values[0].clamp(0, 1).double() * np.iinfo(dtype).max).round()
    return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy().astype(dtype))


def _draws(seed: int, kind: str, name: str, number: int = 0) -> Draws:
    # composed, as some file systems give names back otherwise; surrogates stand for bytes that are no text
    safe = unicodedata.normalize("NFC", name).encode("utf-8", "backslashreplace").decode("utf-8")
    return Draws(seed, f"derive/{kind}/{safe}", torch.tensor([number]))


# --- what is done to (1, C, H, W) in [0, 1] --------------------------------------------------------------------------


def find_edges(grey: Tensor, *, sigma: float, threshold: float) -> Tensor:
    """Canny's edges (Canny 1986, by kornia) of (1, 1, H, W): black lines, one pixel wide, on white."""
    from kornia.filters import canny

    margin = math.ceil(3 * sigma)
    kernel = 2 * margin + 1
    # edges are repeated all around, since the frame of a picture is no edge
    padded = F.pad(grey, [margin + 2] * 4, mode="replicate")
    # kornia's own hysteresis goes over the whole picture for each pixel that the longest line grows by
    _, weak_and_strong = canny(padded, threshold / 2, threshold, (kernel, kernel), (sigma, sigma), hysteresis=False)
    inner = slice(margin + 2, -margin - 2)
    return 1 - _follow(weak_and_strong)[..., inner, inner]


def _follow(edges: Tensor) -> Tensor:
    """Hysteresis: (1, 1, H, W) of 1 where strong, 0.5 where weak -> 1 where strong or led to by neighbours, else 0.

    Each pixel is looked at from its neighbours once, however long the lines are.
    """
    levels = np.pad(edges[0, 0].numpy(), 1)  # so that every pixel has eight neighbours
    width = levels.shape[1]
    kept, weak = (levels == 1).ravel(), (levels == 0.5).ravel()
    newest = np.flatnonzero(kept)
    while newest.size:
        reached = []
        for step in (1, width - 1, width, width + 1):
            for neighbours in (newest - step, newest + step):
                neighbours = neighbours[weak[neighbours]]
                weak[neighbours] = False  # so that none is reached twice
                reached.append(neighbours)
        newest = np.concatenate(reached)
        kept[newest] = True
    return torch.from_numpy(kept.reshape(levels.shape)[1:-1, 1:-1].astype(np.float32))[None, None]


def blur(images: Tensor, *, sigma: float) -> Tensor:
    """A Gaussian of standard deviation `sigma` pixels; beyond the edges pixels repeat."""
    from kornia.filters import gaussian_blur2d

    margin = math.ceil(4 * sigma)
    padded = F.pad(images, [margin] * 4, mode="replicate")
    kernel = 2 * margin + 1
    return gaussian_blur2d(padded, (kernel, kernel), (sigma, sigma))[..., margin:-margin, margin:-margin]


def shrink_and_enlarge(images: Tensor, *, factor: float) -> Tensor:
    """Made `factor` times smaller, a side at least one pixel, and enlarged to the old size, both bicubic."""
    size = (images.shape[-2], images.shape[-1])
    small = (max(1, round(size[0] / factor)), max(1, round(size[1] / factor)))
    reduced = F.interpolate(images, size=small, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return F.interpolate(reduced, size=size, mode="bicubic", antialias=True, align_corners=False)


def cut_holes(images: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Grey rectangles, each an eighth to a third of either side, until `amount` of the area is covered."""
    height, width = images.shape[-2:]
    covered = torch.zeros(height, width, dtype=torch.bool)
    number = 0
    while covered.double().mean() < amount:
        tall, wide, y, x = draws.stream(str(number)).uniform(4)[0].tolist()
        rows, columns = (
            max(1, round(side * (1 / 8 + share * 5 / 24))) for side, share in ((height, tall), (width, wide))
        )
        # places beyond the edges count, so that corners are covered as often as the middle
        top, left = int(y * (height + rows - 1)) - rows + 1, int(x * (width + columns - 1)) - columns + 1
        covered[max(0, top) : top + rows, max(0, left) : left + columns] = True
        number += 1
    return images.masked_fill(covered, _HOLE)


def add_noise(images: Tensor, *, amount: float, seed: int, name: str) -> Tensor:
    """Normal noise of standard deviation `amount`, independent for every value; drawn in strips, to save memory."""
    _, channels, height, width = images.shape
    rows = max(1, _NOISE_AT_ONCE // (channels * width))
    noisy = images.clone()
    for number, top in enumerate(range(0, height, rows)):
        strip = noisy[..., top : top + rows, :]
        strip += amount * _draws(seed, "noise", name, number).normal(channels, strip.shape[2], width)
    return noisy
