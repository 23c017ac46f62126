"""`img2img compare`: two metric cards side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import PATH, json_option, number, print_json

if TYPE_CHECKING:
    from img2img.evaluation.compare import Row


@click.command("compare", short_help="Put two metric cards side by side.")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@json_option
def command(first: Path, second: Path, as_json: bool) -> None:
    """Compare the metric cards FIRST and SECOND: JSON files, or models that hold one.

    Cards whose numbers do not mean the same are refused, with every reason: other real pictures, another network or
    resize, another count of pictures, other settings of a measure.

    \b
    Examples:
      img2img compare monday.card.json tuesday.card.json
      img2img compare runs/a/model.safetensors runs/b/model.safetensors --json
    """
    from img2img.errors import printable
    from img2img.evaluation.card import read_card
    from img2img.evaluation.compare import compare_cards

    cards = read_card(first), read_card(second)
    rows = compare_cards(*cards, (first, second))
    if as_json:
        print_json({"first": first, "second": second, "scores": [dataclasses.asdict(row) for row in rows]})
        return
    width = max(len(row.name) for row in rows)
    click.echo(printable(f"first   {first}"))
    click.echo(printable(f"second  {second}"))
    click.echo(f"{'':<{width}}  {'first':>12}  {'second':>12}")
    for row in rows:
        click.echo(printable(f"{row.name:<{width}}  {number(row.first):>12}  {number(row.second):>12}  {_remark(row)}"))
    for word, card, other in (("first", *cards), ("second", *cards[::-1])):
        alone = [name for name in card.scores if name not in other.scores]
        if alone:
            click.echo(printable(f"only in the {word}: {', '.join(alone)}"))


def _remark(row: Row) -> str:
    if row.first == row.second:
        return "equal"
    better = f"{row.better} is better" if row.better else "they differ"
    return better + {True: ", their intervals are apart", False: ", their intervals overlap", None: ""}[row.apart]
