"""`img2img weights`: the weights of the networks that measure, brought in by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from img2img_cli.options import PATH, CommandGroup, json_option, print_json
from img2img_cli.progress import Bar


@click.group("weights", cls=CommandGroup, short_help="Bring in the weights of networks that measure.")
def command() -> None:
    """Bring in the weights of the networks that measure pictures, and see which are here.

    They lie in the folder $IMG2IMG_WEIGHTS, or else in img2img/weights of your cache folder. Nothing is downloaded
    unless you say `fetch`.

    \b
    Examples:
      img2img weights list
      img2img weights fetch inception-2015
      img2img weights import pt_inception-2015-12-05-6726825d.pth
    """


@command.command("list")
@json_option
def list_weights(as_json: bool) -> None:
    """List the weights that have a name, and which of them are here.

    \b
    Examples:
      img2img weights list
      img2img weights list --json
    """
    from img2img.errors import printable
    from img2img.evaluation.known_weights import KNOWN
    from img2img.evaluation.weights import weights_folder

    rows = [_describe(name) for name in KNOWN]
    if as_json:
        print_json({"folder": weights_folder(), "weights": rows})
        return
    width = max(map(len, KNOWN))
    for row in rows:
        size = _size(row["bytes"]) if row["bytes"] else "import only"
        click.echo(printable(f"{row['name']:<{width}}  {row['state']:<10}  {size:>11}  {row['network']}"))
    click.echo(printable(f"Folder: {weights_folder()}"))


def _describe(name: str) -> dict[str, Any]:
    """What is known of the weights called `name`, and what of them is here."""
    import dataclasses

    from img2img.evaluation.known_weights import KNOWN
    from img2img.evaluation.weights import read_info, weights_path

    path = weights_path(name)
    info = read_info(path)
    known = KNOWN[name]
    here = "other file" if known.sha256 else "here"  # than the published one, where that is known
    state = "published" if info is not None and info.is_published else here if path.is_file() else "missing"
    return {**dataclasses.asdict(known), "state": state, "file": path, "info": info}


@command.command("fetch")
@click.argument("name", metavar="NAME")
@json_option
def fetch(name: str, as_json: bool) -> None:
    """Download the weights NAME from where they were published, compare their checksum, and import them.

    An interrupted download goes on where it stopped. `img2img weights list` shows the names.

    \b
    Examples:
      img2img weights fetch inception-2015
      img2img weights fetch lpips-alex --json
    """
    from img2img.evaluation.weights import fetch_weights

    with _Bytes() as progress:
        path = fetch_weights(name, progress)
    _report(path, as_json)


@command.command("import")
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--as", "name", metavar="NAME", help="Which weights they are; found out by the tensors without it.")
@click.option("--input", "taken", metavar="INPUT",
              help="What the first convolution takes: imagenet (normalised) or unit ([-1, 1]).")  # fmt: skip
@json_option
def import_file(file: Path, name: str | None, taken: str | None, as_json: bool) -> None:
    """Bring in the weights in FILE, a .pth, .pt or .safetensors; a file that holds code is refused, never run.

    \b
    Examples:
      img2img weights import pt_inception-2015-12-05-6726825d.pth
      img2img weights import vgg16-397923af.pth --as vgg16
      img2img weights import squeezenet1_0.safetensors --input unit
    """
    from img2img.evaluation.weights import import_weights

    _report(import_weights(file, name, taken), as_json)


def _report(path: Path, as_json: bool) -> None:
    from img2img.errors import printable

    row = _describe(path.stem)
    if as_json:
        print_json(row)
        return
    click.echo(printable(f"{row['name']}: {path} ({_size(path.stat().st_size)})"))


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


class _Bytes(Bar):
    """Call it with (bytes here, bytes in all)."""

    unit = "B"

    def __call__(self, done: int, total: int) -> None:
        self.show(done, total, lambda: f"{done / 1e6:.1f} of {total / 1e6:.1f} MB", initial=done, scale=True)
