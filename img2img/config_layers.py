"""The layers of a configuration: one TOML file or all --set texts, each value checked where it was written.

Some tables are more than single keys. Those of networks and `loss.adversarial` name a registered thing and hold its
arguments; naming another thing drops the arguments of the old one, and "none" takes away a network that a method can do
without. `loss.penalties` holds one table for each penalty; a list of names replaces them all.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from img2img.config_keys import NAME, Key, Unfit, Value, nearest, read_argument, read_name, shown, unfit
from img2img.errors import Fault, UsageFault, printable

ADVERSARIAL = "loss.adversarial"
PENALTIES = "loss.penalties"
PLAYERS = ("generator", "discriminator")  # every method has these networks
FURTHER_NETWORKS = ("projection", "mapping", "style_encoder")  # these only where the method has a use for them
NAMED_TABLES = (*PLAYERS, *FURTHER_NETWORKS, ADVERSARIAL)
NAMES = tuple(f"{table}.name" for table in NAMED_TABLES)


@dataclass
class Named:
    """What a layer says of a network or objective. `whole`: it was named as a whole, so nothing below it remains."""

    values: dict[str, Any] = field(default_factory=dict)
    whole: bool = False

    def over(self, below: Named) -> Named:
        renamed = "name" in self.values and self.values["name"] != below.values.get("name")
        return self if self.whole or renamed else Named({**below.values, **self.values}, below.whole)


@dataclass
class Penalties:
    """What a layer says of the penalties. `whole`: it listed them, so those below are gone."""

    tables: dict[str, dict[str, Value]] = field(default_factory=dict)
    whole: bool = False

    def over(self, below: Penalties) -> Penalties:
        if self.whole:
            return self
        merged = {name: dict(arguments) for name, arguments in below.tables.items()}
        for name, arguments in self.tables.items():
            merged.setdefault(name, {}).update(arguments)
        return Penalties(merged, below.whole)


class Layer:
    """Checked values of one source.

    Args:
        keys: every plain key by its full name.
        origin: the file's name, put before its keys in messages; empty for --set.
    """

    def __init__(self, keys: Mapping[str, Key], origin: str = "") -> None:
        self.origin = printable(origin)
        self.values: dict[str, Any] = {}
        self.named = {table: Named() for table in NAMED_TABLES}
        self.penalties = Penalties()
        self.faults: list[Fault] = []
        self.faulty_keys: set[str] = set()
        self._keys = keys
        self._tables = dict.fromkeys(
            [*(key.rpartition(".")[0] for key in keys if "." in key), *NAMED_TABLES, PENALTIES]
        )

    def put_table(self, prefix: str, table: Mapping[str, object]) -> None:
        for name, value in table.items():
            key = f"{prefix}.{name}" if prefix else name
            if NAME.fullmatch(name):
                self.put(key, value)
            else:
                self.refuse_unknown(key)

    def put(self, key: str, value: object) -> None:
        """Take one key; a table is taken key by key, a name or a list of names as a whole."""
        parent, _, name = key.rpartition(".")
        if parent in self.named:
            read = self._keys[key].read if key in self._keys else read_name if name == "name" else read_argument
            self._read(key, read, value, self.named[parent].values, name)
        elif key in self._keys:
            self._read(key, self._keys[key].read, value, self.values, key)
        elif key in self.named and isinstance(value, str):
            self.named[key] = Named(whole=True)
            if key not in FURTHER_NETWORKS or value != "none":
                self._read(f"{key}.name", read_name, value, self.named[key].values, "name")
        elif key == PENALTIES and isinstance(value, str | list | tuple):
            self._put_penalties(value)
        elif parent == PENALTIES and isinstance(value, dict):
            self.penalties.tables.setdefault(name, {})
            self.put_table(key, value)
        elif parent.startswith(f"{PENALTIES}.") and parent.count(".") == 2:
            penalty = parent.rpartition(".")[2]
            self._read(key, read_argument, value, self.penalties.tables.setdefault(penalty, {}), name)
        elif key in self._tables and isinstance(value, dict):
            self.put_table(key, value)
        elif key in self._tables or parent == PENALTIES:
            self.refuse(key, "is a table of keys, not a value", f"Set a key inside it, such as {self._example(key)}")
        else:
            self.refuse_unknown(key)

    def refuse(self, key: str, problem: str, mend: str) -> None:
        self.faulty_keys.add(key)
        self.faults.append(UsageFault(self._subject(key), problem, mend))

    def refuse_unknown(self, key: str) -> None:
        near = nearest(key, [*self._keys, *NAMES, *self._tables])
        mend = f"Did you mean {' or '.join(near)}?" if near else "`img2img recipes keys` lists every key"
        self.refuse(key, "there is no such key", mend)

    def _put_penalties(self, value: str | Sequence[object]) -> None:
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
        self.penalties = Penalties(whole=True)
        for name in names if names not in (["none"], [""]) else ():
            if isinstance(name, str) and NAME.fullmatch(name):
                self.penalties.tables[name] = {}
            else:
                self.refuse(
                    PENALTIES,
                    f"{shown(name)} is no name of a penalty",
                    "Give names, such as r1,gradient_penalty, or none",
                )

    def _read(self, key: str, read: Callable[[object], Any], value: object, into: dict[str, Any], name: str) -> None:
        try:
            into[name] = read(value)
        except Unfit:
            self.faulty_keys.add(key)
            if key in self._keys:
                self.faults.append(unfit(self._keys[key], self._subject(key), value))
            else:
                wanted = "Give a name" if name == "name" else "Give a finite number, true, false, a text or a list"
                self.refuse(key, f"cannot be {shown(value)}", wanted)

    def _subject(self, key: str) -> str:
        return f"{self.origin}: {key}" if self.origin else key

    def _example(self, table: str) -> str:
        if table in self.named:
            return f"{table}.name"
        if table == PENALTIES or table.startswith(f"{PENALTIES}."):
            return f"{table}.weight" if table != PENALTIES else f"{table}.r1.weight"
        return next(key for key in self._keys if key.startswith(f"{table}."))


def file_layer(keys: Mapping[str, Key], text: str, origin: str) -> Layer:
    """The layer of a TOML text; UsageFault when it is not TOML."""
    layer = Layer(keys, origin)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise UsageFault(origin, "lists or tables are nested too deep", "Write plain keys and tables") from None
    except ValueError as error:
        raise UsageFault(origin, f"is not valid TOML: {error}", "Mend it there") from None
    layer.put_table("", table)
    return layer


def set_layer(keys: Mapping[str, Key], sets: Iterable[str] | Mapping[str, Any]) -> Layer:
    """The layer of `key=value` texts, or of a mapping from key to value; of two for one key the later wins."""
    layer = Layer(keys)
    assignments: list[tuple[str, Any]] = []
    if isinstance(sets, Mapping):
        assignments += sets.items()
    else:
        for text in sets:
            key, equals, value = (part.strip() for part in text.partition("="))
            if equals and key:
                takes_text = key in NAMED_TABLES or (key in keys and keys[key].element is str)
                assignments.append((key, _parse_text(value) if takes_text else parse_value(value)))
            else:
                layer.faults.append(UsageFault(f"--set {text}", "is no assignment", "Write --set key=value"))
    # What names a table as a whole comes first, so that the order of the options does not matter
    for key, value in sorted(assignments, key=lambda assignment: assignment[0].count(".")):
        if all(NAME.fullmatch(part) for part in key.split(".")):
            layer.put(key, value)
        else:
            layer.refuse_unknown(key)
    return layer


def _parse_text(text: str) -> object:
    """`text` where a text or a table is wanted: quotes are taken off, and 5 is a text too."""
    value = parse_value(text)
    return value if isinstance(value, str | dict) else text


def parse_value(text: str) -> object:
    """A TOML value; `.5`, `True` and `1,2` as people type them; else the text itself."""
    if "\n" not in text and "\r" not in text:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            pass
    if text in ("True", "False"):
        return text == "True"
    if re.fullmatch(r"[+-]?(\.[0-9]+|[0-9]+\.)([eE][+-]?[0-9]+)?", text):
        return float(text)
    if "," in text and not text.startswith(("[", "{", '"', "'")):
        return [parse_value(part.strip()) for part in text.split(",")]
    return text


def merge(keys: Mapping[str, Key], layers: Sequence[Layer]) -> Layer:
    """One layer of several; the later ones win, and all their faults are kept."""
    merged = Layer(keys)
    for layer in layers:
        merged.values.update(layer.values)
        merged.named = {table: layer.named[table].over(merged.named[table]) for table in NAMED_TABLES}
        merged.penalties = layer.penalties.over(merged.penalties)
        merged.faults += layer.faults
        merged.faulty_keys |= layer.faulty_keys
    return merged
