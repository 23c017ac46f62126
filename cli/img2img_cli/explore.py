"""`img2img explore`: what a generator has learned, as sheets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from img2img_cli.options import (
    PATH,
    AnyCommand,
    CommandGroup,
    device_option,
    json_option,
    print_json,
    require_model_first,
    truncation_options,
)

if TYPE_CHECKING:
    import numpy as np

    from img2img.inference.explore import Curve
    from img2img.inference.latents import Centre, LatentSpace, Space

_SECONDS_OF_A_FRAME = 0.05
_STEPS, _STEPS_OF_AN_ANIMATION = 8, 30


@click.group("explore", cls=CommandGroup, short_help="Look into a generator: interpolations, mixed styles, neighbours.")
def command() -> None:
    """Look into a generator that makes new pictures.

    Pictures are named by their numbers: number 7 is the file 000007.png that `img2img sample` makes with the same
    --seed and --class.

    \b
    Examples:
      img2img explore interpolate model.safetensors --pictures 0,3,7 --out walk.gif
      img2img explore mix stylegan.safetensors --rows 0-2 --columns 4-9 --styles 0-3
      img2img explore neighbours model.safetensors photos
    """


def _shared(default_out: str, *, truncates: bool = True) -> Callable[[AnyCommand], AnyCommand]:
    """MODEL, --out, --seed, --class, the truncation, --device and --json."""

    def decorate(inner: AnyCommand) -> AnyCommand:
        decorators = [
            click.argument("model", type=PATH),
            click.option("--class", "labels", multiple=True, metavar="NAME",
                         help="A class by name or index; may be repeated. Several are taken in turn.  [default: all]"),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the pictures."),
            *([truncation_options] if truncates else []),
            click.option("--out", type=PATH, default=Path(default_out), show_default=True,
                         metavar="FILE", help="The picture file to write."),
            device_option,
            json_option,
        ]  # fmt: skip
        for decorator in reversed(decorators):
            inner = decorator(inner)
        return inner

    return decorate


def _pictures_option(default: str) -> Callable[[AnyCommand], AnyCommand]:
    return click.option("--pictures", default=default, show_default=True, metavar="NUMBERS",
                        help="Which, by number, such as 0,3,5-8.")  # fmt: skip


_space_option = click.option(
    "--space", "within", type=click.Choice(["z", "w"]), help="Of latents.  [w where there are styles, else z]"
)


@command.command("interpolate", short_help="Go from picture to picture.")
@_shared("interpolation.png")
@_pictures_option("0-3")
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N",
              help="From one picture to the next.  [8; 30 in an animation]")  # fmt: skip
@_space_option
@click.option("--curve", type=click.Choice(["slerp", "linear"]),
              help="A great circle or a straight line.  [slerp for normal z, else linear]")  # fmt: skip
@click.option("--across-classes", is_flag=True, help="Lead from class to class, instead of one way for each; in w.")
def interpolate(
    model: Path,
    labels: tuple[str, ...],
    seed: int,
    truncation: float | None,
    centre: Centre | None,
    out: Path,
    device: str,
    as_json: bool,
    pictures: str,
    steps: int | None,
    within: Space | None,
    curve: Curve | None,
    across_classes: bool,
) -> None:
    """Go from picture to picture through the latents of MODEL.

    A .gif, .webp or .apng becomes an animation that leads back to the first picture; any other file a sheet, a row for
    each pair of pictures. Each class goes a way of its own.

    \b
    Examples:
      img2img explore interpolate model.safetensors --pictures 0,3,7
      img2img explore interpolate sign-digits --class 3 --class 8 --out digits.gif
      img2img explore interpolate stylegan.safetensors --across-classes --truncation 0.7 --out classes.webp
    """
    from img2img.data.encode import ANIMATED, save_animation
    from img2img.inference.explore import interpolate, parse_numbers, rows_of
    from img2img.inference.sheets import make_square

    space = _open(model, device, out, labels, seed, truncation, centre)
    animated = out.suffix.lower() in ANIMATED
    steps = steps or (_STEPS_OF_AN_ANIMATION if animated else _STEPS)
    ways = interpolate(
        space,
        parse_numbers(pictures, "--pictures"),
        steps,
        within=within,
        curve=curve,
        closed=animated,
        across_classes=across_classes,
    )
    if animated:
        save_animation(out, [make_square(frames) for frames in zip(*ways)], seconds=_SECONDS_OF_A_FRAME)
        _tell(out, as_json, {"frames": len(ways[0])})
    else:
        _write(out, [row for frames in ways for row in rows_of(frames, steps)], as_json)


@command.command("mix", short_help="Mix the styles of two sets of pictures.")
@_shared("mixing.png")
@click.option("--rows", default="0-3", show_default=True, metavar="NUMBERS", help="Whose styles --styles are.")
@click.option("--columns", default="4-9", show_default=True, metavar="NUMBERS", help="Whose styles the others are.")
@click.option("--styles", metavar="NUMBERS", help="Taken from the rows; 0 is the coarsest.  [0-3, at most half]")
def mix(
    model: Path,
    labels: tuple[str, ...],
    seed: int,
    truncation: float | None,
    centre: Centre | None,
    out: Path,
    device: str,
    as_json: bool,
    rows: str,
    columns: str,
    styles: str | None,
) -> None:
    """Mix the styles of two sets of pictures: coarse ones of the rows, fine ones of the columns.

    \b
    Examples:
      img2img explore mix stylegan.safetensors
      img2img explore mix stylegan.safetensors --rows 0-2 --columns 4-9 --styles 0-3 --truncation 0.7
    """
    from img2img.inference.explore import mix, parse_numbers

    space = _open(model, device, out, labels, seed, truncation, centre)
    chosen = None if styles is None else parse_numbers(styles, "--styles")
    table = mix(space, parse_numbers(rows, "--rows"), parse_numbers(columns, "--columns"), chosen)
    _write(out, table, as_json)


@command.command("variation", short_help="See what the noise of a generator does.")
@_shared("variation.png")
@_pictures_option("0-3")
@click.option("--noises", type=click.IntRange(1, 64), default=3, show_default=True, metavar="N", help="To show.")
def variation(
    model: Path,
    labels: tuple[str, ...],
    seed: int,
    truncation: float | None,
    centre: Centre | None,
    out: Path,
    device: str,
    as_json: bool,
    pictures: str,
    noises: int,
) -> None:
    """See what the noise of a generator does: pictures without it, with several, and how much each pixel moves.

    \b
    Examples:
      img2img explore variation stylegan.safetensors
      img2img explore variation stylegan.safetensors --pictures 5 --noises 6
    """
    from img2img.inference.explore import parse_numbers, variation
    from img2img.inference.sheets import captioned

    space = _open(model, device, out, labels, seed, truncation, centre)
    found = variation(space, parse_numbers(pictures, "--pictures"), noises)
    rows = []
    for shown, deviation in zip(found.rows, found.deviations):
        texts = ["no noise", *(f"noise {number}" for number in range(noises))]
        grey = deviation.repeat(shown[0].shape[2], axis=2)
        if grey.shape[2] == 4:
            grey[..., 3] = 255
        rows.append([*map(captioned, shown, texts), captioned(grey, "deviation")])
    if not as_json:
        click.echo(f"the largest standard deviation of a pixel over noises is {found.largest:.2g} levels of 255")
    _write(out, rows, as_json, {"largest_deviation": found.largest})


@command.command("arithmetic", short_help="Add and take away averaged latents.")
@_shared("arithmetic.png")
@click.option("--expr", "expression", required=True, metavar="TEXT",
              help="Such as '1,2,3 - 4,5 + 6': commas average, a minus takes away.")  # fmt: skip
@_space_option
def arithmetic(
    model: Path,
    labels: tuple[str, ...],
    seed: int,
    truncation: float | None,
    centre: Centre | None,
    out: Path,
    device: str,
    as_json: bool,
    expression: str,
    within: Space | None,
) -> None:
    """Add and take away averaged latents: a row of the terms and their result.

    \b
    Examples:
      img2img explore arithmetic model.safetensors --expr '1,2,3 - 4,5,6 + 7,8,9'
      img2img explore arithmetic sign-digits --class 3 --expr '0 - 1 + 2' --out sum.png
    """
    from img2img.inference.explore import arithmetic, parse_expression
    from img2img.inference.sheets import captioned

    space = _open(model, device, out, labels, seed, truncation, centre)
    found = arithmetic(space, parse_expression(expression), within)
    _write(out, [[captioned(pixels, text) for text, pixels in found]], as_json)


@command.command("truncation", short_help="Show pictures under several truncations.")
@_shared("truncation.png", truncates=False)
@_pictures_option("0-7")
@click.option("--values", metavar="PSI,…", help="[0.3,0.5,0.7,0.85,1; without styles 0.1,0.25,0.5,1,2,4]")
@click.option("--centre", type=click.Choice(["class", "global"]),
              help="Where w shrinks to: the mean of the class, or of all.  [class, where there are any]")  # fmt: skip
def truncation(
    model: Path,
    labels: tuple[str, ...],
    seed: int,
    out: Path,
    device: str,
    as_json: bool,
    pictures: str,
    values: str | None,
    centre: Centre | None,
) -> None:
    """Show the same pictures under several truncations: fidelity against variety at a glance.

    \b
    Examples:
      img2img explore truncation stylegan.safetensors
      img2img explore truncation sign-digits --class 3 --values 0.2,0.5,1,2
    """
    from img2img.inference.explore import parse_numbers, truncations
    from img2img.inference.sheets import captioned

    space = _open(model, device, out, labels, seed, None, None)
    usual = (0.3, 0.5, 0.7, 0.85, 1.0) if space.has_styles else (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
    chosen = usual if values is None else _parse_values(values)
    rows = truncations(space, parse_numbers(pictures, "--pictures"), chosen, centre)
    _write(out, [[captioned(pixels, f"{value:g}") for pixels, value in zip(row, chosen)] for row in rows], as_json)


@command.command("neighbours", short_help="Find the training pictures nearest to samples.")
@_shared("neighbours.png")
@click.argument("real", type=PATH)
@_pictures_option("0-7")
@click.option("-k", type=click.IntRange(1, 64), default=5, show_default=True, metavar="N", help="How many neighbours.")
@click.option("--part", type=click.Choice(["train", "test"]), default="train", show_default=True,
              help="Of REAL, where it is an .npz file of pictures.")  # fmt: skip
@click.option("--extractor", metavar="NAME",
              help="Compare what this network sees, as `img2img evaluate` does.  [pixels, 32 a side]")  # fmt: skip
@click.option("--weights", type=PATH, metavar="FILE.safetensors", help="Its weights.")
@click.option("--skip-bad", is_flag=True, help="Leave out files of REAL that cannot be used.")
@click.option("--allow-truncated", is_flag=True, help="Take what is there of a file that is cut short.")
@click.option("--max-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger pictures.  [default: 178956970]")
def neighbours(
    model: Path,
    real: Path,
    labels: tuple[str, ...],
    seed: int,
    truncation: float | None,
    centre: Centre | None,
    out: Path,
    device: str,
    as_json: bool,
    pictures: str,
    k: int,
    part: str,
    extractor: str | None,
    weights: Path | None,
    skip_bad: bool,
    allow_truncated: bool,
    max_pixels: int | None,
) -> int:
    """Put beside each sample the pictures of REAL, a folder or .npz file, that lie nearest to it.

    A sample that is one of its training pictures is at distance 0, or nearly. Without a network, the distance is the
    root mean square of levels of 255 between pictures of 32 pixels a side.
    Where files are left out, the exit code is 3.

    \b
    Examples:
      img2img explore neighbours model.safetensors photos
      img2img explore neighbours model.safetensors photos --extractor inception-2015 -k 8
    """
    from img2img.data.decode import MAX_PIXELS
    from img2img.evaluation.image_set import open_set
    from img2img.inference.explore import find_neighbours, parse_numbers, preparation_for
    from img2img.inference.sheets import captioned
    from img2img_cli.progress import PartProgress

    require_model_first(model, real)
    space = _open(model, device, out, labels, seed, truncation, centre)
    numbers = parse_numbers(pictures, "--pictures")
    preparation = preparation_for(space, max_pixels=max_pixels or MAX_PIXELS, allow_truncated=allow_truncated)
    with PartProgress() as progress:
        images = open_set(
            real, preparation, part=part, skip_bad=skip_bad,
            progress=lambda *report: progress("reading REAL", *report),
        )  # fmt: skip
        found = find_neighbours(
            space, numbers, images, k, extractor=extractor, weights=weights,
            progress=lambda *report: progress("features of REAL", *report),
        )  # fmt: skip
    rows, listed = [], []
    for one in found:
        near = [captioned(pixels, f"{distance:.4g}") for pixels, distance in zip(one.pictures, one.distances)]
        rows.append([captioned(one.pixels, f"sample {one.number}"), *near])
        listed.append(
            {
                "number": one.number,
                "class": None if one.label is None else space.model.info.classes[one.label],
                "neighbours": [{"name": name, "distance": far} for name, far in zip(one.names, one.distances)],
            }
        )
    if not as_json:
        from img2img.errors import printable

        for one in found:
            click.echo(printable(f"{one.number:>6}  nearest is {one.names[0]} at {one.distances[0]:.4g}"))
    left_out = images.source.get("left_out", 0)
    _write(out, rows, as_json, {"samples": listed, "left_out": left_out})
    return 3 if left_out else 0


@command.command("references", short_help="Show pictures in the styles of others.")
@click.argument("model", type=PATH)
@click.option("--sources", required=True, type=PATH, metavar="DIR", help="Pictures to translate.")
@click.option("--references", required=True, type=PATH, metavar="DIR",
              help="Pictures whose styles are taken, in a folder for each class.")  # fmt: skip
@click.option("--class", "label", metavar="NAME", help="Of all the references.  [the name of each one's folder]")
@click.option("--count", type=click.IntRange(1, 64), default=6, show_default=True, metavar="N",
              help="How many of each, evenly spread over the folder.")  # fmt: skip
@click.option("--out", type=PATH, default=Path("references.png"), show_default=True,
              metavar="FILE", help="The picture file to write.")  # fmt: skip
@device_option
@json_option
def references(
    model: Path, sources: Path, references: Path, label: str | None, count: int, out: Path, device: str, as_json: bool
) -> None:
    """Show pictures in the styles of others, by a MODEL that translates into classes.

    Each column is a picture, each row has it in the style of the one at its left.

    \b
    Examples:
      img2img explore references animals.safetensors --sources cats --references animals
      img2img explore references animals.safetensors --sources cats --references dogs --class dog --count 4
    """
    from img2img.data.encode import format_of, refuse_strangers
    from img2img.data.files import find_images
    from img2img.inference.explore import restyle
    from img2img.inference.model import Model

    format_of(out)
    refuse_strangers([out])

    def choose(folder: Path) -> list[Path]:
        found = find_images(folder)
        number = min(count, len(found))
        return [found[index * len(found) // number] for index in range(number)]

    rows = restyle(Model.load(model, device), choose(sources), choose(references), label)
    _write(out, rows, as_json)


# --- shared ----------------------------------------------------------------------------------------------------------


def _open(
    model: Path,
    device: str,
    out: Path,
    labels: tuple[str, ...],
    seed: int,
    truncation: float | None,
    centre: Centre | None,
) -> LatentSpace:
    """The latents of a model, after the file to write was looked at."""
    from img2img.data.encode import format_of, refuse_strangers
    from img2img.inference.latents import LatentSpace
    from img2img.inference.model import Model

    format_of(out)
    refuse_strangers([out])
    return LatentSpace(Model.load(model, device), seed=seed, label=labels or None, truncation=truncation, centre=centre)


def _parse_values(text: str) -> tuple[float, ...]:
    from img2img.errors import UsageFault

    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise UsageFault("--values", f"{text!r} are no numbers", "Write them as 0.3,0.5,0.7") from error


def _write(out: Path, rows: Sequence[Sequence[np.ndarray]], as_json: bool, facts: dict[str, Any] | None = None) -> None:
    from img2img.data.encode import save_sample
    from img2img.inference.folder import require_folder
    from img2img.inference.sheets import make_grid

    require_folder(out.parent)
    save_sample(out, make_grid(rows))
    _tell(out, as_json, facts or {})


def _tell(out: Path, as_json: bool, facts: dict[str, Any]) -> None:
    from img2img.errors import printable

    if as_json:
        print_json({"file": out, **facts})
    else:
        click.echo(printable(f"wrote {out}"))
