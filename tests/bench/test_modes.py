"""The comparison of objectives: what is planned, what is written, and that a search gives all the same budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from img2img.bench.modes import (
    REMEDIES,
    Cell,
    Job,
    Plan,
    Score,
    choose,
    run_job,
    run_jobs,
    sample_members,
    usual_penalty,
)
from img2img.bench.page import write_results
from img2img.bench.run import run_comparison
from img2img.bench.search import draw_settings, search_cells, spreads, success
from img2img.errors import Faults, UsageFault
from img2img.losses import ADVERSARIAL
from img2img.metrics.modes import ModeCoverage
from img2img.penalties import PENALTIES
from img2img.translators import check

TINY = ("generator.width=8", "train.batch=16", "train.ema_kimg=0.1")


def plan_of(**asked: Any) -> Plan:
    nothing: dict[str, Any] = {
        "quick": False,
        "worlds": (),
        "objectives": (),
        "penalties": (),
        "remedies": (),
        "seeds": None,
        "kimg": None,
        "search": 0,
        "recommended": 0,
        "sets": (),
    }
    return choose(**{**nothing, **asked})


def test_the_full_plan_has_every_objective_twice_and_every_remedy() -> None:
    plan = plan_of()
    objectives, remedies = plan.groups.values()
    assert [cell.objective for cell in objectives] == [name for name in ADVERSARIAL for _ in range(2)]
    assert all(
        cell.penalty == ("none", usual_penalty(cell.objective))[index % 2] for index, cell in enumerate(objectives)
    )
    assert [cell.remedy for cell in remedies] == ["none", *REMEDIES]
    assert plan.worlds == ("ring", "grid")
    assert plan.seeds == 3


def test_a_cell_of_two_tables_is_trained_once() -> None:
    names = [job.folder.name for job in plan_of().jobs(Path("out"))]
    assert len(names) == len(set(names))
    assert names.count("nonsaturating") == 1


def test_quick_is_short_and_leaves_out_the_dearest() -> None:
    plan = plan_of(quick=True)
    assert plan.seeds == 1
    assert plan.kimg < plan_of().kimg
    assert "unrolled" not in {cell.remedy for group in plan.groups.values() for cell in group}


def test_what_is_named_is_all_that_is_done() -> None:
    plan = plan_of(objectives=["hinge"], penalties=["none", "r1+r2", "spectral_norm"], worlds=["grid"])
    (cells,) = plan.groups.values()
    assert [cell.name for cell in cells] == ["hinge", "hinge_r1-r2", "hinge_spectral_norm"]
    (config,) = {job.config.translator: job.config for job in plan.jobs(Path())}.values()
    assert config.loss.adversarial.name == "hinge"
    (remedies,) = plan_of(remedies=["packing2"]).groups.values()
    assert [cell.name for cell in remedies] == ["nonsaturating", "nonsaturating_packing2"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"objectives": ["hinged"]}, "--objective: 'hinged' is unknown. Did you mean hinge?"),
        ({"penalties": ["r1+r3"]}, "--penalty: 'r3' is unknown"),
        ({"remedies": ["packing3"]}, "--remedy: 'packing3' is unknown. Did you mean packing"),
        ({"worlds": ["rign"]}, "--world: 'rign' is unknown. Did you mean ring?"),
        ({"worlds": ["swissroll"]}, "--world: swissroll has no modes to count. Use gaussian"),
        ({"sets": ["optim.lr=-1"]}, "optim.lr: cannot be -1"),
        ({"objectives": ["began"], "penalties": ["gradient_penalty"]}, "loss.penalties.gradient_penalty: "),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(asked: dict[str, Any], expected: str) -> None:
    with pytest.raises((UsageFault, Faults)) as refused:
        plan_of(**asked)
    assert expected in str(refused.value)


@pytest.mark.parametrize("penalty", ["none", "spectral_norm", *PENALTIES])
def test_every_penalty_can_stand_in_a_table(penalty: str) -> None:
    if PENALTIES.get(penalty) is not None and PENALTIES[penalty].moves_pictures:
        return
    assert check(Cell("nonsaturating", penalty).config(1.0)) == []


def test_members_are_scored_each_by_its_own_points(tmp_path: Path) -> None:
    cell = Cell("nonsaturating")
    scores = run_job(Job(cell, cell.config(0.256, TINY), ("ring", "grid"), 2, tmp_path / "run"))
    assert [(score.world, len(score.coverage)) for score in scores] == [("ring", 2), ("grid", 2)]
    assert [score.coverage[0].num_modes for score in scores] == [8, 25]
    points = sample_members(tmp_path / "run" / "model.safetensors", 4, 50, seed=0)
    assert points.shape == (4, 50, 2)
    assert len({tuple(member.flatten().tolist()) for member in points}) == 4
    # a member's points do not depend on how many are drawn, but for the order in which a product is summed
    fewer = sample_members(tmp_path / "run" / "model.safetensors", 4, 20, seed=0)
    torch.testing.assert_close(fewer, points[:, :20], rtol=1e-4, atol=1e-5)


def test_a_diverged_training_is_a_row_that_says_so(tmp_path: Path) -> None:
    cell = Cell("wgan", sets=("optim.lr=1", "optim.name=sgd", "train.kimg=50"))
    scores = run_job(Job(cell, cell.config(50, TINY), ("ring",), 1, tmp_path / "run"))
    assert scores[0].coverage == []
    assert "not finite" in scores[0].note
    write_results(tmp_path, {"Table": scores}, [], {})
    assert "| wgan | diverged |" in (tmp_path / "modes.md").read_text("utf-8")
    assert success(scores[0]) == 0


def test_results_are_written_and_taken_up_again(tmp_path: Path) -> None:
    plan = plan_of(objectives=["hinge"], penalties=["none"], seeds=1, kimg=0.256, recommended=0, sets=TINY)
    told: list[tuple[int, int]] = []
    result = run_comparison(plan, tmp_path, 1, lambda done, total: told.append((done, total)))
    assert told == [(0, 1), (1, 1)]
    assert json.loads((tmp_path / "modes.json").read_text("utf-8")) == result
    (rows,) = result["tables"].values()
    assert [row["world"] for row in rows] == ["ring", "grid"]
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<img") > 1
    assert "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "animations" / "hinge.gif").read_bytes()[:4] == b"GIF8"
    model = (tmp_path / "runs" / "hinge" / "model.safetensors").read_bytes()
    again = run_comparison(plan, tmp_path, 1)
    assert again["tables"].keys() == result["tables"].keys()
    assert [row["seeds"] for row in next(iter(again["tables"].values()))] == [row["seeds"] for row in rows]
    assert (tmp_path / "runs" / "hinge" / "model.safetensors").read_bytes() == model


def test_a_fault_in_a_process_ends_the_comparison_with_it(tmp_path: Path) -> None:
    plan = plan_of(objectives=["hinge"], penalties=["none"], seeds=1, kimg=0.256, sets=TINY)
    (tmp_path / "runs" / "hinge").mkdir(parents=True)
    (tmp_path / "runs" / "hinge" / "letter.txt").write_text("mine")
    with pytest.raises(UsageFault, match="not empty"):
        run_jobs(plan.jobs(tmp_path), 1)


def test_a_search_gives_every_objective_the_same_settings_and_updates() -> None:
    settings = draw_settings(200, seed=0)
    assert draw_settings(5, seed=0) == settings[:5]
    assert all(1e-4 <= s.learning_rate <= 1e-2 and 1e-2 <= s.weight <= 10 for s in settings)
    assert {s.mean_decay for s in settings} == {0.0, 0.5, 0.9}
    assert 0.35 < sum(s.learning_rate > 1e-3 for s in settings) / 200 < 0.65
    cells = search_cells(["hinge", "wgan"], 6, seed=0, kimg=12)
    of_hinge, of_wgan = cells[:6], cells[6:]
    for (hinge, length), (wgan, other_length), setting in zip(of_hinge, of_wgan, settings):
        assert length == other_length == 12 * 2 / (setting.critic_steps + 1)
        assert check(hinge.config(length)) == check(wgan.config(length)) == []
        assert wgan.config(length).train.critic_steps == setting.critic_steps
        assert wgan.config(length).loss.penalties["gradient_penalty"]["weight"] == setting.weight
        assert hinge.config(length).optim.lr == setting.learning_rate


def test_spreads_are_of_modes_times_quality() -> None:
    def score(modes: int, quality: float, tag: str) -> Score:
        return Score(Cell("hinge", tag=tag), "ring", [ModeCoverage(modes, 8, quality, 0.0)])

    scores = [score(8, 0.95, "a"), score(4, 0.5, "b"), score(8, 0.5, "c"), Score(Cell("hinge", tag="d"), "ring")]
    (spread,) = spreads(scores)
    assert (spread.best, spread.median, spread.worst) == pytest.approx((0.95, (0.25 + 0.5) / 2, 0.0))
    assert spread.solved == 0.25
    assert spread.best_modes == 8


def test_an_objective_whose_settings_all_diverged_has_a_row(tmp_path: Path) -> None:
    (spread,) = spreads([Score(Cell("hinge", tag=tag), "ring", note="diverged") for tag in "ab"])
    assert (spread.best, spread.best_modes, spread.best_quality) == (0.0, None, None)
    write_results(tmp_path, {}, [spread], {})
    assert "–" in (tmp_path / "modes.md").read_text("utf-8")
