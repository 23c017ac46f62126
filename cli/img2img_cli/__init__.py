"""The command `img2img`. One module per command, imported when that command runs, so that --help needs none of them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import click

from img2img.version import __version__
from img2img_cli.errors import run
from img2img_cli.options import CommandGroup

# name -> (module, one line of help); each module has `command`, a click command or group
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "Train a recipe on your pictures."),
    "plan": ("plan", "Propose settings of a recipe for your pictures and machine."),
    "translate": ("translate", "Translate a picture or a folder of pictures with a model."),
    "sample": ("sample", "Make new pictures with a model."),
    "explore": ("explore", "Look into a generator: interpolations, mixed styles, neighbours."),
    "project": ("project", "Find the latent whose picture is nearest to yours."),
    "evaluate": ("evaluate", "Measure pictures, or a model, against real pictures."),
    "compare": ("compare", "Put two metric cards side by side."),
    "weights": ("weights", "Bring in the weights of networks that measure."),
    "data": ("data", "Check, pack and split folders of pictures."),
    "models": ("models", "See what a model file holds."),
    "recipes": ("recipes", "List and show recipes and configuration keys."),
    "bench": ("bench", "Measure how fast this machine trains."),
    "doctor": ("doctor", "Show versions, devices and what is missing."),
    "demo": ("demo", "Train two tiny models on real pictures and show what came of it."),
}


class CommandTable(CommandGroup):
    """A group that knows its commands' names and short help without importing them, and reports errors in one form."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit with its code; errors.py says which."""
        if not standalone_mode or "_IMG2IMG_COMPLETE" in os.environ:
            return super().main(
                args, prog_name, complete_var, standalone_mode, windows_expand_args=windows_expand_args, **extra
            )
        return run(self, args, prog_name or "img2img", **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"img2img_cli.{COMMANDS[name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])


@click.group(cls=CommandTable, name="img2img", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may also stand after the command.")
@click.version_option(__version__, message="img2img %(version)s", help="Show the version and exit.")
def main(debug: bool) -> None:
    """Train adversarial image models on your own pictures, and use them.

    \b
    Examples:
      img2img demo
      img2img train cyclegan-small --a photos --b drawings --out runs/drawings
      img2img translate runs/drawings/model.safetensors photos photos-as-drawings
      img2img COMMAND --help

    Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 finished, but some inputs were skipped; 4 training
    stopped itself; 130, 143 interrupted, state saved.
    """
    from img2img_cli.logs import show_logs

    show_logs()


__all__ = ["COMMANDS", "main"]
