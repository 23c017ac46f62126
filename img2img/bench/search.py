"""The same budget of random settings for every objective: how much is the loss, and how much is the tuning?

After Lucic et al. 2018 ("Are GANs created equal?", arXiv:1711.10337): an objective is judged by what a given number of
random settings makes of it, not by one setting that suits it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from img2img.bench.modes import Cell, Score, usual_penalty
from img2img.draws import Draws

_MEANS = (0.0, 0.5, 0.9)
_CRITIC_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Setting:
    """One random draw: Adam's learning rate and β₁, the weight of the penalties, discriminator steps."""

    learning_rate: float
    mean_decay: float
    weight: float
    critic_steps: int


def draw_settings(count: int, seed: int) -> list[Setting]:
    """lr log-uniform in [1e-4, 1e-2], β₁ of 0, 0.5, 0.9, weight log-uniform in [0.01, 10], D steps of 1, 2, 5.

    The same settings are given to every objective.
    """
    draws = Draws(seed, "search", torch.arange(count))
    rates, weights = (_log_uniform(draws.stream(name).uniform(1)[:, 0], low, high) for name, low, high in _RANGES)
    means = draws.stream("mean").integers(len(_MEANS), 1)[:, 0].tolist()
    steps = draws.stream("critic").integers(len(_CRITIC_STEPS), 1)[:, 0].tolist()
    return [
        Setting(rate, _MEANS[mean], weight, _CRITIC_STEPS[step])
        for rate, mean, weight, step in zip(rates, means, weights, steps)
    ]


_RANGES = (("rate", 1e-4, 1e-2), ("weight", 1e-2, 10.0))


def _log_uniform(uniform: Tensor, low: float, high: float) -> list[float]:
    values = (uniform.double() * math.log(high / low)).exp() * low
    return [float(f"{value:.3g}") for value in values.tolist()]


def search_cells(objectives: Sequence[str], count: int, seed: int, kimg: float) -> list[tuple[Cell, float]]:
    """Every objective with its usual penalty under the same `count` settings, each with its length in kimg.

    A setting with k discriminator steps for each of the generator's is given 2 / (k + 1) of the length, so that all
    have the same number of updates.
    """
    cells = []
    for objective in objectives:
        for index, setting in enumerate(draw_settings(count, seed)):
            penalty = usual_penalty(objective)
            names = Cell(objective, penalty).penalties
            sets = (
                f"optim.lr={setting.learning_rate}",
                f"optim.betas={setting.mean_decay},0.99",
                f"train.critic_steps={setting.critic_steps}",
                *(f"loss.penalties.{name}.weight={setting.weight}" for name in names),
            )
            cell = Cell(objective, penalty, remedy="none", sets=sets, tag=f"search{index:02d}")
            cells.append((cell, kimg * 2 / (setting.critic_steps + 1)))
    return cells


@dataclass(frozen=True)
class Spread:
    """An objective's scores in one world over all settings.

    Attributes:
        best, median, worst: of the share of modes found times the share of high-quality points.
        best_modes, best_quality: mean modes and share of high-quality points of the best setting; None where every
            setting diverged.
        solved: share of the settings that found every mode with at least 90 % high-quality points.
        best_setting: the settings of the best one, as --set takes them.
    """

    objective: str
    world: str
    best: float
    median: float
    worst: float
    best_modes: float | None
    best_quality: float | None
    solved: float
    best_setting: tuple[str, ...]


def success(score: Score) -> float:
    """Share of modes found times share of high-quality points, from 0 to 1; 0 where training diverged."""
    if not score.coverage:
        return 0.0
    return score.mean("modes_found") / score.coverage[0].num_modes * score.mean("high_quality")


def spreads(scores: Sequence[Score]) -> list[Spread]:
    """One Spread for each objective and world, in the order in which they come."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.cell.objective, score.world), []).append(score)
    found = []
    for (objective, world), group in groups.items():
        ordered = sorted(group, key=success)
        best, values = ordered[-1], [success(score) for score in ordered]
        solved = [
            score
            for score in group
            if score.coverage
            and all(coverage.modes_found == coverage.num_modes for coverage in score.coverage)
            and score.mean("high_quality") >= 0.9
        ]
        found.append(
            Spread(
                objective,
                world,
                values[-1],
                statistics.median(values),
                values[0],
                best.mean("modes_found") if best.coverage else None,
                best.mean("high_quality") if best.coverage else None,
                len(solved) / len(group),
                best.cell.sets,
            )
        )
    return found
