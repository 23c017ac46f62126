"""Training from a configuration and folders to a run folder: the one visible loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch

from img2img.checkpoint import (
    ModelInfo,
    NetworkSpec,
    SavedState,
    latest_state,
    load_state,
    remove_state,
    save_state,
    state_folders,
    step_of,
    write_model,
)
from img2img.config import Config, DataPaths
from img2img.data.sources import Source, match_classes
from img2img.data.worlds import PointSource
from img2img.devices import peak_memory
from img2img.distributed import World
from img2img.errors import Diverged, Fault, Interrupted, UsageFault
from img2img.networks.growing import GROWN, Growing, enlarge
from img2img.training.diagnosis import Diagnosis
from img2img.training.prepare import Prepared, check, choose_hardware, next_step, prepare, what_sees_the_batch
from img2img.training.report import read_log, write_report
from img2img.training.run_folder import RunFolder
from img2img.training.samples import draw_grid
from img2img.training.schedules import due
from img2img.training.signals import StopSignals
from img2img.training.speed import Patience, time_kinds_of_steps
from img2img.training.standing import Standing
from img2img.training.watchdog import ROLLBACKS, Alarm, Watchdog
from img2img.version import __version__

if TYPE_CHECKING:
    from img2img.evaluation.measures import Score
    from img2img.training.evaluation import Evaluation

_log = logging.getLogger("img2img.training")

_STEPS_BEFORE_ESTIMATE = 20
_FAILED_SAVES = 3  # in a row, after which a run that cannot keep its work stops


@dataclass(frozen=True)
class BestModel:
    """The model that scored best: its file, the score's name and value, and the images seen until then."""

    model_path: Path
    score: str
    value: float
    images_seen: int


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        status: "finished", or "planned" after a dry run.
        run_dir, model_path: where it lies; None after a dry run.
        images_seen: real images per generator step, summed.
        images_per_second, seconds: of the training steps; estimates of the whole run after a dry run.
        peak_memory: bytes, of the device where it is a GPU, else of the process.
        evaluations, evaluation_seconds: how many there were and what they took in all, beside `seconds`; after a dry
            run estimates as well.
        best: the model that scored best; None where none was measured.
        stopped_early: whether eval.patience ended it before train.kimg did.
        faults: what the last line of the log tells of.
        rollbacks: how often it went back to an earlier state.
    """

    status: str
    run_dir: Path | None
    model_path: Path | None
    images_seen: int
    images_per_second: float
    seconds: float
    peak_memory: int
    evaluations: int = 0
    evaluation_seconds: float = 0.0
    best: BestModel | None = None
    stopped_early: bool = False
    faults: tuple[Diagnosis, ...] = ()
    rollbacks: int = 0


@dataclass
class Progress:
    """What the loop tells whoever watches, after every step; `activity` is what it does between steps."""

    images_seen: int
    total_images: int
    images_per_second: float
    terms: dict[str, float]
    activity: str = ""


def train(
    config: Config,
    data: DataPaths,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
    dry_run: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train `config` on `data` into the run folder `out`.

    Args:
        resume: go on from the newest complete state; from zero where there is none.
        init: model file whose generators the run starts from.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dry_run: check everything, time a few steps, write nothing.
        watch: called after each step, for a progress bar.

    Raises:
        UsageFault: wrong configuration, data or options, before any step (exit code 2).
        Diverged: gradients stopped being finite, train.watchdog ended it, or the state could not be saved several times
            in a row (4).
        Interrupted: a signal came; the state is saved, if there was a step (130, 143).
        Fault: a step does not fit into memory (1).
    """

    def leave(signal: int) -> Interrupted:
        return Interrupted(signal, out, "Give the same command again", " before the first step")

    with StopSignals(leave) as signals:
        check(config, data, _misplaced(out, data))
        world = World()
        precision = choose_hardware(config, device, world)
        if dry_run:
            RunFolder(out, config, resume=resume)  # refuses what the run itself would refuse
            planned = prepare(config, data, precision, world, init)
            with planned.loader:
                return estimate(planned, open_evaluation(planned))
        with world.naming_lost_peers():
            world.join(precision.device)
            try:
                # only the first process writes; the others find out at the next meeting if it cannot
                folder = RunFolder(out, config, resume=resume) if world.is_first else None
                with folder or contextlib.nullcontext():
                    prepared = prepare(config, data, precision, world, init)
                    with prepared.loader:
                        evaluation = open_evaluation(prepared)
                        if folder is not None:
                            folder.write_config(config)
                        run = _Run(prepared, evaluation, out, folder, resume, watch, signals)
                        try:
                            return run.train()
                        finally:
                            run.tell_faults()
            finally:
                world.leave()


def _misplaced(out: Path, data: DataPaths) -> list[Fault]:
    """The run folder must not lie among the pictures: its samples would be learned from."""
    return [
        UsageFault(
            "--out", f"{out} lies inside {folder}, and its samples would become pictures", "Choose another place"
        )
        for folder in data.folders().values()
        if out.resolve().is_relative_to(folder.resolve())
    ]


def open_evaluation(prepared: Prepared) -> Evaluation | None:
    """What train.eval_kimg asks for."""
    if prepared.config.train.eval_kimg == 0:
        return None
    from img2img.training.evaluation import Evaluation

    return Evaluation(prepared)


class _Stopped(Exception):
    """A stop signal came in the middle of an evaluation."""


class _Run:
    """One call of train: the loop and what it does every so often."""

    def __init__(
        self,
        prepared: Prepared,
        evaluation: Evaluation | None,
        out: Path,
        folder: RunFolder | None,
        resume: bool,
        watch: Callable[[Progress], None] | None,
        signals: StopSignals,
    ) -> None:
        self.prepared = prepared
        self.evaluation = evaluation
        self.config = prepared.config
        self.total = round(prepared.config.train.kimg * 1000)
        self.engine = prepared.engine
        self.world = prepared.world
        self.out = out
        self.folder = folder
        self.watch = watch
        self.signals = signals
        self.seconds = 0.0
        self.standing = Standing()
        self.evaluations, self.evaluation_seconds = 0, 0.0
        self.last_state = "none yet"
        self.failed_saves = self.failed_saves_in_a_row = 0
        self.told_losses: set[str] = set()
        self.watchdog = Watchdog(self.config)
        self.logged_step = 0
        if resume:
            self._take_up()
        self.progress = Progress(self.engine.images_seen, self.total, 0.0, {})
        self.stopped_early = self.evaluation is not None and self._is_out_of_patience()

    def train(self) -> TrainResult:
        """The loop."""
        self.signals.deferred = True
        engine, train, total = self.engine, self.config.train, self.total
        if self.evaluation is not None:
            self._catch_up(self.evaluation)
        started_at, began = engine.images_seen, self._now()
        first_step, warm_since, warm_from = engine.step, began, started_at
        before_log = (began, engine.images_seen, self.prepared.loader.waited)
        if engine.images_seen == 0:
            self._sample()
            if self.watchdog.can_go_back:
                self._save()
        terms: dict[str, float] = {}
        halvings, parts = engine.stage.halvings, engine.parts
        if halvings:
            self._tell_size()
        while engine.images_seen < total and not self.stopped_early:
            before = engine.images_seen
            next_step(self.prepared)
            seen = engine.images_seen
            finished = seen >= total
            stop = self._stop_signal()

            if engine.parts != parts:
                parts = engine.parts
                self._tell_parts()
            alarmed = engine.has_diverged
            if not alarmed and (finished or self._owes_evaluation() or due(train.log_kimg, before, seen)):
                terms, before_log = self._write_log(before_log)
                alarmed = self._is_alarmed()
            if alarmed:
                self._go_back()  # or raise, where there is no way back
                before_log = (self._now(), engine.images_seen, self.prepared.loader.waited)
                started_at -= seen - engine.images_seen
                continue
            if self.evaluation is not None and self._owes_evaluation() and not stop:
                self._evaluate(self.evaluation)
                stop = self._stop_signal()
            finished = (finished or self.stopped_early) and not self._owes_evaluation()
            if engine.step == first_step + _STEPS_BEFORE_ESTIMATE // 2:
                warm_since, warm_from = self._now(), seen
            if engine.step == first_step + _STEPS_BEFORE_ESTIMATE and not finished:
                # the first steps choose kernels and fill caches
                self._estimate((seen - warm_from) / (self._now() - warm_since), total)
            if engine.stage.halvings != halvings:
                halvings = engine.stage.halvings
                self._tell_size()
            if due(train.sample_kimg, before, seen) and not finished:
                self._sample()
            if (due(train.state_kimg, before, seen) or stop) and not finished:
                self._save(is_last=bool(stop))
            self._tell(Progress(seen, total, (seen - started_at) / (self._now() - began), terms))
            if stop and not finished:
                raise self._interrupted(stop)

        # also where a finished run is resumed: it may have been killed between its last state and its model
        self._sample()
        self._save(is_last=True)
        seconds = self._now() - began
        return TrainResult(
            status="finished",
            run_dir=self.out,
            model_path=self.out / "model.safetensors",
            images_seen=engine.images_seen,
            images_per_second=(engine.images_seen - started_at) / seconds,
            seconds=seconds,
            peak_memory=peak_memory(self.prepared.precision.device),
            evaluations=self.evaluations,
            evaluation_seconds=self.evaluation_seconds,
            best=self._best(),
            stopped_early=self.stopped_early,
            faults=tuple(self.watchdog.faults),
            rollbacks=len(self.watchdog.rollbacks),
        )

    def _now(self) -> float:
        """Seconds on a clock that stands still during evaluations."""
        return time.perf_counter() - self.evaluation_seconds

    def _stop_signal(self) -> int:
        """The signal that asked any process to stop, or 0."""
        return self.world.any(self.signals.received, self.prepared.precision.device)

    def _tell(self, progress: Progress) -> None:
        self.progress = progress
        if self.watch is not None:
            self.watch(progress)

    # --- evaluations --------------------------------------------------------------------------------------------------

    def _catch_up(self, evaluation: Evaluation) -> None:
        """Before the first step: see the real pictures, and measure where a run was stopped before it could."""
        began = time.perf_counter()
        with contextlib.suppress(_Stopped):  # the loop will stop after its first step
            evaluation.look_at_real(self._report_on("real pictures"))
        self.evaluation_seconds += time.perf_counter() - began
        if self._owes_evaluation():
            self._evaluate(evaluation)
            if self._owes_evaluation():
                self._save(is_last=True)
                raise self._interrupted(self._stop_signal())

    def _owes_evaluation(self) -> bool:
        """An evaluation is due at the images seen so far and was not made."""
        train, seen = self.config.train, self.engine.images_seen
        if self.evaluation is None or seen in (0, self.standing.measured_at):
            return False
        return seen >= self.total or due(train.eval_kimg, self.engine.images_before, seen)

    def _is_out_of_patience(self) -> bool:
        """Too many evaluations in a row were no better, before the end."""
        grown = self.engine.images_seen >= self.engine.settings.growth.images_needed
        return grown and self.standing.is_over(self.config.eval.patience) and self.engine.images_seen < self.total

    def _evaluate(self, evaluation: Evaluation) -> None:
        """Measure the averaged generators, keep them if they are the best so far, and note it in the log.

        A stop signal ends it with nothing noted: the resumed run makes it anew.
        """
        began = time.perf_counter()
        try:
            scores = evaluation.measure(self._report_on("evaluating"))
        except _Stopped:
            return
        finally:
            seconds = time.perf_counter() - began
            self.evaluation_seconds += seconds
        self.evaluations += 1
        self.standing.ruler = evaluation.ruler
        self.standing.measured_at = self.engine.images_seen
        if self.folder is not None:
            before = dataclasses.replace(self.standing)
            is_best = self.standing.note(self.engine.images_seen, evaluation.value(scores), evaluation.better)
            if is_best and not self._keep_best(self.folder, scores):
                is_best, self.standing = False, before
            self._write_evaluation(self.folder, scores, is_best, seconds)
        over = int(self._is_out_of_patience())
        self.stopped_early = bool(self.world.any(over, self.prepared.precision.device))
        if self.stopped_early and self.world.is_first:
            count = self.config.eval.patience
            _log.info(f"stopping: the last {count} evaluations were no better (eval.patience)")

    def _keep_best(self, folder: RunFolder, scores: Sequence[Score]) -> bool:
        """Write the best model; returns whether the disk took it."""
        finite = {score.name: score.value for score in scores if math.isfinite(score.value)}
        with self._going_on_without():
            write_model(folder.best, self._deployed(), dataclasses.replace(self._info(), metrics=finite))
            return True
        return False

    def _write_evaluation(self, folder: RunFolder, scores: Sequence[Score], is_best: bool, seconds: float) -> None:
        """The log's line, the report, and a line for people."""
        standing, seen = self.standing, self.engine.images_seen
        record = {
            "images": seen,
            "step": self.engine.step,
            "seconds": round(self.seconds, 3),
            "measures": {score.name: score.value for score in scores},
            "better": {score.name: score.better for score in scores},
            "best_images": standing.best_at,
            "eval_seconds": round(seconds, 3),
        }
        with self._going_on_without():
            folder.amend_log(record)
            write_report(self.out)
        listed = ", ".join(f"{score.name} {score.value:,.5g}" for score in scores)
        verdict = "best so far" if is_best else f"best at {standing.best_at:,}"
        _log.info(f"at {seen:,} images: {listed} ({verdict}), {seconds:.1f} s")

    def _report_on(self, what: str) -> Callable[[int, int], None]:
        """What an evaluation calls between pictures."""

        def report(done: int, total: int) -> None:
            # of several processes none may leave alone: the others would wait for it
            if self.signals.received and self.world.size == 1:
                raise _Stopped
            activity = f"{what}: {done:,} of {total:,}"
            self._tell(dataclasses.replace(self.progress, images_seen=self.engine.images_seen, activity=activity))

        return report

    def _best(self) -> BestModel | None:
        standing = self.standing
        if standing.best is None:
            return None
        return BestModel(self.out / "best.safetensors", standing.ruler["score"], standing.best, standing.best_at)

    # --- every so often -----------------------------------------------------------------------------------------------

    def _write_log(self, since: tuple[float, int, float]) -> tuple[dict[str, float], tuple[float, int, float]]:
        """Append what happened since the last line; returns the terms and the new starting point."""
        now, seen, waited = self._now(), self.engine.images_seen, self.prepared.loader.waited
        seconds = now - since[0]
        self.seconds += seconds
        terms = self.engine.terms.take(self.world)
        if self.watchdog.watches:
            self.engine.watch_weights()
        if self.prepared.watched is not None:
            self.engine.watch_outputs(self.prepared.watched)
        monitors = self.engine.monitors.take(self.world) | self.engine.undecided(terms)
        step, logged_step, self.logged_step = self.engine.step, self.logged_step, self.engine.step
        self._tell_losses()
        if self.folder is not None:
            record = {
                "images": seen,
                "step": step,
                "seconds": round(self.seconds, 3),
                "terms": terms,
                "monitors": monitors,
                "learning_rate": self.engine.players["generator"].optimizer.param_groups[0]["lr"],
                "images_per_second": round((seen - since[1]) / seconds, 3),
                "waiting": round((waited - since[2]) / seconds, 4),
                "skipped_steps": sum(skipped >= logged_step for skipped in self.engine.skipped_steps),
                **self._passes(),
                **({"micro_batch": self._micro_batch()} if self.engine.parts > 1 else {}),
            }
            with self._going_on_without():
                self.folder.append_log(record | self.watchdog.look(record) | self._mishaps())
        return terms, (now, seen, waited)

    def _mishaps(self) -> dict[str, int]:
        """What went wrong around the training so far and did not stop it, for the log."""
        source = self.prepared.source
        told = {"replaced_pictures": source.replaced} if isinstance(source, Source) else {}
        told["failed_saves"] = self.failed_saves
        return {name: count for name, count in told.items() if count}

    def _tell_losses(self) -> None:
        """Name the pictures that were lost, each once; every process its own."""
        source = self.prepared.source
        for fault in source.lost if isinstance(source, Source) else ():
            if str(fault) not in self.told_losses:
                self.told_losses.add(str(fault))
                _log.warning(f"{fault}. Other pictures stand in for it until the run is started again")

    @contextlib.contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """Where the disk refuses what can be missed, a line of the log or a picture, say so and train on."""
        try:
            yield
        except Fault as fault:
            if not isinstance(fault.__cause__, OSError):
                raise
            _log.warning(f"{fault}. Training goes on without")

    def _passes(self) -> dict[str, float]:
        """How often discriminators have seen each real picture; nothing where there is no end of them."""
        source = self.prepared.source
        if isinstance(source, PointSource):
            return {}
        shown = self.engine.images_seen * self.config.train.critic_steps
        return {"passes": round(shown / max(len(lane) for lane in source.lanes.values()), 3)}

    @torch.no_grad()
    def _sample(self) -> None:
        if self.folder is None:
            return
        engine = self.engine
        with self.prepared.precision.context():
            rows = engine.translator.preview(engine.at_stage(self.prepared.preview), engine.ema.networks)
        if engine.stage.halvings:
            rows = {name: enlarge(images, engine.translator.shape.resolution) for name, images in rows.items()}
        grid, names = draw_grid(rows)
        with self._going_on_without():
            self.folder.write_samples(self.engine.images_seen, grid, names)
            write_report(self.out)

    def _save(self, attempt: int = 0, *, is_last: bool = False) -> None:
        """Publish the state and the model; every rank waits until both are there.

        Where the disk refuses, training goes on to the next save, since space may be made meanwhile.

        Args:
            attempt: how often the run has gone back, where it does now.
            is_last: there is no next save.

        Raises:
            Fault: the disk refused and there is no next save. Diverged: it refused several times in a row.
        """
        for tally in (self.engine.terms, self.engine.monitors):
            tally.share(self.world)
        if self.folder is not None:
            try:
                self._publish(self.folder, attempt)
                self.failed_saves_in_a_row = 0
            except Fault as fault:
                if not isinstance(fault.__cause__, OSError) or is_last:
                    raise
                self.failed_saves += 1
                self.failed_saves_in_a_row += 1
                if self.failed_saves_in_a_row == _FAILED_SAVES:
                    raise self._unsaved(fault) from fault
                _log.warning(f"{fault}. Training goes on to the next save; last good state: {self.last_state}")
        self.world.wait()

    def _publish(self, folder: RunFolder, attempt: int) -> None:
        engine, train = self.engine, self.config.train
        state = save_state(
            folder.states,
            engine.step,
            engine.state_dict() | self.standing.state_dict() | self.watchdog.state_dict(),
            self._facts(),
            train.keep_last,
            round(train.keep_every * 1000),
            attempt=attempt,
            spare=self.watchdog.sound_steps(engine) if self.watchdog.can_go_back else (),
        )
        self.last_state = str(state)
        write_model(folder.model, self._deployed(), self._info())
        with self._going_on_without():
            write_report(self.out)

    def _deployed(self) -> dict[str, torch.nn.Module]:
        return {name: self.engine.ema.networks[name] for name in self.engine.translator.deploy()}

    def _info(self) -> ModelInfo:
        prepared, translator = self.prepared, self.engine.translator
        names, channels = dict(prepared.source.names), dict(prepared.source.channels)
        if translator.directions and "image" in channels:  # it translates within one folder's pictures
            names, channels = dict.fromkeys("ab", names["image"]), dict.fromkeys("ab", channels["image"])
        return ModelInfo(
            translator=self.config.translator,
            task=translator.task,
            networks={name: self._spec(name) for name in translator.deploy()},
            directions=dict(translator.directions),
            domains=names,
            channels=channels,
            classes=tuple(prepared.source.classes),
            resolution=self._size(),
            fit=self.config.data.fit,
            recipe=self.config.recipe.name,
            images_seen=self.engine.images_seen,
            fingerprint=prepared.source.fingerprint,
        )

    def _spec(self, name: str) -> NetworkSpec:
        """How to rebuild a network as far as it has grown."""
        spec, network = self.prepared.specs[name], self.engine.ema.networks[name]
        if isinstance(network, Growing) and network.num_levels > 1:
            grown = {name: getattr(network, name) for name in GROWN}
            return dataclasses.replace(spec, arguments={**spec.arguments, **grown})
        return spec

    def _size(self) -> tuple[int, int]:
        """(height, width) of the pictures that are made now."""
        height, width = self.engine.translator.shape.resolution
        return height >> self.engine.stage.halvings, width >> self.engine.stage.halvings

    def _tell_size(self) -> None:
        if self.world.is_first:
            (height, width), batch = self._size(), self.engine.stage.batch
            _log.info(f"from {self.engine.images_seen:,} images on: {width} × {height} pixels, batch {batch}")

    def _micro_batch(self) -> int:
        """Images that a process works on at once."""
        return self.engine.stage.batch // (self.config.train.accumulate * self.world.size * self.engine.parts)

    def _tell_parts(self) -> None:
        seeing, count = what_sees_the_batch(self.engine), self._micro_batch()
        unlike = f"; {seeing} will see as many, so that results are others than before" if seeing else ""
        _log.warning(f"out of memory: {count} images at once from now on, as many a step as before{unlike}")

    def _facts(self) -> dict[str, Any]:
        precision = self.prepared.precision
        return {
            "images_seen": self.engine.images_seen,
            "data_fingerprint": self.prepared.source.fingerprint,
            "classes": list(self.prepared.source.classes),
            "device": precision.device.type,
            "precision": precision.name,
            "memory_format": str(precision.memory_format),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "versions": {
                "img2img": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "safetensors": safetensors.__version__,
            },
        }

    def _take_up(self) -> None:
        """Load the newest complete state, or say that there is none."""
        state, notes = latest_state(self.out / "state")
        say = _log.warning if self.world.is_first else _log.debug
        for note in notes:
            say(note)
        if state is None:
            say(f"{self.out}: no saved state to resume, starting from zero")
            if self.folder is not None:
                self.folder.rewind_log(0)
            return
        facts = self._facts()
        missing = [key for key in facts if key not in state.manifest]
        if missing:
            raise Fault(
                state.path / "manifest.json",
                f"does not say {', '.join(missing)}",
                "Move this state away and resume again",
            )
        match_classes(state.manifest["classes"], self.prepared.source.classes, "data")
        if state.manifest["data_fingerprint"] != facts["data_fingerprint"]:
            raise UsageFault(
                "data",
                f"the pictures changed since {state.path.name} was saved "
                f"({state.manifest['data_fingerprint'][:12]} then, {facts['data_fingerprint'][:12]} now)",
                "Put them back, or start a new run with --init MODEL",
            )
        for key in ("device", "precision", "memory_format", "threads", "processes", "versions"):
            if state.manifest[key] != facts[key]:
                say(f"resume will not be bit-exact: {key} {state.manifest[key]} then, {facts[key]} now")
        self.engine.load_state_dict(state.tree)
        self._take_up_standing(state.tree)
        self.watchdog.load_state_dict(state.tree)
        self.last_state = str(state.path)
        if self.folder is not None:
            self.seconds = self.folder.rewind_log(self.engine.images_seen, self.watchdog.rollbacks)
            self._follow_log(read_log(self.out / "log.jsonl"))
        if self.world.is_first:
            _log.info(f"resumed {state.path.name} at {self.engine.images_seen} images")
        if self.engine.images_seen >= self.total:
            say(f"{self.out}: this run has come to its end before. Set a larger train.kimg to make it longer")

    def _take_up_standing(self, state: dict[str, Any]) -> None:
        """Go on counting evaluations, or begin anew where they are made otherwise now."""
        self.standing = Standing.of(state)
        changes = [] if self.evaluation is None else self.standing.changes(self.evaluation.ruler)
        if changes:
            self.standing = Standing()
            if self.world.is_first:
                _log.warning(f"the best model is looked for anew: {', '.join(changes)} of the evaluation changed")

    def _interrupted(self, signal: int) -> Interrupted:
        seen = self.engine.images_seen
        return Interrupted(signal, self.out, f"Continue with the same command and --resume (at {seen} images)")

    # --- faults -------------------------------------------------------------------------------------------------------

    def tell_faults(self) -> None:
        """At the end of the run, however it ended: what went wrong since the last line of the log, what still is, and
        what to change."""
        self._tell_losses()
        if self.watchdog.summary():
            _log.warning(self.watchdog.summary())

    def _follow_log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Go on behind the lines of the log as it is."""
        self.watchdog.remember(records)
        self.logged_step = next((record["step"] for record in reversed(records) if "monitors" in record), 0)

    def _is_alarmed(self) -> bool:
        """The last line of the log tells of a fault that train.watchdog does not let pass; all processes agree."""
        if not self.watchdog.acts:
            return False
        alarmed = self.folder is not None and self.watchdog.alarm(self.engine) is not None
        return bool(self.world.any(int(alarmed), self.prepared.precision.device))

    def _go_back(self) -> None:
        """To the newest state from before what is wrong was first to be seen, with half the learning rates.

        Raises:
            Diverged: as train.watchdog says, or since the run went back often enough or cannot.
        """
        alarm, engine, seen = self.watchdog.alarm(self.engine), self.engine, self.engine.images_seen
        state = self._state_before(alarm) if self.watchdog.can_go_back else None
        if state is None:
            if not engine.has_diverged:  # what was learned is worth keeping
                self._save()
            raise self._ended(alarm)
        factor, parts, standing = engine.rate_factor / 2, engine.parts, self.standing
        engine.load_state_dict(state.tree)
        engine.rate_factor, engine.parts = factor, parts
        self._take_up_standing(state.tree)
        self.standing.keep_best(standing)
        line = {"images": engine.images_seen, "step": engine.step, "rate_factor": factor, "from_images": seen}
        problem = alarm.problem if alarm is not None else ""
        self.watchdog.go_back(line | {"rollback": problem})
        attempt = len(self.watchdog.rollbacks)
        if self.folder is not None:
            _log.warning(
                f"{problem}. Going back from {seen:,} to {engine.images_seen:,} images, at {factor:g} of the learning "
                f"rates (train.watchdog=rollback, {attempt} of at most {ROLLBACKS} times)"
            )
            # killed before the new state is there, the run takes up an older one and comes here again
            for newer in reversed(state_folders(self.folder.states)):
                if step_of(newer) > engine.step:
                    remove_state(newer)
        self._save(attempt)
        if self.folder is not None:
            self.folder.append_log(self.watchdog.rollbacks[-1] | {"seconds": round(self.seconds, 3)})
            self._follow_log(read_log(self.out / "log.jsonl"))

    def _state_before(self, alarm: Alarm | None) -> SavedState | None:
        """The newest state that verifies and has nothing of what is wrong; the first process chooses it for all."""
        paths, place = state_folders(self.out / "state"), 0
        if self.folder is not None and alarm is not None:
            for number, path in reversed([*enumerate(paths, start=1)]):
                if step_of(path) <= alarm.sound_step:
                    with contextlib.suppress(Fault):
                        load_state(path)
                        place = number
                        break
        place = self.world.any(place, self.prepared.precision.device)
        return load_state(paths[place - 1]) if place else None

    def _ended(self, alarm: Alarm | None) -> Diverged:
        """Why a run cannot go on, or shall not."""
        engine, watchdog = self.engine, self.watchdog
        if alarm is None:
            return Diverged(self.out, "the first process found a fault", "See what it says")
        if self.folder is not None:
            line = {"images": engine.images_seen, "step": engine.step, "seconds": round(self.seconds, 3)}
            self.folder.amend_log({**line, "ended": alarm.problem})
            write_report(self.out)
        why = ""
        if watchdog.mode == "rollback":
            count = len(watchdog.rollbacks)
            why = f", after {count} returns" if count == ROLLBACKS else ", and no state from before is kept"
        if engine.has_diverged:
            again = "" if why else ", or go on from there at half the rate with --resume --set train.watchdog=rollback"
            precise = " --set train.precision=float32" if self.prepared.precision.autocast else ""
            mend = f"Last good state: {self.last_state}. Begin anew with --set {alarm.setting}{precise}{again}"
            return Diverged(self.out, f"{alarm.problem}{why}", mend)
        return Diverged(
            self.out,
            f"stopped at {engine.images_seen:,} images: {alarm.problem}{why}",
            f"Begin anew with --set {alarm.setting}, or go on as it is, from {self.last_state}, with --resume "
            "--set train.watchdog=warn",
        )

    def _unsaved(self, fault: Fault) -> Diverged:
        return Diverged(
            fault.subject,
            f"{fault.problem}, {_FAILED_SAVES} times in a row, so training stopped itself",
            f"{fault.mend}, then continue with the same command and --resume. Last good state: {self.last_state}",
        )

    def _estimate(self, images_per_second: float, total: int) -> None:
        if self.world.is_first:
            hours = (total - self.engine.images_seen) / images_per_second / 3600
            memory = peak_memory(self.prepared.precision.device) / 1e9
            growing = " at this size (larger ones take longer)" if self.engine.stage.halvings else ""
            _log.info(
                f"{images_per_second:.1f} images/s: {_duration(hours)} to go{growing}; peak memory {memory:.1f} GB"
            )


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"


def estimate(prepared: Prepared, evaluation: Evaluation | None, patience: Patience | None = None) -> TrainResult:
    """Time a few steps on the first images, and some of an evaluation, in memory only, and scale up.

    Args:
        patience: how long steps may be timed for.
    """
    train = prepared.config.train
    total = round(train.kimg * 1000)
    evaluations = 0 if evaluation is None else math.ceil(train.kimg / train.eval_kimg)
    growth = prepared.engine.settings.growth
    prepared.engine.go_to(math.ceil(growth.images_needed))
    each = 0.0 if evaluation is None else evaluation.seconds()  # at full size
    seconds, peak = 0.0, 0
    starts = [start for start in growth.starts() if start < total]
    for start, end in pairwise([*starts, total]):  # at each size that the networks grow through
        prepared.engine.go_to(start)
        speed = time_kinds_of_steps(prepared, patience)
        seconds += (end - start) / speed.images_per_second
        peak = max(peak, speed.peak_memory)
    return TrainResult(
        status="planned",
        run_dir=None,
        model_path=None,
        images_seen=0,
        images_per_second=total / seconds,
        seconds=seconds,
        peak_memory=peak,
        evaluations=evaluations,
        evaluation_seconds=evaluations * each,
    )
