"""Which modes a game finds: objectives, penalties and remedies against mode collapse on toy worlds.

A cell is one choice of the three. It is trained by the same loop as any run, into a run folder of its own; its seeds,
and its worlds, are members of one batched network. An interrupted table goes on where it stopped.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from img2img.checkpoint import load_networks
from img2img.config import Config, DataPaths, resolve
from img2img.data.worlds import MEMBER_STRIDE, WORLDS, find_world
from img2img.draws import Draws
from img2img.errors import Diverged, Faults, UsageFault, unknown_name
from img2img.losses import ADVERSARIAL
from img2img.metrics.modes import ModeCoverage, mode_coverage
from img2img.networks.layers import draw_latents
from img2img.penalties import PENALTIES
from img2img.training import train
from img2img.training.report import read_log
from img2img.translators import check

RECIPE = "points"
RECOMMENDED_RECIPE = "points-recommended"
SAMPLES = 2500
"""Points that a member is judged by, as in PacGAN's tables."""

TABLE_KIMG = 640.0
QUICK_KIMG = 64.0

_SPECTRAL = "spectral_norm"
_AUTOENCODER = (
    "discriminator=mlp_autoencoder",
    "discriminator.width=128",
    "discriminator.code_dim=8",
    "discriminator.error=mse",
)

# the penalty or constraint that an objective is usually seen with, where that is not r1
_USUAL = {
    "hinge": _SPECTRAL,
    "wgan": "gradient_penalty",
    "relativistic": "r1+r2",
    "relativistic_average": "r1+r2",
}
# weights in the coordinates of these worlds; the penalties' own defaults are for pictures
_WEIGHTS = {"r1": 0.1, "r2": 0.1, "zero_centered_gp": 0.1, "gradient_penalty": 1.0, "dragan": 1.0}
_OBJECTIVE_SETS = {
    "wgan": ("train.critic_steps=5",),
    "ebgan": (*_AUTOENCODER, "loss.adversarial.margin=1"),
    "began": (*_AUTOENCODER, "loss.adversarial.gamma=0.5"),
}
REMEDIES: dict[str, tuple[str, ...]] = {
    "unrolled": ("train.unroll=10",),
    "replay": ("train.image_pool=10000",),
    "packing2": ("train.packing=2",),
    "packing4": ("train.packing=4",),
    "generators": ("train.generators=8",),
    "minibatch": ("discriminator.minibatch_discrimination=true",),
    "smoothing": ("loss.adversarial.real_label=0.9",),
    "noise": ("loss.penalties.instance_noise.std=0.3", "loss.penalties.instance_noise.share=0.8"),
    "top_k": ("train.top_k=0.5",),
    "feature_matching": ("loss.feature_matching=1",),
}
# a step costs many times one of the others: ten steps ahead, or every point beside every other
REMEDY_LENGTHS = {"unrolled": 0.2, "minibatch": 0.2}
REMEDIES_BASELINE = "nonsaturating"


@dataclass(frozen=True)
class Cell:
    """One choice of a table.

    Attributes:
        objective: one of losses.ADVERSARIAL.
        penalty: names of penalties joined by "+", "spectral_norm" or "none".
        remedy: one of REMEDIES, or "none".
        sets: further settings, as --set takes them.
        tag: what tells cells apart that differ in `sets` alone.
    """

    objective: str
    penalty: str = "none"
    remedy: str = "none"
    sets: tuple[str, ...] = ()
    tag: str = ""

    @property
    def name(self) -> str:
        parts = (self.objective, self.penalty.replace("+", "-"), self.remedy, self.tag)
        return "_".join(part for part in parts if part not in ("", "none"))

    @property
    def penalties(self) -> list[str]:
        """The names of its terms; none where `penalty` is "none" or a kind of network."""
        return [] if self.penalty in ("none", _SPECTRAL) else self.penalty.split("+")

    def config(self, kimg: float, shared: Sequence[str] = ()) -> Config:
        """The configuration of its training; `shared` settings come before the cell's own.

        A remedy of REMEDY_LENGTHS is trained for that share of `kimg`.
        """
        kimg *= REMEDY_LENGTHS.get(self.remedy, 1.0)
        sets = [
            f"loss.adversarial={self.objective}",
            f"loss.penalties={','.join(self.penalties) or 'none'}",
            *(f"loss.penalties.{name}.weight={_WEIGHTS[name]}" for name in self.penalties if name in _WEIGHTS),
            *([f"discriminator.{_SPECTRAL}=true"] if self.penalty == _SPECTRAL else []),
            *_OBJECTIVE_SETS.get(self.objective, ()),
            *REMEDIES.get(self.remedy, ()),
            f"train.kimg={kimg}",
            f"train.sample_kimg={kimg / 12}",
        ]
        return resolve(RECIPE, None, [*shared, *sets, *self.sets])


RECOMMENDED = Cell("relativistic", "r1+r2", tag="recommended")


@dataclass
class Score:
    """What became of one cell in one world.

    Attributes:
        coverage: one for each seed; empty where training diverged.
        seconds: that the training of all the cell's games took.
        note: why there is nothing.
    """

    cell: Cell
    world: str
    coverage: list[ModeCoverage] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    def mean(self, measure: str) -> float:
        values = [getattr(coverage, measure) for coverage in self.coverage]
        return float(sum(values) / len(values)) if values else float("nan")


@dataclass(frozen=True)
class Job:
    """What one process trains and judges."""

    cell: Cell
    config: Config
    worlds: tuple[str, ...]
    seeds: int
    folder: Path


@dataclass(frozen=True)
class Plan:
    """What a comparison trains.

    Attributes:
        groups: heading -> its cells.
        searched: cells of a search, each with its length in kimg.
        recommended_seeds: games in each world of RECOMMENDED_RECIPE; 0 for none.
        worlds: toy worlds; each cell plays `seeds` games in each.
        kimg: length of a cell's training.
        shared: settings of all cells, as --set takes them.
    """

    groups: dict[str, list[Cell]]
    worlds: tuple[str, ...]
    seeds: int
    kimg: float
    searched: list[tuple[Cell, float]] = field(default_factory=list)
    recommended_seeds: int = 0
    shared: tuple[str, ...] = ()

    def jobs(self, out: Path) -> list[Job]:
        """One job for each cell, in run folders below `out`; a cell that stands in two tables is trained once."""
        runs = out / "runs"
        cells = dict.fromkeys(cell for group in self.groups.values() for cell in group)
        jobs = [
            Job(cell, cell.config(self.kimg, self.shared), self.worlds, self.seeds, runs / cell.name) for cell in cells
        ]
        jobs += [
            Job(cell, cell.config(kimg, self.shared), self.worlds, 1, runs / cell.name) for cell, kimg in self.searched
        ]
        if self.recommended_seeds:
            config = resolve(RECOMMENDED_RECIPE, None, self.shared)
            jobs.append(Job(RECOMMENDED, config, self.worlds, self.recommended_seeds, runs / RECOMMENDED.name))
        # the longest first, so that no process is left with it in the end
        return sorted(jobs, key=lambda job: -job.config.train.kimg * job.seeds * (1 + job.config.train.unroll))


def choose(
    *,
    quick: bool,
    worlds: Sequence[str],
    objectives: Sequence[str],
    penalties: Sequence[str],
    remedies: Sequence[str],
    seeds: int | None,
    kimg: float | None,
    search: int,
    recommended: int,
    sets: Sequence[str],
) -> Plan:
    """The plan of what was asked for; what is left out has a default.

    Raises:
        UsageFault, Faults: unknown names, choices that cannot work together; before anything is trained.
    """
    from img2img.bench.search import search_cells

    worlds = tuple(dict.fromkeys(worlds)) or ("ring", "grid")
    _check_worlds(worlds)
    length = kimg or (QUICK_KIMG if quick else TABLE_KIMG)
    nothing_chosen = not (objectives or penalties or remedies or search or recommended)
    groups: dict[str, list[Cell]] = {}
    if objectives or penalties or nothing_chosen:
        chosen = list(dict.fromkeys(objectives or ADVERSARIAL))
        groups["Objectives and penalties"] = _table(chosen, penalties or ("none", "usual"))
    if remedies or nothing_chosen:
        names = list(REMEDIES) if not remedies or "all" in remedies else list(dict.fromkeys(remedies))
        if quick and not remedies:
            names.remove("unrolled")  # ten times as long as the others
        groups[f"Remedies on the {REMEDIES_BASELINE} objective"] = _with_remedies(names)
    plan = Plan(
        groups,
        worlds,
        seeds or (1 if quick else 3),
        length,
        search_cells(list(objectives or ADVERSARIAL), search, seed=0, kimg=length) if search else [],
        recommended,
        tuple(sets),
    )
    faults = {str(fault): fault for job in plan.jobs(Path()) for fault in check(job.config)}
    if faults:
        raise Faults(list(faults.values()))
    return plan


def usual_penalty(objective: str) -> str:
    """The penalty or constraint that an objective is usually seen with."""
    return _USUAL.get(objective, "r1")


def _table(objectives: Sequence[str], penalties: Sequence[str]) -> list[Cell]:
    """Every objective with each of the penalties; "usual" stands for the one it is usually seen with."""
    cells = []
    for objective in objectives:
        _check_name("--objective", objective, ADVERSARIAL)
        for penalty in penalties:
            chosen = usual_penalty(objective) if penalty == "usual" else penalty
            for name in chosen.split("+") if chosen != "none" else ():
                _check_name("--penalty", name, (*PENALTIES, _SPECTRAL))
            cells.append(Cell(objective, chosen))
    return list(dict.fromkeys(cells))


def _with_remedies(names: Sequence[str]) -> list[Cell]:
    """The baseline without help, and with each of the remedies."""
    for name in names:
        _check_name("--remedy", name, REMEDIES)
    return [Cell(REMEDIES_BASELINE), *(Cell(REMEDIES_BASELINE, remedy=name) for name in names)]


def _check_name(option: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise unknown_name(option, name, known)


def _check_worlds(worlds: Sequence[str]) -> None:
    counted = [key for key, world in WORLDS.items() if world.modes is not None and world.std > 0]
    for name in worlds:
        if find_world(name).name not in counted:
            raise UsageFault("--world", f"{name} has no modes to count", f"Use {', '.join(counted)}")


def run_job(job: Job) -> list[Score]:
    """Train one cell into its folder (or take it up there) and judge every member by SAMPLES points."""
    members = [world for world in job.worlds for _ in range(job.seeds)]
    try:
        train(job.config, DataPaths(worlds=tuple(members)), job.folder, resume=True, device="cpu")
    except Diverged as diverged:
        return [Score(job.cell, world, note=diverged.problem) for world in job.worlds]
    seconds = read_log(job.folder / "log.jsonl")[-1]["seconds"]
    points = sample_members(job.folder / "model.safetensors", len(members), SAMPLES, job.config.train.seed)
    scores = {world: Score(job.cell, world, seconds=seconds) for world in job.worlds}
    for name, samples in zip(members, points):
        world = find_world(name)
        assert world.modes is not None, "check_worlds refuses the others"
        scores[name].coverage.append(mode_coverage(samples, world.modes, world.std))
    return list(scores.values())


@torch.no_grad()
def sample_members(model: Path, members: int, count: int, seed: int) -> torch.Tensor:
    """`count` points of every member of a model of points: (members, count, dim)."""
    generator = load_networks(model)[1]["generator"]
    numbers = torch.arange(members)[:, None] * MEMBER_STRIDE + torch.arange(count)
    latents = draw_latents(generator, Draws(seed, "score/z", numbers.flatten()))
    return generator(latents, None).flatten(1).unflatten(0, (members, count))


def run_jobs(
    jobs: Sequence[Job], processes: int, done: Callable[[list[Score]], None] | None = None
) -> list[list[Score]]:
    """Every job's scores in the order of the jobs; `done` hears of each as it comes.

    With one process it is this one; several others have one thread each.
    """
    if processes == 1:
        return [_in_turn(job, done) for job in jobs]
    results: dict[int, list[Score]] = {}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_be_one_of_many) as pool:
        futures = {pool.submit(run_job, job): index for index, job in enumerate(jobs)}
        try:
            for future in concurrent.futures.as_completed(futures):
                results[futures[future]] = future.result()
                if done is not None:
                    done(results[futures[future]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(jobs))]


def _in_turn(job: Job, done: Callable[[list[Score]], None] | None) -> list[Score]:
    scores = run_job(job)
    if done is not None:
        done(scores)
    return scores


def _be_one_of_many() -> None:
    torch.set_num_threads(1)
    logging.getLogger("img2img").setLevel(logging.ERROR)
