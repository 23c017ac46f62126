"""`img2img translate`: a picture or a folder through a model."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from img2img_cli.options import PATH, device_option, json_option, print_json, require_model_first
from img2img_cli.progress import FolderProgress

_LARGEST_INPUT = 1 << 30  # bytes from standard input


@click.command("translate", short_help="Translate a picture or a folder of pictures with a model.")
@click.argument("model", type=PATH)
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option("--direction", metavar="a2b|b2a", help="Which way, for a model that has both.  [default: a2b]")
@click.option("--style", metavar="CLASS", help="Into which class, by name or index, for a model that has several.")
@click.option(
    "--reference",
    type=PATH,
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
@click.option("--side-by-side", is_flag=True, help="Write each picture with its translation to the right of it.")
@click.option(
    "--frames",
    type=click.Choice(["first", "all"]),
    default="first",
    show_default=True,
    help="Of an animation or a file of pages: all comes out as an animation or as pages again.",
)
@click.option(
    "--shard",
    metavar="N/COUNT",
    help="Do the N-th part of a folder, for COUNT runs on one or several machines. torchrun shares by itself.",
)
@click.option("--strict", is_flag=True, help="Stop at the first picture that cannot be used.")
@click.option("--in-place", is_flag=True, help="Allow DST to be SRC: the pictures are replaced.")
@click.option("--overwrite", is_flag=True, help="Allow DST to be a picture that is there already, which is replaced.")
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
    side_by_side: bool,
    frames: str,
    shard: str | None,
    strict: bool,
    in_place: bool,
    overwrite: bool,
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
    the exit code is then 3. A run that was interrupted goes on with --skip-existing. "-" is one picture from standard
    input or to standard output.

    \b
    Examples:
      img2img translate model.safetensors photos photos-as-drawings
      img2img translate model.safetensors photos out --skip-existing
      img2img translate model.safetensors drawings out --direction b2a --format png
      img2img translate model.safetensors photo.jpg drawing.png --scale trained
      img2img translate animals.safetensors cats dogs --style dog --seed 3
      img2img translate animals.safetensors cats like-rex --style dog --reference rex.jpg
      img2img translate model.safetensors film.gif film-as-drawing.gif --frames all
      img2img translate model.safetensors photos out --shard 1/2
      torchrun --nproc-per-node 4 --module img2img_cli translate model.safetensors photos out
      cat photo.jpg | img2img translate model.safetensors - - --format png > drawing.png
    """
    from datetime import timedelta

    import torch

    from img2img.data.decode import MAX_PIXELS
    from img2img.distributed import World
    from img2img.errors import Interrupted, UsageFault
    from img2img.inference import folder
    from img2img.inference.model import Model, parse_scale, parse_tile

    require_model_first(model, src)
    _check_colour(background)
    world = World()
    shares = shard is None and world.size > 1
    part = folder.parse_shard(shard) if shard is not None else (world.rank + 1, world.size)
    shared: dict[str, Any] = {
        "direction": direction,
        "scale": parse_scale(scale),
        "seed": seed,
        "tile": parse_tile(tile),
        "format": format,
        "quality": quality,
        "background": background,
        "side_by_side": side_by_side,
        "frames": frames,
        "in_place": in_place,
        "max_pixels": max_pixels or MAX_PIXELS,
        "allow_truncated": allow_truncated,
    }
    single = _names_a_file(src, dst)
    if single and skip_existing:
        raise UsageFault("--skip-existing", "is for folders, and DST is a file", "Leave it out")
    if single and (shard is not None or shares):
        subject = "torchrun" if shares else "--shard"
        raise UsageFault(subject, "is for folders, and DST is a file", "Leave it out")
    if overwrite and not single:
        raise UsageFault(
            "--overwrite", "is for one picture; of a folder, a run replaces what it wrote itself", "Leave it out"
        )
    source, target = _streams(src, dst, as_json=as_json)
    loaded = Model.load(model, device, precision)
    if style is not None or reference is not None:
        loaded = loaded.with_style(style, reference=reference, seed=seed)
    if single:
        summary = folder.translate_file(loaded, source, target, overwrite=overwrite, **shared)
    else:
        if shares:
            # on the CPU, over which only counts go; some processes end long before others
            world.join(torch.device("cpu"), timedelta(days=365))
        try:
            with FolderProgress() as bar:
                summary = folder.translate_folder(
                    loaded,
                    src,
                    dst,
                    batch=batch,
                    workers=workers,
                    skip_existing=skip_existing,
                    strict=strict,
                    shard=part,
                    follow_links=follow_links,
                    progress=bar if world.is_first or not shares else None,
                    **shared,
                )
        except KeyboardInterrupt:
            again = "the same command" + ("" if in_place or skip_existing else " and --skip-existing")
            raise Interrupted(signal.SIGINT, dst, f"Go on with {again}", when=", what is there is whole") from None
        if shares:
            summary = folder.total(summary, dst, world)
            world.leave()
            if not world.is_first:
                return summary.exit_code
    if as_json:
        print_json({**summary.as_dict(), "exit_code": summary.exit_code})
    else:
        if summary.translated > 1:
            share = summary.network_seconds / summary.seconds
            click.echo(f"{summary.images_per_second:.2f} images/s, the network took {share:.0%} of the time")
        click.echo(summary.line(), err=_is_dash(dst))
    return summary.exit_code


def _is_dash(path: Path) -> bool:
    return str(path) == "-"


def _streams(src: Path, dst: Path, *, as_json: bool) -> tuple[Path | BinaryIO, Path | BinaryIO]:
    """Standard input and output where the names are "-"; a picture must be seekable, so input is read whole."""
    from img2img.errors import UsageFault

    source: Path | BinaryIO = src
    target: Path | BinaryIO = dst
    if _is_dash(dst):
        if as_json:
            raise UsageFault("--json", "has no place where standard output is the picture", "Give DST a name")
        if sys.stdout is None:
            raise UsageFault("-", "standard output is closed", "Give DST a name")
        if sys.stdout.isatty():
            raise UsageFault("-", "standard output is a terminal, not a file", "Send it on with > or |")
        target = sys.stdout.buffer
    if _is_dash(src):
        if sys.stdin is None:
            raise UsageFault("-", "standard input is closed", "Give SRC a name")
        data = sys.stdin.buffer.read(_LARGEST_INPUT + 1)
        if len(data) > _LARGEST_INPUT:
            raise UsageFault("standard input", f"is over {_LARGEST_INPUT >> 20} MiB", "Give a file")
        source = io.BytesIO(data)
        source.name = "standard input"
    return source, target


def _names_a_file(src: Path, dst: Path) -> bool:
    """Whether DST is a picture's name: not a folder, SRC no folder, and with a picture's suffix. "-" is one, too.

    Raises:
        UsageFault: one is "-" and the other is a folder.
    """
    from img2img.data.decode import SUFFIXES
    from img2img.errors import UsageFault

    if _is_dash(src) or _is_dash(dst):
        for path in (src, dst):
            if path.is_dir() or (path == dst and not _is_dash(dst) and dst.suffix.lower() not in SUFFIXES):
                raise UsageFault(path, "- stands for one picture, and this for a folder", "Name a picture, or use -")
        return True
    return not src.is_dir() and not dst.is_dir() and dst.suffix.lower() in SUFFIXES


def _check_colour(name: str) -> None:
    from PIL import ImageColor

    from img2img.errors import UsageFault

    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise UsageFault("--background", f"{name!r} is no colour", "Use a name such as white, or #rrggbb") from error
