from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from img2img.config import KEYS, as_dict, from_toml, load_recipe, recipe_names, recipe_text
from img2img_cli import main


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["recipes", *words])


def test_list_names_every_recipe_with_its_title() -> None:
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(load_recipe(line.split()[0]).recipe.title in line for line in lines)
    listed = json.loads(run("list", "--json").stdout)["recipes"]
    assert [recipe["name"] for recipe in listed] == recipe_names()
    assert all(set(recipe) == {"name", "title", "paper", "expected", "hardware"} for recipe in listed)


@pytest.mark.parametrize("name", recipe_names())
def test_show_prints_what_can_be_read_back(name: str) -> None:
    config = load_recipe(name)
    assert run("show", name).stdout == recipe_text(name)
    assert from_toml(run("show", name).stdout) == config
    assert from_toml(run("show", name, "--resolved").stdout) == config
    shown = json.loads(run("show", name, "--json").stdout)
    assert from_toml(shown["toml"]) == config
    assert list(shown["config"]) == list(as_dict(config))


def test_show_of_an_unknown_recipe_names_the_nearest() -> None:
    result = run("show", "pix2pik")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Did you mean pix2pix" in result.stderr


def test_keys_lists_every_key_with_default_and_help() -> None:
    text = run("keys").stdout
    for key in KEYS.values():
        assert f"{key.name}\n    {key.help}\n    takes {key.allowed()}" in text
    assert "train.batch\n" in text
    assert "[default: 16]" in text


def test_keys_can_be_searched() -> None:
    keys = [row["key"] for row in json.loads(run("keys", "augment", "--json").stdout)["keys"]]
    new = ["discriminator", "parts", "p", "target", "speed_kimg", "interval"]
    assert keys == [f"augment.{name}" for name in ("flip", "enlarge", "zoom", *new)]
    result = run("keys", "no-such-thing")
    assert result.exit_code == 2
    assert "no key contains this. `img2img recipes keys` lists every key" in result.stderr
    assert "Did you mean watchdog or train.watchdog?" in run("keys", "wachdog").stderr
