"""What a comparison found, as JSON, as Markdown and as one HTML page with pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from img2img.atomic import write_text
from img2img.bench.modes import SAMPLES, Score
from img2img.bench.search import Spread
from img2img.data.pictures import write_gif
from img2img.training.page import escape, film, page, section
from img2img.training.report import list_snapshots, read_snapshots

_PICTURE_BYTES = 9_000_000  # of all films of a page
_FRAMES = 5  # of each film
_WIDTH = 720  # pixels of an animation

Table = tuple[str, list[str], list[list[str]]]
"""Heading, column names and rows of cells."""


def write_results(
    out: Path,
    scores: Mapping[str, Sequence[Score]],
    spreads: Sequence[Spread],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write out/modes.json, out/modes.md, out/index.html, and an animation of every cell in out/animations.

    Returns what modes.json holds.

    Args:
        scores: heading of a table -> its scores, cell by cell.
        spreads: of a search; may be empty.
        facts: how all of it was made.

    Raises:
        Fault: a file cannot be written.
    """
    tables = [(heading, *_score_table(rows)) for heading, rows in scores.items() if rows]
    if spreads:
        tables.append(("Random settings, the same for every objective", *_spread_table(spreads)))
    cells = {score.cell.name: score.cell for rows in scores.values() for score in rows}
    folders = {name: out / "runs" / name for name in cells}
    result: dict[str, Any] = {
        "facts": dict(facts),
        "tables": {heading: [_plain(score) for score in rows] for heading, rows in scores.items()},
        "search": [dataclasses.asdict(spread) for spread in spreads],
    }
    write_text(out / "modes.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_text(out / "modes.md", _markdown(tables, facts))
    write_text(out / "index.html", _html(tables, facts, folders))
    (out / "animations").mkdir(exist_ok=True)
    for name, folder in folders.items():
        frames = _frames(folder)
        if len(frames) > 1:
            write_gif(frames, out / "animations" / f"{name}.gif", seconds_per_frame=0.4)
    return result


def _plain(score: Score) -> dict[str, Any]:
    return {
        **{key: value for key, value in dataclasses.asdict(score.cell).items() if value},
        "world": score.world,
        "seeds": [dataclasses.asdict(coverage) for coverage in score.coverage],
        "seconds": round(score.seconds, 1),
        **({"note": score.note} if score.note else {}),
    }


_NAMES = ("objective", "penalty", "remedy")


def _score_table(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: one row for a cell, three columns for a world."""
    worlds = list(dict.fromkeys(score.world for score in scores))
    # a column of nothing but "none" says nothing
    names = [name for name in _NAMES if name == "objective" or {getattr(s.cell, name) for s in scores} != {"none"}]
    columns = list(names)
    for world in worlds:
        modes = next((score.coverage[0].num_modes for score in scores if score.world == world and score.coverage), 0)
        columns += [f"{world}: modes of {modes}", "within 3 σ", "reverse KL"]
    columns.append("seconds")
    by_cell: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_cell.setdefault(score.cell.name, {})[score.world] = score
    rows = []
    for of_cell in by_cell.values():
        first = next(iter(of_cell.values()))
        row = [getattr(first.cell, name) for name in names]
        for world in worlds:
            row += _measures(of_cell[world])
        rows.append([*row, f"{first.seconds:.0f}"])
    return columns, rows


def _measures(score: Score) -> list[str]:
    if not score.coverage:
        return ["diverged", "", ""]
    modes = [coverage.modes_found for coverage in score.coverage]
    spread = f" ({min(modes)}–{max(modes)})" if min(modes) < max(modes) else ""
    return [
        f"{score.mean('modes_found'):.1f}{spread}",
        f"{100 * score.mean('high_quality'):.1f} %",
        f"{score.mean('reverse_kl'):.3f}",
    ]


def _spread_table(spreads: Sequence[Spread]) -> tuple[list[str], list[list[str]]]:
    columns = ["objective", "world", "best", "median", "worst", "solved by", "best: modes, within 3 σ", "its settings"]
    rows = [
        [
            spread.objective,
            spread.world,
            *(f"{value:.2f}" for value in (spread.best, spread.median, spread.worst)),
            f"{100 * spread.solved:.0f} %",
            _best(spread),
            " ".join(spread.best_setting),
        ]
        for spread in spreads
    ]
    return columns, rows


def _best(spread: Spread) -> str:
    if spread.best_modes is None or spread.best_quality is None:
        return "–"
    return f"{spread.best_modes:.1f}, {100 * spread.best_quality:.0f} %"


_LEGEND = (
    f"Mean over seeds (least to most where they differ), {SAMPLES:,} points each. A mode counts as found when a point "
    "within 3 σ is nearest to it; a perfect sampler has 98.9 % within 3 σ. Reverse KL: nearest modes of the points "
    "against equal shares, 0 to log(modes)."
)
_SEARCH_LEGEND = (
    "best, median and worst over the settings of (share of modes found) × (share within 3 σ); a setting solves a world "
    "when it finds every mode with at least 90 % within 3 σ."
)


def _markdown(tables: Iterable[Table], facts: Mapping[str, Any]) -> str:
    parts = ["# Modes found\n", *(f"- {key}: {value}" for key, value in facts.items()), "", _LEGEND, ""]
    for heading, columns, rows in tables:
        parts += [f"## {heading}\n"]
        parts += [_SEARCH_LEGEND + "\n"] if "best" in columns else []
        parts += [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows)]
        parts.append("")
    return "\n".join(parts)


def _html(tables: Iterable[Table], facts: Mapping[str, Any], folders: Mapping[str, Path]) -> str:
    lines = "".join(f"<li>{escape(key)}: {escape(value)}</li>" for key, value in facts.items())
    body = (
        '<header><p class="over">img2img bench modes</p><h1>Modes found</h1></header>\n'
        f'<ul class="note">{lines}</ul>\n<p class="note">{escape(_LEGEND)}</p>\n'
    )
    for heading, columns, rows in tables:
        note = f'<p class="note">{escape(_SEARCH_LEGEND)}</p>\n' if "best" in columns else ""
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
        body += section(
            heading,
            f'{note}<div class="wide"><table class="scores"><thead><tr>{head}</tr></thead>'
            f"<tbody>\n{lines}</tbody></table></div>\n",
        )
    budget = _PICTURE_BYTES // max(1, len(folders))
    for name, folder in folders.items():
        frames = [
            (f"{seen / 1000:,g} kimg", picture)
            for seen, picture in read_snapshots(folder / "samples", count=_FRAMES, budget=budget)
        ]
        body += section(name.replace("_", " · "), film(frames, []))
    return page("Modes found", body)


def _frames(folder: Path) -> list[np.ndarray]:
    """The run's pictures in time, reduced to one modest width."""
    frames = []
    for path in list_snapshots(folder / "samples"):
        with Image.open(path, formats=["PNG"]) as image:
            size = (_WIDTH, round(image.height * _WIDTH / image.width)) if image.width > _WIDTH else image.size
            frames.append(np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    return frames
