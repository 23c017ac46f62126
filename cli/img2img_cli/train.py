"""`img2img train`: from options to a configuration and folders, then the library's train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import click

from img2img_cli.options import (
    PATH,
    FoldersCommand,
    device_option,
    folder_options,
    json_option,
    print_json,
    world_option,
)


@click.command("train", cls=FoldersCommand, short_help="Train a recipe on your pictures.")
@click.argument("recipe", required=False)
@folder_options
@world_option
@click.option(
    "--config", "config_file", type=PATH, metavar="FILE", help="TOML file laid over RECIPE, or complete without it."
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a configuration key; may be repeated.")
@click.option("--out", type=PATH, metavar="DIR", help="Run folder.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on from the last saved state in --out.")
@click.option("--init", type=PATH, metavar="MODEL", help="Start a new run from the weights of a model file.")
@click.option("--dry-run", is_flag=True, help="Check everything, estimate time and memory, write nothing.")
@device_option
@json_option
def command(
    recipe: str | None,
    images: Path | None,
    classes: Path | None,
    a: Path | None,
    b: Path | None,
    pairs: tuple[Path, ...],
    worlds: tuple[str, ...],
    config_file: Path | None,
    sets: tuple[str, ...],
    out: Path | None,
    resume: bool,
    init: Path | None,
    dry_run: bool,
    device: str,
    as_json: bool,
) -> None:
    """Train RECIPE on your pictures into a run folder.

    `img2img recipes list` names the recipes, `img2img recipes keys` the keys of --set. The run folder holds the
    configuration, the log, sample grids, the training state, model.safetensors and report.html.

    \b
    Examples:
      img2img train cyclegan-small --a photos --b drawings
      img2img train pix2pix-small --pairs facades --set data.resolution=64 --set data.direction=b2a
      img2img train pix2pix --pairs photos maps --out runs/maps
      img2img train cgan-small --classes signs --set train.kimg=80 --set loss.penalties=none
      img2img train dcgan --images faces --dry-run
      img2img train cyclegan-small --a photos --b drawings --resume

    Without RECIPE, --resume takes up the configuration of the run in --out. A value of --set is written as in TOML,
    quotes left out: numbers, true, false, texts, lists as 96,64, and none. Naming another network or objective
    (generator.name=unet, loss.adversarial=hinge) drops the settings of the old one.
    """
    from img2img.config import DataPaths, resolve
    from img2img.errors import Fault, Faults, UsageFault, printable

    if resume and recipe is None and config_file is None:
        if out is None:
            raise UsageFault("--resume", "which run is to go on is not said", "Give --out RUN, or the recipe's name")
        config_file = out / "config.toml"
        if not config_file.exists():
            raise UsageFault("--resume", f"there is no run in {out}", "Check --out, or name a recipe to begin one")
    data = DataPaths(images=images, classes=classes, a=a, b=b, pairs=pairs, worlds=worlds)
    faults: list[Fault] = []
    try:
        config = resolve(recipe, config_file, sets)
    except Faults as several:
        faults += several.faults
    faults += data.faults()
    if faults:
        raise Faults(faults)

    from img2img.config import as_dict, to_toml
    from img2img.training import train
    from img2img_cli.progress import TrainProgress, duration

    folder = out or Path("runs") / (config.recipe.name or config.translator)
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one speaks
    watch = TrainProgress() if is_first and not dry_run else None
    with watch or contextlib.nullcontext():
        result = train(config, data, folder, resume=resume, init=init, device=device, dry_run=dry_run, watch=watch)
    if not is_first:
        return
    if as_json:
        print_json({**dataclasses.asdict(result), **({"config": as_dict(config)} if dry_run else {})})
    elif dry_run:
        total = round(config.train.kimg * 1000)
        click.echo(to_toml(config))
        click.echo(f"# {total:,} images at {result.images_per_second:.1f} a second: {duration(result.seconds)}")
        if result.evaluations:
            each = duration(result.evaluation_seconds / result.evaluations)
            click.echo(f"# {result.evaluations:,} evaluations, about {each} each")
        click.echo(f"# {result.peak_memory / 1e9:.1f} GB of memory. Nothing was written.")
    else:
        early = ", stopped early" if result.stopped_early else ""
        click.echo(f"trained on {result.images_seen:,} images, {duration(result.seconds)}{early}")
        click.echo(f"model   {printable(result.model_path)}")
        if result.best is not None:
            best = result.best
            score = f"{best.score} {best.value:,.5g} at {best.images_seen:,} images"
            click.echo(f"best    {printable(best.model_path)}  {score}")
        click.echo(f"report  {printable(folder / 'report.html')}")
