"""`img2img plan`: which settings of a recipe fit the data and this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import (
    PATH,
    FoldersCommand,
    device_option,
    folder_options,
    json_option,
    print_json,
    use_suffix,
)

if TYPE_CHECKING:
    from img2img.training.plan import Plan


@click.command("plan", cls=FoldersCommand, short_help="Propose settings for your pictures and machine.")
@click.argument("recipe")
@folder_options
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a key, which is then left as it is; may be repeated."
)
@click.option("--out", type=PATH, metavar="FILE.toml", help="A new file for the proposals.  [stdout]")
@device_option
@json_option
def command(
    recipe: str,
    images: Path | None,
    classes: Path | None,
    a: Path | None,
    b: Path | None,
    pairs: tuple[Path, ...],
    sets: tuple[str, ...],
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Say which settings of RECIPE to change for your pictures and this machine, why, and what the run will take.

    Counts and sizes of the pictures decide on resolution, length, augmentation and penalties, some steps in memory on
    how many pictures fit at once, and on time. Only what there is a reason for is changed. The result is a file for
    `train RECIPE --config FILE`.

    \b
    Examples:
      img2img plan stylegan2-ada --images drawings --out drawings.toml
      img2img train stylegan2-ada --images drawings --config drawings.toml
      img2img plan cyclegan --a photos --b drawings --set data.resolution=128
      img2img plan pix2pix --pairs facades --device cuda --json
    """
    from img2img.config import DataPaths
    from img2img.errors import UsageFault

    if out is not None:
        if out.suffix != ".toml":
            raise UsageFault("--out", f"{out} does not end in .toml", use_suffix(out, ".toml"))
        if out.exists():
            raise UsageFault("--out", f"{out} exists already", "Choose another name, or remove it first")
        if not out.parent.is_dir():
            raise UsageFault("--out", f"there is no folder {out.parent}", "Make it first, or choose another place")

    from img2img.atomic import write_text
    from img2img.errors import printable
    from img2img.training.plan import plan

    data = DataPaths(images=images, classes=classes, a=a, b=b, pairs=pairs)
    result = plan(recipe, data, sets=sets, device=device)
    options = [word for option, path in data.folders().items() for word in (option.split()[0], str(path))]
    options += [word for text in sets for word in ("--set", text)]
    train = f"img2img train {recipe} {shlex.join(options)} --config {shlex.quote(str(out or 'FILE.toml'))}"
    heading = "".join(f"# {line}\n" for line in (*_summary(result), printable(train)))
    text = heading + result.to_toml()
    if out is not None:
        write_text(out, text)
    if as_json:
        print_json(
            {
                "recipe": recipe,
                "proposals": result.proposals,
                "remarks": result.remarks,
                "counts": result.data.counts,
                "median_size": result.data.median_size,
                "device": result.device,
                "precision": result.precision,
                "memory": result.memory,
                "estimate": result.estimate,
                "toml": text,
                "out": out,
            }
        )
    elif out is None:
        click.echo(text, nl=False)
    else:
        for line in (*_summary(result), *_table(result)):
            click.echo(line)
        click.echo(printable(f"wrote {out}; train with: {train}"))


def _summary(plan: Plan) -> list[str]:
    """What was looked at, what the run takes, and what to know of."""
    from img2img.errors import printable
    from img2img_cli.progress import duration

    estimate, config, data = plan.estimate, plan.config, plan.data
    counts = ", ".join(f"{count:,} {name}" for name, count in data.counts.items())
    size = "" if data.median_size is None else f", in the median {data.median_size[1]} × {data.median_size[0]} pixels"
    there = "" if plan.memory is None else f" of {plan.memory / 1e9:.1f}"
    lines = [
        f"{plan.recipe} on {' and '.join(data.folders)}: {counts}{size}",
        f"{config.train.kimg:g} kimg on {plan.device} ({plan.precision}): {duration(estimate.seconds)} "
        f"at {estimate.images_per_second:.1f} images a second; {estimate.peak_memory / 1e9:.1f}{there} GB of memory",
    ]
    if estimate.evaluations:
        each = duration(estimate.evaluation_seconds / estimate.evaluations)
        lines.append(f"{estimate.evaluations:,} evaluations, about {each} each")
    lines += [] if plan.proposals else ["nothing to change: the recipe fits"]
    return [printable(line) for line in (*lines, *(f"note: {remark}" for remark in plan.remarks))]


def _table(plan: Plan) -> list[str]:
    """A line for each proposal."""
    from img2img.config_keys import toml_or_none

    return [
        f"{one.key}  {toml_or_none(one.before)} -> {toml_or_none(one.after)}  {one.reason}" for one in plan.proposals
    ]
