"""The shell around every command: help, errors, exit codes, pipes and encodings."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from img2img.errors import Diverged, Fault, Faults, ImageFault, Interrupted, UsageFault
from img2img_cli import COMMANDS, main
from img2img_cli.errors import describe
from img2img_cli.options import device_option, json_option, print_json

RUN = [sys.executable, "-m", "img2img_cli"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Puts a command `doctor` in place that raises what it is given."""

    def use(error: BaseException) -> None:
        @click.command("doctor")
        @click.option("--json", "as_json", is_flag=True)
        def command(as_json: bool) -> None:
            raise error

        monkeypatch.setitem(sys.modules, "img2img_cli.doctor", SimpleNamespace(command=command))  # type: ignore[arg-type]

    return use


# --- help


def test_help_is_quick_and_imports_no_command() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([*RUN, "--help"], check=True, capture_output=True, timeout=30)
        after = os.times()  # of the processor: other programs may keep the cores busy
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3
    code = (
        "import sys; from click.testing import CliRunner; from img2img_cli import main\n"
        "CliRunner().invoke(main, ['--help']); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30).stdout
    assert not {"torch", "numpy", "PIL", "tqdm", "img2img.config", "img2img_cli.train"} & set(loaded.split())


def test_help_lists_every_command_with_its_own_short_help() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    for name, (_, short_help) in COMMANDS.items():
        assert f"  {name}" in text
        assert short_help.split()[0] in text


def every_command() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(main)

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield from walk(f"{name} {inner}", found)

    for name in COMMANDS:
        found = main.get_command(context, name)
        assert found is not None
        yield from walk(f"img2img {name}", found)


def test_every_command_has_help_and_examples_and_every_option_its_help() -> None:
    for name, command in every_command():
        assert command.help, f"{name} has no help"
        assert "\b\n" in command.help, f"{name} has no examples"
        assert f"  {name}" in command.help, f"the examples of {name} do not call it"
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name} has no help"
        result = CliRunner().invoke(main, [*name.split()[1:], "--help"])
        assert result.exit_code == 0
        assert max(map(len, result.output.splitlines())) < 120, f"the help of {name} is too wide"


def test_commands_import_nothing_heavy_for_their_help() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from img2img_cli import COMMANDS, main\n"
        "for name in COMMANDS: assert CliRunner().invoke(main, [name, '--help']).exit_code == 0, name\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30).stdout
    assert not {"torch", "numpy", "PIL"} & set(loaded.split())


def test_the_bare_command_shows_its_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: img2img")
    assert result.stdout == ""


def test_version() -> None:
    from img2img.version import __version__

    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"img2img {__version__}\n")


# --- errors


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (Fault("x.png", "is cut short", "Copy it again"), 1, ["error: x.png: is cut short. Copy it again"]),
        (ImageFault("x.png", "is empty", "Remove it"), 1, ["error: x.png: is empty. Remove it"]),
        (UsageFault("train.batch", "is wrong", "Mend it"), 2, ["error: train.batch: is wrong. Mend it"]),
        (
            Faults([UsageFault("a", "is wrong", "Mend it"), UsageFault("b", "is too", "Mend it")]),
            2,
            ["error: a: is wrong. Mend it", "error: b: is too. Mend it"],
        ),
        (Diverged("runs/x", "diverged", "Use less"), 4, ["error: runs/x: diverged. Use less"]),
        (Interrupted(2, "runs/x", "Go on"), 130, ["runs/x: stopped by signal 2, state saved. Go on"]),
        (Interrupted(15, "runs/x", "Go on"), 143, ["runs/x: stopped by signal 15, state saved. Go on"]),
        (KeyboardInterrupt(), 130, ["stopped by the keyboard"]),
        (click.Abort(), 130, ["stopped by the keyboard"]),
        (
            PermissionError(errno.EACCES, "Permission denied", "x\x1b[31m"),
            1,
            ["error: x\\x1b[31m: Permission denied. Check the path, its permissions and the free space"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            ["error: output: No space left on device. Check the path, its permissions and the free space"],
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            ["error: memory: there was not enough. Lower train.batch or data.resolution, or use a smaller --scale"],
        ),
        (
            RuntimeError("can't start new thread"),
            1,
            [
                "error: threads: the system allows no more. Lower data.workers or --workers, or raise its limit (ulimit -u)"
            ],
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "nnn"),
            1,
            ["error: nnn: File name too long. Check the path, its permissions and the free space"],
        ),
        (
            ZeroDivisionError("a\nb"),
            1,
            ["error: internal: ZeroDivisionError: a b. Run again with --debug and report it"],
        ),
        (click.UsageError("It is odd."), 2, ["error: img2img doctor: It is odd. See `img2img doctor --help`"]),
        (click.ClickException("odd"), 1, ["error: odd"]),
    ],
)
def test_an_exception_becomes_lines_and_a_code(
    failing: Callable[[BaseException], None], error: BaseException, code: int, lines: list[str]
) -> None:
    failing(error)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == code
    assert result.stderr.splitlines() == lines
    assert result.stdout == ""

    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == code
    assert json.loads(result.stdout) == {"error": [line.removeprefix("error: ") for line in lines], "exit_code": code}


def test_a_number_that_a_command_returns_is_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for returned, code in ((3, 3), (None, 0), (True, 0)):
        command = click.Command("doctor", callback=lambda returned=returned: returned)
        monkeypatch.setitem(sys.modules, "img2img_cli.doctor", SimpleNamespace(command=command))  # type: ignore[arg-type]
        assert CliRunner().invoke(main, ["doctor"]).exit_code == code


@pytest.mark.parametrize("args", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_a_traceback_is_shown_with_debug_only(failing: Callable[[BaseException], None], args: list[str]) -> None:
    failing(Fault("x.png", "is cut short", "Copy it again"))
    assert "Traceback" not in CliRunner().invoke(main, ["doctor"]).output
    result = CliRunner().invoke(main, args)
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: x.png: is cut short. Copy it again\n")
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "Did you mean train?"),
        (["qqqqq"], "The commands are train, plan"),
        (["--foo"], "No such option '--foo'"),
        (["recipes", "shwo"], "img2img recipes: there is no command 'shwo'. Did you mean show?"),
        (["recipes", "list", "--jsn"], "'--jsn'"),
        (["train", "dcgan", "--device", "gpu"], "'gpu' is no device"),
        (["train", "dcgan", "extra"], "unexpected extra argument (extra)"),
        *(
            (line.split(), f"img2img {line}: Missing argument '{argument}'. See `img2img {line} --help`")
            for line, argument in (
                ("sample", "MODEL"),
                ("translate", "MODEL"),
                ("project", "MODEL"),
                ("evaluate", "REAL"),
                ("compare", "FIRST"),
                ("plan", "RECIPE"),
                ("data derive", "KIND"),
                ("explore neighbours", "MODEL"),
            )
        ),
        (["train", "dcgan", "--out"], "img2img train: Option '--out' requires an argument"),
        (["data", "check", "--images"], "img2img data check: Option '--images' requires an argument"),
        (["train", "--images", "x", "--images", "y", "dcgan"], "x and y are given, and it takes one folder"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: list[str], message: str) -> None:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: img2img")
    assert message in line
    assert "--help`" in line
    result = CliRunner().invoke(main, [*args[:-1], "--json", args[-1]])
    assert json.loads(result.stdout)["exit_code"] == 2


def test_words_after_two_dashes_are_no_options() -> None:
    result = CliRunner().invoke(main, ["recipes", "show", "--", "--debug"])
    assert result.stdout == ""
    assert "recipe --debug: there is no such recipe" in result.stderr


def test_describe_escapes_what_could_drive_a_terminal() -> None:
    (line,), code = describe(RuntimeError("\x1b]0;title\x07 and \udcff"))
    assert code == 1
    assert line.isprintable()


# --- the end of the process


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("thread", [True, False])
@pytest.mark.parametrize(
    ("event", "code", "said"),
    [
        ("pass", 3, ""),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "stopped by the keyboard\n"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "stopped by signal 15\n"),
    ],
)
def test_the_interpreter_is_not_torn_down_beneath_a_thread(event: str, code: int, said: str, thread: bool) -> None:
    """What is registered for the exit is done all the same. An object of a module tells when that is torn down."""
    script = f"""
import atexit, os, signal, sys, threading, types
import click
from img2img_cli.errors import run

class Last:
    def __del__(self): print("torn down")

begun = threading.Event()
sys.modules["apart"] = types.ModuleType("apart")
sys.modules["apart"].last = Last()

def work():
    begun.set()
    while {thread}: pass

@click.command()
def command():
    atexit.register(print, "at exit")
    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    {event}
    return 3

run(command, None, "img2img")
"""
    ended = run_script(script)
    end = "at exit\n" if thread else "at exit\ntorn down\n"
    assert (ended.returncode, ended.stderr, ended.stdout) == (code, said, end)


def test_a_thread_that_is_inside_torch_does_not_abort_the_process() -> None:
    """It is in a product of matrices when the keyboard stops the command, and still when that has waited for it."""
    script = """
import os, signal
import click
from img2img_cli.errors import run

@click.command()
def command():
    import torch
    from img2img.data.threads import map_in_threads

    torch.set_num_threads(1)
    square = torch.ones(2500, 2500, dtype=torch.float64)

    def work(index):
        while index: square @ square

    for _ in map_in_threads(work, range(2), workers=2, timeout=60):
        os.kill(os.getpid(), signal.SIGINT)

run(command, None, "img2img")
"""
    ended = run_script(script)
    assert (ended.returncode, ended.stderr) == (130, "stopped by the keyboard\n")


def test_an_ignored_sigterm_stays_ignored() -> None:
    script = """
import os, signal
import click
from img2img_cli.errors import run

signal.signal(signal.SIGTERM, signal.SIG_IGN)
run(click.Command("command", callback=lambda: os.kill(os.getpid(), signal.SIGTERM) or 3), None, "img2img")
"""
    assert run_script(script).returncode == 3


# --- pipes, encodings, terminals


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


def test_a_reader_that_leaves_early_is_no_error() -> None:
    for words in (["--help"], ["recipes", "keys"]):
        process = subprocess.Popen([*RUN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) in (0, 141)
        process.stderr.close()


def test_a_closed_stdout_is_no_crash() -> None:
    for words, code in ((["recipes", "list"], 0), (["recipes", "show", "nothing"], 2)):
        result = subprocess.run(
            ["sh", "-c", '"$@" >&-', "sh", *RUN, *words], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=30
        )
        assert result.returncode == code
        assert b"Traceback" not in result.stderr


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Into such a file would go what a C library prints."""
    code = (
        "import os\n"
        "for number in range(3): os.close(number)\n"
        "import click\n"
        "from img2img_cli.errors import run\n"
        "@click.command()\n"
        "def command():\n"
        "    with open('out', 'w') as file: file.write(str(file.fileno()))\n"
        "run(command, [], 'img2img')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert int((tmp_path / "out").read_text()) > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_named() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([*RUN, "recipes", "list"], stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert result.returncode == 1
    assert b"No space left" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"},
    ],
)
def test_names_that_the_terminal_cannot_show_are_escaped(changes: dict[str, str]) -> None:
    words = [os.fsencode(word) for word in (*RUN, "recipes", "show")]
    result = subprocess.run(
        [*words, "sch\u00f6n".encode() + b"\xff\x1b[31m"], capture_output=True, env=environment(**changes), timeout=30
    )
    assert result.returncode == 2
    assert b"there is no such recipe" in result.stderr
    assert b"\x1b" not in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["recipes", "keys"], ["trian"]])
def test_a_narrow_terminal_without_colours(words: list[str]) -> None:
    changes = environment(COLUMNS="20", TERM="dumb", NO_COLOR="1")
    result = subprocess.run([*RUN, *words], capture_output=True, env=changes, timeout=30)
    assert result.returncode in (0, 2)
    assert b"\x1b" not in result.stdout + result.stderr
    assert b"Traceback" not in result.stderr


def test_no_home_and_no_terminal() -> None:
    changes = environment(HOME="/nonexistent")
    result = subprocess.run(
        [*RUN, "recipes", "list"], capture_output=True, env=changes, stdin=subprocess.DEVNULL, timeout=30
    )
    assert result.returncode == 0


# --- options that commands share


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"])
def test_devices_that_have_a_name(name: str) -> None:
    @click.command()
    @device_option
    @json_option
    def command(device: str, as_json: bool) -> None:
        print_json({"device": device, "path": Path("a") / "b", "json": as_json})

    result = CliRunner().invoke(command, ["--device", name, "--json"])
    assert json.loads(result.output) == {"device": name, "path": "a/b", "json": True}


def test_json_holds_no_infinities() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"loss": float("inf")})


def test_no_command_prompts_or_draws_colours() -> None:
    """Scripts call these commands: none waits for an answer, and what they print is plain."""
    folder = Path(sys.modules["img2img_cli"].__file__ or "").parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
            asks = {f"click.{word}" for word in ("prompt", "confirm", "style", "secho", "pause")} | {"input"}
            assert name not in asks, f"{file.name} uses {name}"
