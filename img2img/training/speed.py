"""How fast a recipe trains on this machine: steps timed one by one, nothing written."""

from __future__ import annotations

import logging
import math
import statistics
import time
from dataclasses import dataclass, replace

import torch

from img2img.config import Config, DataPaths
from img2img.devices import peak_memory
from img2img.distributed import World
from img2img.training.engine import Engine
from img2img.training.prepare import Prepared, check, choose_hardware, next_step, prepare

_log = logging.getLogger("img2img.training")

_LONGEST_CYCLE = 1000


@dataclass(frozen=True)
class Speed:
    """What timing came to.

    Attributes:
        images_per_second: the batch over the median step.
        seconds: of each step, batches included.
        waiting: share of the time in which the step waited for pictures.
        peak_memory: bytes, of the device where it is a GPU, else of the process.
        device, precision, threads: what it ran on and how.
    """

    images_per_second: float
    seconds: tuple[float, ...]
    waiting: float
    peak_memory: int
    device: str
    precision: str
    threads: int


@dataclass
class Patience:
    """How long steps may be timed for, and how many were.

    Attributes:
        until: time.monotonic() after which no other kind of step is begun; it is taken for the slowest that was timed.
        images: how many a step takes in place of the batch; time is taken to go with them. They were tried before.
        steps: how many were timed so far.
    """

    until: float = math.inf
    images: int | None = None
    steps: int = 0


def measure_speed(config: Config, data: DataPaths, *, device: str = "auto", warm_up: int = 5, steps: int = 30) -> Speed:
    """Train `config` on `data` for warm_up + steps iterations, in memory only; a network that grows at its full size.

    Raises:
        UsageFault: as img2img.training.train.
    """
    check(config, data)
    world = World()
    precision = choose_hardware(config, device, world)
    prepared = prepare(config, data, precision, world, None)
    prepared.engine.go_to(math.ceil(prepared.engine.settings.growth.images_needed))
    with prepared.loader:
        return time_steps(prepared, warm_up, steps)


def time_steps(prepared: Prepared, warm_up: int, steps: int, images: int | None = None) -> Speed:
    """Go on for warm_up + steps iterations; the first ones, which choose kernels and fill caches, do not count.

    Args:
        images: take the first so many in place of the batch.
    """
    engine, loader, device = prepared.engine, prepared.loader, prepared.precision.device
    seconds: list[float] = []
    waited = loader.waited
    batch = images or engine.stage.batch
    for index in range(warm_up + steps):
        if index == warm_up:
            waited = loader.waited
        began = time.perf_counter()
        next_step(prepared, images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    counted = seconds[warm_up:]
    return Speed(
        images_per_second=batch / statistics.median(counted),
        seconds=tuple(counted),
        waiting=(loader.waited - waited) / sum(counted),
        peak_memory=peak_memory(device),
        device=str(device),
        precision=prepared.precision.name,
        threads=torch.get_num_threads(),
    )


def time_kinds_of_steps(prepared: Prepared, patience: Patience | None = None) -> Speed:
    """Time two steps of each kind, after one that does not count: a step in which lazy penalties are due takes longer.

    Each kind counts as often as training has it, so that the speed is that of a long run. With patience.images it is
    one step of each kind; what is timed is told.
    """
    engine, tells = prepared.engine, patience is not None
    patience = patience or Patience()
    images = patience.images and min(patience.images, engine.stage.batch)
    if images is None:
        time_steps(prepared, warm_up=0, steps=1)
    kinds = kinds_of_steps(prepared)
    timed: list[tuple[int, Speed]] = []
    for due, numbers in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        if timed and time.monotonic() >= patience.until:
            break
        if tells:
            penalties = f" with {' and '.join(dict.fromkeys(due))}" if due else ""
            _log.info("timing a step of %s pictures%s", images or engine.stage.batch, penalties)
        speeds = []
        for _ in range(2 if images is None else 1):
            engine.step = numbers[0]
            speeds.append(time_steps(prepared, 0, 1, images))
        patience.steps += len(speeds)
        timed.append((len(numbers), min(speeds, key=lambda speed: speed.seconds)))
        if tells:
            _log.info("it took %.1f s", timed[-1][1].seconds[0])
    untimed = sum(map(len, kinds.values())) - sum(count for count, _ in timed)
    timed.append((untimed, max((speed for _, speed in timed), key=lambda speed: speed.seconds)))
    steps = sum(count for count, _ in timed)
    seconds = sum(count * speed.seconds[0] for count, speed in timed) / steps
    return replace(
        timed[-1][1],
        images_per_second=(images or engine.stage.batch) / seconds,
        seconds=tuple(speed.seconds[0] for _, speed in timed[:-1]),
        waiting=sum(count * speed.waiting * speed.seconds[0] for count, speed in timed) / (steps * seconds),
        peak_memory=max(speed.peak_memory for _, speed in timed),
    )


def kinds_of_steps(prepared: Prepared) -> dict[tuple[str, ...], list[int]]:
    """The lazy penalties that are due together -> the numbers of the steps in which they are, until all comes again."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for number in range(_cycle(prepared.engine)):
        kinds.setdefault(_due(prepared.engine, number, prepared.config.train.critic_steps), []).append(number)
    return kinds


def _cycle(engine: Engine) -> int:
    """Steps after which the kinds of steps come again."""
    return min(_LONGEST_CYCLE, math.lcm(*(penalty.every for penalty in engine.penalties.values())))


def _due(engine: Engine, number: int, critic_steps: int) -> tuple[str, ...]:
    """The lazy penalties of an iteration, once for each of the players' steps in which they are due."""
    steps = {"generator": [number], "discriminator": range(number * critic_steps, (number + 1) * critic_steps)}
    return tuple(
        name
        for player, numbers in steps.items()
        for name, penalty in engine.penalties_of(player).items()
        for one in numbers
        if penalty.every > 1 and one % penalty.every == 0
    )
