"""`img2img bench`: how fast this machine trains."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import click

from img2img_cli.options import FoldersCommand, device_option, folder_options, json_option, print_json


@click.group("bench", short_help="Measure how fast this machine trains.")
def command() -> None:
    """Measure how fast this machine trains.

    \b
    Examples:
      img2img bench speed cyclegan-small --a photos --b drawings
    """


@command.command("speed", cls=FoldersCommand, no_args_is_help=True)
@click.argument("recipe")
@folder_options
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a configuration key; may be repeated.")
@click.option("--steps", type=click.IntRange(1, 100_000), default=30, show_default=True, help="Steps that count.")
@click.option("--warm-up", type=click.IntRange(0, 100_000), default=5, show_default=True, help="Steps before them.")
@device_option
@json_option
def speed(
    recipe: str,
    images: Path | None,
    classes: Path | None,
    a: Path | None,
    b: Path | None,
    pairs: tuple[Path, ...],
    sets: tuple[str, ...],
    steps: int,
    warm_up: int,
    device: str,
    as_json: bool,
) -> None:
    """Train RECIPE for a few steps in memory: images per second, memory, and time spent waiting for pictures.

    Nothing is written. The median step counts, so that a moment of other load does not decide.

    \b
    Examples:
      img2img bench speed cyclegan-small --a photos --b drawings
      img2img bench speed pix2pix --pairs facades --set train.precision=float32 --steps 100 --json
    """
    from img2img.config import DataPaths, resolve
    from img2img.training.speed import measure_speed

    data = DataPaths(images=images, classes=classes, a=a, b=b, pairs=pairs)
    config = resolve(recipe, None, sets)
    result = measure_speed(config, data, device=device, warm_up=warm_up, steps=steps)
    if as_json:
        print_json({"recipe": recipe, **dataclasses.asdict(result)})
        return
    height, width = config.data.resolution
    threads = f", threads {result.threads}" if result.device == "cpu" else ""
    click.echo(
        f"{recipe}, {height} × {width}, batch {config.train.batch}; {result.device}, {result.precision}{threads}"
    )
    click.echo(
        f"{result.images_per_second:.2f} images/s; a step {statistics.median(result.seconds):.4f} s "
        f"(median of {steps}, {min(result.seconds):.4f} to {max(result.seconds):.4f})"
    )
    click.echo(f"waiting for pictures {result.waiting:.1%} of the time; peak memory {result.peak_memory / 1e9:.2f} GB")
