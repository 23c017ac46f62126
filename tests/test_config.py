from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img2img.config import (
    HARMLESS_ON_RESUME,
    KEYS,
    AugmentConfig,
    Choice,
    Config,
    DataConfig,
    DataPaths,
    LossConfig,
    NetworkConfig,
    OptimConfig,
    TrainConfig,
    as_dict,
    changed_keys,
    describe_keys,
    from_toml,
    load_recipe,
    read_toml,
    recipe_names,
    recipe_text,
    refused_changes,
    resolve,
    to_toml,
)
from img2img.config_keys import plain_number
from img2img.errors import Faults, UsageFault

RECIPES = (
    "acgan",
    "acgan-small",
    "biggan",
    "biggan-deep",
    "biggan-deep-small",
    "biggan-small",
    "cgan",
    "cgan-projection",
    "cgan-projection-small",
    "cgan-small",
    "cut",
    "cut-modern",
    "cut-modern-small",
    "cut-small",
    "cyclegan",
    "cyclegan-modern",
    "cyclegan-modern-small",
    "cyclegan-small",
    "dcgan",
    "dcgan-small",
    "dcgan-stacked-mnist",
    "fastcut",
    "fastcut-small",
    "gan-mlp",
    "gan-mlp-small",
    "gan-mnist",
    "pix2pix",
    "pix2pix-modern",
    "pix2pix-modern-small",
    "pix2pix-small",
    "pix2pixhd",
    "pix2pixhd-small",
    "points",
    "points-recommended",
    "progan",
    "progan-small",
    "r3gan",
    "r3gan-small",
    "sagan",
    "sagan-small",
    "sngan",
    "sngan-small",
    "spade",
    "spade-small",
    "starganv2",
    "starganv2-small",
    "stylegan",
    "stylegan-small",
    "stylegan2",
    "stylegan2-ada",
    "stylegan2-ada-small",
    "stylegan2-small",
    "stylegan3-r",
    "stylegan3-r-small",
    "stylegan3-t",
    "stylegan3-t-small",
    "wgan-gp",
    "wgan-gp-small",
)
MINIMAL = 'translator = "pix2pix"\ngenerator = "unet"\ndiscriminator = "patch"\n'


def faults_of(*sets: str, recipe: str | None = "cyclegan", config_file: Path | None = None) -> list[str]:
    with pytest.raises(Faults) as caught:
        resolve(recipe, config_file, sets)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def setting(key: str, *sets: str, recipe: str = "cyclegan") -> Any:
    return as_dict(resolve(recipe, None, sets)).get(key)


# --- recipes


def test_recipes_are_those_that_the_documents_name() -> None:
    assert tuple(recipe_names()) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_round_trips(name: str) -> None:
    config = load_recipe(name)
    assert from_toml(to_toml(config)) == config
    assert config.recipe.name == name
    for item in dataclasses.fields(config.recipe):
        assert getattr(config.recipe, item.name), f"{name} leaves recipe.{item.name} empty"
    assert "arXiv:" in config.recipe.paper
    pictures = () if config.translator == "points" else ("data",)
    for table in (*pictures, "generator", "discriminator", "loss.adversarial", "optim", "train"):
        assert f"[{table}]" in recipe_text(name)


@pytest.mark.parametrize("name", RECIPES)
def test_the_translators_accept_every_recipe(name: str) -> None:
    from img2img.translators import check

    assert check(load_recipe(name)) == []


def test_a_recipe_that_needs_a_gpu_has_a_small_one() -> None:
    cheap = {"points", "points-recommended", "dcgan-stacked-mnist", "gan-mnist"}
    assert {name for name in RECIPES if not name.endswith("-small")} - cheap == {
        name.removesuffix("-small") for name in RECIPES if name.endswith("-small")
    }


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        ("dcgan", "train.batch", 128),
        ("dcgan", "generator.latent_dim", 100),
        ("dcgan", "optim.betas", (0.5, 0.999)),
        ("dcgan", "loss.penalties", ()),
        ("dcgan-small", "discriminator.spectral_norm", True),
        ("dcgan-small", "discriminator.norm", "none"),
        ("cgan", "discriminator.conditioning", "concat"),
        ("cgan-projection", "discriminator.conditioning", "projection"),
        ("cgan-projection", "loss.adversarial.name", "hinge"),
        ("cgan-projection", "discriminator.spectral_norm", True),
        ("cgan-projection", "train.critic_steps", 5),
        ("pix2pix", "loss.l1", 100.0),
        ("pix2pix", "train.batch", 1),
        ("pix2pix", "generator.dropout_at_test", True),
        ("pix2pix", "optim.decay_share", 0.0),
        ("cyclegan", "loss.cycle", 10.0),
        ("cyclegan", "loss.identity", 5.0),
        ("cyclegan", "loss.adversarial.weight", 2.0),
        ("cyclegan", "train.image_pool", 50),
        ("cyclegan", "generator.blocks", 9),
    ],
)
def test_recipes_hold_their_papers_settings(recipe: str, key: str, value: object) -> None:
    assert setting(key, recipe=recipe) == value


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_translators_of_the_papers_load_286_pixels_and_see_256(name: str) -> None:
    config = load_recipe(name)
    assert config.data.resolution == (256, 256)
    assert config.augment.enlarge * 256 == 286
    assert config.augment.flip


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageFault, match="Did you mean cyclegan") as caught:
        load_recipe("cycelgan")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageFault, match="recipes list"):
        load_recipe("../../etc/passwd")


# --- precedence, and what --set can say


def test_a_file_lies_over_the_recipe_and_set_over_both(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nbatch = 2\nkimg = 50\n[optim]\ndecay_share = 0\n")
    config = resolve("cyclegan", file, ["train.batch=3"])
    assert (config.train.batch, config.train.kimg, config.train.image_pool) == (3, 50.0, 50)


def test_a_complete_file_stands_without_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(resolve("dcgan-small", None, ["train.seed=7"])))
    assert read_toml(file) == resolve(None, file) == resolve("dcgan-small", None, ["train.seed=7"])
    assert resolve(None, file, ["train.seed=8"]).train.seed == 8


def test_a_complete_file_and_a_recipe_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(MINIMAL)
    (line,) = faults_of(recipe="dcgan", config_file=file)
    assert "complete configuration" in line
    assert "Leave out the recipe" in line


def test_neither_recipe_nor_file() -> None:
    (line,) = faults_of(recipe=None)
    assert line.startswith("RECIPE: is missing. Name one (`img2img recipes list`")


def test_a_file_without_names_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nbatch = 2\n")
    lines = faults_of(recipe=None, config_file=file)
    assert [line.partition(":")[0] for line in lines] == ["translator", "generator.name", "discriminator.name"]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("data.resolution=96,64", "data.resolution", (96, 64)),
        ("data.resolution=[96, 64]", "data.resolution", (96, 64)),
        ("data.resolution=128", "data.resolution", (128, 128)),
        ("optim.betas=.5,.999", "optim.betas", (0.5, 0.999)),
        ("optim.lr=1e-4", "optim.lr", 1e-4),
        ("optim.lr=1", "optim.lr", 1.0),
        ("train.kimg=200", "train.kimg", 200.0),
        ("augment.flip=False", "augment.flip", False),
        ("augment.flip=false", "augment.flip", False),
        ("data.fit=crop", "data.fit", "crop"),
        ('data.fit="crop"', "data.fit", "crop"),
        ("recipe.title=12", "recipe.title", "12"),
        ("recipe.title=a, b = c", "recipe.title", "a, b = c"),
        (" train.batch = 4 ", "train.batch", 4),
        ("eval.measures=fd,kid", "eval.measures", "fd,kid"),
        ("eval.weights=", "eval.weights", ""),
        ("loss.identity=none", "loss.identity", None),
        ("generator.blocks=6", "generator.blocks", 6),
        ("generator.norm=none", "generator.norm", "none"),
        ("generator.widths=1,2", "generator.widths", (1, 2)),
        ("loss.penalties=r1,r2", "loss.penalties", ("r1", "r2")),
        ("loss.penalties=none", "loss.penalties", ()),
        ("loss.penalties=[]", "loss.penalties", ()),
        ("loss.penalties.r1={weight=5}", "loss.penalties.r1.weight", 5),
        ("loss.adversarial=hinge", "loss.adversarial.name", "hinge"),
        ("loss.adversarial.a=-1", "loss.adversarial.a", -1),
    ],
)
def test_values_of_set(text: str, key: str, value: object) -> None:
    found = setting(key, text)
    assert found == value
    assert type(found) is type(value)


def test_a_mapping_sets_what_texts_set() -> None:
    sets = ["train.kimg=10", "loss.penalties=r1", "loss.penalties.r1.weight=2", "generator.width=8"]
    mapping = {
        "train.kimg": 10,
        "loss.penalties": ["r1"],
        "loss.penalties.r1.weight": 2,
        "generator.width": 8,
    }
    assert resolve("dcgan", None, mapping) == resolve("dcgan", None, sets)
    with pytest.raises(Faults, match=r"Did you mean train\.batch"):
        resolve("dcgan", None, {"train.bacth": 1})


def test_another_network_drops_the_old_ones_arguments_and_the_same_one_keeps_them() -> None:
    assert resolve("cyclegan", None, ["generator.name=unet", "generator.width=16"]).generator == NetworkConfig(
        "unet", {"width": 16}
    )
    assert resolve("cyclegan", None, ["generator.width=16", "generator=unet"]).generator == NetworkConfig(
        "unet", {"width": 16}
    )
    kept = resolve("cyclegan", None, ["generator.name=resnet", "generator.width=16"]).generator
    assert kept.arguments == {**load_recipe("cyclegan").generator.arguments, "width": 16}


def test_a_network_that_few_methods_need_comes_and_goes() -> None:
    assert load_recipe("cyclegan").projection is None
    config = resolve("cyclegan", None, ["projection.width=16", "projection=patches", "projection.layers=[0,2]"])
    assert config.projection == NetworkConfig("patches", {"width": 16, "layers": (0, 2)})
    assert from_toml(to_toml(config)) == config
    assert as_dict(config)["projection.width"] == 16
    assert resolve("cyclegan", None, ["projection=patches", "projection=none"]).projection is None
    with pytest.raises(Faults, match=r"projection\.name: is missing. Set it, or remove the other keys of projection"):
        resolve("cyclegan", None, ["projection.width=16"])


def test_a_file_s_network_can_be_taken_away(tmp_path: Path) -> None:
    complete = tmp_path / "complete.toml"
    complete.write_text(to_toml(resolve("cyclegan", None, ["projection=patches", "projection.width=16"])))
    assert resolve(None, complete, ["projection=none"]).projection is None
    assert resolve(None, complete, ["projection.width=8"]).projection == NetworkConfig("patches", {"width": 8})
    with pytest.raises(Faults, match=r"generator\.name"):
        resolve(None, complete, ["generator="])


def test_an_objective_named_as_a_whole_takes_its_defaults() -> None:
    assert load_recipe("cyclegan").loss.adversarial == Choice("lsgan", weight=2.0)
    assert resolve("cyclegan", None, ["loss.adversarial=lsgan"]).loss.adversarial == Choice("lsgan")
    assert resolve("cyclegan", None, ["loss.adversarial.name=hinge"]).loss.adversarial == Choice("hinge")
    kept = resolve("cyclegan", None, ["loss.adversarial.a=-1"]).loss.adversarial
    assert kept == Choice("lsgan", {"a": -1}, weight=2.0)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_whole_and_part_does_not_matter(order: int) -> None:
    texts = ["loss.adversarial=lsgan", "loss.adversarial.a=-1", "loss.penalties=r1,r2", "loss.penalties.r1.weight=5"]
    loss = resolve("dcgan", None, texts[::order]).loss
    assert loss.adversarial == Choice("lsgan", {"a": -1})
    assert loss.penalties == {"r1": {"weight": 5}, "r2": {}}


def test_penalty_tables_are_laid_over_and_lists_replace(tmp_path: Path) -> None:
    complete = tmp_path / "complete.toml"
    complete.write_text(
        to_toml(resolve("dcgan-small", None, ["loss.penalties.r1.weight=1", "loss.penalties.r1.every=4"]))
    )
    assert resolve(None, complete, ["loss.penalties.r1.weight=3"]).loss.penalties == {"r1": {"weight": 3, "every": 4}}
    assert resolve(None, complete, ["loss.penalties=weight_clip"]).loss.penalties == {"weight_clip": {}}
    file = tmp_path / "mine.toml"
    file.write_text("[loss.penalties.gradient_penalty]\n[loss.penalties.r1]\nevery = 16\n")
    assert resolve("dcgan-small", file).loss.penalties == {"r1": {"every": 16}, "gradient_penalty": {}}
    file.write_text('loss.penalties = ["r2"]\n')
    assert resolve("dcgan-small", file, ["loss.penalties.r2.weight=1"]).loss.penalties == {"r2": {"weight": 1}}


# --- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.bacth=3", "train.bacth: there is no such key. Did you mean train.batch?"),
        ("batch=3", "batch: there is no such key. Did you mean train.batch?"),
        ("optim.generator_lr=3", "Did you mean optim.lr or optim.discriminator_lr?"),
        ("train.patch=3", "train.patch: there is no such key. Did you mean train.batch"),
        ("lr=3", "lr: there is no such key. Did you mean optim.lr?"),
        ("qqq.zzz=3", "qqq.zzz: there is no such key. `img2img recipes keys` lists every key"),
        ("train.batch.x=3", "train.batch.x: there is no such key"),
        ("a..b=3", "a..b: there is no such key"),
        ("train=3", "train: is a table of keys, not a value. Set a key inside it, such as train.kimg"),
        ("generator=3", "generator.name: cannot be '3'. Give a name"),
        ("loss.penalties=3", "loss.penalties: is a table of keys"),
        ("loss.penalties=r1,5", "loss.penalties: 5 is no name of a penalty"),
        ("loss.penalties.r1=5", "such as loss.penalties.r1.weight"),
        ("train.batch=0", "train.batch: cannot be 0. Give an integer, at least 1 and at most 65536"),
        ("train.batch=3.0", "train.batch: cannot be 3.0"),
        ("train.batch=true", "train.batch: cannot be true"),
        ("train.batch=", "train.batch: cannot be ''"),
        ("train.batch={a=1}", "train.batch: cannot be a table"),
        ("train.batch=2020-01-01", "train.batch: cannot be 2020-01-01"),
        ("train.batch", "--set train.batch: is no assignment. Write --set key=value"),
        ("=3", "--set =3: is no assignment"),
        ("train.seed=0x" + "f" * 5000, "train.seed: cannot be a number of more than 64 bits"),
        ("train.kimg=1e999", "train.kimg: cannot be inf"),
        ("optim.lr=nan", "optim.lr: cannot be nan. Give a number, above 0 and at most 1"),
        ("optim.lr=0", "optim.lr: cannot be 0"),
        ("optim.lr=fast", "optim.lr: cannot be 'fast'"),
        ("optim.betas=0.5", "optim.betas: cannot be 0.5. Give two numbers, at least 0 and below 1"),
        ("optim.betas=0.5,1.0", "optim.betas: cannot be [0.5, 1.0]"),
        ("loss.cycle=-1", "loss.cycle: cannot be -1. Give a number, at least 0 and at most 1000000, or none"),
        ("loss.adversarial.weight=inf", "loss.adversarial.weight: cannot be inf"),
        ("generator.width=nan", "generator.width: cannot be nan"),
        ("generator.width=1,nan", "generator.width: cannot be [1, nan]"),
        ("data.fit=corp", 'data.fit: cannot be \'corp\'. Give "crop" or "stretch"'),
        ("data.channels=2", "data.channels: cannot be 2. Give 1 or 3 or 4"),
        ("data.resolution=0", "data.resolution: cannot be 0. Give an integer or two integers"),
        ("data.resolution=64,64,64", "data.resolution: cannot be [64, 64, 64]"),
        ("data.resolution=1000000", "data.resolution: cannot be 1000000"),
        ("augment.enlarge=0.5", "augment.enlarge: cannot be 0.5. Give a number, at least 1"),
        ("augment.zoom=2,1", "augment.zoom: the smallest magnification 2 is above the largest 1"),
        (
            "augment.discriminator=adda",
            'augment.discriminator: cannot be \'adda\'. Give "none" or "diffaugment" or "ada"',
        ),
        ("augment.p=1.5", "augment.p: cannot be 1.5. Give a number, at least 0 and at most 1"),
        ("augment.target=1", "augment.target: cannot be 1. Give a number, at least 0 and below 1"),
        ("augment.interval=0", "augment.interval: cannot be 0. Give an integer, at least 1"),
        ("augment.speed_kimg=0", "augment.speed_kimg: cannot be 0. Give a number, above 0"),
        (
            "augment.parts=blit",
            "augment.parts: has no effect: augment.discriminator is none, nothing changes what discriminators see. "
            "Set augment.discriminator=diffaugment or ada, or leave it out",
        ),
        ("augment.target=0.5", "augment.target: has no effect: augment.discriminator is none"),
        ("train.accumulate=3", "train.accumulate: 3 micro-batches do not divide train.batch = 1 evenly"),
        ("optim.decay_share=1.5", "optim.decay_share: cannot be 1.5. Give a number, at least 0 and at most 1"),
        ("recipe.title=\udcff", "recipe.title: cannot be "),
        ("train.eval_kimg=-1", "train.eval_kimg: cannot be -1. Give a number, at least 0"),
        ("eval.count=1", "eval.count: cannot be 1. Give an integer, at least 2"),
        ("eval.patience=often", "eval.patience: cannot be 'often'"),
        ("eval.measure=fd", "eval.measure: there is no such key. Did you mean eval.measures"),
    ],
)
def test_a_refused_value_names_its_key_and_the_mend(text: str, message: str) -> None:
    (line,) = faults_of(text)
    assert message in line


def test_all_faults_come_at_once_and_name_their_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[train]\nbatch = "four"\n[trian]\nkimg = 3\n"strange key" = 1\n[augment]\nflip = 1\n')
    lines = faults_of("optim.lr=-1", "augment.zoom=3,2", config_file=file)
    assert len(lines) == 5
    assert lines[0].startswith(f"{file}: train.batch: cannot be 'four'")
    assert lines[1].startswith(f"{file}: trian: there is no such key. Did you mean train")
    assert lines[2].startswith(f"{file}: augment.flip: cannot be 1. Give true or false")
    assert lines[3].startswith("optim.lr: cannot be -1")
    assert lines[4].startswith("augment.zoom: the smallest")


def test_a_faulty_key_does_not_raise_faults_between_keys() -> None:
    # the recipe's decay would be longer than the default length that stands in for the faulty one
    (line,) = faults_of("train.kimg=soon")
    assert line.startswith("train.kimg")


def test_faults_of_set_are_named_beside_a_missing_recipe() -> None:
    lines = faults_of("train.bacth=1", recipe="nothing-like-it")
    assert lines[0].startswith("recipe nothing-like-it")
    assert lines[1].startswith("train.bacth")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train = [", "is not valid TOML"),
        (b"[train]\nbatch = 1\nbatch = 2\n", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x = " + b"[" * 100_000, "is not valid TOML"),
        (b"x = " + b"[" * 20_000 + b"]" * 20_000, "nested too deep"),
        (b"x = " + b"9" * 5000, "is not valid TOML"),
        (b"#" * (2 << 20), "too long"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    lines = faults_of(config_file=file)
    assert lines[0].startswith(str(file))
    assert message in lines[0] or "nested too deep" in lines[0]


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    assert "there is no such file" in faults_of(config_file=tmp_path / "absent.toml")[0]
    assert "is no regular file" in faults_of(config_file=tmp_path)[0]
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in faults_of(config_file=tmp_path / "pipe")[0]
    assert faults_of(config_file=tmp_path / ("x" * 300))


# --- in Python


def minimal(**sections: Any) -> Config:
    return Config(
        translator="pix2pix", generator=NetworkConfig("unet"), discriminator=NetworkConfig("patch"), **sections
    )


def test_defaults_round_trip_and_equal_those_of_a_minimal_file() -> None:
    assert from_toml(MINIMAL) == minimal() == from_toml(to_toml(minimal()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainConfig(batch=0),
        lambda: TrainConfig(batch=True),
        lambda: OptimConfig(lr=math.nan),
        lambda: DataConfig(resolution=(64, 0)),
        lambda: AugmentConfig(enlarge=0.9),
        lambda: Choice("lsgan", weight=math.inf),
        lambda: Choice("lsgan", {"a": math.nan}),
        lambda: Choice("lsgan", {"weight": 2}),
        lambda: NetworkConfig("unet", {"name": "resnet"}),
        lambda: NetworkConfig("unet", {"width": {}}),  # type: ignore[dict-item]
        lambda: LossConfig(penalties={"r1": {"weight": math.nan}}),
        lambda: minimal(train=TrainConfig(batch=4, accumulate=3)),
        lambda: Config(translator=3, generator=NetworkConfig("a"), discriminator=NetworkConfig("b")),  # type: ignore[arg-type]
    ],
)
def test_a_section_out_of_bounds_cannot_be_made(make: Any) -> None:
    with pytest.raises(UsageFault):
        make()


def test_sections_are_frozen_and_normalised() -> None:
    config = DataConfig(resolution=[32, 48])  # type: ignore[arg-type]
    assert config.resolution == (32, 48)
    assert type(OptimConfig(lr=1).lr) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.channels = 1  # type: ignore[misc]


def test_changed_keys_name_both_values() -> None:
    old = resolve("dcgan-small", None, ["loss.penalties.r1.weight=1", "loss.penalties.r1.every=4"])
    new = resolve("dcgan-small", None, ["train.batch=8", "generator.width=16", "loss.penalties=none", "data.workers=3"])
    assert changed_keys(old, old) == []
    assert {key: (before, after) for key, before, after in changed_keys(old, new)} == {
        "train.batch": (32, 8),
        "generator.width": (32, 16),
        "loss.penalties": (("r1",), ()),
        "loss.penalties.r1.weight": (1, None),
        "loss.penalties.r1.every": (4, None),
        "data.workers": (0, 3),
    }


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("train.kimg=50", False),
        ("train.kimg=30", True),
        ("train.sample_kimg=1", False),
        ("train.keep_last=9", False),
        ("train.eval_kimg=5", False),
        ("eval.patience=3", False),
        ("data.workers=4", False),
        ("recipe.title=mine", False),
        ("train.batch=64", True),
        ("train.seed=1", True),
        ("optim.lr=0.1", True),
        ("generator.width=16", True),
        ("generator.extra=16", True),
        ("loss.penalties.r1.every=8", True),
        ("loss.adversarial.name=lsgan", True),
    ],
)
def test_what_a_resumed_run_may_change(text: str, refused: bool) -> None:
    changes = refused_changes(load_recipe("dcgan-small"), resolve("dcgan-small", None, [text]))
    assert bool(changes) is refused
    if refused:
        assert text.startswith(changes[0][0])


def test_harmless_keys_exist() -> None:
    assert set(KEYS) >= HARMLESS_ON_RESUME


def test_every_key_is_described() -> None:
    rows = {row["key"]: row for row in describe_keys()}
    assert set(KEYS) <= set(rows)
    assert {"generator.name", "discriminator.ARGUMENT", "loss.penalties", "loss.penalties.NAME.CONSTANT"} <= set(rows)
    assert all(row["help"] and row["takes"] for row in rows.values())
    for key in KEYS.values():
        assert key.required or key.read(key.default) == key.default, f"the default of {key.name} is out of bounds"


def test_importing_the_configuration_imports_no_torch() -> None:
    code = "import sys, img2img.config as c; c.load_recipe('dcgan'); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_numbers_are_written_plainly() -> None:
    assert [plain_number(number) for number in (8.0, 0.5, 133.5, 1e7)] == ["8", "0.5", "133.5", "10000000"]


# --- properties

_names = st.sampled_from(["a", "width", "norm", "some_thing", "X9"])
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_scalars = (
    st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _texts
)
_arguments = st.dictionaries(_names, _scalars | st.lists(_scalars, max_size=3).map(tuple), max_size=3)


@settings(max_examples=200, deadline=None)
@given(
    arguments=_arguments,
    penalties=st.dictionaries(_names, _arguments, max_size=3),
    title=_texts,
    lr=st.floats(min_value=1e-300, max_value=1.0),
    weight=st.none() | st.floats(min_value=0.0, max_value=1e6),
    resolution=st.tuples(st.integers(4, 4096), st.integers(4, 4096)),
)
def test_toml_gives_back_exactly_what_it_was_given(
    arguments: Any, penalties: Any, title: str, lr: float, weight: float | None, resolution: tuple[int, int]
) -> None:
    config = dataclasses.replace(
        load_recipe("cyclegan"),
        generator=NetworkConfig("resnet", arguments),
        loss=LossConfig(adversarial=Choice("lsgan", arguments), penalties=penalties, cycle=weight),
        optim=OptimConfig(lr=lr),
        data=DataConfig(resolution=resolution),
    )
    config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, title=title))
    again = from_toml(to_toml(config))
    assert again == config
    assert to_toml(again) == to_toml(config)
    assert repr(as_dict(again)) == repr(as_dict(config)), "equal is not enough: 1 == 1.0 == True"


@settings(max_examples=200, deadline=None)
@given(
    sets=st.lists(
        st.sampled_from([*KEYS, "generator", "loss.penalties", "x"]).flatmap(
            lambda key: st.text(max_size=12).map(lambda value: f"{key}={value}")
        )
        | st.text(max_size=12),
        max_size=4,
    )
)
def test_any_text_of_set_gives_a_configuration_or_faults(sets: list[str]) -> None:
    try:
        config = resolve("dcgan", None, sets)
    except Faults as several:
        messages = [str(fault) for fault in several.faults]
    else:
        messages = []
        assert from_toml(to_toml(config)) == config
    assert all(message.isprintable() for message in messages)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.text("[]{}=.\"'\\\n#,ab1 -einf", max_size=60))
def test_any_text_of_a_file_gives_a_configuration_or_faults(text: str) -> None:
    with contextlib.suppress(UsageFault):
        from_toml(text)


# --- folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"images": "a"}, "images"),
        ({"classes": "a"}, "classes"),
        ({"a": "a", "b": "b"}, "unpaired"),
        ({"pairs": ("a",)}, "pairs"),
        ({"pairs": ("a", "b")}, "pairs"),
    ],
)
def test_one_kind_of_data(folders: Path, given: dict[str, Any], kind: str) -> None:
    paths = {
        key: tuple(folders / name for name in value) if key == "pairs" else folders / value
        for key, value in given.items()
    }
    data = DataPaths(**paths)
    assert data.kind == kind
    assert data.faults() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to learn from is named. Give --images DIR"),
        ({"images": "a", "classes": "b"}, "--images and --classes exclude each other"),
        ({"a": "a", "b": "b", "pairs": ("c",)}, "--a/--b and --pairs exclude each other"),
        ({"a": "a"}, "--a: stands without --b"),
        ({"b": "b"}, "--b: stands without --a"),
        ({"pairs": ("a", "b", "c")}, "--pairs: has 3 folders"),
        ({"images": "absent"}, "--images: there is no folder"),
        ({"pairs": ("a", "absent")}, "--pairs: there is no folder"),
        ({"images": "file"}, "is a file, not a folder"),
    ],
)
def test_folders_that_do_not_fit(folders: Path, given: dict[str, Any], message: str) -> None:
    (folders / "file").write_text("")
    paths = {
        key: tuple(folders / name for name in value) if key == "pairs" else folders / value
        for key, value in given.items()
    }
    (fault,) = DataPaths(**paths).faults()
    assert message in str(fault)
    assert fault.exit_code == 2
