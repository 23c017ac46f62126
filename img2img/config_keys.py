"""What one configuration key takes: its type, its bounds, its help, and the words for a value that it does not take."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from img2img.errors import Fault, UsageFault

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]

LARGEST_INTEGER = 2**63 - 1
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Unfit(Exception):
    """A value that its key does not take."""


@dataclass(frozen=True)
class Key:
    """One configuration key: what it means and which values it takes.

    Attributes:
        name: full name, table and field ("train.batch").
        type: the field's annotation; tuple types have two elements.
        default: value when nothing sets it; None with `required` means that it must be set.
        minimum, maximum: inclusive bounds; `above`, `below`: exclusive ones. Of each element for tuples.
        choices: the only values taken, when there are any.
        repeats: one number stands for both elements of a tuple.
    """

    name: str
    type: Any
    help: str
    default: Any = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Scalar, ...] = ()
    repeats: bool = False

    @property
    def optional(self) -> bool:
        """None ("none" in TOML and --set) is a value of this key."""
        return type(None) in typing.get_args(self.type)

    @property
    def is_pair(self) -> bool:
        return typing.get_origin(self.type) is tuple

    @property
    def element(self) -> type:
        """The type of the value, or of each element of a tuple."""
        arguments = typing.get_args(self.type)
        return arguments[0] if arguments else self.type

    def allowed(self) -> str:
        """What the key takes, as a phrase for messages and listings."""
        if self.choices:
            return " or ".join(toml(choice) for choice in self.choices)
        single, several = {
            bool: ("true or false", "true or false each"),
            int: ("an integer", "two integers"),
            float: ("a number", "two numbers"),
            str: ("a text", "two texts"),
        }[self.element]
        phrase = several if self.is_pair else single
        if self.repeats:
            phrase = f"{single} or {several}"
        bounds = [
            f"{words} {plain_number(bound)}"
            for words, bound in (
                ("at least", self.minimum),
                ("above", self.above),
                ("at most", self.maximum),
                ("below", self.below),
            )
            if bound is not None
        ]
        if bounds:
            phrase += f", {' and '.join(bounds)}"
        return f"{phrase}, or none" if self.optional else phrase

    def read(self, value: object) -> Any:
        """`value` as the field's type; raises Unfit where it is of another type or out of bounds."""
        if self.optional and (value is None or value == "none"):
            return None
        if not self.is_pair:
            return self._read_one(value)
        if self.repeats and isinstance(value, int):
            value = (value, value)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise Unfit
        return tuple(self._read_one(item) for item in value)

    def _read_one(self, value: object) -> Scalar:
        scalar = read_scalar(value)
        if self.element is float and type(scalar) is int:
            scalar = float(scalar)
        if type(scalar) is not self.element:  # a bool is never an integer here
            raise Unfit
        if self.choices and scalar not in self.choices:
            raise Unfit
        if isinstance(scalar, int | float):
            too_small = (self.minimum is not None and scalar < self.minimum) or (
                self.above is not None and scalar <= self.above
            )
            too_large = (self.maximum is not None and scalar > self.maximum) or (
                self.below is not None and scalar >= self.below
            )
            if too_small or too_large:
                raise Unfit
        return scalar


def read_scalar(value: object) -> Scalar:
    """A finite number, a boolean or a text that UTF-8 can hold."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST_INTEGER:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value):
        return value
    raise Unfit


def read_argument(value: object) -> Value:
    """An argument of a network, objective or penalty: a scalar or a flat list of scalars."""
    if isinstance(value, list | tuple):
        return tuple(read_scalar(item) for item in value)
    return read_scalar(value)


def read_name(value: object) -> str:
    """The name of something registered."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Unfit
    return value


def unfit(key: Key, subject: str, value: object) -> Fault:
    """The fault of a value that `key` does not take."""
    return UsageFault(subject, f"cannot be {shown(value)}", f"Give {key.allowed()}")


def shown(value: object) -> str:
    """`value` in a message: short, and never the digits of an endless number."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "a number of more than 64 bits"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in value[:4]) + (", …]" if len(value) > 4 else "]")
    text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def plain_number(number: float) -> str:
    """A number as a person writes it: 8 rather than 8.0."""
    return str(int(number)) if float(number).is_integer() else str(number)


def nearest(word: str, known: Sequence[str]) -> list[str]:
    """Up to three of `known` that `word` may have meant.

    They are those of its own section that are spelled alike, or else end alike, as optim.lr and optim.generator_lr do;
    or else those of any section that are spelled alike, or have the same last part.
    """
    import difflib

    section, _, leaf = word.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in known if section and name.rpartition(".")[0] == section}
    alike = [beside[other] for other in difflib.get_close_matches(leaf, list(beside), n=2)]
    end_alike = [name for other, name in beside.items() if other.rpartition("_")[2] == leaf.rpartition("_")[2]]
    if alike or end_alike:
        return (alike or end_alike)[:3]
    leaves: dict[str, list[str]] = {}
    for name in known:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.75)
    for same in [leaf, *difflib.get_close_matches(leaf, list(leaves), n=2, cutoff=0.75)]:
        close += leaves.get(same, [])
    return list(dict.fromkeys(close))[:3]


def toml(value: Value) -> str:
    """A value as TOML writes it, exactly."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_escape(character) for character in escaped) + '"'


def toml_or_none(value: Value | None) -> str:
    """A value as TOML writes it; none where there is none, which TOML cannot say."""
    return "none" if value is None else toml(value)


def _escape(character: str) -> str:
    return character if character >= " " and character != "\x7f" else f"\\u{ord(character):04x}"
