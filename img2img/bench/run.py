"""A comparison from its plan to its page."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from img2img.bench.modes import RECOMMENDED, RECOMMENDED_RECIPE, Plan, Score, run_jobs
from img2img.bench.page import write_results
from img2img.bench.search import spreads
from img2img.inference.folder import require_folder
from img2img.version import __version__


def run_comparison(
    plan: Plan, out: Path, processes: int | None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Train and judge everything that is planned, write it to `out`, and return what modes.json holds.

    Args:
        processes: of one thread each; None for one a core.
        progress: hears how many of how many trainings are done.

    Raises:
        UsageFault: something cannot be trained as planned; `out` holds other trainings. Fault: it cannot be written.
    """
    require_folder(out)
    jobs = plan.jobs(out)
    began = time.perf_counter()
    done = 0

    def tell(_: list[Score]) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(jobs))

    if progress is not None:
        progress(0, len(jobs))
    processes = min(len(jobs), processes or os.cpu_count() or 1)
    by_cell = {score[0].cell: score for score in run_jobs(jobs, processes, tell)}
    tables = {heading: [score for cell in cells for score in by_cell[cell]] for heading, cells in plan.groups.items()}
    if plan.recommended_seeds:
        tables[f"The recipe {RECOMMENDED_RECIPE}"] = by_cell[RECOMMENDED]
    facts = {
        "worlds": ", ".join(plan.worlds),
        "seeds": plan.seeds,
        "kimg": plan.kimg,
        **({"recommended_seeds": plan.recommended_seeds} if plan.recommended_seeds else {}),
        **({"settings": " ".join(plan.shared)} if plan.shared else {}),
        "img2img": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {processes} processes of one thread",
        "seconds": round(time.perf_counter() - began, 1),
    }
    searched = spreads([score for cell, _ in plan.searched for score in by_cell[cell]])
    return write_results(out, tables, searched, facts)
