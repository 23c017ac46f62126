"""A training run on stderr: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from img2img.training import Progress

_SECONDS_BETWEEN_LINES = 30.0
_USUAL_WIDTH = 80


def duration(seconds: float) -> str:
    """A length of time as a person says it: "45 s", "12 min", "3.4 h", "1,450 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds >= 96 * 3600:
        return f"{seconds / 86400:,.0f} days"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def can_draw() -> bool:
    """stderr is a terminal that a bar can be drawn on."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def bar_width() -> dict[str, Any]:
    """tqdm's options for a bar as wide as the terminal; of one that does not know its width it would draw nothing."""
    columns = 0
    with contextlib.suppress(OSError):  # a stream that only says that it is a terminal
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return {"dynamic_ncols": True} if columns else {"ncols": _USUAL_WIDTH}


class Bar:
    """Progress in pictures on stderr: a bar on a terminal, a line every half minute elsewhere."""

    unit = "img"

    def __init__(self) -> None:
        self._draws_bar = can_draw()
        self._bar: Any = None
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(
        self,
        done: int,
        total: int,
        line: Callable[[], str],
        *,
        initial: int = 0,
        postfix: str = "",
        scale: bool = False,
    ) -> None:
        """Show that `done` of `total` are done; `line` makes the text for where no bar can be drawn.

        Args:
            initial: how many were done before the first call, which count for no speed.
            postfix: text behind the bar.
            scale: write thousands as k.
        """
        if self._draws_bar:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(
                    total=total, initial=initial, unit=self.unit, unit_scale=scale, file=sys.stderr, **bar_width()
                )
            if postfix:
                self._bar.set_postfix_str(postfix, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            click.echo(line(), err=True)


class TrainProgress(Bar):
    """Call it with every Progress; it draws no more often than a person can read."""

    def __call__(self, progress: Progress) -> None:
        seen = progress.images_seen
        line = partial(describe, progress)
        postfix = progress.activity or _terms(progress)
        self.show(seen, progress.total_images, line, initial=seen, postfix=postfix, scale=True)
        if progress.activity and self._bar is not None:
            self._bar.refresh()  # it draws by itself only as the number of images grows


class FolderProgress(Bar):
    """Call it with (pictures done, pictures in all), or with `what` else is counted."""

    def __init__(self, what: str = "images", unit: str = Bar.unit) -> None:
        super().__init__()
        self._what, self.unit = what, unit
        self._started = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self.show(done, total, partial(self._line, done, total))

    def _line(self, done: int, total: int) -> str:
        if done == 0:
            return f"0 of {total:,} {self._what}"
        rate = done / (time.monotonic() - self._started)
        left = (total - done) / rate / 60
        return f"{done:,} of {total:,} {self._what}  {rate:.2f} {self._what}/s  {left:.0f} min to go"


class PartProgress(Bar):
    """Call it with (what is done, pictures done, pictures in all); each part has a bar of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._part = ""

    def __call__(self, part: str, done: int, total: int) -> None:
        if part != self._part:
            self.__exit__(None, None, None)
            self._bar, self._part = None, part
        self.show(done, total, lambda: f"{part}: {done:,} of {total:,} images", postfix=part)


def describe(progress: Progress) -> str:
    """One line: how far, and how fast, how long still, and the losses, or what is done between steps."""
    seen = f"{progress.images_seen:,} of {progress.total_images:,} images"
    if progress.activity:
        return f"{seen}  {progress.activity}"
    left = max(0, progress.total_images - progress.images_seen) / max(progress.images_per_second, 1e-9)
    parts = [
        seen,
        f"{progress.images_per_second:.1f} images/s",
        f"{duration(left)} to go",
        _terms(progress),
    ]
    return "  ".join(part for part in parts if part)


def _terms(progress: Progress) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in progress.terms.items())
