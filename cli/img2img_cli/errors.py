"""From exceptions to one line per fault on stderr and an exit code; with --json, to one object on stdout too.

Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 finished with skips; 4 training stopped itself; 128 + n
stopped by signal n. A traceback is shown with --debug only.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from img2img.errors import Fault, Faults, printable

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as the shell reports a program that the signal ended
_INTERRUPTED = 130
_ENVIRONMENT_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENXIO,
        errno.ENODEV,
        errno.EBUSY,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


class _Terminated(BaseException):
    """SIGTERM: like KeyboardInterrupt, so that what was begun is cleared away."""


def run(command: click.Command, args: Sequence[str] | None, prog_name: str, **extra: Any) -> NoReturn:
    """Run `command` on `args` (the process's own by default) and exit; an int that a command returns is the code."""
    ending: list[int] = []
    if args is None:
        atexit.register(_end_beside_threads, ending)  # the first to be registered is the last to run
        _handle_sigterm()
    words = list(sys.argv[1:] if args is None else args)
    options = words[: words.index("--")] if "--" in words else words
    debug, as_json = "--debug" in options, "--json" in options
    words = [word for word in options if word != "--debug"] + words[len(options) :]
    _occupy_closed_streams()
    _escape_unprintable()
    try:
        code = _run(command, words, prog_name, debug=debug, as_json=as_json, **extra)
        _flush()
    except BrokenPipeError:
        _silence()
        code = _BROKEN_PIPE
    ending.append(code)
    sys.exit(code)


def _end_beside_threads(ending: list[int]) -> None:
    """Where daemon threads are still at work, end the process with the code in `ending` while the interpreter is whole.

    A thread that comes back from a library such as torch to an interpreter that is being torn down ends the process by
    SIGABRT. Everything else that an interpreter does at exit has been done by now.
    """
    if ending and any(thread.daemon for thread in threading.enumerate()):
        with contextlib.suppress(OSError, ValueError):  # told already, by run
            _flush()
        os._exit(ending[0])


def _handle_sigterm() -> None:
    """Let SIGTERM raise _Terminated, unless whoever started the process has it ignored; a second one ends it."""

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)


def _run(command: click.Command, words: list[str], prog_name: str, *, debug: bool, as_json: bool, **extra: Any) -> int:
    try:
        with command.make_context(prog_name, words, **extra) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        raise
    except BaseException as error:
        lines, code = describe(error, _command_path(command, prog_name, words))
        if debug and not isinstance(error, click.ClickException):
            import traceback

            traceback.print_exc()
        _report(lines, code, as_json=as_json)
        return code
    return code if type(code) is int else 0


def _command_path(command: click.Command | None, prog_name: str, words: Sequence[str]) -> str:
    """The command that `words` begin with, such as "img2img data check"."""
    path = prog_name
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
        if command is None:
            break
        path = f"{path} {word}"
    return path


def describe(error: BaseException, command_path: str = "img2img") -> tuple[list[str], int]:
    """One line per fault, without "error: ", and the exit code; `command_path` is for usage errors that name none."""
    if isinstance(error, Faults):
        return [str(fault) for fault in error.faults], error.exit_code
    if isinstance(error, Fault):
        return [str(error)], error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return [error.format_message()], error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else command_path
        message = " ".join(error.format_message().split()).rstrip(".")
        end = "" if message.endswith("?") else "."
        return [printable(f"{path}: {message}{end} See `{path} --help`")], error.exit_code
    if isinstance(error, click.ClickException):
        return [printable(error.format_message())], error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return ["stopped by the keyboard"], _INTERRUPTED
    if isinstance(error, _Terminated):
        return [f"stopped by signal {signal.SIGTERM.value}"], 128 + signal.SIGTERM
    if isinstance(error, SystemExit):
        return [], error.code if isinstance(error.code, int) else 1
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT_ERRORS:
        subject = error.filename if error.filename is not None else "output"
        return [f"{printable(subject)}: {error.strerror}. Check the path, its permissions and the free space"], 1
    if _is_out_of_memory(error):
        return ["memory: there was not enough. Lower train.batch or data.resolution, or use a smaller --scale"], 1
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return [
            "threads: the system allows no more. Lower data.workers or --workers, or raise its limit (ulimit -u)"
        ], 1
    summary = printable(" ".join(str(error).split()))
    return [f"internal: {type(error).__name__}: {summary}. Run again with --debug and report it"], 1


def _is_out_of_memory(error: BaseException) -> bool:
    # by name and text, since torch may not have been imported
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _report(lines: list[str], code: int, *, as_json: bool) -> None:
    help_page = len(lines) == 1 and "\n" in lines[0]  # `img2img` alone shows its help
    prefix = "" if help_page or code > 128 else "error: "
    for line in lines:
        click.echo(f"{prefix}{line}", err=True)
    if as_json and lines:
        click.echo(json.dumps({"error": lines, "exit_code": code}))


def _occupy_closed_streams() -> None:
    """Open what the shell has closed (`2>&-`) on nothing.

    The next file that is opened would get its number, and what C libraries print to stderr would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _escape_unprintable() -> None:
    """Names that the terminal's encoding lacks come out escaped rather than as an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _silence() -> None:
    """Point stdout and stderr at nothing, so that the interpreter's last flush cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
