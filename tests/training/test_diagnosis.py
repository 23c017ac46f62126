"""Rules: each fault is told from numbers that have it and not from those that have not, with a key that mends it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from img2img import translators
from img2img.config import as_dict, resolve
from img2img.losses import ADVERSARIAL
from img2img.training.diagnosis import LINES, PASSES, RULES, Diagnosis, diagnose, episodes, faults_watched

HEALTHY = {
    f"{direction}_{key}": value
    for direction in ("a2b", "b2a")
    for key, value in {
        "colour_correlation": 0.6,
        "change": 0.7,
        "diversity": 0.8,
        "checkerboard": 1.2,
        "grid": 0.2,
        "hidden": 0.5,
    }.items()
} | {"discriminator_a_undecided": 0.8, "discriminator_b_undecided": 0.7, "generator_gradient_norm": 3.0}
HEALTHY |= {
    "samples_diversity": 0.7,
    "samples_most_diversity": 0.8,
    "discriminator_sign_on_real": 0.5,
    "waiting": 0.01,
    "passes": 90,
    "skipped_steps": 0,
}


def log(numbers: dict[str, float], count: int = LINES, start: int = 1000) -> list[dict[str, Any]]:
    plain = {key: value for key, value in numbers.items() if key in ("waiting", "passes", "skipped_steps")}
    monitors = {key: value for key, value in numbers.items() if key not in plain}
    return [{"images": start + 100 * index, "monitors": dict(monitors), **plain} for index in range(count)]


def found(recipe: str, *sets: str, start: int = 1000, **changed: float) -> list[Diagnosis]:
    config = resolve(recipe, None, ["train.kimg=1.6", *sets])
    return diagnose(log(HEALTHY | changed, start=start), as_dict(config))


@pytest.mark.parametrize("recipe", ["cyclegan-small", "pix2pix-small", "dcgan-small"])
def test_a_healthy_game_has_no_fault(recipe: str) -> None:
    assert found(recipe) == []


FAULTS = [
    ({"a2b_colour_correlation": -0.62}, "colour inversion", "a2b", "correlate −0.62 with inputs", "loss.identity=10"),
    ({"b2a_change": 0.02}, "copying", "b2a", "differ from inputs by 2.0 % of what", "loss.identity=0"),
    ({"a2b_hidden": 12.0}, "hidden copy", "a2b", "by 12.0 times the faint noise", "loss.cycle=5"),
    (
        {"b2a_checkerboard": 6.0, "b2a_grid": 3.0},
        "checkerboard",
        "b2a",
        "6.0 times the energy of real images at the generator's stride, a grid of 3.0 of 255",
        "generator.upsampling=antialiased",
    ),
    ({"a2b_diversity": 0.03}, "outputs alike", "a2b", "by 3.0 % of what real images do", "loss.cycle=20"),
    (
        {"discriminator_b_undecided": 0.01},
        "one-sided collapse",
        "discriminator_b",
        "1.0 % of one that cannot tell, the other's 80.0 %",
        "loss.penalties=r1",
    ),
    ({"waiting": 0.31}, "waiting for pictures", "data", "31.0 % of the time passes waiting", "data.cache_gb=4"),
    ({"skipped_steps": 1}, "non-finite steps", "gradients", "5 steps were skipped within 5 lines", "optim.lr=0.0001"),
]
FROM_NOISE = [
    (
        {"samples_diversity": 0.04},
        "generator collapsed",
        "samples",
        "samples differ by 4.0 % of what real images do, and did by 80.0 %",
        "loss.penalties=r1",
    ),
    ({"generator_gradient_norm": 0.0}, "no gradient", "generator", "was exactly 0 in 5 lines", "optim.lr=0.0001"),
    (
        {"discriminator_sign_on_real": 0.93},
        "learned by heart",
        "discriminator",
        "after 90 passes over the pictures the mean sign on them is 0.93",
        "augment.discriminator=ada",
    ),
]


@pytest.mark.parametrize(("changed", "fault", "where", "evidence", "setting"), FAULTS)
def test_a_fault_of_cyclegan_is_told_with_evidence_and_the_key(
    changed: dict[str, float], fault: str, where: str, evidence: str, setting: str
) -> None:
    (diagnosis,) = found("cyclegan-small", **changed)
    assert (diagnosis.fault, diagnosis.where) == (fault, where)
    assert evidence in diagnosis.evidence
    assert f"{diagnosis.key}={diagnosis.value}" == setting
    assert str(diagnosis).startswith(f"{fault} ({where}): {diagnosis.evidence}. Set {setting}: ")


def test_every_rule_has_its_fault_here() -> None:
    told = {diagnosis.fault for changed, *_ in FAULTS for diagnosis in found("cyclegan-small", **changed)}
    told |= {diagnosis.fault for changed, *_ in FROM_NOISE for diagnosis in found("dcgan-small", **changed)}
    assert len(told) == len(FAULTS) + len(FROM_NOISE) == len(RULES)


ALWAYS = ["waiting for pictures", "non-finite steps"]


@pytest.mark.parametrize(
    ("recipe", "monitors", "faults"),
    [
        (
            "cyclegan-small",
            [name for name in HEALTHY if name[0] in "abd" and not name.endswith("real")],
            [fault for _, fault, *_ in FAULTS[:-2]] + ["the discriminator has won"],
        ),
        (
            "dcgan-small",
            ["samples_diversity", "samples_most_diversity", "discriminator_undecided", "discriminator_sign_on_real"],
            ["generator collapsed", "the discriminator has won", "learned by heart"],
        ),
        ("pix2pix-small", ["a2b_diversity", "discriminator_sign_on_real"], ["outputs alike"]),
        ("dcgan-small", ["discriminator_sign_on_real"], ["learned by heart"]),
    ],
)
def test_what_is_watched_depends_on_the_kind_of_run(recipe: str, monitors: list[str], faults: list[str]) -> None:
    assert faults_watched(monitors, as_dict(resolve(recipe))) == [*faults, *ALWAYS]


def test_every_fault_that_may_be_told_is_among_those_watched() -> None:
    watched = faults_watched(HEALTHY, as_dict(resolve("dcgan-small")))
    assert {fault for _, fault, *_ in (*FAULTS, *FROM_NOISE)} <= set(watched)
    table = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text("utf-8")
    assert all(fault in table for fault in watched)


@pytest.mark.parametrize(("changed", "fault", "where", "evidence", "setting"), FROM_NOISE)
def test_a_fault_of_a_generator_from_noise_is_told_with_evidence_and_a_key_it_takes(
    changed: dict[str, float], fault: str, where: str, evidence: str, setting: str
) -> None:
    (diagnosis,) = found("dcgan-small", "loss.penalties=none", **changed)
    assert (diagnosis.fault, diagnosis.where, diagnosis.spoils) == (fault, where, True)
    assert evidence in diagnosis.evidence
    assert f"{diagnosis.key}={diagnosis.value}" == setting
    assert translators.check(resolve("dcgan-small", None, [setting])) == []


def test_what_is_seen_by_heart_needs_many_passes_a_boundary_and_whole_pictures() -> None:
    sure = {"discriminator_sign_on_real": 0.99}
    assert found("dcgan-small", **sure) != []
    assert found("dcgan-small", **sure, passes=PASSES - 1) == []
    assert found("dcgan-small", "loss.adversarial=wgan", **sure) == []  # any number may be its middle
    assert found("pix2pix-small", **sure) == []
    (diagnosis,) = found("dcgan-small", "augment.discriminator=ada", "augment.p=0.1", "augment.target=0", **sure)
    assert (diagnosis.key, diagnosis.value) == ("augment.target", "0.6")
    (diagnosis,) = found("stylegan2-ada-small", "loss.penalties.r1.weight=2", **sure)
    assert (diagnosis.key, diagnosis.value) == ("loss.penalties.r1.weight", "4")


def test_samples_that_do_not_differ_yet_have_not_collapsed() -> None:
    never = {"samples_diversity": 0.01, "samples_most_diversity": 0.3}
    assert found("dcgan-small", **never) == []
    assert found("dcgan-small", "train.kimg=20", start=9000, **never) == []
    (diagnosis,) = found("dcgan-small", "train.kimg=20", start=10_000, **never)
    assert diagnosis.evidence == "samples differ by 1.0 % of what real images do"
    (diagnosis,) = found("cgan-small", samples_diversity=0.01)
    assert diagnosis.evidence.startswith("samples of one class differ by 1.0 %")


def test_waiting_is_a_fault_that_spoils_nothing() -> None:
    (diagnosis,) = found("dcgan-small", waiting=0.5)
    assert not diagnosis.spoils
    (diagnosis,) = found("dcgan-small", "data.workers=1", waiting=0.5)
    expected = ("data.workers", str(os.cpu_count())) if (os.cpu_count() or 1) > 1 else ("data.cache_gb", "4")
    assert (diagnosis.key, diagnosis.value) == expected
    (diagnosis,) = found("dcgan-small", "data.cache_gb=0", waiting=0.5)
    assert (diagnosis.key, diagnosis.value) == ("data.cache_gb", "2")


def test_skipped_steps_are_told_from_the_first_lines_on_and_two_are_none() -> None:
    (diagnosis,) = found("dcgan-small", start=0, skipped_steps=1)
    assert diagnosis.fault == "non-finite steps"
    records = log(HEALTHY)
    records[1]["skipped_steps"] = 2
    settings = as_dict(resolve("dcgan-small"))
    assert diagnose(records, settings) == []
    records[4]["skipped_steps"] = 1
    assert "3 steps were skipped" in diagnose(records, settings)[0].evidence
    (diagnosis,) = found("dcgan-small", "train.precision=bfloat16", skipped_steps=1)
    assert (diagnosis.key, diagnosis.value) == ("train.precision", "float32")


@pytest.mark.parametrize("changed", [changed for changed, *_ in FAULTS])
@pytest.mark.parametrize("recipe", ["cyclegan-small", "pix2pix-small"])
def test_the_setting_is_one_that_the_method_takes(recipe: str, changed: dict[str, float]) -> None:
    if recipe == "pix2pix-small":
        changed = {name.replace("discriminator_b", "discriminator"): value for name, value in changed.items()}
    for diagnosis in found(recipe, **changed):
        config = resolve(recipe, None, [f"{diagnosis.key}={diagnosis.value}"])
        assert translators.check(config) == []
        assert as_dict(config) != as_dict(resolve(recipe))


def test_what_was_followed_already_is_not_advised_again() -> None:
    """The next thing that helps is named instead."""
    inverted = {"a2b_colour_correlation": -0.5}
    (diagnosis,) = found("cyclegan-small", "loss.identity=10", **inverted)
    assert (diagnosis.key, diagnosis.value) == ("train.seed", "1")
    (diagnosis,) = found("cyclegan-small", "loss.identity=0", a2b_change=0.01)
    assert (diagnosis.key, diagnosis.value) == ("loss.cycle", "1")
    gridded = {"a2b_checkerboard": 9.0, "a2b_grid": 4.0}
    (diagnosis,) = found("cyclegan-small", "generator.upsampling=antialiased", **gridded)
    assert (diagnosis.key, diagnosis.value) == ("discriminator.receptive_field", "140")
    won = {"discriminator_a_undecided": 0.0, "discriminator_b_undecided": 0.0}
    both = found("cyclegan-small", "loss.penalties=r1", **won)
    assert [diagnosis.fault for diagnosis in both] == ["the discriminator has won"] * 2
    assert (both[0].key, both[0].value) == ("optim.discriminator_lr", "0.0001")


def test_copies_are_right_where_the_domains_do_not_differ() -> None:
    assert found("cyclegan-small", a2b_change=0.01, discriminator_b_undecided=0.98) == []


def test_a_grid_that_nobody_sees_or_that_may_fade_is_none() -> None:
    assert found("cyclegan-small", a2b_checkerboard=50.0, a2b_grid=0.5) == []
    early = {"a2b_checkerboard": 9.0, "a2b_grid": 4.0, "start": 100}
    assert found("cyclegan-small", **early) == []


def test_inversion_is_told_early_but_not_of_the_first_lines() -> None:
    assert found("cyclegan-small", start=10, a2b_colour_correlation=-0.9) == []
    assert found("cyclegan-small", start=100, a2b_colour_correlation=-0.9)


def test_a_diagnosis_rests_on_the_mean_of_several_lines() -> None:
    settings = as_dict(resolve("cyclegan-small", None, ["train.kimg=1.6"]))
    records = log(HEALTHY | {"a2b_colour_correlation": -0.5})
    assert len(diagnose(records, settings)) == 1
    assert diagnose(records[1:], settings) == []
    records[-1]["monitors"]["a2b_colour_correlation"] = 0.6  # a mean of -0.28
    assert diagnose(records, settings) == []
    records = log(HEALTHY | {"a2b_colour_correlation": -0.5})
    records[2]["monitors"]["a2b_colour_correlation"] = float("nan")
    assert diagnose(records, settings) == []
    assert diagnose([*log(HEALTHY), *log(HEALTHY | {"a2b_colour_correlation": -0.5}, start=2000)], settings)


def test_a_log_of_anything_is_no_fault() -> None:
    settings = as_dict(resolve("cyclegan-small"))
    for records in ([], [{"images": 1}] * 9, [{"images": 1, "monitors": []}] * 9, log({}, 9)):
        assert diagnose(records, settings) == []
        assert episodes(records, settings) == []
    assert diagnose(log(HEALTHY), {}) == []


def test_episodes_say_from_when_to_when() -> None:
    settings = as_dict(resolve("cyclegan-small", None, ["train.kimg=4"]))
    inverted = HEALTHY | {"a2b_colour_correlation": -0.5}
    alike = HEALTHY | {"b2a_diversity": 0.01}
    records = [*log(HEALTHY, 10), *log(inverted, 10, start=2000), *log(alike, 10, start=3000)]
    gone, lasting = episodes(records, settings)
    # means over five lines: -0.5 in four of five is enough, and in four of five still is
    assert (gone.diagnosis.fault, gone.first, gone.last, gone.lasts) == ("colour inversion", 2400, 2900, False)
    assert (lasting.diagnosis.fault, lasting.first, lasting.last, lasting.lasts) == ("outputs alike", 3400, 3900, True)


def test_a_long_log_is_looked_at_here_and_there() -> None:
    settings = as_dict(resolve("cyclegan-small", None, ["train.kimg=500"]))
    records = log(HEALTHY | {"a2b_colour_correlation": -0.5}, 4000, start=100_000)
    (episode,) = episodes(records, settings, looks=20)
    assert (episode.first, episode.last, episode.lasts) == (100_400, 499_900, True)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("nonsaturating", 1.386294), ("lsgan", 0.25), ("hinge", 2.0), ("relativistic", 0.693147)],
)
def test_the_loss_of_one_that_cannot_tell(name: str, loss: float) -> None:
    assert ADVERSARIAL[name]().undecided_loss == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("name", ["wgan", "ebgan", "began"])
def test_where_there_is_no_such_loss(name: str) -> None:
    assert ADVERSARIAL[name]().undecided_loss is None
