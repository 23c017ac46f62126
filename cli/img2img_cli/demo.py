"""`img2img demo`: two small models trained on real pictures, and one page of what came of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from img2img_cli.options import PATH, device_option, json_option, print_json


@click.command("demo", short_help="Train two tiny models on real pictures and show what came of it.")
@click.option("--out", type=PATH, default=Path("demo"), show_default=True, metavar="DIR",
              help="Folder for all that the demo makes; one of an earlier demo is made anew.")  # fmt: skip
@click.option("--length", type=click.FloatRange(0.001, 1000.0), default=1.0, show_default=True, metavar="FACTOR",
              help="Train this many times as long.")  # fmt: skip
@device_option
@json_option
def command(out: Path, length: float, device: str, as_json: bool) -> None:
    """Train a translator and a class-conditional model in a few minutes, use them, and write one page.

    The pictures come with scikit-image and scikit-learn (extra `demo`); nothing is downloaded. The translator learns to
    restore aged prints of five photographs and is shown on two others; the other model makes handwritten digits by
    class. A third, of hand signs, ships with img2img and is used as it is. All is kept: data, run folders with their
    reports, models, pictures, and index.html.

    \b
    Examples:
      img2img demo
      img2img demo --out /tmp/demo --length 5
    """
    from img2img.demo import duration, run_demo
    from img2img.errors import printable

    result = run_demo(out, length=length, device=device, say=lambda line: click.echo(line, err=True))
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    click.echo(
        f"aged prints: {result.print_error:.1f} / 255 away from their originals, restored {result.restored_error:.1f}, "
        f"best fixed colour correction {result.correction_error:.1f}"
    )
    click.echo(
        f"digits: {result.digit_accuracy:.0%} are read as the class asked for, "
        f"of real ones {result.real_accuracy:.0%}; "
        f"they vary {result.digit_variety:.0%} as much as real ones"
    )
    click.echo(f"in {duration(result.seconds)}; see {printable(result.page)}")
