"""Faults that a user can mend, each with the exit code the command line gives it.

Every message has one form: `subject: problem. mend`, where the subject is a file, an option or a configuration key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_NUM_NAMES_SHOWN = 10


def printable(text: object) -> str:
    """`text` with control characters and undecodable bytes escaped, so that a file name cannot drive a terminal."""
    escaped = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in escaped
    )


def counted(count: int, noun: str) -> str:
    """Such as "1 picture" and "2,000 pictures"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some_names(names: Iterable[str]) -> str:
    """The first ten of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _NUM_NAMES_SHOWN} more" if len(names) > _NUM_NAMES_SHOWN else ""
    return ", ".join(names[:_NUM_NAMES_SHOWN]) + more


class Fault(Exception):
    """Something a user can mend: `subject` (file, option or key), the `problem`, and how to `mend` it."""

    exit_code = 1

    def __init__(self, subject: object, problem: str, mend: str) -> None:
        self.subject = printable(subject)
        self.problem = printable(problem)
        self.mend = printable(mend)
        super().__init__(f"{self.subject}: {self.problem}. {self.mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is otherwise sent between processes as a call with its message alone
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[Fault], message: tuple[Any, ...], attributes: dict[str, Any]) -> Fault:
    fault = kind.__new__(kind, *message)
    fault.__dict__.update(attributes)
    return fault


class UsageFault(Fault):
    """Wrong options, configuration or data, found before any work began."""

    exit_code = 2


def unknown_name(subject: object, name: str, known: Iterable[str]) -> UsageFault:
    """The fault of a `name` that is none of the `known`, with those that may have been meant or else all."""
    return UsageFault(subject, f"{name!r} is unknown", suggestion(name, known))


def suggestion(name: str, known: Iterable[str]) -> str:
    """What may have been meant by `name`: all of the `known` that begin with it, or the nearest, or else all.

    Case does not matter, and a hyphen is an underscore.
    """
    import difflib

    names = list(known)
    folded = {other: _folded(other) for other in names}
    near = [other for other in names if name and folded[other].startswith(_folded(name))]
    if not near:
        closest = difflib.get_close_matches(_folded(name), folded.values(), n=1)
        near = [other for other in names if folded[other] in closest]
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names)}"


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


class ImageFault(Fault):
    """One picture that cannot be used; a batch goes on without it."""


class Faults(UsageFault):
    """Several faults of one kind, shown one per line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        assert self.faults, "Faults needs at least one fault"
        Exception.__init__(self, "\n".join(str(fault) for fault in self.faults))


class Diverged(Fault):
    """Training stopped itself; the last good state is named in the mend."""

    exit_code = 4


class Interrupted(Fault):
    """Stopped by a signal; `when` says after what."""

    def __init__(self, signal_number: int, subject: object, mend: str, when: str = ", state saved") -> None:
        super().__init__(subject, f"stopped by signal {signal_number}{when}", mend)
        self.exit_code = 128 + signal_number
