"""What is proposed for given pictures and memory, and that what is proposed can be trained."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from tiny import COMMON, FAMILIES, make_data, make_pictures

from img2img.config import DataPaths, as_dict, load_recipe, resolve
from img2img.data.survey import Survey
from img2img.distributed import World
from img2img.errors import Faults, UsageFault
from img2img.training import plan as planning
from img2img.training import speed
from img2img.training.engine import Engine
from img2img.training.plan import plan
from img2img.training.precision import choose_precision
from img2img.training.prepare import prepare

LARGE = (1000, 1000)


def propose(recipe: str, count: int, size: tuple[int, int] = LARGE, sets: tuple[str, ...] = ()) -> Any:
    """A planner that has seen `count` pictures of one size."""
    planner = planning._Planner(load_recipe(recipe), resolve(recipe, None, sets), sets)
    found = Survey({"images": count}, (size,), ("folder",))
    planner.fit_resolution(found)
    planner.fit_length(found)
    planner.fit_augmentation(found)
    planner.fit_penalties()
    return planner


@pytest.mark.parametrize(
    ("recipe", "count", "size", "sets", "expected"),
    [
        # 140 of 256 is a little more than a half; 134 pictures 3,000 times; γ with the pixels
        (
            "stylegan2-ada",
            134,
            (200, 140),
            (),
            {
                "data.resolution": (128, 128),
                "train.kimg": 400.0,
                "augment.speed_kimg": 40.0,
                "loss.penalties.r1.weight": 0.1,
            },
        ),
        ("stylegan2-ada", 5000, LARGE, ("train.batch=64",), {"loss.penalties.r1.weight": 0.2}),
        ("stylegan2-ada", 5000, LARGE, (), {}),
        # 40 kimg are 299 times 134 pictures
        ("dcgan-small", 134, LARGE, (), {"augment.discriminator": "ada", "augment.speed_kimg": 4.0}),
        ("dcgan-small", 300, LARGE, (), {}),
        ("dcgan-small", 100_000, LARGE, (), {"train.kimg": 100.0}),
        ("dcgan-small", 134, LARGE, ("augment.discriminator=none",), {}),
        ("dcgan-small", 300, (50, 80), (), {"data.resolution": (48, 48)}),
        ("dcgan-small", 300, (50, 80), ("data.resolution=64",), {}),
        # relativistic: no value for ADA to go by; R1 and R2 alike
        ("r3gan-small", 100, LARGE, (), {"augment.discriminator": "diffaugment"}),
        (
            "r3gan-small",
            300,
            (16, 16),
            (),
            {"data.resolution": (16, 16), "loss.penalties.r1.weight": 0.25, "loss.penalties.r2.weight": 0.25},
        ),
        # translators: no augmentation; 80 kimg are 8,000 passes over 10 pairs
        ("cyclegan-small", 300, LARGE, (), {}),
        ("pix2pix", 10, LARGE, (), {"train.kimg": 20.0}),
        # networks that cannot be smaller; a length below which there would be no full size, and a critic
        ("pix2pix", 400, (3, 3), (), {}),
        ("progan", 100, LARGE, (), {"augment.discriminator": "diffaugment"}),
    ],
)
def test_what_is_proposed(
    recipe: str, count: int, size: tuple[int, int], sets: tuple[str, ...], expected: dict[str, Any]
) -> None:
    planner = propose(recipe, count, size, sets)
    assert {one.key: one.after for one in planner.proposals} == expected
    before, after = as_dict(resolve(recipe, None, sets)), as_dict(planner.config)
    assert {key for key in after if after[key] != before.get(key)} == set(expected)
    assert all("\n" not in one.reason and one.reason for one in planner.proposals)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 64), size=st.sampled_from([64, 96, 128, 192, 256]))
def test_the_weight_of_r1_follows_the_rule_of_stylegan2_ada(batch: int, size: int) -> None:
    planner = propose("stylegan2-ada", 50_000, (size, size), (f"train.batch={batch}",))
    weight = planner.config.loss.penalties["r1"]["weight"]
    assert math.isclose(weight, 0.0002 * size * size / batch, rel_tol=0.08)  # the recipe's 0.4 is rounded from 0.41


def fake(fixed: float, each: float, weights: int, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose peak is `fixed` + `each` bytes a picture, of which 3 · `weights` come with the first step."""

    def peak(_: object, part: int) -> int:
        tried.append(part)
        return int(fixed + 3 * weights + each * part)

    monkeypatch.setattr(planning, "_peak_of_step", peak)
    monkeypatch.setattr(planning, "_memory_in_use", lambda device: int(fixed))
    players = {"generator": SimpleNamespace(parameters=[torch.empty(weights, dtype=torch.uint8)])}
    return SimpleNamespace(
        precision=SimpleNamespace(device=torch.device("cpu")), engine=SimpleNamespace(players=players)
    )


@settings(deadline=None)
@given(
    fixed=st.integers(0, 1000), each=st.integers(1, 1000), weights=st.integers(0, 300), room=st.integers(500, 100_000)
)
def test_as_many_pictures_at_once_as_there_is_room_for(fixed: int, each: int, weights: int, room: int) -> None:
    parts = [1, 2, 4, 8, 16, 32]
    with pytest.MonkeyPatch.context() as monkeypatch:
        tried: list[int] = []
        found = planning._largest_part(fake(fixed, each, weights, tried, monkeypatch), parts, room, math.inf)
    peaks = {part: fixed + 3 * weights + each * part for part in parts}
    fitting = [part for part in parts if peaks[part] <= room]
    assert found[:2] == ((fitting[-1], peaks[fitting[-1]]) if fitting else (0, peaks[1]))
    assert tried[0] == 1
    assert all(peaks[part] <= room for part in tried[1:]), "what is too large would end the process"


def test_what_took_more_than_expected_is_divided_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of 100 and 900, where 1 + 99 · 4 = 397 were expected: a line between them has 366 and 633."""
    peaks = {1: 100, 4: 900}
    run = fake(1, 0, 0, [], monkeypatch)
    monkeypatch.setattr(planning, "_peak_of_step", lambda _, part: peaks[part])
    assert planning._largest_part(run, [1, 2, 3, 4], 700, math.inf)[:2] == (3, 633)
    monkeypatch.setattr(planning, "_peak_of_step", lambda _, part: peaks[1] if part < 3 else None)  # a GPU says no
    assert planning._largest_part(run, [1, 2, 3, 4], 700, math.inf)[:2] == (2, 100)


def test_where_nobody_knows_the_room_the_batch_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    assert planning._largest_part(fake(10, 5, 0, tried, monkeypatch), [1, 4, 16], None, math.inf)[:2] == (16, 90)
    assert tried == [1, 16]


@pytest.mark.parametrize(
    ("room", "until", "expected", "tried"),
    [
        (400, 300.0, (32, 330, 4, 32, 1.0), [4, 32]),
        (400, 60.0, (32, 330, 4, 4, 1.0), [4]),  # 32 would take 32 of the 56 seconds that are left
        (200, 60.0, (16, 170, 4, 16, 1.0), [4, 16]),
        (200, 30.0, (16, 170, 4, 4, 1.0), [4]),
        (200, -1.0, (16, 170, 4, 4, 1.0), [4]),  # the smallest is tried in any case
    ],
)
def test_what_would_take_too_long_is_not_tried_but_expected(
    room: int, until: float, expected: tuple[float, ...], tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 bytes and ten for each picture; a second for each."""
    clock = 0.0
    asked: list[int] = []
    run = fake(10, 10, 0, asked, monkeypatch)
    peak_of = planning._peak_of_step

    def slow(prepared: Any, part: int) -> int | None:
        nonlocal clock
        clock += part
        return peak_of(prepared, part)

    monkeypatch.setattr(planning, "_peak_of_step", slow)
    monkeypatch.setattr(planning, "time", SimpleNamespace(monotonic=lambda: clock))
    assert planning._largest_part(run, [4, 8, 16, 32], room, until) == expected
    assert asked == tried


@pytest.mark.parametrize(
    ("recipe", "sets", "expected"),
    [
        ("stylegan2-ada", {}, [4, 8, 16, 32]),  # minibatch_std looks at four
        ("dcgan-small", {"generator.norm": "none"}, [1, 2, 4, 8, 16, 32]),
        ("dcgan-small", {"train.batch": 6}, [6]),  # batch normalisation
        ("dcgan-small", {"generator.norm": "none", "train.packing": 4}, [4, 8, 16, 32]),
        ("dcgan-small", {"loss.penalties": ["consensus"], "generator.norm": "none"}, [32]),
    ],
)
def test_what_parts_a_batch_may_have(recipe: str, sets: dict[str, Any], expected: list[int]) -> None:
    from img2img import translators

    config = resolve(recipe, None, sets)
    assert translators.check(config) == []
    with torch.device("meta"):
        translator, _ = translators.build(
            config, translators._example(config, translators.TRANSLATORS["unconditional"])
        )
    engine = SimpleNamespace(translator=translator, penalties=translators.make_penalties(config))
    assert planning._parts(config, SimpleNamespace(engine=engine)) == expected


# --- on pictures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> DataPaths:
    """Six pictures that fill 20 pixels and not 32, below a folder whose name would be a line of TOML."""
    folder = tmp_path / "a\n[train]\nkimg = 1"
    make_pictures(folder, 6, 0, (26, 20))
    return DataPaths(images=folder)


COMMON_SETS = tuple(
    f"{key}={str(value).lower()}"
    for key, value in {
        **{key: value for key, value in COMMON.items() if key not in ("data.resolution", "train.kimg")},
        "generator.width": 4,
        "generator.max_width": 4,
        "generator.group_width": 2,
        "generator.latent_dim": 4,
        "discriminator.width": 4,
        "discriminator.max_width": 4,
        "discriminator.group_width": 2,
    }.items()
)


def test_the_file_makes_of_the_recipe_what_was_planned(data: DataPaths, tmp_path: Path) -> None:
    planned = plan("r3gan-small", data, sets=[*COMMON_SETS, "train.kimg=6"], device="cpu")
    changes = {one.key: one.after for one in planned.proposals}
    assert changes == {
        "data.resolution": (20, 20),
        "augment.discriminator": "diffaugment",
        **{f"loss.penalties.{name}.weight": 6.2 for name in ("r1", "r2")},
    }
    (tmp_path / "planned.toml").write_text(planned.to_toml())
    assert resolve("r3gan-small", tmp_path / "planned.toml", [*COMMON_SETS, "train.kimg=6"]) == planned.config
    assert planned.estimate.status == "planned"
    assert planned.estimate.seconds > 0
    assert 0 < planned.estimate.peak_memory < (planned.memory or math.inf)
    assert planned.data.median_size == (20, 26)
    assert planned.data.counts == {"images": 6}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_method_is_tried_in_parts(family: str, tmp_path: Path) -> None:
    recipe, option, own = FAMILIES[family]
    given = {name: Path(path) for name, path in make_data(tmp_path)[option].items()}
    data = DataPaths(**{name: (path,) if name == "pairs" else path for name, path in given.items()})  # type: ignore[arg-type]
    config = resolve(recipe, None, {**COMMON, **own, "train.batch": 4})
    prepared = prepare(config, data, choose_precision("float32", torch.device("cpu")), World(), None)
    with prepared.loader:
        parts = planning._parts(config, prepared)
        assert parts[-1] == 4
        assert all(planning._peak_of_step(prepared, part) for part in parts)


def test_a_batch_for_which_there_is_no_room_is_divided(data: DataPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_peak_of_step", lambda prepared, part: 10**12 * part)
    monkeypatch.setattr(planning, "_room", lambda device: 5 * 10**12)
    sets = [*COMMON_SETS, "train.batch=16", "data.resolution=16", "train.kimg=1"]
    planned = plan("r3gan-small", data, sets=sets, device="cpu")
    (proposal,) = [one for one in planned.proposals if one.key == "train.accumulate"]
    assert (proposal.before, proposal.after) == (1, 4)
    assert proposal.reason.startswith("4 pictures at once take 4000.0 GB of the 5000.0 GB there are, more do not fit")
    monkeypatch.setattr(planning, "_room", lambda device: 10**8)
    with pytest.raises(UsageFault, match=r"r3gan-small at 16 × 16 with 1 pictures at once .* -small form"):
        plan("r3gan-small", data, sets=sets, device="cpu")


def test_what_cannot_be_planned_is_refused(data: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(Faults, match="points learns from toy worlds"):
        plan("points", data)
    with pytest.raises(Faults, match="cyclegan learns from unpaired, not from images"):
        plan("cyclegan", data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageFault, match="no images in it"):
        plan("dcgan", DataPaths(images=tmp_path / "empty"), device="cpu")


# --- time ------------------------------------------------------------------------------------------------------------


def prepared_with(penalties: dict[str, SimpleNamespace], batch: int) -> Any:
    """What the timing of steps looks at, of a run that has these penalties."""
    engine = SimpleNamespace(
        step=0,
        stage=SimpleNamespace(batch=batch),
        penalties=penalties,
        penalties_of=lambda player: {name: one for name, one in penalties.items() if player in one.players},
    )
    return SimpleNamespace(engine=engine, config=SimpleNamespace(train=SimpleNamespace(critic_steps=1)))


def test_steps_of_all_kinds_count_as_often_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1 every 4 steps and path length every 8: of eight steps one has both, one R1 alone, six neither."""
    penalties = {
        "r1": SimpleNamespace(every=4, players=("discriminator",)),
        "path_length": SimpleNamespace(every=8, players=("generator",)),
        "drift": SimpleNamespace(every=1, players=("discriminator",)),
    }
    prepared = prepared_with(penalties, batch=10)
    engine = prepared.engine
    asked: list[int] = []

    def time_steps(_: object, warm_up: int, steps: int, images: int | None = None) -> speed.Speed:
        assert (warm_up, steps, images) == (0, 1, None)
        number = engine.step
        asked.append(number)
        seconds = 1.0 + 2.0 * (number % 4 == 0) + 4.0 * (number % 8 == 0)
        engine.step += 1
        return speed.Speed(10 / seconds, (seconds,), 0.5, 7, "cpu", "float32", 1)

    monkeypatch.setattr(speed, "time_steps", time_steps)
    result = speed.time_kinds_of_steps(prepared)
    assert asked == [0, 1, 1, 0, 0, 4, 4]
    assert result.images_per_second == pytest.approx(10 / ((7 + 3 + 6 * 1) / 8))
    assert result.waiting == pytest.approx(0.5)
    assert speed._due(engine, 1, critic_steps=4) == ("r1",)  # its discriminator steps are 4 to 7


def test_whole_steps_are_timed_only_where_there_is_time_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of steps at each of two sizes are ten steps of 30 pictures, a second each: 300 seconds."""
    monkeypatch.setattr(planning, "kinds_of_steps", lambda prepared: {(): [1], ("r1",): [0]})
    monkeypatch.setattr(planning, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    prepared: Any = SimpleNamespace(
        engine=SimpleNamespace(settings=SimpleNamespace(growth=SimpleNamespace(starts=lambda: [0, 500]))),
        config=SimpleNamespace(train=SimpleNamespace(batch=30)),
    )
    fit = planning._Fit(size=30, peak=7, smallest=3, tried=6, pace=1.0)
    assert planning._patience(prepared, fit, 1300.0) == speed.Patience(1300.0)
    assert planning._patience(prepared, fit, 1299.0) == speed.Patience(1299.0, images=3)


def test_kinds_for_which_there_was_no_time_count_as_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 steps 12 have nothing due, 3 path length, 1 both: 2, 5 and 9 seconds for 4 of 32 pictures."""
    seconds = {1: 2.0, 4: 5.0, 0: 9.0}
    penalties = {
        "r1": SimpleNamespace(every=16, players=("discriminator",)),
        "path_length": SimpleNamespace(every=4, players=("generator",)),
    }
    prepared = prepared_with(penalties, batch=32)
    engine = prepared.engine
    clock = 0.0

    def time_steps(_: object, warm_up: int, steps: int, images: int | None) -> speed.Speed:
        nonlocal clock
        assert (warm_up, steps, images) == (0, 1, 4)
        clock += seconds[engine.step]
        return speed.Speed(0.0, (seconds[engine.step],), 0.5, 7, "cpu", "float32", 1)

    monkeypatch.setattr(speed, "time_steps", time_steps)
    monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: clock))
    for until, steps, expected in ((100.0, 3, 12 * 2 + 3 * 5 + 9), (7.0, 2, 12 * 2 + 4 * 5), (0.0, 1, 16 * 2)):
        clock = 0.0
        patience = speed.Patience(until, images=4)
        result = speed.time_kinds_of_steps(prepared, patience)
        assert result.images_per_second == pytest.approx(4 / (expected / 16))
        assert (patience.steps, len(result.seconds)) == (steps, steps)
        assert result.waiting == pytest.approx(0.5)


def test_a_run_that_is_far_too_long_is_planned_from_few_steps_and_said_to_be(
    data: DataPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[int] = []
    train_step = Engine.train_step

    def counted(self: Engine, batches: Any) -> None:
        steps.append(sum(len(batch.numbers) for batch in batches[0]))
        train_step(self, batches)

    monkeypatch.setattr(Engine, "train_step", counted)
    monkeypatch.setattr(planning, "_PATIENCE", 0.0)
    monkeypatch.setattr(planning, "_TOO_LONG", 0.0)
    sets = [text for text in COMMON_SETS if "group_width" not in text]
    sets += ["train.batch=32", "data.resolution=16", "train.kimg=1", "generator.norm=none", "discriminator.norm=none"]
    with caplog.at_level("INFO", logger="img2img.training"):
        planned = plan("dcgan", data, sets=sets, device="cpu")
    assert steps == [1, 1]  # one for memory, one for time, of a single picture each
    assert caplog.messages[:2] == ["looking at the pictures", "trying 1 pictures at once"]
    assert caplog.messages[-2] == "timing a step of 1 pictures"
    assert all(any(message.startswith(f"{word} took ") for message in caplog.messages) for word in ("a step", "it"))
    little, long = planned.remarks[-2:]
    assert little.startswith("time is an estimate from 1 step of 1 pictures, as one of 32 may take ")
    assert re.fullmatch(r"the run would take 0\.0 days here: .*, or take dcgan-small, its form for a laptop", long)
    assert planned.estimate.seconds == pytest.approx(1000 / planned.estimate.images_per_second)
    assert "train.accumulate" not in {one.key for one in planned.proposals}
    steps.clear()
    monkeypatch.setattr(planning, "_PATIENCE", 1000.0)
    monkeypatch.setattr(planning, "_TOO_LONG", math.inf)
    planned = plan("dcgan", data, sets=sets, device="cpu")
    assert steps == [1, 32, 32, 32, 32]  # for memory; then one that does not count, and two
    assert not any("estimate" in remark or "days" in remark for remark in planned.remarks)
