"""Two metric cards side by side, where their scores can be compared at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img2img.errors import Fault, Faults, UsageFault
from img2img.evaluation.card import Card
from img2img.evaluation.pairs import PAIR_NAMES

# details of a score that are results, not choices
_RESULTS = frozenset(
    (
        "std", "slope", "values", "classes", "nearest", "whole_sets", "expected", "equal_pairs", "mean_of_others",
        "discarded", "spread", "copies", "z", "sizes",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One score in both cards.

    Attributes:
        better: "first", "second", or "" where neither direction is better or both are equal.
        apart: whether their intervals are; None without intervals.
    """

    name: str
    first: float
    second: float
    better: str
    apart: bool | None


def compare_cards(first: Card, second: Card, names: tuple[Path | str, Path | str]) -> list[Row]:
    """The scores that both cards have.

    Raises:
        UsageFault: (as Faults) every reason why the cards cannot be compared.
    """
    shared = [name for name in first.scores if name in second.scores]
    reasons = [] if shared else [_reason("measures", list(first.scores), list(second.scores), "Measure both the same")]
    reasons += _differences(first, second, shared)
    for name in shared:
        one, other = (_choices(card.scores[name]) for card in (first, second))
        if one != other:
            reasons.append(_reason(name, one, other, "Measure both with the same settings"))
    if reasons:
        title = UsageFault(f"{names[0]} and {names[1]}", "cannot be compared", "Each reason follows")
        raise Faults([title, *reasons])
    return [_row(name, first.scores[name], second.scores[name]) for name in shared]


def _differences(first: Card, second: Card, shared: Sequence[str]) -> list[Fault]:
    """What makes the scores that two cards share incomparable."""
    found: list[Fault] = []
    looked = [name for name in shared if name not in PAIR_NAMES and "weights" not in first.scores[name]["details"]]
    for key, mend in (
        ("name", "Measure both with one --extractor"),
        ("weights", "Measure both with the same weights file"),
        ("resize", "Measure both with the same --resize"),
    ):
        one, other = (None if card.extractor is None else card.extractor.get(key) for card in (first, second))
        if looked and one != other:
            found.append(_reason(f"extractor's {key}", one, other, mend))
    if first.preparation != second.preparation:
        found.append(
            _reason("preparation", first.preparation, second.preparation, "Use the same --resolution and --fit")
        )
    if first.real.get("sha256") != second.real.get("sha256"):
        found.append(
            _reason(
                "real pictures",
                _described(first.real),
                _described(second.real),
                "Measure both against the same pictures",
            )
        )
    one, other = (sorted(card.fake.get("sizes") or ()) for card in (first, second))
    if one != other:
        found.append(_reason("sizes of fake pictures", one, other, "Use the same --resolution"))
    counted = any(first.scores[name].get("counts_matter", True) for name in shared)
    if counted and first.fake.get("count") != second.fake.get("count"):
        mend = "Distances fall with the count: measure both with the same --count"
        found.append(_reason("count of fake pictures", first.fake.get("count"), second.fake.get("count"), mend))
    return found


def _reason(subject: str, first: object, second: object, mend: str) -> Fault:
    return UsageFault(subject, f"{_shown(first)} against {_shown(second)}", mend)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a hash


def _described(side: Mapping[str, Any]) -> str:
    return f"{side.get('count')} of {side.get('name')} ({str(side.get('sha256'))[:12]}…)"


def _choices(score: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in score.get("details", {}).items() if key not in _RESULTS}


def _row(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Row:
    values = first["value"], second["value"]
    better = ""
    if values[0] != values[1] and first.get("better") in ("lower", "higher"):
        better = "first" if (values[0] < values[1]) == (first["better"] == "lower") else "second"
    bounds = [score.get("interval") for score in (first, second)]
    apart = None
    if bounds[0] and bounds[1]:
        apart = bounds[0]["high"] < bounds[1]["low"] or bounds[1]["high"] < bounds[0]["low"]
    assert all(not math.isnan(value) for value in values), "a card holds no such number"
    return Row(name, *values, better, apart)
