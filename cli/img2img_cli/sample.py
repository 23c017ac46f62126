"""`img2img sample`: new pictures from a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import PATH, device_option, json_option, print_json, truncation_options
from img2img_cli.progress import FolderProgress

if TYPE_CHECKING:
    from img2img.inference.latents import Centre
    from img2img.inference.model import Model


@click.command("sample", short_help="Make new pictures with a model.")
@click.argument("model", type=PATH)
@click.option("--out", type=PATH, default=Path("samples"), show_default=True, metavar="DIR|FILE",
              help="A folder for single files, or a picture file for all of them in a grid.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="How many, in all.  [default: 16]")
@click.option("--per-class", type=click.IntRange(1), metavar="N", help="How many of each class, each in its folder.")
@click.option("--class", "labels", multiple=True, metavar="NAME",
              help="A class by name or index; may be repeated. Several are taken in turn.  [default: all]")  # fmt: skip
@click.option("--grid", is_flag=True, help="Also write DIR/grid.png with all of them, a row for each class.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other pictures.")
@truncation_options
@click.option("--latent", type=PATH, metavar="FILE.safetensors",
              help="The picture of this latent, which `img2img project` wrote, and no others.")  # fmt: skip
@click.option("--skip-existing", is_flag=True, help="Make only files that an earlier run into DIR has not made.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
              help="auto is float32; bfloat16 may be faster and changes pixels a little.")  # fmt: skip
@device_option
@json_option
def command(
    model: Path,
    out: Path,
    count: int | None,
    per_class: int | None,
    labels: tuple[str, ...],
    grid: bool,
    seed: int,
    truncation: float | None,
    centre: Centre | None,
    latent: Path | None,
    skip_existing: bool,
    precision: str,
    device: str,
    as_json: bool,
) -> None:
    """Make new pictures with MODEL, a file or the name of a model that ships with img2img.

    Picture i of a seed and class is always the same, however many are made. Files are called by number, in a folder for
    each class where there are several; files of those names are replaced, or kept with --skip-existing, by which a run
    that was stopped goes on.

    \b
    Examples:
      img2img sample model.safetensors --out faces --count 64 --grid
      img2img sample model.safetensors --out digits.png --count 100
      img2img sample model.safetensors --class cat --class dog --seed 7
      img2img sample sign-digits --class 3 --out three.png
      img2img sample model.safetensors --out many --per-class 5000 --truncation 0.7 --skip-existing
    """
    from img2img.errors import UsageFault, printable
    from img2img.inference.model import Model
    from img2img.inference.sampling import write_samples

    if latent is not None:
        others = {
            "--count": count, "--per-class": per_class, "--class": labels, "--grid": grid, "--centre": centre,
            "--truncation": truncation, "--skip-existing": skip_existing,
        }  # fmt: skip
        for name, value in others.items():
            if value not in (None, (), False):
                raise UsageFault(name, "stands beside --latent, which is one picture", "Leave one of them out")
    if count is not None and per_class is not None:
        raise UsageFault("--count", "stands beside --per-class", "Give one of them")
    loaded = Model.load(model, device, precision)
    if latent is not None:
        _write_latent_picture(loaded, latent, out, as_json)
        return
    total = count or 16
    if per_class is not None:
        total = per_class * max(1, len(loaded.class_indices(labels or None)))
    with FolderProgress() as bar:
        written = write_samples(
            loaded,
            out,
            total,
            label=labels or None,
            seed=seed,
            truncation=truncation,
            centre=centre,
            grid=grid,
            class_folders=per_class is not None,
            skip_existing=skip_existing,
            progress=bar,
        )
    if as_json:
        print_json({"count": total, "files": written})
    else:
        single = written[0] if len(written) == 1 else out
        pictures = "picture" if total == 1 else "pictures"
        click.echo(f"{'there are now' if skip_existing else 'made'} {total} {pictures} in {printable(single)}")


def _write_latent_picture(model: Model, latent: Path, out: Path, as_json: bool) -> None:
    from img2img.data.decode import SUFFIXES
    from img2img.data.encode import refuse_strangers, save_sample
    from img2img.errors import printable
    from img2img.inference.folder import require_folder
    from img2img.inference.projection import picture_of, read_latent

    pixels = picture_of(model, read_latent(latent, model))
    target = out if out.suffix.lower() in SUFFIXES and not out.is_dir() else out / f"{latent.stem}.png"
    refuse_strangers([target])
    require_folder(target.parent)
    save_sample(target, pixels)
    if as_json:
        print_json({"count": 1, "files": [target]})
    else:
        click.echo(printable(f"made 1 picture in {target}"))
