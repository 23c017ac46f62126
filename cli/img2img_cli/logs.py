"""The library's log on stderr, whole lines, above a progress bar where there is one."""

from __future__ import annotations

import logging
import sys

import click


class _Lines(logging.Handler):
    """Writes each record as one line, escaped as messages are."""

    def emit(self, record: logging.LogRecord) -> None:
        from img2img.errors import printable

        text = "\n".join(printable(line) for line in record.getMessage().splitlines())
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}" if record.levelno == logging.WARNING else f"error: {text}"
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None and getattr(tqdm.tqdm, "_instances", None):
            tqdm.tqdm.write(text, file=sys.stderr)
        else:
            click.echo(text, err=True)


def show_logs() -> None:
    """Send what the library logs, from INFO up, to stderr; once, however often it is called."""
    logger = logging.getLogger("img2img")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
