"""Rules: each fault is told from numbers that have it and not from those that have not, with a key that mends it."""

from __future__ import annotations

from typing import Any

import pytest

from img2img import translators
from img2img.config import as_dict, resolve
from img2img.losses import ADVERSARIAL
from img2img.training.diagnosis import LINES, RULES, Diagnosis, diagnose, episodes

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


def log(monitors: dict[str, float], count: int = LINES, start: int = 1000) -> list[dict[str, Any]]:
    return [{"images": start + 100 * index, "monitors": dict(monitors)} for index in range(count)]


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
    assert len(told) == len(FAULTS) == len(RULES)


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
