"""Open every file once and list those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from img2img.data.decode import MAX_PIXELS, open_image
from img2img.data.threads import map_in_threads
from img2img.errors import ImageFault


def scan(
    files: Sequence[Path],
    *,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    timeout: float = 120.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[ImageFault]:
    """Decode every file completely; returns a fault for each that cannot be used, in the order of `files`.

    Sources do the same as they fill their memory (sources.open_source); this is for files that nobody will train from.

    Args:
        workers: threads; 0: by the number of cores.
        max_pixels, allow_truncated: see decode.open_image.
        timeout: seconds after which a file that does not answer is a Fault.
        progress: called with (files done, files).
    """

    def look(path: Path) -> ImageFault | None:
        try:
            open_image(path, max_pixels=max_pixels, allow_truncated=allow_truncated)
        except ImageFault as fault:
            return fault
        return None

    outcomes = map_in_threads(look, files, workers=workers, timeout=timeout, progress=progress)
    return [fault for fault in outcomes if fault is not None]
