"""How a run stands by its evaluations: which model was the best so far, and since when none was better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_PART = "standing"


@dataclass
class Standing:
    """What the evaluations of a run came to; part of its saved state.

    Attributes:
        ruler: what was measured with what: values by another ruler cannot be compared.
        measured_at: images seen at the last evaluation; 0 before the first.
        best, best_at: the best value of the score that decides, and the images seen then; None before it.
        worse_since: evaluations after that one.
    """

    ruler: dict[str, Any] = field(default_factory=dict)
    measured_at: int = 0
    best: float | None = None
    best_at: int = 0
    worse_since: int = 0

    def note(self, images_seen: int, value: float, better: str) -> bool:
        """Take in an evaluation; returns whether it is the best so far. `better` is "lower" or "higher"."""
        self.measured_at = images_seen
        ahead = self.best is None or (value < self.best if better == "lower" else value > self.best)
        if ahead and math.isfinite(value):
            self.best, self.best_at, self.worse_since = value, images_seen, 0
            return True
        self.worse_since += 1
        return False

    def keep_best(self, other: Standing) -> None:
        """The best of two accounts of one run, of which only one model is kept."""
        if other.best is not None:
            self.best, self.best_at = other.best, other.best_at

    def is_over(self, patience: int) -> bool:
        """Whether `patience` evaluations in a row were no better; never where it is 0."""
        return 0 < patience <= self.worse_since

    def changes(self, ruler: Mapping[str, Any]) -> list[str]:
        """In what `ruler` differs from the one measured with so far; nothing where nothing was measured."""
        return [key for key in ruler if self.ruler and self.ruler.get(key) != ruler[key]]

    def state_dict(self) -> dict[str, Any]:
        """A part of the training state; nothing before the first evaluation."""
        return {_PART: asdict(self)} if self.measured_at else {}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Standing:
        """As it was when `state` was saved; fresh where it had no such part."""
        return cls(**state.get(_PART, {}))
