"""What is done about the faults of a run: they are told, and as train.watchdog says the run ends or goes back.

The loop hands over each line of its log and asks whether there is an `alarm`. Of several processes only the first one
has the log; the loop sees to it that all do the same.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from img2img.config import Config, as_dict
from img2img.training.diagnosis import LINES, NON_FINITE, Diagnosis, diagnose
from img2img.training.engine import SKIPS_IN_A_ROW, Engine

_log = logging.getLogger("img2img.training")

ROLLBACKS = 3
"""How often a run goes back; each time its learning rates are halved."""

_PART = "watchdog"


@dataclass(frozen=True)
class Alarm:
    """Why a run cannot go on as it does.

    Attributes:
        problem: what is wrong, and the evidence.
        setting: the key to change and its value; empty where there is none.
        sound_step: after so many steps nothing of it was to be seen yet.
        diverged: it was told from the gradients, not from the log.
    """

    problem: str
    setting: str
    sound_step: int
    diverged: bool


class Watchdog:
    """The faults of one run.

    Attributes:
        faults: what the last line of the log tells of.
        rollbacks: for each return to an earlier state, what the log says of it; part of the training state.
    """

    def __init__(self, config: Config) -> None:
        self.mode = config.train.watchdog
        self.faults: list[Diagnosis] = []
        self.rollbacks: list[dict[str, Any]] = []
        self._settings = as_dict(config)
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=LINES)
        self._told: set[tuple[str, str]] = set()
        self._alarming: Diagnosis | None = None
        self._sound: dict[tuple[str, str], int] = {}  # fault -> after so many steps nothing of it was to be seen yet

    @property
    def watches(self) -> bool:
        """Anything is looked at."""
        return self.mode != "off"

    @property
    def acts(self) -> bool:
        """A fault does more than be told."""
        return self.mode in ("stop", "rollback")

    @property
    def can_go_back(self) -> bool:
        return self.mode == "rollback" and len(self.rollbacks) < ROLLBACKS

    def look(self, record: Mapping[str, Any]) -> dict[str, list[str]]:
        """Take in a line of the log; returns what it shall say of faults. Each is told once, when it is first seen."""
        if not self.watches:
            return {}
        self._take_in(record)
        for fault in self.faults:
            if (fault.fault, fault.where) not in self._told:
                self._told.add((fault.fault, fault.where))
                _log.warning(str(fault))
        return {"faults": [str(fault) for fault in self.faults]} if self.faults else {}

    def remember(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Go on behind the lines that a log has already."""
        watched = [record for record in records if isinstance(record.get("monitors"), Mapping)]
        sound = len(watched)
        while sound and "faults" in watched[sound - 1]:
            sound -= 1
        self._recent.clear()
        self._sound.clear()
        for record in watched[max(0, sound - LINES) :]:
            self._take_in(record)

    def _take_in(self, record: Mapping[str, Any]) -> None:
        self._recent.append(record)
        self.faults = diagnose(self._recent, self._settings)
        before = self._recent[0].get("step", 0) - 1
        keys = [(fault.fault, fault.where) for fault in self.faults]
        self._sound = {key: self._sound.get(key, before) for key in keys}

    @property
    def _step_a_line(self) -> int:
        """Steps from one line of the log to the next."""
        steps = [record.get("step", 0) for record in self._recent]
        return steps[1] - steps[0] if len(steps) > 1 else 0

    def sound_steps(self, engine: Engine) -> tuple[int, ...]:
        """Whatever is found next, after one of these numbers of steps nothing of it was to be seen yet."""
        return self._recent[0].get("step", 0) - 1 if self._recent else 0, *_first_skips(engine)

    def alarm(self, engine: Engine) -> Alarm | None:
        """Divergence, or the first fault of the last line, where faults matter, that spoils what is learned."""
        if engine.has_diverged:
            row = engine.skips_in_a_row
            count = f"{row} steps in a row" if row >= SKIPS_IN_A_ROW else "5 % of the last 1,000 steps"
            problem = f"training diverged at step {engine.step}: {count} were not finite, first {engine.first_bad}"
            rate = self._settings["optim.lr"] * engine.rate_factor
            in_a_row, in_window = _first_skips(engine)
            sound = in_a_row if row >= SKIPS_IN_A_ROW else in_window
            return Alarm(problem, f"optim.lr={rate / 2:g}", sound, diverged=True)
        for fault in self.faults if self.acts else ():
            if fault.spoils:
                self._alarming = fault
                problem = f"{fault.fault} ({fault.where}): {fault.evidence}"
                sound = self._sound[fault.fault, fault.where]
                if fault.fault == NON_FINITE:  # of these the steps themselves are known
                    sound = min(
                        (step for step in engine.skipped_steps if step >= sound - self._step_a_line), default=sound
                    )
                return Alarm(problem, f"{fault.key}={fault.value}", sound, diverged=False)
        return None

    def go_back(self, record: dict[str, Any]) -> None:
        """Note a return to an earlier state; `record` is what the log says of it."""
        self._told.clear()
        self.faults, self._alarming = [], None
        self.rollbacks.append(record)

    def summary(self) -> str:
        """The faults that still stand, one a line, but for the one that the run ends by; empty where there are none."""
        faults = [f"  {fault}" for fault in self.faults if fault is not self._alarming]
        return "\n".join(["faults that still stand at the end:", *faults]) if faults else ""

    def state_dict(self) -> dict[str, Any]:
        """A part of the training state; nothing where the run never went back."""
        return {_PART: {"rollbacks": self.rollbacks}} if self.rollbacks else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rollbacks = list(state.get(_PART, {}).get("rollbacks", []))


def _first_skips(engine: Engine) -> tuple[int, int]:
    """The first step of those skipped at last in a row, and of those within a thousand; the next one where none was."""
    recent = [step for step in engine.skipped_steps if step > engine.step - 1000]
    return engine.step - engine.skips_in_a_row, recent[0] if recent else engine.step
