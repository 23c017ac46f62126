"""Options that several commands share, and how they print results."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


class _UsablePath(click.Path):
    """A path as a Path; one that can never lead anywhere is refused before a command begins.

    An empty text is one of them, though Path("") is the working folder: it comes of a shell variable that is not set,
    as in `translate model.safetensors "$PHOTOS" out`.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("is empty. Give a path, such as . for this folder", param, ctx)
        try:
            os.stat(value)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                self.fail(f"{str(value)!r}: {error.strerror}. Check the path", param, ctx)
        return super().convert(value, param, ctx)


PATH = _UsablePath(path_type=Path)


class Device(click.ParamType[str]):
    """auto, cpu, cuda, cuda:N or mps; whether it is here is found out when it is used."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", str(value)):
            self.fail(f"{value!r} is no device. Use auto, cpu, cuda, cuda:N or mps", param, ctx)
        return str(value)


def device_option(command: AnyCommand) -> AnyCommand:
    """--device"""
    return click.option(
        "--device",
        type=Device(),
        default="auto",
        show_default=True,
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps; auto takes a GPU where there is one.",
    )(command)


def json_option(command: AnyCommand) -> AnyCommand:
    """--json, as the argument `as_json`"""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, on errors too.")(
        command
    )


def truncation_options(command: AnyCommand) -> AnyCommand:
    """--truncation and --centre"""
    options = [
        click.option("--truncation", type=float, metavar="PSI",
                     help="Less variety, more fidelity: ψ of w in (0, 1], or without styles a threshold for z."),
        click.option("--centre", type=click.Choice(["class", "global"]),
                     help="Where w shrinks to: the mean of the class, or of all.  [class, where there are any]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def require_model_first(model: Path, other: Path) -> None:
    """Refuse arguments in the wrong order: a folder or a picture where a model is to be named, and a model after it."""
    from img2img.data.decode import SUFFIXES
    from img2img.errors import UsageFault
    from img2img.shipped import SUFFIX, shipped_models

    is_picture = model.suffix.lower() in SUFFIXES
    is_model = other.suffix == SUFFIX or (str(other) in shipped_models() and not other.exists())
    if is_model and (is_picture or model.is_dir()):
        what = "a picture" if is_picture else "a folder"
        raise UsageFault(model, f"is {what}, not a model; MODEL comes first", f"Write {other} before it")


def print_json(result: Mapping[str, Any]) -> None:
    """The one JSON object of --json on stdout; paths become texts and dataclasses objects."""
    click.echo(json.dumps(result, default=_plain, allow_nan=False))


def use_suffix(path: Path, suffix: str) -> str:
    """How to mend a file's name of another suffix; folders such as . and / have no name to mend."""
    return f"Use {path.with_suffix(suffix)}" if path.name else f"Give a name that ends in {suffix}"


def number(value: float) -> str:
    """A score as a person reads it: four digits, and all of those before the point."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class CommandGroup(click.Group):
    """A group that names the nearest of its commands where there is none of a name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, known)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"The commands are {', '.join(known)}."
            raise click.UsageError(f"there is no command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


class FoldersCommand(click.Command):
    """A command with `folder_options`: lets --pairs take one folder or two, which click's options cannot."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, split_pairs(args))


def split_pairs(args: list[str]) -> list[str]:
    """`--pairs A B` as `--pairs A --pairs B`.

    The word after the first folder is the second one unless it is an option, or the name of a recipe and of no folder:
    `--pairs DIR pix2pix` means what it seems to mean.
    """
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        words.append(word)
        if word == "--":
            return words + rest
        if word != "--pairs" or not rest:
            continue
        words.append(rest.pop(0))
        if rest and not rest[0].startswith("-") and not _is_recipe(rest[0]):
            words += ["--pairs", rest.pop(0)]
    return words


def _is_recipe(word: str) -> bool:
    from img2img.config import recipe_names

    return word in recipe_names() and not Path(word).exists()


def folder_options(command: AnyCommand) -> AnyCommand:
    """--images, --classes, --a, --b and --pairs, the folders of DataPaths; for a FoldersCommand"""
    pairs = "Side-by-side pictures (left a, right b), or two folders paired by file name."
    once = functools.partial(click.option, type=PATH, multiple=True, callback=_only_one)
    options = [
        once("--images", metavar="DIR | NPZ", help="A folder of pictures, or arrays of them."),
        once("--classes", metavar="DIR | NPZ", help="Class folders, or labelled arrays."),
        once("--a", metavar="DIR", help="The first of two unpaired folders."),
        once("--b", metavar="DIR", help="The second of two unpaired folders."),
        click.option("--pairs", type=PATH, multiple=True, metavar="DIR | A B", help=pairs),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _only_one(ctx: click.Context, param: click.Parameter, folders: tuple[Path, ...]) -> Path | None:
    """The one folder of an option; two are refused, of which click would take the last without a word."""
    if len(folders) > 1:
        given = " and ".join(map(str, folders))
        raise click.BadParameter(f"{given} are given, and it takes one folder. Put the pictures into one", ctx, param)
    return folders[0] if folders else None


def world_option(command: AnyCommand) -> AnyCommand:
    """--world, the worlds of DataPaths"""
    return click.option(
        "--world", "worlds", multiple=True, metavar="NAME", help="A toy world of points, such as ring; may be repeated."
    )(command)
