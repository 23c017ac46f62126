from __future__ import annotations

import threading
import time

import pytest
import torch

from img2img.data.threads import Pool, Task, map_in_threads, worker_count
from img2img.errors import Fault


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_kept(workers: int) -> None:
    def slow_for_even(item: int) -> int:
        time.sleep(0.002 * (item % 2 == 0))
        return item * item

    seen: list[tuple[int, int]] = []
    results = map_in_threads(
        slow_for_even, range(30), workers=workers, timeout=5, progress=lambda done, total: seen.append((done, total))
    )
    assert list(results) == [item * item for item in range(30)]
    assert seen == [(done, 30) for done in range(1, 31)]


def test_torch_has_one_thread_in_a_pool_and_as_many_as_before_elsewhere() -> None:
    """The pool's threads are many already; the network's must stay as many as they were."""

    def number_in_a_new_thread() -> int:
        numbers: list[int] = []
        thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return numbers[0]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        pool = Pool(2)
        tasks = [pool.submit(lambda task: torch.get_num_threads(), index) for index in range(4)]
        assert [task.wait(5) for task in tasks] == [1] * 4
        assert torch.get_num_threads() == 3
        assert number_in_a_new_thread() == 3
        pool.close()
    finally:
        torch.set_num_threads(before)


def test_errors_reach_the_caller() -> None:
    def fail(item: int) -> int:
        raise KeyError(item)

    with pytest.raises(KeyError):
        list(map_in_threads(fail, range(3), workers=2, timeout=5))


def test_what_blocks_is_named() -> None:
    """PROMISES A14."""
    gate = threading.Event()

    def block_on_two(item: int) -> int:
        if item == 2:
            gate.wait(10)
        return item

    threading.Timer(0.5, gate.set).start()
    results = map_in_threads(block_on_two, range(5), workers=2, timeout=0.1, subject=lambda item: f"file-{item}")
    with pytest.raises(Fault, match=r"file-2: no answer for 0\.1 seconds"):
        list(results)


def test_deadline_counts_for_each_file_and_not_for_the_queue() -> None:
    pool = Pool(1)

    def several(task: Task[None]) -> None:
        for name in range(4):
            task.progress(name)
            time.sleep(0.1)

    tasks = [pool.submit(several, "start") for _ in range(2)]
    for task in tasks:
        task.wait(0.3)
    pool.close()


def test_threads_end() -> None:
    before = threading.active_count()
    pool = Pool(3)
    assert threading.active_count() == before + 3
    pool.close()
    assert threading.active_count() == before


def test_worker_count() -> None:
    assert worker_count(5) == 5
    assert 1 <= worker_count(0) <= 16
