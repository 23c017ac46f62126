"""A clean stop on SIGINT, SIGTERM and SIGUSR1: the first asks, the second ends the process at once.

Until training has begun there is nothing to save, and a large folder may be looked at for minutes: then the first
signal ends the work where it stands.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """While entered, `received` is the number of the first stop signal, or 0.

    A second signal exits at once with the usual code; files are only ever renamed into place, so none is torn.

    Args:
        at_once: makes the exception that a signal raises while `deferred` is False.

    Attributes:
        deferred: whether the first signal is only noted; set once there is work to save.
    """

    def __init__(self, at_once: Callable[[int], Exception]) -> None:
        self.received = 0
        self.deferred = False
        self._at_once = at_once
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        # Python lets only the main thread set handlers; elsewhere the caller has its own way to stop
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        if not self.deferred:
            raise self._at_once(number)
