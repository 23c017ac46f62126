"""Nothing runs what a file holds, nothing speaks to the outside, and no name drives a terminal or a page."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import img2img
import img2img_cli
from img2img import shipped
from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.networks import GENERATORS
from img2img_cli import main

# --- the source ------------------------------------------------------------------------------------------------------

_FORBIDDEN_CALLS = (
    "eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "torch.load", "torch.jit.load", "torch.hub", "torch.export.load", "torch.package", "yaml.load", "os.system",
    "ssl._create_unverified_context", "ssl.CERT_NONE", "tempfile.mktemp",
    # no command unpacks an archive of somebody else's onto the disk
    "tarfile", "shutil.unpack_archive",
)  # fmt: skip
_FORBIDDEN_KEYWORDS = {"weights_only": False, "allow_pickle": True, "verify": False, "shell": True}


def offences(source: str) -> list[str]:
    """What a module says that could run foreign code, accept a false certificate or listen to everybody."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def full_name(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def of(node: ast.AST) -> Iterator[str]:
        # a field called eval runs nothing; reading the builtin under any name does
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = full_name(node)
            if any(name == call or name.startswith(f"{call}.") for call in _FORBIDDEN_CALLS):
                yield name
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "extractall":
                yield "extractall"
        elif isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if node.arg in _FORBIDDEN_KEYWORDS and value is _FORBIDDEN_KEYWORDS[node.arg]:
                yield f"{node.arg}={value}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "0.0.0.0" in node.value:
            yield "0.0.0.0"

    return [offence for node in ast.walk(tree) for offence in of(node)]


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "import pickle; pickle.loads(data)",
        "from pickle import load as read; read(file)",
        "import torch; torch.load(path, weights_only=True)",
        "import torch as t; t.jit.load(path)",
        "from torch import hub; hub.load('a/b', 'c')",
        "import torch.export; torch.export.load(path)",
        "import yaml; yaml.load(text)",
        "anything(path, weights_only=False)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "get(url, verify=False)",
        "archive.extractall(folder, filter='data')",
        "import tarfile; tarfile.open(path)",
        "from shutil import unpack_archive; unpack_archive(path)",
        "import ssl; context.verify_mode = ssl.CERT_NONE",
        "serve(host='0.0.0.0')",
        "run(text, shell=True)",
    ],
)
def test_the_scan_finds(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import json; json.load(file)",
        "import numpy as np; np.load(path, allow_pickle=False)",
        "import safetensors.torch; safetensors.torch.load(data)",
        "'evaluated(exec)'",
    ],
)
def test_the_scan_lets_pass(source: str) -> None:
    assert offences(source) == []


@pytest.mark.parametrize("package", [img2img, img2img_cli])
def test_no_source_runs_what_a_file_holds(package: object) -> None:
    files = sorted(Path(str(package.__file__)).parent.rglob("*.py"))  # type: ignore[attr-defined]
    assert len(files) > 5
    found = {str(file): offences(file.read_text(encoding="utf-8")) for file in files}
    assert {file: bad for file, bad in found.items() if bad} == {}


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: socket.create_connection(("203.0.113.1", 443), timeout=1),
        lambda: socket.create_connection(("example.org", 443), timeout=1),
        lambda: socket.socket().connect(("203.0.113.1", 443)),
        lambda: socket.socket(socket.AF_INET6).connect_ex(("2001:db8::1", 443)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"hello", ("203.0.113.1", 53)),
    ],
)
def test_a_connection_to_the_outside_is_refused_and_seen(
    call: Callable[[], object], nothing_leaves_this_machine: Path
) -> None:
    with pytest.raises(ConnectionRefusedError):
        call()
    assert len(nothing_leaves_this_machine.read_text().splitlines()) == 1
    nothing_leaves_this_machine.write_text("")


@pytest.mark.parametrize("code", ["connect(('203.0.113.1', 443))", "connect_ex(('example.org', 443))"])
def test_a_process_that_a_test_starts_is_watched_too(code: str, nothing_leaves_this_machine: Path) -> None:
    result = subprocess.run([sys.executable, "-c", f"import socket; socket.socket().{code}"], capture_output=True)
    assert b"ConnectionRefusedError: a test may not speak to" in result.stderr
    assert nothing_leaves_this_machine.read_text() in ("203.0.113.1\n", "example.org\n")
    nothing_leaves_this_machine.write_text("")


def test_this_machine_may_be_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("here")
        server.listen()
        client.connect("here")


# --- names -----------------------------------------------------------------------------------------------------------

ESCAPE = "\x1b]0;title\x07\x1b[31m"  # sets the title of a terminal's window and turns its text red
TINY = (
    *("--device", "cpu", "--set", "data.resolution=16", "--set", "train.batch=2", "--set", "train.kimg=0.002"),
    *("--set", "generator.width=4", "--set", "generator.max_width=8", "--set", "generator.latent_dim=8"),
    *("--set", "discriminator.width=4", "--set", "discriminator.max_width=8"),
)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path, "PNG")


def model(path: Path, network: str, arguments: dict[str, object], **info: object) -> None:
    """An untrained model file that calls everything by ESCAPE."""
    values: dict[str, object] = {"recipe": ESCAPE, "licence": ESCAPE, "resolution": (16, 16), **info}
    described = ModelInfo(
        translator=ESCAPE,
        networks={"generator": NetworkSpec(network, arguments)},
        **values,  # type: ignore[arg-type]
    )
    write_model(path, {"generator": GENERATORS[network](**arguments)}, described)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which every name and every description holds ESCAPE."""
    for index, name in enumerate(("cat", "dog")):
        for number in range(2):
            picture(tmp_path / f"in{ESCAPE}" / f"{name}{ESCAPE}" / f"{number}{ESCAPE}.jpg", 2 * index + number)
    (tmp_path / f"bad{ESCAPE}").mkdir()
    (tmp_path / f"bad{ESCAPE}" / f"empty{ESCAPE}.png").touch()
    picture(tmp_path / f"bad{ESCAPE}" / f"good{ESCAPE}.jpg", 9)
    translating: dict[str, object] = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
    model(
        tmp_path / f"t{ESCAPE}.safetensors",
        "resnet",
        translating,
        task="translate",
        directions={"a2b": "generator"},
        domains={"a": ESCAPE, "b": ESCAPE},
        channels={"a": 3, "b": 3},
    )
    sampling = {"resolution": (16, 16), "out_channels": 3, "latent_dim": 8, "width": 4, "num_classes": 2}
    model(
        tmp_path / f"s{ESCAPE}.safetensors",
        "dcgan",
        sampling,
        task="sample",
        directions={},
        domains={"image": ESCAPE},
        channels={"image": 3},
        classes=(f"{ESCAPE}1", f"../{ESCAPE}2"),
    )
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words: str) -> Result:
    # with colours, since click takes escape sequences out of what goes to a pipe and thereby hides them
    return CliRunner().invoke(main, words, color=True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["data", "check", "--classes", "in#", "--against", "in#"], 0),
        (["data", "check", "--images", "bad#"], 2),
        (["data", "check", "--pairs", "in#", "bad#"], 2),
        (["data", "pack", "dcgan-small", "--images", "in#", "--out", "pack#", "--set", "data.resolution=16"], 0),
        (["data", "pack", "dcgan-small", "--images", "bad#", "--out", "pack#"], 2),
        (["data", "split", "--classes", "in#", "--out", "parts#", "--every", "2"], 0),
        (["data", "split", "--images", "in#", "--out", "in#"], 2),
        (["train", "cgan-small", "--classes", "in#", "--out", "run#", *TINY], 0),
        (["train", "cgan-small", "--classes", "bad#", "--out", "run#", *TINY], 2),
        (["train", "dcgan-small", "--images", "in#", "--init", "s#.safetensors", *TINY], 2),
        (["train", "dcgan-small", "--images", "in#", "--set", "a#=1", "--set", "train.batch=#"], 2),
        (["train", "dcgan-small", "--images", "in#", "--config", "#.toml"], 2),
        (["train", "#", "--images", "#"], 2),
        (["translate", "t#.safetensors", "bad#", "out#"], 3),
        (["translate", "t#.safetensors", "in#", "in#"], 2),
        (["translate", "t#.safetensors", "in#", "out#", "--direction", "#"], 2),
        (["sample", "s#.safetensors", "--out", "out#", "--count", "2"], 0),
        (["sample", "s#.safetensors", "--class", "#"], 2),
        (["models", "info", "s#.safetensors"], 0),
        (["models", "info", "t#.safetensors"], 0),
        (["models", "info", "#"], 2),
        (["models", "list"], 0),
        (["models", "export", "s#.safetensors", "copy#.safetensors"], 0),
        (["models", "import", "--from", "junyanz", "#.pth"], 2),
        (["explore", "truncation", "--device", "cpu", "s#.safetensors", "--out", "o#.png"], 0),
        (["explore", "neighbours", "--device", "cpu", "s#.safetensors", "bad#", "-k", "2"], 2),
        (["project", "--device", "cpu", "--steps", "1", "s#.safetensors", "bad#/good#.jpg", "--out", "p#"], 0),
        (["evaluate", "in#", "bad#", "--weights", "#.safetensors"], 2),
        (["compare", "#", "#.json"], 2),
        (["weights", "import", "#.pth"], 2),
        (["weights", "fetch", "#"], 2),
        (["data", "derive", "gray", "bad#", "made#"], 3),
        (["data", "derive", "#", "in#", "made#"], 2),
        (["bench", "parzen", "--device", "cpu", "s#.safetensors", "--images", "#.npz"], 2),
        (["bench", "speed", "#", "--images", "in#"], 2),
        (["demo", "--out", "in#"], 2),
        (["recipes", "show", "#"], 2),
        (["recipes", "keys", "#"], 2),
        (["doctor", "#"], 2),
        (["#"], 2),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_no_name_drives_the_terminal(words: list[str], code: int, hostile: Path) -> None:
    words = [word.replace("#", ESCAPE) for word in words]
    result = invoke(*words)
    assert result.exit_code == code, result.output
    assert "\\x1b]0;title\\x07" in result.output
    for output in (result.output, invoke(*words, "--json").output):
        assert not {"\x1b", "\x07"} & set(output)


class _Page(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))


def test_no_name_becomes_a_part_of_the_report(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)><script>alert(2)<'
    for name in (evil, f"{evil}2"):
        picture(tmp_path / "in" / name / f"{name}.png", 0)
        picture(tmp_path / "in" / name / f"{name}1.png", 1)
    run = tmp_path / f"run {evil}"
    result = invoke("train", "cgan-small", "--classes", str(tmp_path / "in"), "--out", str(run), *TINY)
    assert result.exit_code == 0, result.output
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror" in text
    assert "<script>alert" not in text
    page = _Page(text)
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    for tag, attributes in page.elements:
        for address in (attributes.get("src"), attributes.get("href")):
            assert address is None or address.startswith(("data:", "#", "samples/")), f"{tag} loads {address}"
