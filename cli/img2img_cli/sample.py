"""`img2img sample`: new pictures from a model."""

from __future__ import annotations

from pathlib import Path

import click

from img2img_cli.options import device_option, json_option, print_json


@click.command("sample", short_help="Make new pictures with a model.", no_args_is_help=True)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples"), show_default=True, metavar="DIR|FILE",
              help="A folder for single files, or a picture file for all of them in a grid.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, metavar="N", help="How many, in all.")
@click.option("--class", "labels", multiple=True, metavar="NAME",
              help="A class by name or index; may be repeated. Several are taken in turn.  [default: all]")  # fmt: skip
@click.option("--grid", is_flag=True, help="Also write DIR/grid.png with all of them, a row for each class.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other pictures.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
              help="auto is float32; bfloat16 may be faster and changes pixels a little.")  # fmt: skip
@device_option
@json_option
def command(
    model: Path,
    out: Path,
    count: int,
    labels: tuple[str, ...],
    grid: bool,
    seed: int,
    precision: str,
    device: str,
    as_json: bool,
) -> None:
    """Make new pictures with MODEL, a file or the name of a model that ships with img2img.

    Picture i of a seed and class is always the same, however many are made. Files are called by number, in a folder for
    each class where there are several; files of those names are replaced.

    \b
    Examples:
      img2img sample model.safetensors --out faces --count 64 --grid
      img2img sample model.safetensors --out digits.png --count 100
      img2img sample model.safetensors --class cat --class dog --seed 7
      img2img sample sign-digits --class 3 --out three.png
    """
    from img2img.errors import printable
    from img2img.inference.model import Model
    from img2img.inference.sampling import write_samples

    written = write_samples(
        Model.load(model, device, precision), out, count, label=labels or None, seed=seed, grid=grid
    )
    if as_json:
        print_json({"count": count, "files": written})
    else:
        single = written[0] if len(written) == 1 else out
        click.echo(f"made {count} {'picture' if count == 1 else 'pictures'} in {printable(single)}")
