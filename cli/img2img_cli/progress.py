"""A training run on stderr: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from img2img.training import Progress

_SECONDS_BETWEEN_LINES = 30.0


def duration(seconds: float) -> str:
    """A length of time as a person says it: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class TrainProgress:
    """Call it with every Progress; it draws no more often than a person can read."""

    def __init__(self) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._draws_bar = terminal and os.environ.get("TERM") != "dumb"
        self._bar: Any = None
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __enter__(self) -> TrainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        if self._draws_bar:
            self._draw(progress)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            click.echo(describe(progress), err=True)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=progress.total_images,
                initial=progress.images_seen,
                unit="img",
                unit_scale=True,
                dynamic_ncols=True,
                file=sys.stderr,
            )
            return
        self._bar.set_postfix_str(_terms(progress), refresh=False)
        self._bar.update(progress.images_seen - self._bar.n)


def describe(progress: Progress) -> str:
    """One line: how far, how fast, how long still, and the losses."""
    left = (progress.total_images - progress.images_seen) / max(progress.images_per_second, 1e-9)
    parts = [
        f"{progress.images_seen:,} of {progress.total_images:,} images",
        f"{progress.images_per_second:.1f} images/s",
        f"{duration(left)} to go",
        _terms(progress),
    ]
    return "  ".join(part for part in parts if part)


def _terms(progress: Progress) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in progress.terms.items())
