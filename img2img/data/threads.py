"""A few threads that decode, with a deadline: a file on a dead network mount must not hang the run for ever.

Pillow and torch release the interpreter lock while they work, so threads suffice. They are daemons, unlike those of
concurrent.futures, since a thread stuck in the kernel cannot be ended and would keep the process from exiting.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from img2img.errors import Fault

Result = TypeVar("Result")
Item = TypeVar("Item")


def worker_count(workers: int) -> int:
    """`workers`, or for 0 the cores that this process may use, at most 16."""
    if workers > 0:
        return workers
    affinity = getattr(os, "sched_getaffinity", None)
    return min(16, (len(affinity(0)) if affinity is not None else os.cpu_count()) or 1)


class Task(Generic[Result]):
    """Work given to a pool; `subject` names what it is busy with, for the message of a deadline."""

    def __init__(self, function: Callable[[Task[Result]], Result], subject: object) -> None:
        self._function = function
        self.subject = subject
        self.cancelled = False
        self._began: float | None = None
        self._done = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        if not self.cancelled:
            self.progress(self.subject)
            try:
                self._result = self._function(self)
            except BaseException as error:  # handed to whoever waits
                self._error = error
        self._done.set()

    def progress(self, subject: object) -> None:
        """Called by the function when it turns to the next file: the deadline counts from here."""
        self.subject = subject
        self._began = time.monotonic()

    def wait(self, timeout: float) -> Result:
        """The function's result.

        Raises:
            Fault: naming `subject`, when it has been busy with it for longer than `timeout` seconds.
        """
        while not self._done.wait(min(timeout, 1.0)):
            if self._began is not None and time.monotonic() - self._began > timeout:
                raise Fault(
                    self.subject, f"no answer for {timeout:g} seconds", "Check its disk or network, or leave it out"
                )
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class Pool:
    """`workers` daemon threads (0: by the number of cores) that run tasks in the order given.

    torch runs with one thread inside of each: they are many already, and where every one of them brings an OpenMP team
    of its own, libgomp takes the cores for oversubscribed and puts the threads of the network to sleep between layers.
    """

    def __init__(self, workers: int) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        count = worker_count(workers)
        begun = threading.Barrier(count + 1)
        self._threads = [
            threading.Thread(target=_work, args=(self._tasks, begun), name=f"decode-{index}", daemon=True)
            for index in range(count)
        ]
        num_threads = torch.get_num_threads()
        for thread in self._threads:
            thread.start()
        begun.wait()
        # set_num_threads is of the thread that calls it, but also of all that begin later
        torch.set_num_threads(num_threads)
        # Also at exit, before the interpreter is torn down beneath threads that are inside torch
        self.close = weakref.finalize(self, _close, self._tasks, self._threads)

    def submit(self, function: Callable[[Task[Result]], Result], subject: object) -> Task[Result]:
        task = Task(function, subject)
        self._tasks.put(task)
        return task


def _work(tasks: queue.SimpleQueue[Task | None], begun: threading.Barrier) -> None:
    torch.get_num_threads()  # torch sets a thread's number when first asked for it: after this, ours stays
    torch.set_num_threads(1)
    begun.wait()
    while (task := tasks.get()) is not None:
        task.run()
        del task  # the result is not kept alive while waiting for the next one


def _close(tasks: queue.SimpleQueue[Task | None], threads: Sequence[threading.Thread]) -> None:
    while True:
        try:
            task = tasks.get_nowait()
        except queue.Empty:
            break
        if task is not None:
            task.cancelled = True
            task.run()
    for _ in threads:
        tasks.put(None)
    deadline = time.monotonic() + 2.0
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    timeout: float,
    subject: Callable[[Item], object] = lambda item: item,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """`function` of every item, in the order of `items`, computed a little ahead in threads.

    Args:
        timeout: seconds that one item may take before a Fault names it.
        subject: the name of an item in that Fault.
        progress: called with (items done, items) after each.
    """
    pool = Pool(workers)
    pending: list[Task[Result]] = []
    num_ahead = 4 * worker_count(workers)
    try:
        position = 0
        for index in range(len(items)):
            while position < min(len(items), index + num_ahead):
                item = items[position]
                pending.append(pool.submit(lambda _, item=item: function(item), subject(item)))  # type: ignore[misc]
                position += 1
            result = pending.pop(0).wait(timeout)
            if progress is not None:
                progress(index + 1, len(items))
            yield result
    finally:
        pool.close()
