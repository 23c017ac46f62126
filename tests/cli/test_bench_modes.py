"""`img2img bench modes`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from img2img_cli import main

TINY = [word for key in ("generator.width=8", "train.batch=16") for word in ("--set", key)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_table_is_printed_and_written() -> None:
    asked = ["--objective", "lsgan", "--penalty", "none", "--seeds", "2", "--kimg", "0.256", "--jobs", "1"]
    result = CliRunner().invoke(main, ["bench", "modes", *asked, *TINY, "--out", "made/table"])
    assert result.exit_code == 0, result.stderr
    assert "| objective | ring: modes of 8 | within 3 σ | reverse KL | grid: modes of 25 |" in result.stdout
    assert "| lsgan |" in result.stdout
    assert {path.name for path in Path("made/table").iterdir()} == {
        "modes.json",
        "modes.md",
        "index.html",
        "animations",
        "runs",
    }
    facts = json.loads(Path("made/table/modes.json").read_text("utf-8"))["facts"]
    assert (facts["seeds"], facts["kimg"], facts["worlds"]) == (2, 0.256, "ring, grid")


def test_a_name_that_does_not_exist_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["bench", "modes", "--objective", "hing"])
    assert result.exit_code == 2
    assert "--objective: 'hing' is unknown. Did you mean hinge?" in result.stderr
    assert list(Path().iterdir()) == []


def test_choices_that_cannot_work_together_are_refused_before_anything_is_written() -> None:
    result = CliRunner().invoke(main, ["bench", "modes", "--objective", "ebgan", "--penalty", "gradient_penalty"])
    assert result.exit_code == 2
    assert "loss.penalties.gradient_penalty: " in result.stderr
    assert list(Path().iterdir()) == []
