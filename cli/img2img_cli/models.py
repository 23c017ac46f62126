"""`img2img models`: what model files hold, and which ship with the project."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import json_option, print_json

if TYPE_CHECKING:
    from img2img.checkpoint import ModelInfo


@click.group("models", short_help="See what a model file holds.")
def command() -> None:
    """See what a model file holds, and which models ship with the project.

    \b
    Examples:
      img2img models list
      img2img models info model.safetensors
    """


@command.command("info")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show_info(file: Path, as_json: bool) -> None:
    """Print what the model file FILE says of itself; its weights are not read.

    \b
    Examples:
      img2img models info runs/drawings/model.safetensors
      img2img models info model.safetensors --json
    """
    from img2img.checkpoint import read_info

    info = read_info(file)
    if as_json:
        print_json({"file": file, "bytes": file.stat().st_size, **dataclasses.asdict(info)})
        return
    from img2img.errors import printable

    rows = [("file", f"{file} ({file.stat().st_size / 1e6:.1f} MB)"), *_rows(info)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {printable(value)}")


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models in the folder checkpoints/ of a source checkout.

    \b
    Examples:
      img2img models list
      img2img models list --json
    """
    from img2img.checkpoint import read_info
    from img2img.errors import printable

    folder = shipped_folder()
    infos = {path: read_info(path) for path in sorted(folder.glob("*.safetensors"))}
    if as_json:
        print_json({"models": [{"file": path, **dataclasses.asdict(info)} for path, info in infos.items()]})
        return
    if not infos:
        click.echo("No models ship with the project yet. Train one with img2img train, or see img2img recipes list.")
    for path, info in infos.items():
        click.echo(printable(f"{path}  {info.translator}: {_use(info)}"))


def shipped_folder() -> Path:
    """The folder checkpoints/ of the source checkout that this runs from."""
    import img2img.errors

    return Path(img2img.errors.__file__).resolve().parents[1] / "checkpoints"


def _use(info: ModelInfo) -> str:
    """What the model does, in a few words."""
    if info.task == "sample":
        return f"new pictures of {len(info.classes)} classes" if info.classes else "new pictures"
    names = (
        f"{name} ({' → '.join(info.domains.get(domain, domain) for domain in (name[:1], name[-1:]))})"
        for name in sorted(info.directions)
    )
    return f"translates {', '.join(names)}"


def _rows(info: ModelInfo) -> list[tuple[str, str]]:
    colours = {1: "grey", 3: "RGB", 4: "RGBA"}
    networks = (
        f"{name}: {spec.name}({', '.join(f'{key}={value}' for key, value in sorted(spec.arguments.items()))})"
        for name, spec in sorted(info.networks.items())
    )
    rows = [
        ("method", info.translator),
        ("use", _use(info)),
        ("classes", ", ".join(info.classes)),
        ("trained at", f"{info.resolution[0]} × {info.resolution[1]} (height × width), fit {info.fit}"),
        ("colours", ", ".join(f"{domain}: {colours[count]}" for domain, count in sorted(info.channels.items()))),
        ("networks", "; ".join(networks)),
        ("recipe", info.recipe),
        ("images seen", f"{info.images_seen:,}"),
        ("data", info.fingerprint),
        ("licence", info.licence or "not stated"),
        ("measured", ", ".join(f"{name}: {value}" for name, value in sorted(info.metrics.items()))),
    ]
    return [(name, value) for name, value in rows if value]
