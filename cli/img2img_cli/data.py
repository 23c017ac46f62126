"""`img2img data`: check, pack and split folders of pictures, and derive pairs from them."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from img2img_cli.options import PATH, CommandGroup, FoldersCommand, folder_options, json_option, print_json
from img2img_cli.progress import FolderProgress, bar_width, can_draw

if TYPE_CHECKING:
    from img2img.data.check import Report
    from img2img.data.sources import Source

_NUM_GROUPS_SHOWN = 10
_NUM_SIZES_SHOWN = 3

_workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 256),
    default=0,
    show_default=True,
    help="Threads that decode; 0 takes the number of cores.",
)


@click.group("data", cls=CommandGroup, short_help="Check, pack and split folders; make pairs of them.")
def command() -> None:
    """Check, pack and split folders of pictures, and make pairs out of one folder.

    \b
    Examples:
      img2img data check --images photos
      img2img data pack cyclegan --a photos --b drawings --out packed
      img2img data split --classes signs --out signs-split
      img2img data derive edges photos sketches
    """


@command.command("check", cls=FoldersCommand, short_help="Say what the data holds and what is wrong with it.")
@folder_options
@click.option(
    "--against",
    type=PATH,
    multiple=True,
    metavar="DIR",
    help="Also search this folder, such as the test set, for pictures that are in the data; may be repeated.",
)
@click.option("--max-pixels", type=click.IntRange(1), metavar="N", help="Largest picture that is opened.")
@click.option("--allow-truncated", is_flag=True, help="Take pictures whose file is cut short.")
@_workers_option
@json_option
def check_command(
    images: Path | None,
    classes: Path | None,
    a: Path | None,
    b: Path | None,
    pairs: tuple[Path, ...],
    against: tuple[Path, ...],
    max_pixels: int | None,
    allow_truncated: bool,
    workers: int,
    as_json: bool,
) -> int:
    """Open every picture and report counts, sizes, kinds, files that cannot be used, and pictures that are there twice.

    Equal pictures are found whatever their names and formats, nearly equal ones (saved again, another size) too; those
    that lie both in train and test, or in the data and in --against, are marked. Of a pack, the checksums are verified.
    Exit code 2 means that training would refuse the data as it is.

    \b
    Examples:
      img2img data check --images photos
      img2img data check --pairs facades/train --against facades/test
      img2img data check --pairs photos maps --json
    """
    from img2img.data.check import check
    from img2img.data.decode import MAX_PIXELS

    with _progress("checked") as progress:
        report = check(
            images,
            classes,
            a,
            b,
            pairs,
            against=against,
            workers=workers,
            max_pixels=max_pixels or MAX_PIXELS,
            allow_truncated=allow_truncated,
            progress=progress,
        )
    code = 2 if report.faults else 0
    for fault in report.faults:
        click.echo(f"error: {fault}", err=True)
    if as_json:
        print_json(_report_as_dict(report))
    else:
        click.echo("\n".join(_report_lines(report)))
    return code


def _report_as_dict(report: Report) -> dict[str, Any]:
    from img2img.errors import printable

    balance = report.balance
    names = {} if balance is None else {key: printable(getattr(balance, key)) for key in ("largest", "smallest")}
    return {
        "kind": report.kind,
        "images": report.num_images,
        "usable": report.usable,
        "counts": {printable(name): count for name, count in report.counts.items()},
        "faults": [{"subject": one.subject, "problem": one.problem, "mend": one.mend} for one in report.faults],
        "warnings": [printable(warning) for warning in report.warnings],
        "sizes": {f"{width}x{height}": count for (width, height), count in report.sizes.items()},
        "formats": report.formats,
        "modes": report.modes,
        "depths": {str(bits): count for bits, count in report.depths.items()},
        "notes": report.notes,
        "duplicates": _printable_groups(report.duplicates),
        "near_duplicates": _printable_groups(report.near_duplicates),
        "leaks": _printable_groups(report.leaks),
        "unmatched": {printable(root): list(map(printable, names)) for root, names in report.unmatched.items()},
        "balance": None if balance is None else {**dataclasses.asdict(balance), **names},
    }


def _printable_groups(groups: list[list[str]]) -> list[list[str]]:
    from img2img.errors import printable

    return [[printable(path) for path in group] for group in groups]


def _report_lines(report: Report) -> list[str]:
    from img2img.errors import counted, printable

    total = counted(report.num_images, "image")
    if report.usable < report.num_images:
        total = f"{counted(report.num_images, 'file')}, {report.usable:,} of them usable"
    lines = [f"{total} ({report.kind})"]
    share = report.kind == "classes" and report.num_images > 0
    for name, count in report.counts.items():
        of_all = f"  {count / report.num_images:>6.1%}" if share else ""
        lines.append(f"  {count:>8,}{of_all}  {printable(name)}")
    if report.balance is not None:
        even = f"as even as {report.balance.effective_classes:.1f} classes of one size"
        lines.append(f"balance: the largest class has {report.balance.ratio:.1f} times the smallest; {even}")
    histograms: dict[str, dict[Any, int]] = {
        "formats": report.formats,
        "modes": report.modes,
        "bits of a channel": report.depths,
        "remarks": report.notes,
    }
    for title, counts in histograms.items():
        if counts:
            lines.append(f"{title}: " + ", ".join(f"{name} ({count:,})" for name, count in counts.items()))
    if report.sizes:
        areas = sorted(report.sizes, key=lambda size: size[0] * size[1])
        common = sorted(report.sizes, key=lambda size: -report.sizes[size])[:_NUM_SIZES_SHOWN]
        often = ", ".join(f"{_size(size)} ({report.sizes[size]:,})" for size in common)
        more = f" and {len(areas) - len(common):,} more sizes" if len(areas) > len(common) else ""
        lines.append(f"sizes: {_size(areas[0])} to {_size(areas[-1])}, most often {often}{more}")
    for root, names in report.unmatched.items():
        lines.append(f"without a partner in {printable(root)}: {len(names):,} (all with --json)")
    for title, groups in (
        ("the same pixels", report.duplicates),
        ("nearly the same", report.near_duplicates),
        ("IN MORE THAN ONE PART OF THE DATA", report.leaks),
    ):
        if groups:
            lines.append(f"{title}: {counted(len(groups), 'group')}")
            shown = _printable_groups(groups[:_NUM_GROUPS_SHOWN])
            lines += [f"  {', '.join(group[:4])}{' …' if len(group) > 4 else ''}" for group in shown]
            if len(groups) > len(shown):
                lines.append("  … (all with --json)")
    lines += [f"warning: {printable(warning)}" for warning in report.warnings]
    lines.append(counted(len(report.faults), "problem") if report.faults else "no problems")
    return lines


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


@command.command(
    "pack", cls=FoldersCommand, short_help="Decode and resize once, for training from memory-mapped arrays."
)
@click.argument("recipe", required=False)
@folder_options
@click.option("--out", type=PATH, required=True, metavar="PACK", help="The pack, a new folder.")
@click.option(
    "--config", "config_file", type=PATH, metavar="FILE", help="TOML file laid over RECIPE, or complete without it."
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a configuration key; may be repeated.")
@json_option
def pack_command(
    recipe: str | None,
    images: Path | None,
    classes: Path | None,
    a: Path | None,
    b: Path | None,
    pairs: tuple[Path, ...],
    out: Path,
    config_file: Path | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the pictures, decoded and at the size that RECIPE reads them, into a new folder.

    Give it to `train` in place of the folder; unpaired pictures share one pack, which stands for both folders. Training
    from it gives the same bits as training from the files.

    \b
    Examples:
      img2img data pack cyclegan --a photos --b drawings --out packed
      img2img train cyclegan --a packed --b packed
      img2img data pack dcgan --images faces --set data.resolution=128 --out faces-128
    """
    from img2img.config import DataPaths, resolve
    from img2img.errors import Fault, Faults, UsageFault, printable

    faults: list[Fault] = []
    try:
        config = resolve(recipe, config_file, sets)
        if config.data.labels:
            faults.append(UsageFault("data.labels", "label maps are not packed", "Give their folders to `train`"))
    except Faults as several:
        faults += several.faults
    paths = DataPaths(images=images, classes=classes, a=a, b=b, pairs=pairs)
    faults += paths.faults()
    if faults:
        raise Faults(faults)

    from img2img.data.pack import pack, require_new_folder
    from img2img.data.sources import open_configured

    require_new_folder(out)
    with _progress("checked") as progress:
        source = open_configured(config, paths, progress=progress)
    _show_notes(source)
    with _progress("packed") as progress:
        pack(source, out, workers=config.data.workers, progress=progress)
    size = sum(path.stat().st_size for path in out.iterdir())
    if as_json:
        counts = {domain: source.count(domain) for domain in source.domains}
        print_json(
            {"out": out, "kind": source.kind, "counts": counts, "size": source.size, "bytes": size}
            | {"left_out": len(source.bad), "fingerprint": source.fingerprint}
        )
    else:
        click.echo(printable(f"packed {source.description} into {out} ({size / 2**20:,.1f} MiB)"))


def _show_notes(source: Source) -> None:
    from img2img.errors import printable

    for fault in source.bad:
        click.echo(f"left out: {fault}", err=True)
    for note in source.notes:
        click.echo(f"warning: {printable(note)}", err=True)


class _Fractions(click.ParamType[tuple[float, float, float]]):
    name = "fractions"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        if isinstance(value, tuple):
            return value
        try:
            train, validation, test = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not three numbers. Give such as 0.8,0.1,0.1", param, ctx)
        return train, validation, test


@command.command("split", cls=FoldersCommand, short_help="Divide pictures into train, validation and test.")
@click.option("--images", type=PATH, metavar="DIR", help="A folder of pictures.")
@click.option("--classes", type=PATH, metavar="DIR", help="A folder of class folders, each divided alike.")
@click.option(
    "--pairs",
    type=PATH,
    multiple=True,
    metavar="DIR | A B",
    help="Side-by-side pictures, or two folders paired by file name, whose pairs stay together.",
)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="A new folder for train, validation and test.")
@click.option(
    "--fractions",
    type=_Fractions(),
    default=(0.8, 0.1, 0.1),
    metavar="TRAIN,VALIDATION,TEST",
    help="Shares of the three; 0 leaves one out.  [default: 0.8,0.1,0.1]",
)
@click.option("--every", type=click.IntRange(2), metavar="N", help="Instead: every N-th picture by name goes to test.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another division by fractions.")
@click.option("--link", is_flag=True, help="Hard links instead of copies.")
@json_option
def split_command(
    images: Path | None,
    classes: Path | None,
    pairs: tuple[Path, ...],
    out: Path,
    fractions: tuple[float, float, float],
    every: int | None,
    seed: int,
    link: bool,
    as_json: bool,
) -> None:
    """Copy pictures into train, validation and test below a new folder.

    A hash of its name decides where a picture goes, so that pictures added later move no other. Folders inside, such as
    classes, are kept; the two files of a pair go the same way. Nothing is ever overwritten.

    \b
    Examples:
      img2img data split --images photos --out photos-split
      img2img data split --classes signs --out signs-split --fractions 0.9,0,0.1
      img2img data split --pairs photos maps --out pairs-split --link
    """
    from img2img.data.sources import class_folders
    from img2img.data.split import split
    from img2img.errors import UsageFault, printable

    given = [root for root in (images, classes) if root is not None]
    if len(given) + bool(pairs) != 1 or len(pairs) > 2:
        raise UsageFault(
            "data split", "needs one kind of data", "Give --images DIR, --classes DIR or --pairs DIR [DIR]"
        )
    names = {folder.name for folder in class_folders(classes)} if classes is not None else set()
    with _progress("copied") as progress:
        counts = split([*given, *pairs], out, fractions=fractions, every=every, seed=seed, link=link, progress=progress)
    totals = {part: sum(folders.values()) for part, folders in counts.items()}
    for part, folders in counts.items():
        for name in sorted(names - {folder.split("/")[0] for folder in folders}):
            click.echo(f"warning: class {printable(name)} has no picture in {part}", err=True)
    if as_json:
        print_json({"out": out, "counts": totals})
    else:
        for part, count in totals.items():
            click.echo(f"{count:>8,}  {printable(out / part)}")


@command.command("derive", short_help="Make pairs out of one folder: edges, gray, small, holes, noise, blur.")
@click.argument("kind", metavar="KIND")
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option("--sigma", type=float, metavar="PIXELS", help="Of blur, and of edges before they are looked for.  [2, 1]")
@click.option("--threshold", type=float, metavar="CONTRAST", help="Of edges; half of it continues one.  [0.2]")
@click.option("--factor", type=float, metavar="N", help="Of small: how many times smaller.  [4]")
@click.option(
    "--amount", type=float, metavar="SHARE", help="Of holes: share covered; of noise: deviation in [0, 1].  [0.25, 0.1]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Other holes, other noise.")
@click.option("--max-pixels", type=click.IntRange(1), metavar="N", help="Largest picture that is opened.")
@click.option("--allow-truncated", is_flag=True, help="Take what is there of a file that is cut short.")
@_workers_option
@json_option
def derive_command(
    kind: str,
    src: Path,
    dst: Path,
    sigma: float | None,
    threshold: float | None,
    factor: float | None,
    amount: float | None,
    seed: int,
    max_pixels: int | None,
    allow_truncated: bool,
    workers: int,
    as_json: bool,
) -> int:
    """Make a picture of KIND from every picture below SRC, in the new folder DST: same tree and names, as PNG.

    \b
    edges  black lines on white (Canny)          sketches to photos
    gray   without colour                        colouring
    small  made smaller and enlarged again       super-resolution
    holes  with grey rectangles                  inpainting
    noise  with normal noise                     restoration
    blur   blurred                               restoration

    A picture that cannot be used is named, left out and listed in DST/skipped.jsonl; the exit code is then 3.

    \b
    Examples:
      img2img data derive edges photos sketches
      img2img train pix2pix-small --pairs sketches photos
      img2img data derive small photos small --factor 8
      img2img data derive holes photos damaged --amount 0.4 --seed 1
    """
    from img2img.data.decode import MAX_PIXELS
    from img2img.data.derive import SKIPPED_NAME, derive
    from img2img.errors import printable

    given = {"sigma": sigma, "threshold": threshold, "factor": factor, "amount": amount}
    with FolderProgress() as progress:
        derived = derive(
            kind,
            src,
            dst,
            settings={name: value for name, value in given.items() if value is not None},
            seed=seed,
            workers=workers,
            max_pixels=max_pixels or MAX_PIXELS,
            allow_truncated=allow_truncated,
            progress=progress,
        )
    if as_json:
        print_json({**dataclasses.asdict(derived), "exit_code": derived.exit_code})
        return derived.exit_code
    skipped = f", skipped {len(derived.skipped)} (see {SKIPPED_NAME})" if derived.skipped else ""
    click.echo(f"made {derived.made}{skipped}")
    pairs = " --set data.pairs_policy=intersect" if derived.skipped else ""
    folders = f"{shlex.quote(str(dst))} {shlex.quote(str(src))}"
    click.echo(printable(f"Train with: img2img train pix2pix-small --pairs {folders}{pairs}"))
    return derived.exit_code


@contextlib.contextmanager
def _progress(verb: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, and nothing elsewhere."""
    if not can_draw():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=verb, unit="img", leave=False, file=sys.stderr, **bar_width()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
