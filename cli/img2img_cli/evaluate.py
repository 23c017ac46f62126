"""`img2img evaluate`: measures of pictures, or of what a model makes, against real ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from img2img_cli.options import PATH, device_option, json_option, number, print_json, use_suffix

if TYPE_CHECKING:
    from img2img.evaluation.card import Card

_CARD_SUFFIX = ".card.json"
_LONGEST_NAME = 255  # bytes, on every usual file system


@click.command("evaluate", short_help="Measure pictures, or a model, against real pictures.")
@click.argument("real", type=PATH, required=False)
@click.argument("fake", type=PATH, required=False)
@click.option("--model", type=PATH, metavar="MODEL",
              help="Measure what this model makes: new pictures, or translations of --source.")  # fmt: skip
@click.option("--source", type=PATH, metavar="DIR", help="What a translator translates.")
@click.option("--measure", "measures", multiple=True, metavar="NAME",
              help="May be repeated; `--measure list` shows all.  [fd, kid, prdc]")  # fmt: skip
@click.option("--extractor", metavar="NAME",
              help="The network that looks at the pictures.  [inception-2015, or that of --weights]")  # fmt: skip
@click.option("--weights", type=PATH, metavar="FILE.safetensors",
              help="Its weights.  [what `img2img weights` brought in]")  # fmt: skip
@click.option("--resize", type=click.Choice(["clean", "tf1", "pytorch"]), help="How pictures reach its size.")
@click.option("--perceptual", metavar="NAME", default="vgg16", show_default=True,
              help="The network of the measures perceptual and ppl.")  # fmt: skip
@click.option("--resolution", type=click.IntRange(1, 65536), metavar="N",
              help="Bring all pictures to N × N first.  [a model's own, or each picture's size]")  # fmt: skip
@click.option("--fit", type=click.Choice(["crop", "stretch"]), default="crop", show_default=True, help="How.")
@click.option("--any-size", is_flag=True, help="Compare sets whose pictures differ in size.")
@click.option("--part", type=click.Choice(["train", "test"]), default="train", show_default=True,
              help="Of REAL, where it is an .npz file of pictures.")  # fmt: skip
@click.option("--direction", metavar="a2b|b2a", help="Which way, for a translator that has both.  [default: a2b]")
@click.option("--count", type=click.IntRange(2), metavar="N",
              help="Pictures of FAKE, or samples.  [all; as many samples as REAL has pictures]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of samples and random subsets.")
@click.option("--resamples", type=click.IntRange(0, 10_000), default=20, show_default=True, metavar="N",
              help="Parts left out in turn for the intervals, at least 8; 0 gives none.")  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be used, and count them in the card.")
@click.option("--allow-truncated", is_flag=True, help="Take what is there of a file that is cut short.")
@click.option("--max-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger pictures.  [default: 178956970]")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Pictures at once.")
@click.option("--workers", type=click.IntRange(1, 64), metavar="N", help="Threads that read.")
@click.option("--out", type=PATH, metavar="FILE.json",
              help="The metric card.  [beside FAKE or MODEL, and in the model file]")  # fmt: skip
@click.option("--no-card", is_flag=True, help="Write no card.")
@device_option
@json_option
def command(
    real: Path | None,
    fake: Path | None,
    model: Path | None,
    source: Path | None,
    measures: tuple[str, ...],
    extractor: str | None,
    weights: Path | None,
    resize: str | None,
    perceptual: str,
    resolution: int | None,
    fit: str,
    any_size: bool,
    part: str,
    direction: str | None,
    count: int | None,
    seed: int,
    resamples: int,
    skip_bad: bool,
    allow_truncated: bool,
    max_pixels: int | None,
    batch: int | None,
    workers: int | None,
    out: Path | None,
    no_card: bool,
    device: str,
    as_json: bool,
) -> int:
    """Measure the pictures of FAKE, or of a model, against those of REAL, and write a metric card.

    REAL and FAKE are folders or .npz files; REAL may also be statistics of another tool (mu and sigma in an .npz). The
    card, a JSON file, holds every count, seed, hash and choice that the numbers depend on; `img2img compare` puts two
    of them side by side. Features are kept in a cache: the second measure of the same pictures costs little.

    The Fréchet distance is called FID only with the network inception-2015, whose weights `img2img weights fetch
    inception-2015` brings in; nothing is downloaded by itself.

    \b
    Examples:
      img2img evaluate photos translated
      img2img evaluate drawings --model model.safetensors --source photos
      img2img evaluate signs --model sign-digits --count 2000 --extractor squeezenet1_0
      img2img evaluate targets outputs --measure psnr --measure ssim
      img2img evaluate photos drawings --resolution 256 --measure kid --json
    """
    from img2img.data.decode import MAX_PIXELS
    from img2img.distributed import World
    from img2img.evaluation.card import write_card, write_into_model
    from img2img.evaluation.run import evaluate, known_measures
    from img2img_cli.progress import PartProgress

    if "list" in measures:
        _list(known_measures(), as_json)
        return 0
    if real is None:
        raise click.UsageError("Missing argument 'REAL'")
    target = None if no_card else out or _beside(fake, model)
    if target is not None:
        _check_target(target)
    if target is not None and model is not None and model.exists():
        _check_writable("--model", model.parent)
    with PartProgress() as progress:
        card = evaluate(
            real,
            fake,
            model=model,
            source=source,
            measures=measures,
            extractor=extractor,
            weights=weights,
            resize=resize,
            perceptual=perceptual,
            resolution=resolution,
            fit=fit,
            any_size=any_size,
            part=part,
            direction=direction,
            count=count,
            seed=seed,
            resamples=resamples,
            skip_bad=skip_bad,
            allow_truncated=allow_truncated,
            max_pixels=max_pixels or MAX_PIXELS,
            batch=batch,
            workers=workers or 0,
            device=device,
            progress=progress if World().is_first else None,
        )
    left_out = card.real.get("left_out", 0) + card.fake.get("left_out", 0)
    code = 3 if left_out else 0
    if not World().is_first:
        return code
    written = []
    if target is not None:
        write_card(card, target)
        written.append(target)
        if model is not None and model.exists():
            write_into_model(card, model)
            written.append(model)
    if as_json:
        import json

        print_json({**json.loads(card.to_json()), "card": target, "exit_code": code})
    else:
        _show(card, written)
    return code


def _beside(fake: Path | None, model: Path | None) -> Path | None:
    """Where the card goes by default; a shipped model's lands in the current folder."""
    subject = fake if fake is not None else model
    if subject is None:
        return None  # refused by evaluate, in its words
    stem = subject.stem if subject.is_file() else subject.resolve().name
    return (subject.parent if subject.exists() else Path()) / f"{stem}{_CARD_SUFFIX}"


def _check_target(target: Path) -> None:
    """Refuse a card's name before the work."""
    from img2img.errors import UsageFault

    if target.suffix != ".json":
        raise UsageFault("--out", f"{target} does not end in .json", use_suffix(target, ".json"))
    if len(os.fsencode(target.name)) > _LONGEST_NAME:
        raise UsageFault("--out", f"{target.name} is too long a name", "Choose a shorter one, or give --no-card")
    if not target.parent.is_dir():
        raise UsageFault("--out", f"there is no folder {target.parent}", "Make it, or choose another place")
    _check_writable("--out", target.parent)
    if os.path.lexists(target) and not _is_card(target):
        raise UsageFault(
            "--out", f"{target} is there already and is no metric card", "Give another name, or move it away first"
        )


def _is_card(path: Path) -> bool:
    """Whether a file is a metric card, or has nothing in it, as a power failure can leave it."""
    from img2img.errors import UsageFault
    from img2img.evaluation.card import read_card

    try:
        return not path.stat().st_size or bool(read_card(path))
    except (OSError, UsageFault):
        return False


def _check_writable(option: str, folder: Path) -> None:
    from img2img.errors import UsageFault

    if not os.access(folder, os.W_OK):
        raise UsageFault(option, f"{folder} cannot be written to, and the card goes there", "Add --no-card, or --out")


def _list(measures: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json({"measures": measures})
        return
    width = max(map(len, measures))
    for name, help in measures.items():
        click.echo(f"{name:<{width}}  {help}")


def _show(card: Card, written: list[Path]) -> None:
    from img2img.errors import printable

    for side, facts in (("REAL", card.real), ("FAKE", card.fake)):
        click.echo(printable(f"{side}  {_described(facts)}"))
    if card.extractor is not None:
        facts = card.extractor
        parts = [f"{facts['name']}, resize {facts['resize']}"] if "name" in facts else []
        parts += [facts["perceptual"]] if "perceptual" in facts else []
        click.echo(f"by    {', '.join(parts)}")
    width = max(map(len, card.scores))
    for name, score in card.scores.items():
        spread = f" ± {number(score['details']['std'])}" if "std" in score["details"] else ""
        interval = score["interval"]
        bounds = ""
        if interval:
            bounds = f"   {interval['level']:.0%} interval {number(interval['low'])} to {number(interval['high'])}"
        click.echo(f"{name:<{width}}  {number(score['value'])}{spread}{bounds}")
    if written:
        click.echo(printable(f"card  {', and in '.join(map(str, written))}"))


def _described(facts: dict[str, object]) -> str:
    """One side in a line."""
    count = "" if facts.get("count") is None else f"{facts['count']:,} "
    what = "pictures" if facts["kind"] in ("files", "arrays") else facts["kind"]
    name = facts.get("name") or facts.get("recipe") or "a model"
    left_out = f", {facts['left_out']} left out" if "left_out" in facts else ""
    return f"{count}{what} of {name}{left_out}"
