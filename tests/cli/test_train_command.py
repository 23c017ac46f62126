from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from img2img.config import DataPaths, from_toml, load_recipe, resolve, to_toml
from img2img_cli import main
from img2img_cli.options import split_pairs
from img2img_cli.progress import TrainProgress, describe, duration


@dataclass(frozen=True)
class Result:
    status: str
    run_dir: Path | None
    model_path: Path | None
    images_seen: int
    images_per_second: float
    seconds: float
    peak_memory: int
    evaluations: int = 0
    evaluation_seconds: float = 0.0
    best: Any = None
    stopped_early: bool = False


class Training:
    """Stands for the library: remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}

    def train(self, config: Any, data: DataPaths, out: Path, **options: Any) -> Result:
        self.calls.append({"config": config, "data": data, "out": out, **options})
        if options["dry_run"]:
            return Result("planned", None, None, 0, 20.0, 2000.0, 1_500_000_000, **self.more)
        return Result("finished", out, out / "model.safetensors", 40_000, 20.0, 2000.0, 1_500_000_000, **self.more)

    @property
    def call(self) -> dict[str, Any]:
        (call,) = self.calls
        return call


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    training = Training()
    monkeypatch.setitem(sys.modules, "img2img.training", SimpleNamespace(train=training.train))  # type: ignore[arg-type]
    return training


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "drawings", "my pictures ö"):
        (tmp_path / name).mkdir()
    yield tmp_path
    left = {path.name for path in tmp_path.iterdir()} - {"photos", "drawings", "my pictures ö"}
    assert not left - {"runs", "mine.toml"}, "the command itself writes nothing"


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["train", *words])


def test_the_options_reach_the_library(training: Training, here: Path) -> None:
    result = run(
        "cyclegan-small", "--a", "photos", "--b", "drawings", "--set", "train.batch=2", "--set", "loss.identity=none",
        "--out", "runs/mine", "--device", "cpu", "--init", "old.safetensors",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    call = training.call
    assert call["config"] == resolve("cyclegan-small", None, ["train.batch=2", "loss.identity=none"])
    assert call["data"] == DataPaths(a=Path("photos"), b=Path("drawings"))
    assert call["out"] == Path("runs/mine")
    assert (call["device"], call["init"]) == ("cpu", Path("old.safetensors"))
    assert (call["resume"], call["dry_run"]) == (False, False)
    assert "runs/mine/model.safetensors" in result.stdout
    assert "runs/mine/report.html" in result.stdout


def test_the_run_is_called_after_the_recipe(training: Training, here: Path) -> None:
    assert run("dcgan", "--images", "my pictures ö", "--resume").exit_code == 0
    assert training.call["out"] == Path("runs/dcgan")
    assert training.call["resume"] is True
    assert training.call["data"].images == Path("my pictures ö")


def test_a_file_lies_over_the_recipe(training: Training, here: Path) -> None:
    (here / "mine.toml").write_text("[train]\nbatch = 3\n")
    assert run("cgan", "--classes", "photos", "--config", "mine.toml").exit_code == 0
    assert training.call["config"].train.batch == 3


def test_resume_takes_up_the_configuration_of_the_run(training: Training, here: Path) -> None:
    config = resolve("dcgan-small", None, ["train.seed=5"])
    (here / "runs" / "x").mkdir(parents=True)
    (here / "runs" / "x" / "config.toml").write_text(to_toml(config))
    result = run("--images", "photos", "--out", "runs/x", "--resume", "--set", "train.kimg=80")
    assert result.exit_code == 0, result.output
    assert training.call["config"] == resolve("dcgan-small", None, ["train.seed=5", "train.kimg=80"])


@pytest.mark.parametrize(
    ("words", "pairs", "recipe"),
    [
        (["pix2pix", "--pairs", "photos"], ["photos"], "pix2pix"),
        (["pix2pix", "--pairs", "photos", "drawings"], ["photos", "drawings"], "pix2pix"),
        (["--pairs", "photos", "drawings", "pix2pix"], ["photos", "drawings"], "pix2pix"),
        (["--pairs", "photos", "pix2pix"], ["photos"], "pix2pix"),
        (["--pairs", "photos", "--device", "cpu", "pix2pix"], ["photos"], "pix2pix"),
        (["pix2pix", "--pairs", "photos", "--pairs", "drawings"], ["photos", "drawings"], "pix2pix"),
        (["pix2pix", "--pairs=photos", "--pairs=drawings"], ["photos", "drawings"], "pix2pix"),
        (["--pairs", "photos", "drawings", "--", "pix2pix"], ["photos", "drawings"], "pix2pix"),
    ],
)
def test_pairs_takes_one_folder_or_two(
    training: Training, here: Path, words: list[str], pairs: list[str], recipe: str
) -> None:
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert training.call["data"] == DataPaths(pairs=tuple(map(Path, pairs)))
    assert training.call["config"] == load_recipe(recipe)


def test_a_folder_with_a_recipes_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_pairs(["--pairs", "a", "dcgan"]) == ["--pairs", "a", "dcgan"]
    (tmp_path / "dcgan").mkdir()
    assert split_pairs(["--pairs", "a", "dcgan"]) == ["--pairs", "a", "--pairs", "dcgan"]
    assert split_pairs(["--pairs"]) == ["--pairs"]
    assert split_pairs(["--", "--pairs", "a", "b"]) == ["--", "--pairs", "a", "b"]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([], ["RECIPE: is missing", "data: nothing to learn from"]),
        (["dcgan"], ["data: nothing to learn from is named"]),
        (["dcgna", "--images", "photos"], ["recipe dcgna: there is no such recipe. Did you mean dcgan"]),
        (["cyclegan", "--a", "photos"], ["--a: stands without --b"]),
        (["dcgan", "--images", "absent"], ["--images: there is no folder absent"]),
        (["dcgan", "--images", "photos", "--pairs", "drawings"], ["--images and --pairs exclude each other"]),
        (["dcgan", "--images", "photos", "--config", "absent.toml"], ["absent.toml: there is no such file"]),
        (["--images", "photos", "--resume", "--out", "runs/x"], ["--resume: there is no run in runs/x"]),
        (
            ["dcgan", "--set", "train.bacth=1", "--set", "optim.lr=nan"],
            ["Did you mean train.batch", "optim.lr: cannot be nan", "nothing to learn from"],
        ),
    ],
)
def test_what_is_wrong_is_said_at_once_and_nothing_starts(
    training: Training, here: Path, words: list[str], messages: list[str]
) -> None:
    result = run(*words, "--json")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith("error: ")
        assert message in line
    assert len(json.loads(result.stdout)["error"]) == len(messages)
    assert training.calls == []


def test_the_bare_command_says_what_is_missing() -> None:
    result = run()
    assert result.exit_code == 2
    assert [line.partition(" is ")[0] for line in result.stderr.splitlines()] == [
        "error: RECIPE:",
        "error: data: nothing to learn from",
    ]


def test_a_dry_run_prints_a_configuration_that_can_be_used(training: Training, here: Path) -> None:
    result = run("dcgan-small", "--images", "photos", "--dry-run", "--set", "train.seed=3")
    assert result.exit_code == 0
    assert from_toml(result.stdout) == training.call["config"]
    assert "# 40,000 images at 20.0 a second: 33 min" in result.stdout
    assert "1.5 GB" in result.stdout
    assert training.call["watch"] is None
    assert not (here / "runs").exists()


def test_the_best_model_and_an_early_end_are_told(training: Training, here: Path) -> None:
    best = SimpleNamespace(
        model_path=Path("runs/x/best.safetensors"), score="FD-SqueezeNet", value=85.312345, images_seen=14_000
    )
    training.more = {"best": best, "stopped_early": True}
    lines = run("dcgan-small", "--images", "photos").stdout.splitlines()
    assert lines[0] == "trained on 40,000 images, 33 min, stopped early"
    assert lines[2] == "best    runs/x/best.safetensors  FD-SqueezeNet 85.312 at 14,000 images"


def test_a_dry_run_tells_what_evaluations_cost(training: Training, here: Path) -> None:
    training.more = {"evaluations": 10, "evaluation_seconds": 125.0}
    result = run("dcgan-small", "--images", "photos", "--dry-run")
    assert "# 10 evaluations, about 12 s each" in result.stdout
    assert from_toml(result.stdout) == training.call["config"]


def test_json_is_one_object(training: Training, here: Path) -> None:
    result = run("dcgan-small", "--images", "photos", "--json")
    assert json.loads(result.stdout) == {
        "status": "finished",
        "run_dir": "runs/dcgan-small",
        "model_path": "runs/dcgan-small/model.safetensors",
        "images_seen": 40_000,
        "images_per_second": 20.0,
        "seconds": 2000.0,
        "peak_memory": 1_500_000_000,
        "evaluations": 0,
        "evaluation_seconds": 0.0,
        "best": None,
        "stopped_early": False,
    }
    planned = json.loads(run("dcgan-small", "--images", "photos", "--json", "--dry-run").stdout)
    assert planned["status"] == "planned"
    assert planned["config"]["train.batch"] == 32


def test_of_several_processes_the_first_speaks(training: Training, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    result = run("dcgan-small", "--images", "photos", "--json")
    assert (result.exit_code, result.output) == (0, "")
    assert training.call["watch"] is None


# --- progress


def progress(seen: int, activity: str = "") -> Any:
    terms = {"generator": 0.51234}
    return SimpleNamespace(images_seen=seen, total_images=4000, images_per_second=10.0, terms=terms, activity=activity)


def test_progress_in_words() -> None:
    assert describe(progress(1000)) == "1,000 of 4,000 images  10.0 images/s  5 min to go  generator 0.512"
    assert describe(progress(1000, "evaluating: 32 of 500")) == "1,000 of 4,000 images  evaluating: 32 of 500"
    assert [duration(seconds) for seconds in (3.2, 89, 100, 5000, 12_000, 344_000, 1.2e8)] == [
        "3 s",
        "89 s",
        "2 min",
        "83 min",
        "3.3 h",
        "95.6 h",
        "1,389 days",
    ]


def test_progress_is_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("img2img_cli.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with TrainProgress() as watch:
        for seen in range(100, 800, 100):
            watch(progress(seen))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert 1 < len(lines) < 7, "a line every half minute, not one for every step"
    assert all("of 4,000 images" in line for line in lines)


@pytest.mark.parametrize(("term", "draws"), [("xterm", True), ("dumb", False)])
def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, term: str, draws: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", term)
    with TrainProgress() as watch:
        watch(progress(1000))
        watch(progress(2000))
        watch(progress(2000, "evaluating: 32 of 500"))
    assert ("2.00k/4.00k" in terminal.getvalue()) is draws
    assert ("evaluating: 32 of 500" in terminal.getvalue()) is draws


def test_logs_of_the_library_reach_stderr_as_lines(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    import logging

    def train(*args: Any, **options: Any) -> Result:
        logging.getLogger("img2img.training").info("20 images/s\x1b[31m")
        logging.getLogger("img2img.training").warning("odd")
        logging.getLogger("img2img.training").debug("hidden")
        return Training().train(*args, **options)

    monkeypatch.setitem(sys.modules, "img2img.training", SimpleNamespace(train=train))  # type: ignore[arg-type]
    result = run("dcgan-small", "--images", "photos", "--json")
    assert result.stderr.splitlines() == ["20 images/s\\x1b[31m", "warning: odd"]
    assert json.loads(result.stdout)


def test_the_command_is_click() -> None:
    from img2img_cli.train import command

    assert isinstance(command, click.Command)
