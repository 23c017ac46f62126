"""From a configuration and folders to everything that a training step needs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from img2img import translators
from img2img.checkpoint import NetworkSpec, load_networks, read_info
from img2img.config import AugmentConfig, Config, DataPaths, EvalConfig
from img2img.data.batches import Batch, Loader
from img2img.data.labels import find_palette, given_palette, spread
from img2img.data.sources import Source, open_configured
from img2img.data.threads import worker_count
from img2img.data.worlds import PointLoader, PointSource, find_world
from img2img.devices import choose_device
from img2img.distributed import World
from img2img.errors import Fault, Faults, UsageFault
from img2img.inference.memory import is_out_of_memory
from img2img.networks.growing import DECIDED
from img2img.networks.layers import what_mixes_samples
from img2img.shipped import find_model
from img2img.training.engine import Engine, EngineSettings
from img2img.training.precision import Precision, choose_precision
from img2img.translators.base import DataShape, Translator

_log = logging.getLogger("img2img.training")

_PREVIEW_IMAGES = 8  # columns of a sample grid of translations or classes
_PREVIEW_SAMPLES = 64  # pictures of a grid without rows
_MAPS_LOOKED_AT = 1000  # in which the colours of classes are looked for
_PREVIEW_POINTS = 1000  # points of a picture of them
_WATCHED_INPUTS = 4  # translated at each line of the log
_WATCHED_SAMPLES = 8  # made there where nothing is translated
_LOOKED_AT_FOR_A_CLASS = 64  # pictures of which those of the most frequent class are taken
_SECONDS_BETWEEN_COUNTS = 10.0
_STARTED = time.monotonic()


def check(config: Config, data: DataPaths, more: Iterable[Fault] = ()) -> None:
    """Raise Faults with all that is wrong with a configuration and its folders, and with `more`."""
    faults = [*translators.check(config), *_unfit_measures(config), *_unfit_perceptual(config)]
    faults += [*(data.faults() or _unfit_data(config, data)), *more]
    if faults:
        raise Faults(faults)


def _unfit_measures(config: Config) -> list[Fault]:
    """What is wrong with what is to be measured."""
    if not config.train.eval_kimg and config.eval == EvalConfig():
        return []
    from img2img.training import evaluation

    return evaluation.check(config)


def _unfit_perceptual(config: Config) -> list[Fault]:
    """Why there is no perceptual term, where one is wanted."""
    if not config.loss.perceptual:
        return []
    from img2img.evaluation.perceptual import unfit_for_loss

    return unfit_for_loss(config.loss.perceptual_network, config.data.resolution, config.growth.start)


def _load_perceptual(config: Config, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    if not config.loss.perceptual:
        return None
    from img2img.evaluation.perceptual import load_perceptual_loss

    return load_perceptual_loss(config.loss.perceptual_network, device)


def _unfit_data(config: Config, data: DataPaths) -> list[Fault]:
    """What is wrong where a method is given data of another kind than it learns from."""
    kind = translators.TRANSLATORS.get(config.translator)
    if kind is None or data.kind == kind.source:
        return []
    wanted = {
        "images": "--images DIR",
        "classes": "--classes DIR",
        "pairs": "--pairs DIR or --pairs A B",
        "unpaired": "--a DIR --b DIR",
        "points": "--world NAME",
    }
    problem = f"{config.translator} learns from {kind.source}, not from {data.kind}"
    return [UsageFault("data", problem, f"Give {wanted[kind.source]}")]


def choose_hardware(config: Config, device: str, world: World) -> Precision:
    """Device, number format and threads of a run; refuses a batch that does not divide among its processes."""
    target = choose_device(device, world.local_rank)
    precision = choose_precision(config.train.precision, target)
    if config.train.auto_batch and world.size > 1:
        raise UsageFault(
            "train.auto_batch",
            f"{world.size} processes cannot tell each other in the middle of a step that one is out of memory",
            "Leave it out, and set train.accumulate",
        )
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    elif target.type == "cpu":
        _remark_on_busy_cores()
    share = config.train.accumulate * config.train.packing * world.size
    if config.train.batch % share:
        parts = "accumulation x processes" if config.train.packing == 1 else "accumulation x packing x processes"
        raise UsageFault(
            "train.batch",
            f"{config.train.batch} does not divide by {parts} = {share}",
            f"Use a multiple of {share}",
        )
    return precision


def _remark_on_busy_cores() -> None:
    """Say so where other processes want the cores too.

    Threads that work on one operation wait for the slowest of them: beside one other busy process on two cores, a step
    of cyclegan-small took 1.33 s with two threads and 0.32 s with one.
    """
    cores, wanted = os.cpu_count() or 1, torch.get_num_threads()
    # the load is that of about the last minute, this process's own work (such as an earlier run) included
    own = time.process_time() / max(time.monotonic() - _STARTED, 60.0)
    busy = os.getloadavg()[0] - own
    if wanted > 1 and busy + wanted > cores + 1:
        _log.info(
            f"other programs keep {busy:.0f} of {cores} cores busy: training may be faster with "
            f"--set train.threads={max(1, round(cores - busy))}"
        )


@dataclass
class Prepared:
    config: Config
    source: Source | PointSource
    loader: Loader | PointLoader
    engine: Engine
    specs: dict[str, NetworkSpec]
    preview: Batch
    world: World
    precision: Precision
    watched: Batch | None = None


def prepare(config: Config, data: DataPaths, precision: Precision, world: World, init: Path | None) -> Prepared:
    """Open the data, build networks from the seed, and put both into an engine."""
    if world.is_first:
        for line in translators.warnings(config):
            _log.warning(line)
    init = None if init is None else find_model(init)
    known_classes = read_info(init).classes if init is not None else ()
    source = _open_data(config, data, known_classes)
    resolution = (1, 1) if isinstance(source, PointSource) else config.data.resolution
    palette = _palette(config, source)
    shape = DataShape(resolution, source.channels, source.classes, members=source.members, palette=palette)
    perceptual = _load_perceptual(config, precision.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        translator, specs = translators.build(config, shape, perceptual)
    if init is not None:
        _start_from(translator, specs, init)
    if world.is_first:
        for line in (*(f"left out: {fault}" for fault in source.bad), *source.notes):
            _log.warning(line)
        _tell_patches(translator)
        if palette and not config.data.palette:
            _log.info(f"colours of the label maps, as data.palette would have them: {','.join(palette)}")
    engine = Engine(translator, translators.make_penalties(config), EngineSettings.of(config), precision, world)

    def make_loader(augment: AugmentConfig | None, references: int = 0) -> Loader | PointLoader:
        if isinstance(source, PointSource):
            return PointLoader(source, seed=config.train.seed, device=precision.device, dtype=precision.dtype)
        return Loader(
            source,
            seed=config.train.seed,
            resolution=config.data.resolution,
            device=precision.device,
            dtype=precision.dtype,
            augmentation=augment,
            workers=worker_count(config.data.workers),
            references=references,
        )

    count = {"images": _PREVIEW_SAMPLES, "points": _PREVIEW_POINTS}.get(source.kind, _PREVIEW_IMAGES)
    with make_loader(None) as loader:
        preview = loader.batch(np.arange(count))
        watched = _watched(config, translator, preview, loader)
    loader = make_loader(config.augment, translator.references)
    return Prepared(config, source, loader, engine, specs, preview, world, precision, watched)


def _watched(config: Config, translator: Translator, preview: Batch, loader: Loader | PointLoader) -> Batch | None:
    """The pictures by which outputs are watched at each line of the log; of methods with classes all of one."""
    if config.train.watchdog == "off" or translator.task == "points":
        return None
    if translator.task == "translate":
        return preview.first(_WATCHED_INPUTS)
    if preview.labels is None:
        return preview.first(_WATCHED_SAMPLES)
    batch = loader.batch(np.arange(_LOOKED_AT_FOR_A_CLASS))
    assert batch.labels is not None, "data with classes have labels"
    rows = (batch.labels == batch.labels.mode().values).nonzero()[:_WATCHED_SAMPLES, 0]
    images = {name: pictures[rows] for name, pictures in batch.images.items()}
    return Batch(images, batch.labels[rows], batch.numbers[rows], batch.seed)


def _tell_patches(translator: Translator) -> None:
    """Log how much of a picture one verdict is about, where that is a part of it."""
    networks = translator.networks_of("discriminator").values()
    for field in sorted({getattr(network, "receptive_field", 0) for network in networks} - {0}):
        _log.info(f"discriminators judge patches of {field} × {field} pixels")


def _open_data(config: Config, data: DataPaths, known_classes: tuple[str, ...]) -> Source | PointSource:
    if data.worlds:
        return PointSource([find_world(name) for name in data.worlds])
    source = open_configured(
        config,
        data,
        direction=config.data.direction,
        class_names=known_classes or None,
        progress=_tell_every(_SECONDS_BETWEEN_COUNTS),
    )
    if source.classes and len(source.classes) >= source.count("image"):
        raise UsageFault(
            "--classes",
            f"{data.classes} has {len(source.classes)} classes for {source.count('image')} pictures",
            "Put several pictures into each class, or train without classes by --images",
        )
    return source


def _palette(config: Config, source: Source | PointSource) -> tuple[str, ...]:
    """The colours of the classes of label maps: those that were given, or found; none where a holds pictures."""
    if not config.data.labels or isinstance(source, PointSource):
        return ()
    if config.data.palette:
        return given_palette(config.data.palette)
    chosen = spread(source.count("a"), _MAPS_LOOKED_AT)
    return find_palette((source.read("a", index) for index in chosen), config.data.labels)


def _differences(found: NetworkSpec | None, wanted: NetworkSpec) -> str:
    """What distinguishes a model's network from the one a run builds; empty where nothing does."""
    if found is None or found.name != wanted.name:
        return f"its {wanted.role} is {found.name if found else 'another method'}, this run's {wanted.name}"
    if found.copies != wanted.copies:
        return f"it has train.generators = {found.copies}, this run {wanted.copies}"
    # how far a network has grown changes none of its weights' shapes, and from where none of those that it ends with
    keys = sorted({*found.arguments, *wanted.arguments} - set(DECIDED))
    return ", ".join(
        f"its {key} is {found.arguments.get(key)}, this run's {wanted.arguments.get(key)}"
        for key in keys
        if found.arguments.get(key) != wanted.arguments.get(key)
    )


def _tell_every(seconds: float) -> Callable[[int, int], None]:
    """Log how many files are checked, now and then: the first look at a large folder takes minutes."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            _log.info(f"checked {done:,} of {total:,} files")

    return tell


def _start_from(translator: Translator, specs: dict[str, NetworkSpec], init: Path) -> None:
    """Take the generators' weights from a model file; discriminators start anew, since model files hold none."""
    info, networks = load_networks(init)
    for name in translator.deploy():
        differences = _differences(info.networks.get(name), specs[name])
        if differences:
            raise UsageFault(
                "--init",
                f"{init} does not fit: {differences}",
                "Set data.resolution, data.channels and the generator's keys as img2img models info shows them",
            )
        own, given = getattr(translator, name), networks[name].state_dict()
        # the last layers of smaller sizes may be on one side only
        own.load_state_dict({key: given.get(key, value) for key, value in own.state_dict().items()})


def next_step(prepared: Prepared, images: int | None = None) -> None:
    """One iteration of the run; with `images`, one on the first so many at once in place of the batch.

    Raises:
        Fault: it does not fit into memory.
    """
    try:
        prepared.engine.train_step(step_batches(prepared) if images is None else few_batches(prepared, images))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(prepared, error) from error


def _too_large(prepared: Prepared, error: BaseException) -> Fault:
    """A step does not fit into memory: what fits is about half of it."""
    engine, train = prepared.engine, prepared.config.train
    each = engine.stage.batch // (train.accumulate * prepared.world.size * engine.parts)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    problem = f"{each} images at once are too many for the memory of {prepared.precision.device} ({reason:.200})"
    if each % (2 * train.packing):
        return Fault("train.batch", problem, "Set a smaller data.resolution or generator.width")
    accumulate = 2 * train.accumulate * engine.parts
    seeing = what_sees_the_batch(engine)
    mend = f"Set train.accumulate={accumulate}, which learns the same from {each // 2} at a time"
    if seeing:
        mend = f"Set train.accumulate={accumulate}; {seeing} will see {each // 2} at a time"
    automatic = "" if train.auto_batch or prepared.world.size > 1 else ", or let train.auto_batch=true find it"
    return Fault("train.batch", problem, f"{mend}{automatic}. Or halve train.batch")


def what_sees_the_batch(engine: Engine) -> str:
    """The keys, if any, by which micro-batches differ from a whole batch: "generator.norm, loss.adversarial"."""
    translator = engine.translator
    layers = [
        f"{player}.{argument}"
        for player in ("generator", "discriminator")
        for network in translator.networks_of(player).values()
        for argument in what_mixes_samples(network)
    ]
    losses = ["loss.adversarial"] if translator.objective.sees_batch else []
    if translator.matches_features and not translator.matches_layers:
        losses.append("loss.feature_matching")
    losses += [f"loss.penalties.{name}" for name, penalty in engine.penalties.items() if penalty.keeps_means]
    return ", ".join(dict.fromkeys([*layers, *losses]))


def step_batches(prepared: Prepared) -> list[list[Batch]]:
    """The batches of the next iteration: critic steps × micro-batches, each this rank's share.

    Images are numbered through the run, so the division into ranks and micro-batches changes nothing but the order of
    summation.
    """
    train, engine = prepared.config.train, prepared.engine
    batch = engine.stage.batch
    micro = batch // train.accumulate
    batches = []
    for critic in range(train.critic_steps):
        start = engine.images_seen * train.critic_steps + critic * batch
        numbers = np.arange(start, start + batch)
        parts = [numbers[index : index + micro] for index in range(0, batch, micro)]
        batches.append([prepared.loader.batch(part[prepared.world.slice(micro)]) for part in parts])
    return batches


def few_batches(prepared: Prepared, images: int) -> list[list[Batch]]:
    """Batches of an iteration that is tried: the first `images`, at once, in each critic step."""
    return [[prepared.loader.batch(np.arange(images))]] * prepared.config.train.critic_steps
