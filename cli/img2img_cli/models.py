"""`img2img models`: what model files hold, and which ship with the project."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import PATH, CommandGroup, json_option, number, print_json, use_suffix

if TYPE_CHECKING:
    from img2img.checkpoint import ModelInfo, NetworkSpec


@click.group("models", cls=CommandGroup, short_help="See, export and import model files.")
def command() -> None:
    """See what a model file holds and which models ship with img2img; export models, and import other projects'.

    \b
    Examples:
      img2img models list
      img2img models info model.safetensors
      img2img models export runs/drawings/model.safetensors drawings.safetensors --half
      img2img models import --from junyanz latest_net_G_A.pth --b2a latest_net_G_B.pth --domains horse zebra
    """


@command.command("info")
@click.argument("file", metavar="MODEL", type=PATH)
@json_option
def show_info(file: Path, as_json: bool) -> None:
    """Print what a model, a file or a shipped model's name, says of itself; its weights are not read.

    \b
    Examples:
      img2img models info runs/drawings/model.safetensors
      img2img models info sign-digits
      img2img models info model.safetensors --json
    """
    from img2img.checkpoint import read_info
    from img2img.shipped import find_model

    file = find_model(file)
    info = read_info(file)
    if as_json:
        print_json({"file": file, "bytes": file.stat().st_size, **dataclasses.asdict(info)})
        return
    from img2img.errors import printable

    rows = [("file", f"{file} ({file.stat().st_size / 1e6:.1f} MB)"), *_rows(info)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {printable(value)}")


@command.command("export")
@click.argument("file", metavar="MODEL", type=PATH)
@click.argument("target", type=PATH)
@click.option("--half", is_flag=True, help="Weights in half precision: half the size, pictures the same to the eye.")
@click.option("--direction", metavar="a2b|b2a", help="Which way an ONNX file translates.  [default: a2b]")
@click.option("--licence", metavar="TEXT", default="", help="Under which licence TARGET may be used.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=VALUE",
              help="What was measured, kept in the description; may be repeated.")  # fmt: skip
@json_option
def export(
    file: Path,
    target: Path,
    half: bool,
    direction: str | None,
    licence: str,
    metrics: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy the model MODEL to the file TARGET for others to use: a model file, or an ONNX file of a translator.

    An ONNX file takes pictures of any size. Both are run on several sizes before it is written, and what a program must
    know to use it stands in its metadata.

    \b
    Examples:
      img2img models export runs/drawings/model.safetensors drawings.safetensors --half
      img2img models export model.safetensors faces.safetensors --licence CC-BY-4.0 --metric fd=31.5
      img2img models export model.safetensors sketches.onnx --direction b2a
    """
    from img2img.checkpoint import export_model
    from img2img.errors import UsageFault, printable
    from img2img.shipped import SUFFIX, find_model

    if target.suffix == ".onnx":
        for option, given in (("--half", half), ("--metric", bool(metrics))):
            if given:
                raise UsageFault(option, f"is for {SUFFIX} files, and TARGET is {target}", "Leave it out")
        _check_new(target, "TARGET", target.suffix)
        _export_onnx(find_model(file), target, direction, licence, as_json)
        return
    if direction is not None:
        raise UsageFault("--direction", f"is for .onnx files, and TARGET is {target}", "Leave it out")
    _check_new(target, "TARGET", SUFFIX)
    info = export_model(find_model(file), target, half=half, licence=licence, metrics=_read_metrics(metrics))
    if as_json:
        print_json({"file": target, "bytes": target.stat().st_size, **dataclasses.asdict(info)})
        return
    click.echo(printable(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)"))


def _export_onnx(file: Path, target: Path, direction: str | None, licence: str, as_json: bool) -> None:
    from img2img.errors import printable
    from img2img.inference.onnx_export import export_onnx

    exported = export_onnx(file, target, direction=direction, licence=licence)
    size = target.stat().st_size
    if as_json:
        print_json({"file": target, "bytes": size, **dataclasses.asdict(exported)})
        return
    facts = exported.metadata
    sizes = ", ".join(f"{width} × {height}" for _, height, width in exported.sizes)
    click.echo(
        printable(f"wrote {target} ({size / 1e6:.1f} MB): {facts['from']} → {facts['to']}, opset {exported.opset}")
    )
    click.echo(f"sides: multiples of {facts['size_multiple']}, at least {facts['size_minimum']}")
    click.echo(f"compared at {sizes}: values differ by at most {exported.difference:.1e}")
    if facts["noise"] == "left out":
        click.echo("Its noise (dropout while translating) is left out.")


@command.command("import", short_help="Make a model file of another project's generator.")
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--from", "source", metavar="PROJECT", required=True, help="Whose file it is: junyanz or cut.")
@click.option("--out", "target", metavar="MODEL", type=PATH,
              help="The model file.  [default: FILE's name with .safetensors]")  # fmt: skip
@click.option("--b2a", metavar="FILE", type=PATH, help="The generator of the way back.")
@click.option("--domains", nargs=2, metavar="A B", default=("a", "b"),
              help="What to call the pictures that go in and that come out.")  # fmt: skip
@click.option("--resolution", type=click.IntRange(1), metavar="PIXELS",
              help="Side of the pictures it was trained on.  [default: a U-Net's own size, else 256]")  # fmt: skip
@click.option("--dropout/--no-dropout", default=None,
              help="Dropout while translating.  [default: as the project's test script has it]")  # fmt: skip
@click.option(
    "--batch-norm", metavar="KIND", default="picture", show_default=True,
    help="picture: each picture's own statistics, as in the project's test script; stored: as with its --eval.",
)  # fmt: skip
@click.option("--licence", metavar="TEXT", default="", help="Under which licence the weights may be used.")
@json_option
def import_file(
    file: Path,
    source: str,
    target: Path | None,
    b2a: Path | None,
    domains: tuple[str, str],
    resolution: int | None,
    dropout: bool | None,
    batch_norm: str,
    licence: str,
    as_json: bool,
) -> None:
    """Make a model file of the generator in FILE, such as latest_net_G.pth, which translates like any other.

    PROJECT is junyanz (pytorch-CycleGAN-and-pix2pix) or cut (contrastive-unpaired-translation). What the network is
    follows from the file; code in a file is refused, never run.

    \b
    Examples:
      img2img models import --from junyanz latest_net_G.pth --out facades.safetensors
      img2img models import --from junyanz latest_net_G_A.pth --b2a latest_net_G_B.pth --domains horse zebra
      img2img models import --from cut latest_net_G.pth --out cut.safetensors --domains horse zebra
    """
    from img2img.errors import printable
    from img2img.importing import import_model
    from img2img.shipped import SUFFIX

    target = target or (file.with_suffix(SUFFIX) if file.name else Path(f"model{SUFFIX}"))  # . and / have no name
    _check_new(target, "--out", SUFFIX)
    info = import_model(
        file,
        source,
        target,
        b2a=b2a,
        domains=domains,
        resolution=None if resolution is None else (resolution, resolution),
        dropout=dropout,
        batch_norm=batch_norm,
        licence=licence,
    )
    if as_json:
        print_json({"file": target, "bytes": target.stat().st_size, **dataclasses.asdict(info)})
        return
    networks = "; ".join(f"{name}: {_described(spec)}" for name, spec in sorted(info.networks.items()))
    click.echo(printable(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB): {networks}"))


def _check_new(target: Path, subject: str, suffix: str) -> None:
    """Refuse a TARGET that has another suffix or is there already."""
    from img2img.errors import UsageFault

    if target.suffix != suffix:
        raise UsageFault(subject, f"{target} does not end in {suffix}", use_suffix(target, suffix))
    if target.exists():
        raise UsageFault(subject, f"{target} exists already", "Choose another name, or remove it first")


def _read_metrics(texts: tuple[str, ...]) -> dict[str, float | str]:
    """NAME=VALUE as a table; numbers become numbers."""
    import math

    from img2img.errors import UsageFault

    metrics: dict[str, float | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageFault("--metric", f"{text!r} is not NAME=VALUE", "Write it as accuracy=0.93")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        metrics[name] = number if math.isfinite(number) else value
    return metrics


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models that ship with img2img, in the folder checkpoints/ of a source checkout.

    Their names can stand wherever a model file can. Beside each file lies its card, a text of the same name.

    \b
    Examples:
      img2img models list
      img2img models list --json
    """
    from img2img.checkpoint import read_info
    from img2img.errors import printable
    from img2img.shipped import shipped_models

    infos = {name: (path, read_info(path)) for name, path in shipped_models().items()}
    if as_json:
        rows = [{"name": name, "file": path, **dataclasses.asdict(info)} for name, (path, info) in infos.items()]
        print_json({"models": rows})
        return
    if not infos:
        click.echo("No models ship with this installation. Train one with img2img train, or see img2img recipes list.")
    width = max(map(len, infos), default=0)
    for name, (_, info) in infos.items():
        height, side = info.resolution
        click.echo(printable(f"{name:<{width}}  {info.translator}, {height} × {side}: {_use(info)}"))


def _use(info: ModelInfo) -> str:
    """What the model does, in a few words."""
    if info.task == "points":
        return f"points of {info.domains.get('image', 'a toy world')}"
    if info.task == "sample":
        return f"new pictures of {len(info.classes)} classes" if info.classes else "new pictures"
    if info.classes:
        return f"translates into {len(info.classes)} classes, in many styles"
    names = (
        f"{name} ({' → '.join(info.domains.get(domain, domain) for domain in (name[:1], name[-1:]))})"
        for name in sorted(info.directions)
    )
    return f"translates {', '.join(names)}"


def _described(spec: NetworkSpec) -> str:
    """A network as it would be called."""
    copies = f"{spec.copies} × " if spec.copies > 1 else ""
    return f"{copies}{spec.name}({', '.join(f'{key}={value}' for key, value in sorted(spec.arguments.items()))})"


def _measured(info: ModelInfo) -> str:
    """The scores that a model file holds, without the card that says how they came about."""
    from img2img.evaluation.card import CARD

    scores = ((name, value) for name, value in sorted(info.metrics.items()) if name != CARD)
    return ", ".join(f"{name}: {number(value) if isinstance(value, float) else value}" for name, value in scores)


def _rows(info: ModelInfo) -> list[tuple[str, str]]:
    colours = {1: "grey", 3: "RGB", 4: "RGBA"}
    networks = (f"{name}: {_described(spec)}" for name, spec in sorted(info.networks.items()))
    of_points = info.task == "points"
    rows = [
        ("method", info.translator),
        ("use", _use(info)),
        ("classes", ", ".join(info.classes)),
        (
            "trained at",
            "" if of_points else f"{info.resolution[0]} × {info.resolution[1]} (height × width), fit {info.fit}",
        ),
        ("coordinates", str(info.channels.get("image", "")) if of_points else ""),
        ("colours", "" if of_points else ", ".join(f"{d}: {colours[n]}" for d, n in sorted(info.channels.items()))),
        ("networks", "; ".join(networks)),
        ("recipe", info.recipe),
        ("images seen", f"{info.images_seen:,}"),
        ("data", info.fingerprint),
        ("licence", info.licence or "not stated"),
        ("measured", _measured(info)),
    ]
    return [(name, value) for name, value in rows if value]
