"""`img2img translate`: a picture or a folder through a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from img2img_cli.options import device_option, json_option, print_json
from img2img_cli.progress import FolderProgress


@click.command(
    "translate", short_help="Translate a picture or a folder of pictures with a model.", no_args_is_help=True
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--direction", metavar="a2b|b2a", help="Which way, for a model that has both.  [default: a2b]")
@click.option("--style", metavar="CLASS", help="Into which class, by name or index, for a model that has several.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="Take the style of this picture, of the class --style or else that of its folder's name.",
)
@click.option(
    "--scale",
    default="auto",
    show_default=True,
    metavar="SCALE",
    help="trained, native or a factor: the size at which the model sees a picture. The result has the picture's size.",
)
@click.option(
    "--tile",
    default="auto",
    show_default=True,
    metavar="auto|off|PIXELS",
    help="Work in tiles, without seams: auto does where a picture does not fit into memory.",
)
@click.option(
    "--skip-existing", is_flag=True, help="Do only what an earlier run into DST has not done, or what changed."
)
@click.option("--format", metavar="FORMAT", help="Write png, jpeg, webp, ...  [default: each picture's own]")
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of JPEG, WebP and AVIF.")
@click.option(
    "--background", default="white", show_default=True, help="Colour behind transparency where DST cannot keep it."
)
@click.option("--strict", is_flag=True, help="Stop at the first picture that cannot be used.")
@click.option("--in-place", is_flag=True, help="Allow DST to be SRC: the pictures are replaced.")
@click.option("--follow-links", is_flag=True, help="Enter links to folders.")
@click.option("--allow-truncated", is_flag=True, help="Take what is there of a file that is cut short.")
@click.option("--max-pixels", type=click.IntRange(1), metavar="N", help="Skip larger pictures.  [default: 178956970]")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Pictures at once.  [default: 1; 8 on a GPU]")
@click.option("--workers", type=click.IntRange(1, 64), metavar="N", help="Threads that read, and as many that write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of styles, and of dropout.")
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
    help="auto is float32; bfloat16 may be faster and changes pixels a little.",
)  # fmt: skip
@device_option
@json_option
def command(
    model: Path,
    src: Path,
    dst: Path,
    direction: str | None,
    style: str | None,
    reference: Path | None,
    scale: str,
    tile: str,
    skip_existing: bool,
    format: str | None,
    quality: int,
    background: str,
    strict: bool,
    in_place: bool,
    follow_links: bool,
    allow_truncated: bool,
    max_pixels: int | None,
    batch: int | None,
    workers: int | None,
    seed: int,
    precision: str,
    device: str,
    as_json: bool,
) -> int:
    """Translate SRC, a picture or a folder of pictures, into DST with MODEL.

    MODEL is a file or the name of a model that ships with img2img. A folder comes out as the same tree with the same
    names, formats and picture sizes. A picture that cannot be used is named, left out and listed in DST/skipped.jsonl;
    the exit code is then 3. A run that was interrupted goes on with --skip-existing.

    \b
    Examples:
      img2img translate model.safetensors photos photos-as-drawings
      img2img translate model.safetensors photos out --skip-existing
      img2img translate model.safetensors drawings out --direction b2a --format png
      img2img translate model.safetensors photo.jpg drawing.png --scale trained
      img2img translate animals.safetensors cats dogs --style dog --seed 3
      img2img translate animals.safetensors cats like-rex --style dog --reference rex.jpg
    """
    from img2img.data.decode import MAX_PIXELS
    from img2img.errors import UsageFault
    from img2img.inference.folder import translate_file, translate_folder
    from img2img.inference.model import Model, parse_scale, parse_tile

    _check_colour(background)
    shared: dict[str, Any] = {
        "direction": direction,
        "scale": parse_scale(scale),
        "seed": seed,
        "tile": parse_tile(tile),
        "format": format,
        "quality": quality,
        "background": background,
        "in_place": in_place,
        "max_pixels": max_pixels or MAX_PIXELS,
        "allow_truncated": allow_truncated,
    }
    loaded = Model.load(model, device, precision)
    if style is not None or reference is not None:
        loaded = loaded.with_style(style, reference=reference, seed=seed)
    if _names_a_file(src, dst):
        if skip_existing:
            raise UsageFault("--skip-existing", "is for folders, and DST is a file", "Leave it out")
        summary = translate_file(loaded, src, dst, **shared)
    else:
        with FolderProgress() as bar:
            summary = translate_folder(
                loaded,
                src,
                dst,
                batch=batch,
                workers=workers,
                skip_existing=skip_existing,
                strict=strict,
                follow_links=follow_links,
                progress=bar,
                **shared,
            )
    if as_json:
        print_json({**summary.as_dict(), "exit_code": summary.exit_code})
    else:
        if summary.translated > 1:
            share = summary.network_seconds / summary.seconds
            click.echo(f"{summary.images_per_second:.2f} images/s, the network took {share:.0%} of the time")
        click.echo(summary.line())
    return summary.exit_code


def _names_a_file(src: Path, dst: Path) -> bool:
    """Whether DST is a picture's name: not a folder, SRC no folder, and with a picture's suffix."""
    from img2img.data.decode import SUFFIXES

    return not src.is_dir() and not dst.is_dir() and dst.suffix.lower() in SUFFIXES


def _check_colour(name: str) -> None:
    from PIL import ImageColor

    from img2img.errors import UsageFault

    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise UsageFault("--background", f"{name!r} is no colour", "Use a name such as white, or #rrggbb") from error
