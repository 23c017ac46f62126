"""`img2img bench`: how fast this machine trains, what choices do to a game, how likely test pictures are."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import click

from img2img_cli.options import (
    PATH,
    CommandGroup,
    FoldersCommand,
    device_option,
    folder_options,
    json_option,
    print_json,
    world_option,
)


@click.group("bench", cls=CommandGroup, short_help="Measure speed, modes found, and likelihood.")
def command() -> None:
    """Measure how fast this machine trains, what choices do to a game, and how likely test pictures are.

    \b
    Examples:
      img2img bench speed cyclegan-small --a photos --b drawings
      img2img bench modes --quick
      img2img bench parzen runs/gan-mnist/model.safetensors --images mnist.npz
    """


@command.command("speed", cls=FoldersCommand)
@click.argument("recipe")
@folder_options
@world_option
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
    worlds: tuple[str, ...],
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

    data = DataPaths(images=images, classes=classes, a=a, b=b, pairs=pairs, worlds=worlds)
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


@command.command("parzen")
@click.argument("model", type=PATH)
@click.option("--images", type=PATH, required=True, metavar="FILE.npz",
              help="Arrays train_images and test_images; folders of pictures are not taken.")  # fmt: skip
@click.option("--samples", type=click.IntRange(2, 100_000), default=10_000, show_default=True, help="Samples of MODEL.")
@click.option("--out", type=PATH, metavar="DIR", help="Write DIR/parzen.json too.")
@device_option
@json_option
def parzen(model: Path, images: Path, samples: int, out: Path | None, device: str, as_json: bool) -> None:
    """Log-likelihood of test pictures under a Parzen window around samples of MODEL, in nats.

    The measure of Goodfellow et al. 2014, whose adversarial nets reach 225 on MNIST: a Gaussian around every sample,
    its width chosen by training pictures. MODEL makes pictures from noise, without classes. Beside it stand training
    pictures scored as if a model had made them. More is not always better: blurred samples can score above real ones.

    \b
    Examples:
      img2img bench parzen runs/gan-mnist/model.safetensors --images mnist.npz
      img2img bench parzen model.safetensors --images mnist.npz --samples 2000 --out parzen --json
    """
    import json

    from img2img.atomic import write_text
    from img2img.inference.folder import require_folder
    from img2img.inference.likelihood import measure
    from img2img.inference.model import Model

    loaded = Model.load(model, device)
    if out is not None:
        require_folder(out)
    report = measure(loaded, images, samples)
    result = {"protocol": report.protocol, **dataclasses.asdict(report)}
    if out is not None:
        write_text(out / "parzen.json", json.dumps(result, indent=1) + "\n")
    if as_json:
        print_json(result)
        return
    click.echo(report.protocol)
    for name, score in (("model", report.model), ("training pictures", report.training)):
        click.echo(f"{name:18}{score.mean:8.1f} ± {score.standard_error:.1f} nats, bandwidth {score.bandwidth:.3f}")


@command.command("modes")
@click.option("--quick", is_flag=True, help="One seed and short trainings: under two minutes on two cores.")
@click.option("--world", "worlds", multiple=True, metavar="NAME", help="A toy world; may be repeated.  [ring, grid]")
@click.option("--objective", "objectives", multiple=True, metavar="NAME", help="May be repeated.  [all]")
@click.option(
    "--penalty",
    "penalties",
    multiple=True,
    metavar="NAME",
    help="A penalty, several as r1+r2, spectral_norm, none, or usual: what an objective is seen with.  [none, usual]",
)
@click.option(
    "--remedy", "remedies", multiple=True, metavar="NAME", help="Against mode collapse; all for every one.  [all]"
)
@click.option("--seeds", type=click.IntRange(1, 100), help="Games of each choice in each world.  [3]")
@click.option("--kimg", type=click.FloatRange(0.256, 1e5), help="Length of a game in thousands of points.")
@click.option("--search", type=click.IntRange(1, 1000), metavar="N", help="Train N random settings of each objective.")
@click.option("--recommended", type=click.IntRange(1, 100), metavar="SEEDS", help="Train points-recommended.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a key of all games; may be repeated.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes, of one thread each.  [number of cores]")
@click.option(
    "--out", type=PATH, default=Path("runs/modes"), show_default=True, metavar="DIR",
    help="Tables, page, animations and run folders; what is trained there already is taken up.",
)  # fmt: skip
@json_option
def modes(
    quick: bool,
    worlds: tuple[str, ...],
    objectives: tuple[str, ...],
    penalties: tuple[str, ...],
    remedies: tuple[str, ...],
    seeds: int | None,
    kimg: float | None,
    search: int | None,
    recommended: int | None,
    sets: tuple[str, ...],
    jobs: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Train tables of objectives, penalties and remedies on toy worlds, and count the modes that each finds.

    Every objective with no penalty and with its usual one, and every remedy on the non-saturating objective; with
    --objective, --penalty, --remedy, --search or --recommended only what they name.

    \b
    Examples:
      img2img bench modes --quick
      img2img bench modes --objective hinge --objective relativistic --penalty none --penalty r1+r2
      img2img bench modes --remedy packing2 --remedy unrolled --world ring --seeds 5
      img2img bench modes --recommended 10
      img2img bench modes --search 8 --objective wgan --objective relativistic --out search
    """
    from img2img.bench import run_comparison
    from img2img.bench.modes import choose
    from img2img.errors import printable
    from img2img_cli.progress import Bar, duration

    plan = choose(
        quick=quick,
        worlds=worlds,
        objectives=objectives,
        penalties=penalties,
        remedies=remedies,
        seeds=seeds,
        kimg=kimg,
        search=search or 0,
        recommended=recommended or 0,
        sets=sets,
    )
    with Bar() as bar:
        result = run_comparison(
            plan, out, jobs, lambda done, total: bar.show(done, total, lambda: f"{done} of {total} games")
        )
    if as_json:
        print_json(result)
        return
    click.echo((out / "modes.md").read_text("utf-8"))
    page, animations = printable(out / "index.html"), printable(out / "animations")
    click.echo(f"{duration(result['facts']['seconds'])}; page {page}, animations {animations}")
