"""`img2img recipes`: what can be trained, and every configuration key."""

from __future__ import annotations

import click

from img2img_cli.options import CommandGroup, json_option, print_json


@click.group("recipes", cls=CommandGroup, short_help="List and show recipes and configuration keys.")
def command() -> None:
    """List and show recipes, and the keys that --set takes.

    \b
    Examples:
      img2img recipes list
      img2img recipes show cyclegan-small
      img2img recipes keys train
    """


@command.command("list")
@json_option
def list_recipes(as_json: bool) -> None:
    """List the recipes, each with its title.

    \b
    Examples:
      img2img recipes list
      img2img recipes list --json
    """
    from img2img.config import load_recipe, recipe_names

    recipes = {name: load_recipe(name).recipe for name in recipe_names()}
    if as_json:
        print_json({"recipes": list(recipes.values())})
        return
    width = max(map(len, recipes))
    for name, recipe in recipes.items():
        click.echo(f"{name:<{width}}  {recipe.title}")


@command.command("show")
@click.argument("name")
@click.option("--resolved", is_flag=True, help="Print every key with its value, without comments.")
@json_option
def show_recipe(name: str, resolved: bool, as_json: bool) -> None:
    """Print the recipe NAME as TOML: its source, what to expect, and its settings with the reasons for them.

    The text is a complete configuration: saved to a file and changed, it serves as --config FILE.

    \b
    Examples:
      img2img recipes show cyclegan
      img2img recipes show cyclegan --resolved > my.toml
    """
    from img2img.config import as_dict, load_recipe, recipe_text, to_toml

    text = recipe_text(name)
    config = load_recipe(name)
    if as_json:
        print_json({"name": name, "config": as_dict(config), "toml": to_toml(config)})
    else:
        click.echo(to_toml(config) if resolved else text, nl=False)


@command.command("keys")
@click.argument("word", required=False)
@json_option
def list_keys(word: str | None, as_json: bool) -> None:
    """List the configuration keys, or those that contain WORD: what each means, takes, and is by default.

    \b
    Examples:
      img2img recipes keys
      img2img recipes keys augment
      img2img recipes keys kimg
    """
    from img2img.config import describe_keys
    from img2img.config_keys import nearest
    from img2img.errors import UsageFault

    rows = [row for row in describe_keys() if word is None or word in row["key"]]
    if word is not None and not rows:
        names = [row["key"] for row in describe_keys()]
        near = nearest(word, [*dict.fromkeys(part for name in names for part in name.split(".")), *names])
        mend = f"Did you mean {' or '.join(near)}?" if near else "`img2img recipes keys` lists every key"
        raise UsageFault(word, "no key contains this", mend)
    if as_json:
        print_json({"keys": rows})
        return
    for row in rows:
        default = f"  [default: {row['default']}]" if row["default"] else ""
        click.echo(f"{row['key']}\n    {row['help']}\n    takes {row['takes']}{default}")
