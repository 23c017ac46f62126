"""The run folder: what it leaves behind, and who may use it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import IO

import pytest

from img2img.config import load_recipe
from img2img.errors import Fault, Faults, UsageFault
from img2img.training import run_folder
from img2img.training.run_folder import RunFolder

CONFIG = load_recipe("dcgan-small")


def refuse(path: Path) -> None:
    """A run whose data turn out to be wrong before its configuration is written."""
    with pytest.raises(UsageFault, match="no images"), RunFolder(path, CONFIG, resume=False):
        raise UsageFault("photos", "no images", "Add some")


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse(tmp_path / "runs" / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    refuse(tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_run_that_began_keeps_its_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "new", CONFIG, resume=False) as folder:
        folder.write_config(CONFIG)
    assert sorted(path.name for path in (tmp_path / "runs" / "new").iterdir()) == [".lock", "config.toml"]


def test_another_recipe_is_refused_in_few_lines_and_as_toml_writes_values(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", CONFIG, resume=False) as folder:
        folder.write_config(CONFIG)
    with pytest.raises(Faults) as caught:
        RunFolder(tmp_path / "run", load_recipe("pix2pix-small"), resume=True)
    *keys, rest = map(str, caught.value.faults)
    assert keys[0].startswith('translator: the run has "unconditional", now "pix2pix"')
    assert not any(word in line for line in keys for word in ("None", "True", "False"))
    assert len(keys) == 8
    assert "Leave RECIPE out to go on with what it began with" in rest


def test_the_last_line_of_the_log_is_amended(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", CONFIG, resume=False) as folder:
        folder.amend_log({"images": 2, "seconds": 1.0, "measures": {"x": 1}})
        folder.append_log({"images": 4, "seconds": 2.0, "terms": {}})
        folder.amend_log({"images": 4, "seconds": 2.0, "measures": {"x": 0.1 + 0.2}})
        folder.amend_log({"images": 6, "seconds": 2.5, "measures": {"x": 3}})
        assert folder.rewind_log(6) == 2.5
    assert [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [
        {"images": 2, "seconds": 1.0, "measures": {"x": 1}},
        {"images": 4, "seconds": 2.0, "terms": {}, "measures": {"x": 0.1 + 0.2}},
        {"images": 6, "seconds": 2.5, "measures": {"x": 3}},
    ]


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line may be written before the disk says that it is full."""
    write = os.write

    def fill(descriptor: int, content: memoryview) -> int:
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[:10])

    with RunFolder(tmp_path / "run", CONFIG, resume=False) as folder:
        folder.append_log({"images": 2})
        monkeypatch.setattr(os, "write", fill)
        with pytest.raises(Fault, match=r"log\.jsonl: cannot be written: no space\. Free some space"):
            folder.append_log({"images": 4, "seconds": 1.25})
        monkeypatch.undo()
        folder.append_log({"images": 6})
    assert (tmp_path / "run" / "log.jsonl").read_text() == '{"images": 2}\n{"images": 6}\n'


def test_a_second_trainer_is_kept_out_and_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder(path, CONFIG, resume=False):
        with pytest.raises(UsageFault, match="in use by process"), RunFolder(path, CONFIG, resume=False):
            pass
        assert (path / ".lock").exists()


def test_a_lock_that_a_refused_run_took_back_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened just before the other removes it, locked just after: a third trainer would find no lock there."""
    path, lock = tmp_path / "run", fcntl.flock
    removed = []

    def flock(file: IO[str], operation: int) -> None:
        if not removed:
            removed.append((path / ".lock").unlink())
        lock(file, operation)

    monkeypatch.setattr(run_folder.fcntl, "flock", flock)
    with RunFolder(path, CONFIG, resume=False):
        with pytest.raises(UsageFault, match="in use by process"), RunFolder(path, CONFIG, resume=False):
            pass
        assert (path / ".lock").read_text() == str(os.getpid())
