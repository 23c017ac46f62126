"""`img2img weights`: what is listed, brought in, and said when it cannot be."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from img2img.evaluation import weights
from img2img.evaluation.known_weights import KNOWN, layout
from img2img_cli import main
from img2img_cli.weights import command

ALEX = "lpips-alex"


@pytest.fixture(autouse=True)
def folder(weights_store: Path) -> Path:
    return weights_store


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """alex.pth, a file that counts as the published one."""
    path = tmp_path / "there" / "alex.pth"
    path.parent.mkdir()
    torch.save({key: torch.ones(shape) for key, shape in layout(ALEX).items()}, path)
    content = path.read_bytes()
    known = dataclasses.replace(KNOWN[ALEX], sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    monkeypatch.setitem(KNOWN, ALEX, known)
    return path


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where `fetch` finds that file."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(published.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(weights, "fetch_weights", partial(weights.fetch_weights, base_url=url))
        yield url
        server.shutdown()
        thread.join()


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["weights", *map(str, words)], color=True)


def test_list_says_which_are_here(folder: Path, published: Path, tmp_path: Path) -> None:
    assert run("import", published).exit_code == 0
    torch.save({key: torch.ones(shape) for key, shape in layout("lpips-vgg").items()}, tmp_path / "mine.pth")
    assert run("import", tmp_path / "mine.pth").exit_code == 0
    result = run("list")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    states = {line.split()[0]: line[16:28].strip() for line in lines[:-1]}
    assert states == {**dict.fromkeys(KNOWN, "missing"), ALEX: "published", "lpips-vgg": "other file"}
    assert lines[-1] == f"Folder: {folder}"
    answer = json.loads(run("list", "--json").stdout)
    assert answer["folder"] == str(folder)
    rows = {row["name"]: row for row in answer["weights"]}
    assert rows.keys() == KNOWN.keys()
    assert {name: row["state"] for name, row in rows.items()} == states
    assert rows["vgg16"]["url"].endswith("vgg16-397923af.pth")
    assert rows["vgg16"]["file"] == str(folder / "vgg16.safetensors")
    assert rows[ALEX]["info"]["source"] == "alex.pth"


def test_import_says_what_it_is(folder: Path, published: Path, tmp_path: Path) -> None:
    result = run("import", published)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(rf"{ALEX}: {re.escape(str(folder))}/{ALEX}\.safetensors \(\d\.\d kB\)\n", result.stdout)
    assert result.stderr == ""
    answer = json.loads(run("import", published, "--as", ALEX, "--json").stdout)
    assert (answer["name"], answer["state"]) == (ALEX, "published")
    assert answer["info"] == {
        "network": ALEX,
        "input": "",
        "source": "alex.pth",
        "source_sha256": hashlib.sha256(published.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["import", "#", "--as", "lpips-alx"], "weights: 'lpips-alx' is unknown. Did you mean lpips-alex?"),
        (["import", "#", "--as", "lpips-vgg"], "alex.pth: does not fit lpips-vgg: lin1.model.1.weight has shape"),
        (["import", "#", "--input", "unit"], "--input: 'unit' is no input of lpips-alex. Leave it out"),
        (["import", "#x"], "alex.pthx: there is no such file. Check the path"),
        (["import", "a\x1b[31m"], r"a\x1b[31m: there is no such file"),
        (["import"], "img2img weights import: Missing argument 'FILE'. See `img2img weights import --help`"),
        (["fetch", "alexnte"], "weights: 'alexnte' is unknown. Did you mean alexnet?"),
        (
            ["fetch", "squeezenet1_0"],
            "no address with a confirmed checksum is known for it. Run `img2img weights import",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: list[str], problem: str, published: Path, folder: Path) -> None:
    result = run(*(word.replace("#", str(published)) for word in words))
    assert result.exit_code == 2
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.output
    assert not folder.exists()


def test_fetch_brings_the_published_file(server: str, folder: Path) -> None:
    result = run("fetch", ALEX)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{ALEX}: {folder / ALEX}.safetensors (")
    again = json.loads(run("fetch", ALEX, "--json").stdout)
    assert (again["name"], again["state"]) == (ALEX, "published")
    assert [path.name for path in folder.iterdir()] == [f"{ALEX}.safetensors"]


def test_a_changed_file_is_thrown_away(server: str, published: Path, folder: Path) -> None:
    published.write_bytes(published.read_bytes()[:-1] + b"x")
    result = run("fetch", ALEX, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exit_code"] == 1
    assert "what came has another sha256 than" in result.stderr
    assert list(folder.iterdir()) == []


def test_offline_names_the_host_and_the_way_around(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setattr(weights, "fetch_weights", partial(weights.fetch_weights, base_url=url))
    result = run("fetch", ALEX)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: 127.0.0.1: cannot be reached (Connection refused). Fetch {url}/alex.pth elsewhere and run "
        "`img2img weights import FILE`\n"
    )


def test_examples_are_commands() -> None:
    assert isinstance(command, click.Group)
    for one in (command, *command.commands.values()):
        lines = [line.strip() for line in (one.help or "").splitlines() if line.strip().startswith("img2img weights ")]
        assert lines, one.name
        for line in lines:
            name, *arguments = shlex.split(line)[2:]
            command.commands[name].make_context(name, arguments)


def test_list_needs_no_torch(folder: Path) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "img2img_cli", "weights", "list"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "inception-2015  missing" in result.stdout
    assert not {"torch", "numpy"} & {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
