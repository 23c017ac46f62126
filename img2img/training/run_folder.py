"""The folder of one run: configuration, log, samples, states and model, and the lock that keeps it to one trainer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from img2img import config as configuration
from img2img.atomic import TEMPORARY_PATTERN, append_text, remove_leftovers, write_bytes, write_fault, write_text
from img2img.config import Config
from img2img.config_keys import toml_or_none
from img2img.data.encode import save_image
from img2img.errors import Faults, UsageFault, counted

_log = logging.getLogger("img2img.training")
_LOCK = ".lock"
_NUM_CHANGES_SHOWN = 8


def _is_ours(name: str) -> bool:
    """What a run that was killed in its first moments leaves in its folder."""
    return name == _LOCK or fnmatch(name, TEMPORARY_PATTERN)


class RunFolder:
    """`runs/NAME`: made or taken up again, locked while entered.

    Raises:
        UsageFault: it exists and resuming was not asked for, cannot be written, is in use, or was configured otherwise.
    """

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        self.path = path
        self.states = path / "state"
        self.model = path / "model.safetensors"
        self.best = path / "best.safetensors"
        self._log_path = path / "log.jsonl"
        self._lock: IO[str] | None = None
        self._made: list[Path] = []
        if (path / "config.toml").exists():
            if not resume:
                raise UsageFault(path, "this run exists already", "Continue it with --resume, or choose another --out")
            self._compare(config)
        elif path.is_dir() and any(not _is_ours(entry.name) for entry in path.iterdir()):
            raise UsageFault(path, "the folder is not empty and holds no run", "Choose another --out")

    def __enter__(self) -> RunFolder:
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / _LOCK, "a+")
        except OSError as error:
            raise UsageFault(self.path, f"cannot be written ({error.strerror})", "Choose another --out") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            raise UsageFault(self.path, f"the run is in use by process {holder}", "Wait for it, or stop it") from error
        if os.fstat(self._lock.fileno()).st_nlink == 0:  # a refused run took it back after it was opened here
            self._lock.close()
            return self.__enter__()
        remove_leftovers([self.path, self.path / "samples", self.states])
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._lock is not None, "entered before"
        if not (self.path / "config.toml").exists():  # refused before it began: nothing is left behind
            (self.path / _LOCK).unlink()
            for folder in self._made:
                with contextlib.suppress(OSError):  # not empty: somebody else uses it by now
                    folder.rmdir()
        self._lock.close()

    def write_config(self, config: Config) -> None:
        write_text(self.path / "config.toml", configuration.to_toml(config))

    def _compare(self, config: Config) -> None:
        """Refuse changed keys, but for those that a resumed run may change; say when it is to be longer."""
        old = configuration.read_toml(self.path / "config.toml")
        changes = configuration.refused_changes(old, config)
        if changes:
            faults = [
                UsageFault(
                    key,
                    f"the run has {toml_or_none(before)}, now {toml_or_none(now)}",
                    "Leave it as it was (without RECIPE and --set the run knows its own), or start a new --out",
                )
                for key, before, now in changes[:_NUM_CHANGES_SHOWN]
            ]
            if len(changes) > len(faults):
                more = len(changes) - len(faults)
                faults.append(
                    UsageFault(
                        self.path,
                        f"{counted(more, 'more key')} {'differs' if more == 1 else 'differ'}, as with another recipe",
                        "Leave RECIPE out to go on with what it began with",
                    )
                )
            raise Faults(faults)
        if config.train.kimg > old.train.kimg:
            _log.info(f"the run is made longer: train.kimg {old.train.kimg:g} then, {config.train.kimg:g} now")

    # --- log and samples ----------------------------------------------------------------------------------------------

    def append_log(self, record: Mapping[str, Any]) -> None:
        append_text(self._log_path, json.dumps(record, sort_keys=True) + "\n")

    def amend_log(self, record: Mapping[str, Any]) -> None:
        """Add `record` to the log's last line where both are of the same images, else as a line of its own."""
        lines = self._log_path.read_text(encoding="utf-8").splitlines(keepends=True) if self._log_path.exists() else []
        last = json.loads(lines[-1]) if lines else {}
        if last.get("images") != record["images"]:
            self.append_log(record)
            return
        write_text(self._log_path, "".join([*lines[:-1], json.dumps({**last, **record}, sort_keys=True) + "\n"]))

    def rewind_log(self, images_seen: int, rollbacks: Sequence[Mapping[str, Any]] = ()) -> float:
        """Drop what was logged after `images_seen`; returns the seconds of training so far.

        Args:
            rollbacks: what the log says of returns to earlier states so far: such lines stay, missing ones are added.
        """
        if not self._log_path.exists():
            return 0.0
        kept, seconds, returns = [], 0.0, 0
        for line in self._log_path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the line a kill cut short
            is_return = "rollback" in record
            returns += is_return
            if returns <= len(rollbacks) if is_return else record["images"] <= images_seen:
                kept.append(line + "\n")
                seconds = record["seconds"]
        # a return whose line is missing was killed between its state and the line
        kept += [json.dumps({**record, "seconds": seconds}, sort_keys=True) + "\n" for record in rollbacks[returns:]]
        write_text(self._log_path, "".join(kept))
        return float(seconds)

    def write_samples(self, images_seen: int, grid: np.ndarray, rows: list[str]) -> None:
        """`grid` is uint8 (H, W, C); `rows` names its rows of pictures from the top."""
        folder = self.path / "samples"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise write_fault(folder, error) from error
        save_image(folder / f"{images_seen:09d}.png", grid)
        write_bytes(folder / "rows.json", json.dumps({"rows": rows}).encode())
