"""What the commands do with bad input, walked through the command line.

`ROWS` is a table: what is typed, the exit code, what stderr must name, how it says to mend it, and the only paths that
may be new afterwards. Every row runs twice, the second time with --json. The tests below it walk what does not fit into
a line. The modules behind the commands have deeper tests of their own.

All folders lie below names with spaces, accents and an emoji, so that every path option meets them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageCms
from torchvision import models

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from folder_zoo import encoded, png

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.errors import Fault, printable
from img2img.inference.model import Model
from img2img.networks import GENERATORS
from img2img.networks.mixture import GeneratorMixture
from img2img_cli import main

_SMALL = (
    "--device cpu --set data.resolution=16 --set data.workers=1 --set train.batch=2 "
    "--set generator.width=4 --set discriminator.width=4"
)
_NOISE = f"{_SMALL} --set generator.max_width=8 --set generator.latent_dim=8 --set discriminator.max_width=8"
PLAN = f"plan dcgan-small {_NOISE}"
BENCH = f"bench speed dcgan-small {_NOISE} --steps 1 --warm-up 0"
DCGAN = f"train dcgan-small {_NOISE} --set train.kimg=0.004"
CGAN = f"train cgan-small {_NOISE} --set train.kimg=0.004"
PROGAN = "train progan-small --images @flat --dry-run"
PIX2PIX = f"train pix2pix-small {_SMALL} --set generator.depth=3 --set discriminator.layers=1"
CYCLEGAN = f"train cyclegan-small {_SMALL} --set generator.blocks=1 --set discriminator.layers=1"
POINTS = (
    "train points --device cpu --set train.kimg=0.016 --set train.batch=8 "
    "--set train.generators=1 --set generator.width=4 --set discriminator.width=4"
)
PACK = "data pack dcgan-small --set data.resolution=16"
PACK_PAIRS = "data pack pix2pix-small --set data.resolution=16 --out pack"
DERIVE = "data derive gray"
TRANSLATE = "translate --device cpu @translator.safetensors"
IMPORT = "models import --from junyanz --out made.safetensors"
ONNX = "models export @translator.safetensors a.onnx"
SAMPLE = "sample --device cpu --count 3"
EXPLORE = "explore interpolate --device cpu --steps 2"
NEAR = "explore neighbours --device cpu --pictures 0-1 @sampler.safetensors"
PROJECT = "project --device cpu --steps 2 @sampler.safetensors"
LATENT = "sample --device cpu @sampler.safetensors --latent"
EVALUATE = "evaluate --device cpu --no-card --resamples 0 --weights @squeezenet.safetensors"
PARZEN = "bench parzen --device cpu --samples 4 --images"


# --- pictures and files ----------------------------------------------------------------------------------------------


def pixels(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    """(H, W, 3) uint8 noise, which no format makes much smaller."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Payload:
    """Makes a file when it is unpickled."""

    marker = "ran"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(self.marker)}",)


def _bind_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


_JPEG = encoded(Image.fromarray(pixels(0, 40, 48)), "JPEG", quality=95)
_FRAME = _JPEG.index(b"\xff\xc0")  # the header that holds its height and width
_PNG = encoded(Image.fromarray(pixels(0, 40, 48)), "PNG")
_COPY = "Copy it again"
_CONVERT = "Convert it to PNG or JPEG"
_ODD_FILE = "Rename it or leave it out"
# name -> (promise, content or maker, problem, mend)
BROKEN: dict[str, tuple[str, bytes | Callable[[Path], Any], str, str]] = {
    "cut-half.jpg": ("C1", _JPEG[: len(_JPEG) // 2], "file is cut short", "take what is there"),
    "cut-end.jpg": ("C1", _JPEG[:-2], "file is cut short", "take what is there"),
    "cut-header.jpg": ("C1", _JPEG[:30], "file is cut short", "take what is there"),
    "cut-half.png": ("C1", _PNG[: len(_PNG) // 2], "file is cut short", "take what is there"),
    "empty.png": ("C2", b"", "is empty (0 bytes)", _COPY),
    "page.jpg": ("C2", b"<!DOCTYPE html><html></html>", "begins like HTML", "Download the picture itself"),
    "drawing.jpg": ("C2", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "begins like SVG or XML", _CONVERT),
    "folder.jpg": ("C2", Path.mkdir, "is a folder", _ODD_FILE),
    "pipe.png": ("C2", os.mkfifo, "is a pipe, socket or device", _ODD_FILE),
    "socket.png": ("C2", _bind_socket, "is a pipe, socket or device", _ODD_FILE),
    "device.png": ("C2", lambda path: path.symlink_to("/dev/zero"), "is a pipe, socket or device", _ODD_FILE),
    "crc.png": ("C3", _PNG[:60] + bytes([_PNG[60] ^ 1]) + _PNG[61:], "wrong checksum in its IDAT", _COPY),
    "flipped.jpg": ("C3", _JPEG[:180] + bytes([_JPEG[180] ^ 64]) + _JPEG[181:], "damaged", _COPY),
    "bomb.png": ("C5", png(30_000, 30_000, 1, 0, b"\0" * 3751), "900 megapixels is over the limit of 179", "smaller"),
    "bomb.jpg": (
        "C5",
        _JPEG[: _FRAME + 5] + struct.pack(">HH", 65500, 65500) + _JPEG[_FRAME + 9 :],
        "4290 megapixels is over the limit of 179",
        "max",
    ),
    "nan.tif": ("C7", encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "outside [0, 1]", "Scale"),
    "float.tif": ("C7", encoded(Image.fromarray(np.full((8, 8), 3, np.float32)), "TIFF"), "outside [0, 1]", "Scale"),
    "link.png": ("D1", lambda path: path.symlink_to("nowhere"), "is a link to nothing", "Remove the link"),
    "pickle.png": ("E1", pickle.dumps(Payload()), "is not a picture", "Remove it, or copy"),
    "\x1b[31mred\n.png": ("E11", b"", "is empty (0 bytes)", _COPY),
}


def _half_hidden() -> Image.Image:
    """Opaque (10, 20, 30) above; below, bright red that opacity 0 hides."""
    array = np.full((8, 8, 4), (10, 20, 30, 255), np.uint8)
    array[4:] = (255, 0, 0, 0)
    return Image.fromarray(array)


def _palette(transparent: bool) -> bytes:
    image = Image.fromarray(np.repeat([[0], [1]], 4, axis=0).repeat(8, axis=1).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, *((255, 0, 0) if transparent else (10, 20, 30))])
    return encoded(image, "PNG", **({"transparency": 1} if transparent else {}))


def _lab() -> bytes:
    """(200, 60, 30) in CIELAB."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return encoded(transform.apply(Image.new("RGB", (8, 8), (200, 60, 30))), "TIFF")


# Plain pictures of every mode -> the colour that training sees
MODES: dict[str, tuple[str, bytes, tuple[int, int, int]]] = {
    "cmyk.jpg": ("C6", encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "grey.png": ("C6", encoded(Image.new("L", (8, 8), 100), "PNG"), (100, 100, 100)),
    "bilevel.png": ("C6", encoded(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
    "grey-alpha.png": ("C6", encoded(Image.new("LA", (8, 8), (100, 128)), "PNG"), (100, 100, 100)),
    "palette.png": ("C6", _palette(False), (10, 20, 30)),
    "palette-transparent.png": ("C6", _palette(True), (10, 20, 30)),
    "lab.tif": ("C6", _lab(), (200, 60, 30)),
    "grey-16.png": ("C7", encoded(Image.fromarray(np.full((8, 8), 64 * 257, np.uint16)), "PNG"), (64, 64, 64)),
    "grey-16.tif": ("C7", encoded(Image.fromarray(np.full((8, 8), 64 * 257, np.uint16)), "TIFF"), (64, 64, 64)),
    "colour-16.png": ("C7", png(8, 8, 16, 2, (b"\0" + b"\x40\x40\x50\x50\x60\x60" * 8) * 8), (64, 80, 96)),
    "float.tif": ("C7", encoded(Image.fromarray(np.full((8, 8), 64 / 255, np.float32)), "TIFF"), (64, 64, 64)),
    "hidden.png": ("C8", encoded(_half_hidden(), "PNG"), (10, 20, 30)),
    "hidden.webp": ("C8", encoded(_half_hidden(), "WEBP", lossless=True, exact=True), (10, 20, 30)),
}
SIZES = [(1, 1), (1, 70), (70, 1), (3, 400), (5, 7), (33, 31)]  # (height, width): C11, C12
_TURN = Image.Transpose
# by Exif orientation from 2: what was done to the upright picture before it was stored
_TURNS = (
    *(_TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM),
    *(_TURN.TRANSPOSE, _TURN.ROTATE_90, _TURN.TRANSVERSE, _TURN.ROTATE_270),
)


def fill(folder: Path, names: list[str] | int, seed: int = 0, size: tuple[int, int] = (20, 24)) -> Path:
    """Write noise pictures under these names, or so many PNG."""
    if isinstance(names, int):
        names = [f"{number:02d}.png" for number in range(names)]
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed + index, *size)).save(path)
    return folder


# --- model files -----------------------------------------------------------------------------------------------------

_RESNET = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
_UNET = {"in_channels": 1, "out_channels": 1, "width": 4, "depth": 3}
_DCGAN = {"resolution": (16, 16), "out_channels": 3, "latent_dim": 8, "width": 4, "num_classes": 3}


def write_translator(path: Path, network: str, arguments: dict[str, Any]) -> None:
    info = ModelInfo(
        translator="pix2pix",
        task="translate",
        networks={"generator": NetworkSpec(network, arguments)},
        directions={"a2b": "generator"},
        domains={"a": "photos", "b": "drawings"},
        channels={"a": arguments["in_channels"], "b": arguments["out_channels"]},
        resolution=(16, 16),
    )
    write_model(path, {"generator": GENERATORS[network](**arguments)}, info)


def write_sampler(path: Path, classes: tuple[str, ...]) -> None:
    info = ModelInfo(
        translator="conditional",
        task="sample",
        networks={"generator": NetworkSpec("dcgan", _DCGAN)},
        directions={},
        domains={"image": "things"},
        channels={"image": 3},
        classes=classes,
        resolution=(16, 16),
    )
    write_model(path, {"generator": GENERATORS["dcgan"](**_DCGAN)}, info)


def write_noise_model(path: Path, task: str, channels: int, copies: int = 1, **arguments: Any) -> None:
    arguments = {"resolution": (1, 1), "out_channels": channels, "latent_dim": 2, "width": 4, **arguments}
    generators = [GENERATORS["mlp"](**arguments) for _ in range(copies)]
    info = ModelInfo(
        translator="points" if task == "points" else "unconditional",
        task=task,
        networks={"generator": NetworkSpec("mlp", arguments, copies)},
        directions={},
        domains={"image": "ring"},
        channels={"image": channels},
        resolution=(1, 1),
    )
    write_model(path, {"generator": generators[0] if copies == 1 else GeneratorMixture(generators)}, info)


def foreign_generator() -> dict[str, torch.Tensor]:
    """A ResNet with one block as junyanz's project saves it."""
    convolutions = {
        "model.1": (2, 3, 7, 7),
        "model.4": (4, 2, 3, 3),
        "model.7": (8, 4, 3, 3),
        **dict.fromkeys(("model.10.conv_block.1", "model.10.conv_block.5"), (8, 8, 3, 3)),
        "model.11": (8, 4, 3, 3),
        "model.14": (4, 2, 3, 3),
        "model.18": (3, 2, 7, 7),
    }
    transposed = ("model.11", "model.14")
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in convolutions.items()}
    return state | {f"{name}.bias": torch.zeros(shape[name in transposed]) for name, shape in convolutions.items()}


def split_model(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, description and weights of a model file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["img2img"]), content[8 + length :]


def forge(target: Path, source: Path, describe: Callable[[dict[str, Any]], Any]) -> None:
    """`source` with another description over the same weights."""
    header, description, weights = split_model(source)
    describe(description)
    header["__metadata__"]["img2img"] = json.dumps(description)
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + weights)


def reweigh(target: Path, source: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """`source` with other weights, and the checksum that is right for them."""
    _, description, _ = split_model(source)
    tensors = safetensors.torch.load(source.read_bytes())
    change(tensors)
    target.write_bytes(safetensors.torch.save(tensors))
    description["sha256"] = hashlib.sha256(_tensor_bytes(target)).hexdigest()
    target.write_bytes(safetensors.torch.save(tensors, {"img2img": json.dumps(description)}))


def _tensor_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


def overlap(target: Path, source: Path) -> None:
    """All weights on the same bytes."""
    header, description, weights = split_model(source)
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            entry["data_offsets"] = [0, end - start]
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + weights)


def _first_weight(tensors: dict[str, torch.Tensor]) -> str:
    return min(name for name in tensors if tensors[name].ndim == 4)


def _recast(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first_weight(tensors)] = tensors[_first_weight(tensors)].to(torch.int32)


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first_weight(tensors)] = tensors[_first_weight(tensors)].flatten()


DAMAGED_MODELS: dict[str, tuple[Callable[[Path, Path], Any], str, str]] = {
    "nothing": (lambda path, _: path.write_bytes(b""), "not a safetensors file", "Give a model.safetensors"),
    "huge-header": (
        lambda path, _: path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}"),
        "not a safetensors file",
        "Give a model.safetensors",
    ),
    "no-json": (lambda path, _: path.write_bytes(struct.pack("<Q", 8) + b"{nojson}"), "header is damaged", _COPY),
    "many-entries": (
        lambda path, _: safetensors.torch.save_file({f"{i}": torch.zeros(0) for i in range(100_000)}, path),
        "not a model of img2img",
        "Give a model.safetensors",
    ),
    "half": (lambda path, source: path.write_bytes(source.read_bytes()[:-100]), "checksum", _COPY),
    "overlap": (overlap, "not a readable safetensors file", _COPY),
    "dtype": (lambda path, source: reweigh(path, source, _recast), "has type torch.int32", "Use the version"),
    "shape": (lambda path, source: reweigh(path, source, _reshape), "has shape", "Use the version"),
    "missing": (
        lambda path, source: reweigh(path, source, lambda tensors: tensors.pop(_first_weight(tensors))),
        "is missing",
        "Use the version",
    ),
    "extra": (
        lambda path, source: reweigh(path, source, lambda tensors: tensors.update(evil=torch.zeros(1))),
        "weight evil is not part of its networks",
        "Use the version",
    ),
    "a-folder": (lambda path, _: path.mkdir(), "is no regular file", "Give a model.safetensors"),
    "a-pipe": (lambda path, _: os.mkfifo(path), "is no regular file", "Give a model.safetensors"),
}


def _argue(**arguments: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda description: description["networks"]["generator"]["arguments"].update(arguments)


LYING_MODELS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "wide": (_argue(width=10**9), "width: 1000000000 is out of range"),
    "negative": (_argue(width=-4), "width: -4 is out of range"),
    "deep": (_argue(blocks=10**7), "blocks: 10000000 is out of range"),
    "channels": (_argue(in_channels=10**9), "in_channels: 1000000000 is out of range"),
    "text": (_argue(width="wide"), "width: 'wide'"),
    "argument": (_argue(evil=1), "evil"),
    "network": (lambda d: d["networks"]["generator"].update(name="os.system"), "'os.system' is unknown"),
    "resolution": (lambda d: d.update(resolution=[-1, 16]), "contradicts itself"),
    "endless": (lambda d: d.update(resolution=[1e999, 16]), "malformed"),
    "directions": (lambda d: d.update(directions={"../../a": "generator"}), "does not fit its networks"),
    "domains": (lambda d: d.update(domains=["photos"]), "malformed"),
    "metrics": (lambda d: d.update(metrics={"fid": float("nan")}), "malformed"),
    "task": (lambda d: d.update(task="evil"), "contradicts itself"),
    "format": (lambda d: d.update(format=99), "written in format 99"),
}
# of a model that makes single grey pixels from noise
LYING_SAMPLERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "channels": (lambda d: d["channels"].update(image=3), "does not fit its networks"),
    "domains": (lambda d: d.update(channels={"a": 1}), "does not fit its networks"),
    "classes": (lambda d: d.update(classes=["cat", "dog"]), "does not fit its networks"),
    "two coordinates": (lambda d: d["channels"].update(image=2), "contradicts itself"),
    "coordinates": (lambda d: d.update(task="points", channels={"image": 3}), "contradicts itself"),
    "copies": (lambda d: d["networks"]["generator"].update(copies=64), "is missing"),
    "no copies": (lambda d: d["networks"]["generator"].update(copies=0), "copies: 0 is out of range"),
    "many copies": (lambda d: d["networks"]["generator"].update(copies=10**9), "copies: 1000000000 is out of range"),
    "copies in words": (lambda d: d["networks"]["generator"].update(copies="many"), "malformed"),
    "members": (_argue(members=2), "has shape"),
    "many members": (_argue(members=10**9), "members: 1000000000 is out of range"),
    "huge copies": (
        lambda d: (_argue(width=8192, layers=16, members=1024)(d), d["networks"]["generator"].update(copies=64)),
        "is missing",
    ),
    "side": (_argue(resolution=[8192, 8192]), "too large for fully connected layers"),
}
PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "plain.pth": lambda path: path.write_bytes(pickle.dumps(Payload())),
    "text.pkl": lambda path: path.write_bytes(pickle.dumps(Payload(), protocol=0)),
    "zip.pt": lambda path: torch.save({"state": Payload()}, path),
    "legacy.ckpt": lambda path: torch.save({"state": Payload()}, path, _use_new_zipfile_serialization=False),
    "nested.zip": lambda path: _zip(path, pickle.dumps(Payload())),
    "legacy.tar": lambda path: _tar(path, pickle.dumps(Payload())),
    "cache.npy": lambda path: np.save(path, np.array([Payload()], object), allow_pickle=True),
    "model.safetensors": lambda path: path.write_bytes(pickle.dumps(Payload())),
}
# by what reads other people's weights
WHAT_IS_SAID_OF_PAYLOADS = {
    **dict.fromkeys(PAYLOADS, "holds code (posix.system)"),
    "legacy.tar": "is damaged, cut short, or no file of weights",
    "cache.npy": "is damaged, cut short, or no file of weights",
}


def _zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


def _tar(path: Path, content: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


# --- the world and what is done in it --------------------------------------------------------------------------------


def invoke(*words: object) -> Result:
    """The command line, in this process."""
    result = CliRunner().invoke(main, [str(word) for word in words], color=True)
    for stream in (result.stdout, result.stderr):
        assert "Traceback" not in stream
        assert "internal:" not in stream
        assert "\x1b" not in stream, "a name may not drive the terminal"
        assert "\r" not in stream, "no progress bar where there is no terminal"
    return result


def tree(root: Path) -> dict[str, str]:
    """Every path below `root` with its kind or the hash of its content."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            plain = path.is_file() and not path.is_symlink()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else oct(path.lstat().st_mode)
            found[str(path.relative_to(root))] = content
    return found


def require_form(line: str) -> tuple[str, str]:
    """Subject and problem, and the mend, of a line of stderr."""
    assert line.startswith("error: "), line
    problem, stop, mend = line.removeprefix("error: ").partition(". ")
    assert ": " in problem, f"no subject: {line}"
    assert stop, f"no mend: {line}"
    assert mend[0].isupper() or mend[0] == "`", f"no mend: {line}"
    return problem, mend


def only_object(stdout: str) -> dict[str, Any]:
    """The one JSON object that --json may print."""
    assert stdout.endswith("}\n")
    assert stdout.count("\n") == 1
    answer = json.loads(stdout)
    assert isinstance(answer, dict)
    return answer


@dataclass(frozen=True)
class World:
    """Folders, models and runs that no test changes. A word @NAME of a command line is the path NAME below `root`."""

    root: Path

    def fill(self, text: str) -> str:
        return text.replace("@", f"{self.root}/")

    def words(self, line: str) -> list[str]:
        return [self.fill(word) for word in shlex.split(line)]

    def run(self, line: str) -> Result:
        return invoke(*self.words(line))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("promises") / "wörld of pictures 🎨"
    root.mkdir()
    fill(root / "flat", 12)
    fill(root / "ten", 10, seed=100)
    fill(root / "few", 3, seed=50)
    fill(root / "single", 1, seed=70)
    fill(root / "large", 12, seed=200, size=(20, 30))
    fill(root / "sides", 3, size=(20, 48))
    fill(root / "odd-width", 2, size=(20, 25))
    fill(root / "p", [f"p{number:02d}.png" for number in range(15)])
    fill(root / "q", [f"q{number:02d}.png" for number in range(14)] + ["p00.png"])
    fill(root / "twins", ["a.png", "a.jpg"])
    fill(root / "twin", ["a.png"])
    fill(root / "upper", ["Ab.PNG", "c.png"])
    fill(root / "lower", ["aB.jpg", "C.bmp"], seed=60)
    fill(root / "mostly-good", 30)
    fill(root / "some-bad", 9)
    fill(root / "classes", ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])
    fill(root / "misspelled", ["cat/1.png", "cat/2.png", "dgo/1.png", "dgo/2.png"])
    fill(root / "one-class", ["cat/1.png"])
    fill(root / "ones", ["cat/1.png", "dog/1.png"])
    fill(root / "empty-class", ["cat/1.png"])
    fill(root / "loose", ["cat/1.png", "dog/1.png", "stray.png"], seed=80)
    (root / "empty-class" / "dog").mkdir()
    (root / "empty").mkdir()
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "__MACOSX/a.png", ".ipynb_checkpoints/a.png"):
        (root / "junk" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "junk" / name).write_bytes(b"x")
    (root / "file").write_text("mine")
    (root / "loop").symlink_to("loop")
    (root / "keys.toml").write_text("[train]\nbatch = 2\n")
    np.savez(
        root / "arrays.npz",
        train_images=pixels(0, 160, 16).reshape(10, 16, 16, 3),
        test_images=pixels(1, 80, 16).reshape(5, 16, 16, 3),
    )
    np.savez(root / "evil.npz", train_images=np.array([Payload()], object))
    np.savez(root / "grey.npz", images=pixels(0, 16, 16))
    make_broken(root)
    make_models(root)
    make_measured(root)
    world = World(root)
    for line in (
        f"{DCGAN} --images @flat --out @run",
        f"{CGAN} --classes @classes --out @class-run",
        f"{PACK} --images @flat --out @evil-pack",
    ):
        assert world.run(line).exit_code == 0
    np.save(root / "evil-pack" / "image.npy", np.array([Payload()], object), allow_pickle=True)
    return world


def make_broken(root: Path) -> None:
    """broken: every file of BROKEN and two good pictures; only-bad, and two folders with some of them."""
    fill(root / "broken", ["good-1.png", "good-2.jpg"])
    for name, (_, content, _, _) in BROKEN.items():
        path = root / "broken" / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
    os.mkfifo(root / "pipe.npz")
    for folder in ("mostly-good", "some-bad", "only-bad"):
        (root / folder).mkdir(exist_ok=True)
        for name in ("cut-half.jpg", "empty.png"):
            shutil.copy(root / "broken" / name, root / folder / name)


def make_measured(root: Path) -> None:
    """Weights of a network that looks, statistics, and metric cards."""
    with torch.random.fork_rng():
        weights = models.squeezenet1_0(weights=None).state_dict()
    safetensors.torch.save_file(weights, root / "squeezenet.safetensors", {"input": "RGB in [-1, 1]"})
    statistics = {"mu": np.zeros(512), "sigma": np.eye(512)}
    np.savez(root / "stats.npz", **statistics)
    np.savez_compressed(root / "stats-of-2048.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(root / "evil-stats.npz", mu=np.array([Payload()], object), sigma=statistics["sigma"])
    (root / "cut-stats.npz").write_bytes((root / "stats.npz").read_bytes()[:-600])
    card = {
        "format": "img2img-card-1",
        "scores": {"FID": {"value": 1.0, "better": "lower", "interval": None, "details": {}}},
        "real": {"count": 10, "sha256": "a", "name": "\x1b[31mred", "kind": "files"},
        "fake": {"count": 10, "kind": "files"},
        "preparation": {},
        "extractor": None,
        "seed": 0,
        "versions": {},
    }
    (root / "notes.json").write_text("{}")
    (root / "one.card.json").write_text(json.dumps(card))
    (root / "other.card.json").write_text(json.dumps({**card, "real": {**card["real"], "sha256": "b"}}))


def make_models(root: Path) -> None:
    """Two models that translate, one that samples, and what only claims to be one."""
    write_translator(root / "translator.safetensors", "resnet", _RESNET)
    write_translator(root / "grey.safetensors", "unet", _UNET)
    write_sampler(root / "sampler.safetensors", ("cat", "dog", "../../owl"))
    torch.save(foreign_generator(), root / "latest_net_G.pth")
    (root / "models").mkdir()
    for name, (make, _, _) in DAMAGED_MODELS.items():
        make(root / "models" / name, root / "translator.safetensors")
    for name, (describe, _) in LYING_MODELS.items():
        forge(root / "models" / f"lying-{name}", root / "translator.safetensors", describe)
    write_noise_model(root / "dots.safetensors", "sample", 1)
    write_noise_model(root / "points.safetensors", "points", 2, copies=2)
    write_noise_model(root / "models" / "lying-two members", "sample", 1, members=2)
    for name, (describe, _) in LYING_SAMPLERS.items():
        forge(root / "models" / f"lying-sampler-{name}", root / "dots.safetensors", describe)
    Payload.marker = str(root / "ran")
    (root / "payloads").mkdir()
    for name, make_payload in PAYLOADS.items():
        make_payload(root / "payloads" / name)


def marks(root: Path) -> dict[str, tuple[int, ...]]:
    """Every path below `root` with what changes as soon as anybody writes to it."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
    return found


@dataclass
class Seen:
    """The world as the last test left it: its content, and marks that spare reading 50 MB after every test."""

    content: dict[str, str]
    marks: dict[str, tuple[int, ...]]


@pytest.fixture(scope="session")
def seen(world: World) -> Seen:
    return Seen(tree(world.root), marks(world.root))


@pytest.fixture
def here(world: World, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty working folder of a test, at whose end the world is as it was, and no payload has run."""
    folder = tmp_path / "wörk here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    now = marks(world.root)
    if now != seen.marks:  # a refused run takes its folder's lock, and leaves it as it was
        before, seen.content, seen.marks = seen.content, tree(world.root), now
        assert seen.content == before


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the table. `writes` are patterns of the only paths that may be new."""

    promise: str
    line: str
    code: int
    says: str
    mend: str = ""
    writes: tuple[str, ...] = ()


def settings(text: str) -> str:
    """Keys and values as options."""
    return " ".join(f"--set {one}" for one in text.split())


# FOLDER and MODEL stand for what the command reads
FOLDER_READERS = {
    "train": f"{DCGAN} --dry-run --images FOLDER",
    "plan": f"{PLAN} --images FOLDER",
    "check": "data check --images FOLDER",
    "pack": f"{PACK} --out pack --images FOLDER",
    "split": "data split --out parts --images FOLDER",
    "translate": f"{TRANSLATE} FOLDER out",
    "derive": "data derive gray FOLDER made",
}
CLASS_READERS = {
    "train": f"{CGAN} --dry-run --classes FOLDER",
    "bench": f"bench speed cgan-small {_NOISE} --steps 1 --warm-up 0 --classes FOLDER",
    "check": "data check --classes FOLDER",
    "pack": "data pack cgan-small --set data.resolution=16 --out pack --classes FOLDER",
}
PAIR_READERS = {
    "train": f"{PIX2PIX} --dry-run --pairs FOLDER",
    "plan": f"plan pix2pix-small {_SMALL} --set generator.depth=3 --set discriminator.layers=1 --pairs FOLDER",
    "check": "data check --pairs FOLDER",
    "pack": f"{PACK_PAIRS} --pairs FOLDER",
}
MODEL_READERS = {
    "info": "models info MODEL",
    "translate": "translate --device cpu MODEL @flat out",
    "sample": f"{SAMPLE} MODEL --out out",
    "explore": "explore truncation --device cpu MODEL",
    "project": "project --device cpu MODEL @flat/00.png",
    "train": f"{DCGAN} --images @flat --out out --init MODEL",
    "export": "models export MODEL out.safetensors",
}
TRANSLATED = ("out", "out/.img2img-manifest.jsonl", "out/skipped.jsonl")


def each(commands: dict[str, str], promise: str, read: str, code: int, says: str, mend: str, *only: str) -> list[Row]:
    """A row for every command, or `only` for some, that reads the same thing."""
    return [
        Row(f"{promise}: {name}", line.replace("FOLDER", read).replace("MODEL", read), code, says, mend)
        for name, line in commands.items()
        if not only or name in only
    ]


ROWS = [
    # an output that cannot be
    Row("A6 file: train", f"{DCGAN} --images @flat --out @file", 2, "@file: cannot be written", "Choose another --out"),
    Row("A6 below a file: train", f"{DCGAN} --images @flat --out @file/run", 2, "@file/run: ", "Choose another --out"),
    Row("A6 used folder: train", f"{DCGAN} --images @flat --out @few", 2, "@few: the folder is not empty", "Choose"),
    Row("A6 file: pack", f"{PACK} --images @flat --out @file", 2, "@file: exists already", "Choose another name"),
    Row("A6 below a file: pack", f"{PACK} --images @flat --out @file/a", 2, "@file/a: cannot be made", "Choose"),
    Row("A6 file: split", "data split --images @flat --out @file", 2, "@file: exists already", "Choose another name"),
    Row("A6 below a file: split", "data split --images @flat --out @file/a", 2, "@file/a: cannot be made", "Choose"),
    Row("A6 file: translate", f"{TRANSLATE} @flat @file", 2, "@file: is a file", "Choose another output folder"),
    Row("A6 below a file: translate", f"{TRANSLATE} @flat @file/a", 2, "@file/a: cannot be made", "Choose a folder"),
    Row("A6 picture: translate", f"{TRANSLATE} @flat/00.png @file/a.png", 2, "@file: is a file", "Choose another"),
    Row("A6 file: sample", f"{SAMPLE} @sampler.safetensors --out @file", 2, "@file: is a file", "Choose another"),
    Row(
        "A6 below: sample", f"{SAMPLE} @sampler.safetensors --out @file/a.png", 2, "@file: is a file", "Choose another"
    ),
    Row("A6 file: plan", f"{PLAN} --images @flat --out @keys.toml", 2, "@keys.toml exists already", "Choose another"),
    Row("A6 below a file: plan", f"{PLAN} --images @flat --out @file/a.toml", 2, "no folder @file", "Make it first"),
    Row("A6 suffix: plan", f"{PLAN} --images @flat --out plan", 2, "plan does not end in .toml", "Use plan.toml"),
    # plans
    Row("plan of points", "plan points --images @flat", 2, "learns from toy worlds", "Train it as it is"),
    Row("plan of other data", f"{PLAN} --classes @classes", 2, "unconditional learns from images", "--images DIR"),
    Row("plan of a wrong key", f"{PLAN} --images @flat --set train.batsh=2", 2, "train.batsh", "train.batch"),
    Row(
        "F7 plan",
        f"{PLAN} --images @flat --set train.kimg=0.004 --out ä.toml",
        0,
        "0.004 kimg on cpu",
        writes=("ä.toml",),
    ),
    # resuming
    Row("A11 no resume", f"{DCGAN} --images @flat --out @run", 2, "@run: this run exists already", "--resume"),
    Row(
        "A11 learning rate",
        f"{DCGAN} --images @flat --out @run --resume --set optim.lr=0.1",
        2,
        "optim.lr: the run has 0.001, now 0.1",
        "Leave it as it was",
    ),
    Row(
        "A11 shorter run",
        f"{DCGAN} --images @flat --out @run --resume --set train.kimg=0.002",
        2,
        "train.kimg: the run has 0.004, now 0.002",
        "Leave it as it was",
    ),
    Row(
        "A11 other pictures",
        f"{DCGAN} --images @ten --out @run --resume",
        2,
        "data: the pictures changed since step-000000002",
        "Put them back",
    ),
    # arrays
    Row(
        "E1 pickle in arrays",
        f"{DCGAN} --images @evil.npz --out run",
        2,
        "evil.npz: train_images holds object",
        "Convert",
    ),
    Row("E1 pickle in arrays: parzen", f"{PARZEN} @evil.npz @run/model.safetensors", 2, "holds object", "Convert"),
    Row("C2 no arrays", f"{DCGAN} --images @none.npz --out run", 2, "there is no folder @none.npz", "Check the path"),
    Row("no test pictures", f"{PARZEN} @grey.npz @run/model.safetensors", 2, "no array called test_images", "savez"),
    Row("folder: parzen", f"{PARZEN} @flat @run/model.safetensors", 2, "@flat: is no regular file", ".npz"),
    Row("classes: parzen", f"{PARZEN} @arrays.npz @class-run/model.safetensors", 2, "a model with classes", "without"),
    Row("translator: parzen", f"{PARZEN} @arrays.npz @translator.safetensors", 2, "translates pictures", "translate"),
    Row(
        "A6 file: parzen",
        f"{PARZEN} @arrays.npz @run/model.safetensors --out @file",
        2,
        "@file: is a file",
        "Choose another",
    ),
    Row(
        "stacked and grey",
        f"{DCGAN} --images @arrays.npz --out run --set data.stacked=true --set data.channels=1",
        2,
        "data.stacked: puts three grey pictures into three channels",
        "Set data.channels=3",
    ),
    Row("stacked colours", f"{DCGAN} --images @arrays.npz --out run --set data.stacked=true", 2, "no grey pictures"),
    # bad files, beside the test of each of them
    Row(
        "C too many bad files",
        f"{DCGAN} --dry-run --images @some-bad --set data.skip_bad=true",
        2,
        "@some-bad: 2 of 11 files cannot be used",
        "More than a tenth",
    ),
    Row("C2 pipe for a folder", f"{DCGAN} --dry-run --images @broken/pipe.png", 2, "--images: ", "Check the path"),
    Row(
        "C2 pipe: derive", f"{DERIVE} @broken/pipe.png made", 2, "pipe.png: is a file, not a folder", "Give the folder"
    ),
    Row("C2 pipe: split", "data split --images @broken/pipe.png --out parts", 2, "is a file, not a folder", "Give the"),
    Row("C2 pipe for arrays", f"{EVALUATE} @pipe.npz @ten", 2, "pipe.npz: is no regular file", "Give the path"),
    Row("C2 pipe for a picture", f"{TRANSLATE} @broken/pipe.png a.png", 1, "pipe.png: is a pipe", "Rename it"),
    Row("C1 picture cut short", f"{TRANSLATE} @broken/cut-half.jpg a.png", 1, "file is cut short", "allow-truncated"),
    Row("C1 strict", f"{TRANSLATE} @only-bad out --strict", 1, "cut-half.jpg: ", "Copy it again", writes=TRANSLATED),
    # output and input
    *(
        Row(f"arguments in the other order: {line.split()[0]} {what}", line, 2, f"is {what}, not a model", "before it")
        for what, line in (
            ("a folder", "translate @flat @translator.safetensors out"),
            ("a picture", "translate @flat/00.png @translator.safetensors out"),
            ("a picture", "project @flat/00.png sign-digits"),
            ("a folder", "explore neighbours @few @sampler.safetensors"),
        )
    ),
    Row("D4 same folder", f"{TRANSLATE} @flat @flat", 2, "@flat: output and input are the same", "--in-place"),
    Row("D4 same folder, another name", f"{TRANSLATE} @flat @few/../flat", 2, "same folder", "--in-place"),
    Row("D4 same file", f"{TRANSLATE} @flat/00.png @flat/00.png", 2, "is the picture itself", "--in-place"),
    Row("D2 files of others", f"{TRANSLATE} @few @flat", 2, "@flat/00.png: is there already, as are 2", "Give another"),
    Row("D4 another file", f"{TRANSLATE} @flat/00.png @ten/00.png", 2, "@ten/00.png: is there already", "--overwrite"),
    Row(
        "D4 overwrite a folder", f"{TRANSLATE} @flat out --overwrite", 2, "--overwrite: is for one picture", "Leave it"
    ),
    Row("D4 own folder", f"{TRANSLATE} @flat/00.png @flat", 2, "@flat/00.png: is one of the pictures", "--in-place"),
    Row("D4 split", "data split --images @flat --out @flat/parts", 2, "@flat/parts: lies inside", "Choose a place"),
    # nothing to read
    Row("A6 file: derive", f"{DERIVE} @flat @file", 2, "@file: exists already", "Choose another name"),
    Row("A6 used folder: derive", f"{DERIVE} @flat @few", 2, "@few: exists already", "Choose another name"),
    Row("A6 below a file: derive", f"{DERIVE} @flat @file/a", 2, "@file/a: cannot be made", "Choose another place"),
    Row("A6 inside: derive", f"{DERIVE} @flat @flat/made", 2, "@flat/made: lies inside", "Choose a place outside"),
    Row("B8 derive kind", "data derive edge @flat made", 2, "KIND: 'edge' is unknown", "Did you mean edges?"),
    Row("B8 derive option", f"{DERIVE} @flat made --factor 2", 2, "--factor: is for small, not for gray", "Leave it"),
    Row("B8 derive options", f"{DERIVE} @flat made --amount 2", 2, "--amount: is for holes and noise, not", "Leave it"),
    Row("B8 derive range", "data derive noise @flat made --amount 25", 2, "--amount: 25 is out of range", "Use a num"),
    Row("B8 derive no number", "data derive blur @flat made --sigma nan", 2, "--sigma: nan is out of", "Use a number"),
    Row("C2 derive", f"{DERIVE} @mostly-good made", 3, "empty.png: is empty", "Copy", writes=("made", "made/*")),
    Row("C2 derive only bad files", f"{DERIVE} @only-bad made", 2, "empty.png: is empty", "Copy it again"),
    Row("D7 derive a file", f"{DERIVE} @flat/00.png made", 2, "@flat/00.png: is a file", "Give the folder"),
    Row("D9 derive twins", f"{DERIVE} @twins made", 2, "would be made into one: a.jpg and a.png", "Rename"),
    Row("F10 derive", f"{DERIVE} @flat 'mäde 1'", 0, "--pairs 'mäde 1' '@flat'", writes=("mäde 1", "mäde 1/*")),
    *each(FOLDER_READERS, "D7 empty", "@empty", 2, "@empty: no images in it (looked for .apng", "Check the path"),
    *each(FOLDER_READERS, "D7 junk", "@junk", 2, "@junk: no images in it (looked for .apng", "Check the path"),
    *each(FOLDER_READERS, "D7 missing", "@missing", 2, "folder", "Check the path"),
    *each(
        FOLDER_READERS, "D7 only bad files", "@only-bad", 2, "empty.png: is empty", "remove", "train", "check", "pack"
    ),
    Row("D7 only bad files: translate", f"{TRANSLATE} @only-bad out", 2, "empty.png: is empty", "remove", TRANSLATED),
    # classes
    *each(CLASS_READERS, "D8 one class", "@one-class", 2, "only one class folder (cat)", "at least two"),
    *each(CLASS_READERS, "D8 empty class", "@empty-class", 2, "@empty-class/dog: no images in", ""),
    *each(CLASS_READERS, "D8 loose", "@loose", 2, "@loose: 1 image lies loose", "Move each into the folder"),
    *each(CLASS_READERS, "D8 missing", "@missing", 2, "missing", "Check the path"),
    Row(
        "D8 resume with another class",
        f"{CGAN} --classes @misspelled --out @class-run --resume",
        2,
        "classes differ: model has cat,dog; folder has cat,dgo",
        "Did you mean dog?",
    ),
    Row(
        "D8 begin from a model of other classes",
        f"{CGAN} --classes @misspelled --dry-run --init @class-run/model.safetensors",
        2,
        "@misspelled: classes differ: model has cat,dog; folder has cat,dgo",
        "Did you mean dog?",
    ),
    Row(
        "D8 no such number", "sample sign-digits --class 10 --device cpu", 2, "has no class 10", "Its classes: 0, 1, 2"
    ),
    Row("D8 sample a class", f"{SAMPLE} @sampler.safetensors --class dgo", 2, "has no class dgo", "Did you mean dog?"),
    Row("growth too long", f"{PROGAN} --set train.kimg=20", 2, "growing from 8 to 64", "growth.stable_kimg"),
    Row("growth from nowhere", f"{PROGAN} --set growth.start=24", 2, "growth.start: 24 is not half", "Use 4 or 8"),
    Row("growth of what cannot", f"{PROGAN} --set generator=dcgan", 2, "dcgan cannot grow", "growth.start=0"),
    Row(
        "more phases than enhancers",
        "train pix2pixhd-small --pairs @flat --dry-run --set growth.start=16",
        2,
        "growth.start: sides double 2 times, and one of 1 enhancers joins at each",
        "Set it 2 times as high, or generator.enhancers=2",
    ),
    Row(
        "no such size",
        f"{PROGAN} --set data.resolution=100",
        2,
        "data.resolution: [100, 100]",
        "[96, 96] or [112, 112]",
    ),
    Row(
        "classes told by nobody", f"{CGAN} --classes @classes --set loss.classification=1", 2, "tells no classes", "Set"
    ),
    Row("D8 classes of one", f"{CGAN} --classes @ones --dry-run", 2, "2 classes for 2 pictures", "several pictures"),
    Row("D8 wrong kind", f"{CGAN} --images @flat --dry-run", 2, "learns from classes, not", "Give --classes DIR"),
    # pairs
    *each(PAIR_READERS, "D9 partners missing", "@flat @ten", 2, "2 only in", "data.pairs_policy=intersect"),
    *each(PAIR_READERS, "D9 many partners missing", "@p @q", 2, "and 4 more", "data.pairs_policy=intersect"),
    Row(
        "D9 label maps",
        f"{PACK_PAIRS} --pairs @flat @flat --set data.labels=4",
        2,
        "data.labels: label maps are not packed",
        "Give their folders to `train`",
    ),
    *each(PAIR_READERS, "D9 sizes differ", "@flat @large", 2, "is 30×20, but", "data.resize_pairs=true"),
    *each(PAIR_READERS, "D9 odd width", "@odd-width", 2, "00.png: width 25 is odd", "Give both halves the same width"),
    *each(PAIR_READERS, "D9 equal stems", "@twins @twin", 2, "one name but for the suffix: a.jpg and a.png", "rename"),
    *each(PAIR_READERS, "D9 one empty", "@flat @empty", 2, "@empty: no images in it", "Check the path"),
    Row("D9 split", "data split --pairs @flat @ten --out parts", 2, "2 only in", "Remove or add"),
    Row(
        "D9 intersect",
        f"{PACK_PAIRS} --pairs @flat @ten --set data.pairs_policy=intersect",
        0,
        "left out without partner: 2 only in",
        writes=("pack", "pack/*"),
    ),
    Row(
        "D9 resize",
        f"{PACK_PAIRS} --pairs @flat @large --set data.resize_pairs=true",
        0,
        "",
        writes=("pack", "pack/*"),
    ),
    Row("D9 case", f"{PACK_PAIRS} --pairs @upper @lower", 0, "upper and lower case", writes=("pack", "pack/*")),
    # unpaired
    Row("D10 empty side", f"{CYCLEGAN} --a @flat --b @empty --dry-run", 2, "@empty: no images in it", "Check the path"),
    Row("D10 same folder", f"{CYCLEGAN} --a @flat --b @flat --dry-run", 2, "is the same folder as --a", "Give two"),
    Row("D10 same folder, another name", f"{CYCLEGAN} --a @flat --b @few/../flat --dry-run", 2, "is the same", "Give"),
    Row("D10 same folder: check", "data check --a @flat --b @flat", 2, "is given twice", "Give two different folders"),
    Row("D10 one side", f"{CYCLEGAN} --a @flat --dry-run", 2, "--a: stands without --b", "Give --b"),
    Row("D10 one picture", f"{CYCLEGAN} --a @flat --b @single --dry-run", 0, "single holds 1 image"),
    # what claims to be a model
    *(
        row
        for name in PAYLOADS
        for row in each(MODEL_READERS, f"E1 {name}", f"@payloads/{name}", 2, f"@payloads/{name}: ", ".safetensors")
    ),
    # what claims to be weights of a network that measures
    *(
        Row(f"E1 weights {name}", f"weights import @payloads/{name}", 2, f"@payloads/{name}: {says}", ".safetensors")
        for name, says in WHAT_IS_SAID_OF_PAYLOADS.items()
    ),
    *(
        Row(f"E3 weights {name}", f"weights import @models/{name} --as vgg16", 2, f"@models/{name}: {says}", mend)
        for name, says, mend in (
            ("nothing", "is empty (0 bytes)", "Copy it again"),
            ("huge-header", "is damaged", "Copy it again"),
            ("no-json", "is a damaged safetensors file", "Copy it again"),
            ("many-entries", "holds 100,000 tensors", "Give another file"),
            ("half", "is a damaged safetensors file", "Copy it again"),
            ("overlap", "is a damaged safetensors file", "Copy it again"),
            ("shape", "does not fit vgg16: classifier.0.bias is missing", "Give weights for"),
            ("a-folder", "is no regular file", "Give a .pth"),
            ("a-pipe", "is no regular file", "Give a .pth"),
        )
    ),
    # what claims to be another project's generator
    *(
        Row(f"E1 import {name}", f"{IMPORT} @payloads/{name}", 2, f"@payloads/{name}: {says}", ".safetensors")
        for name, says in WHAT_IS_SAID_OF_PAYLOADS.items()
    ),
    *(
        Row(f"E3 import {name}", f"{IMPORT} @models/{name}", 2, f"@models/{name}: {says}", mend)
        for name, says, mend in (
            ("nothing", "is empty (0 bytes)", "Copy it again"),
            ("no-json", "is a damaged safetensors file", "Copy it again"),
            ("half", "is a damaged safetensors file", "Copy it again"),
            ("shape", "its tensors are named otherwise", "Give its latest_net_G.pth"),
            ("a-folder", "is no regular file", "Give a .pth"),
            ("a-pipe", "is no regular file", "Give a .pth"),
        )
    ),
    Row("E3 import nothing", f"{IMPORT} @nowhere.pth", 2, "@nowhere.pth: there is no such file", "Check the path"),
    Row(
        "E4 import project", f"{IMPORT} @latest_net_G.pth --from juniang", 2, "--from: 'juniang' is", "Did you mean ju"
    ),
    Row(
        "E4 import norm", f"{IMPORT} @latest_net_G.pth --batch-norm own", 2, "--batch-norm: 'own' is", "Known: picture"
    ),
    Row("E4 import stored", f"{IMPORT} @latest_net_G.pth --batch-norm stored", 2, "no batch normalisation", "Leave it"),
    Row("E4 import dropout", f"{IMPORT} @latest_net_G.pth --dropout", 2, "latest_net_G.pth has no dropout", "Leave it"),
    Row("E4 import size", f"{IMPORT} @latest_net_G.pth --resolution 10000", 2, "10000 is out of range", "Use a whole"),
    Row("E4 import domains", f"{IMPORT} @latest_net_G.pth --domains a a", 2, "--domains: a twice", "Give two names"),
    Row(
        "E4 import back", f"{IMPORT} @latest_net_G.pth --b2a @dots.safetensors", 2, "@dots.safetensors: its ten", "Give"
    ),
    Row(
        "A6 import", f"{IMPORT.replace('made', '@grey')} @latest_net_G.pth", 2, "grey.safetensors exists", "Choose ano"
    ),
    Row(
        "A6 a folder without a name: export", "models export @grey.safetensors /", 2, "does not end", "Give a name that"
    ),
    Row("A6 a folder without a name: import", "models import --from cut .", 2, ".: is no regular file", "Give a .pth"),
    Row("A6 import suffix", "models import --from cut @latest_net_G.pth --out a.pth", 2, "not end in", "Use a.safeten"),
    Row("F10 import", f"{IMPORT} @latest_net_G.pth", 0, "wrote made.safetensors", writes=("made.safetensors",)),
    Row("E4 weights name", "weights import @translator.safetensors --as vgg61", 2, "'vgg61' is unknown", "Did"),
    Row("E4 weights unknown", "weights import @translator.safetensors", 2, "to no known network", "Known: incep"),
    Row("E4 weights input", "weights import @dots.safetensors --as alexnet --input x", 2, "does not fit", "Give"),
    Row("E6 weights name", "weights fetch inception-2051", 2, "'inception-2051' is unknown", "inception-2015"),
    Row("E6 weights by half a name", "weights fetch inception", 2, "'inception' is", "inception-2015 or inception_v3?"),
    Row("E6 weights no checksum", "weights fetch squeezenet1_0", 2, "no address with a confirmed checksum", "import"),
    Row("F4 weights", "weights list", 0, "inception-2015"),
    # what is measured
    Row("B8 scores", f"{EVALUATE} @flat @ten", 0, "FD-SqueezeNet"),
    Row("B8 no weights", "evaluate @flat @ten", 2, "its weights are not here", "weights fetch inception-2015"),
    Row("B8 no such measure", f"{EVALUATE} @flat @ten --measure fdd", 2, "'fdd' is unknown", "Did you mean fd?"),
    Row("B8 no such network", "evaluate @flat @ten --extractor inception", 2, "'inception' is unknown", "Did you"),
    Row("B8 no such eye", f"{EVALUATE} @flat @ten --perceptual vgg", 2, "--perceptual: 'vgg' is unknown", "Did you"),
    Row("B8 one picture", f"{EVALUATE} @single @ten", 2, "@single: 1 picture makes no set", "Give at least two"),
    Row("B8 few pictures", f"{EVALUATE} @few @few --measure prdc", 2, "--measure prdc: ", "Give more pictures"),
    Row("B8 sizes", f"{EVALUATE} @flat @large", 2, "@large: its pictures are 30 × 20", "--resolution"),
    Row("B8 classes", f"{EVALUATE} @misspelled --model @sampler.safetensors", 2, "REAL: classes differ", "Give the"),
    Row(
        "B8 no classes",
        f"{EVALUATE} @flat @ten --measure fd_per_class",
        2,
        "lie loose and there are no class folders",
        "Give a folder of class",
    ),
    Row("B8 neither", f"{EVALUATE} @flat", 2, "FAKE: is not given, nor is --model", "Give a folder"),
    Row("B8 source alone", f"{EVALUATE} @flat @ten --source @flat", 2, "--source: is given without", "Give --model"),
    Row(
        "B8 samples have no names", f"{EVALUATE} @flat --model @dots.safetensors --measure psnr", 2, "no names", "Leave"
    ),
    Row("B8 partners", f"{EVALUATE} @flat @ten --measure psnr --count 5", 2, "--count: would leave", "Leave it out"),
    Row("B8 both", f"{EVALUATE} @flat @ten --model @dots.safetensors", 2, "FAKE: is given beside --model", "Give a"),
    Row("B8 no source", f"{EVALUATE} @flat --model @translator.safetensors", 2, "--source: is not given", "Give the"),
    Row("B8 source", f"{EVALUATE} @flat --model @dots.safetensors --source @ten", 2, "makes pictures from", "Leave it"),
    Row("B8 unpaired", f"{EVALUATE} @flat @ten --measure psnr", 2, "2 only in @flat", "Add or remove"),
    Row("B8 no inputs", f"{EVALUATE} @flat @ten --measure preservation", 2, "compares inputs and", "Give --source"),
    Row("B8 no model", f"{EVALUATE} @flat @ten --measure ppl", 2, "is of a model that", "Give --model"),
    Row("B8 points", f"{EVALUATE} @flat --model @points.safetensors", 2, "makes points of a toy world", "report.html"),
    Row("B8 other network", f"{EVALUATE} @flat @ten --extractor vgg16", 2, "does not fit vgg16", "Give weights for"),
    Row("B8 other size of statistics", f"{EVALUATE} @stats-of-2048.npz @ten", 2, "its mu has shape (2048,)", "Use"),
    Row("B8 statistics", f"{EVALUATE} @stats.npz @ten --measure fd", 0, "FD-SqueezeNet"),
    Row("B8 of statistics", f"{EVALUATE} @stats.npz @ten --measure kid", 2, "kid needs the features of REAL", "Use"),
    Row("B8 cut statistics", f"{EVALUATE} @cut-stats.npz @ten", 2, "@cut-stats.npz: is no usable", "Copy it again"),
    Row("E1 statistics", f"{EVALUATE} @evil-stats.npz @ten", 2, "@evil-stats.npz: its mu is pickled", "Save it as"),
    *(
        Row(f"E1 measuring by {name}", f"evaluate @flat @ten --weights @payloads/{name}", 2, f"@payloads/{name}: ", "")
        for name in PAYLOADS
    ),
    Row("C1 real", f"{EVALUATE} @some-bad @ten", 2, "@some-bad/empty.png: is empty", "Copy it again"),
    Row("D7 empty: evaluate", f"{EVALUATE} @empty @ten", 2, "@empty: no images in it", "Check the path"),
    Row("D7 missing, without weights", "evaluate @flat @nowhere", 2, "@nowhere: no such folder", "Check the path"),
    Row("D7 missing arrays: evaluate", "evaluate @none.npz @flat", 2, "@none.npz: there is no such file", "Check the"),
    Row("D7 missing: evaluate", f"{EVALUATE} @flat @nowhere", 2, "@nowhere: no such folder", "Check the path"),
    Row(
        "A6 card's name",
        f"{EVALUATE} @flat @ten --out card.txt".replace("--no-card", ""),
        2,
        "does not end in .json",
        "Use card.json",
    ),
    Row(
        "D3 no room for the card's suffix",
        f"{EVALUATE} @flat {'n' * 250}".replace("--no-card", ""),
        2,
        "n.card.json is too long a name",
        "Choose a shorter one",
    ),
    Row(
        "A6 card's folder",
        f"{EVALUATE} @flat @ten --out no/card.json".replace("--no-card", ""),
        2,
        "there is no folder no",
        "Make it",
    ),
    Row(
        "D2 no card",
        f"{EVALUATE} @flat @ten --out @notes.json".replace("--no-card", ""),
        2,
        "notes.json is there already and is no metric card",
        "Give another name",
    ),
    Row(
        "D2 no sample",
        f"{SAMPLE} @sampler.safetensors --out @flat/00.png",
        2,
        "@flat/00.png: is there already",
        "Give another --out",
    ),
    Row("B8 compare", "compare @one.card.json @one.card.json", 0, "FID"),
    Row("B8 incomparable", "compare @one.card.json @other.card.json", 2, "real pictures: 10 of", "same pictures"),
    Row("B8 no card", "compare @one.card.json @keys.toml", 2, "@keys.toml: is not JSON", "evaluate wrote"),
    Row("B8 no card in", "compare @one.card.json @dots.safetensors", 2, "holds no metric card", "Make one"),
    Row("B8 missing card", "compare @one.card.json @nowhere", 2, "@nowhere: there is no such file", "Give a card"),
    Row("E1 config", f"{DCGAN} --images @flat --config @payloads/plain.pth", 2, "plain.pth: is not UTF-8", "Save it"),
    Row("E1 text config", f"{DCGAN} --images @flat --config @payloads/text.pkl", 2, "text.pkl: is not ", ""),
    *each(FOLDER_READERS, "E1 pack", "@evil-pack", 2, "@evil-pack: is a damaged pack", "Pack the", "train", "check"),
    *(
        row
        for name, (_, says, mend) in DAMAGED_MODELS.items()
        for row in each(MODEL_READERS, f"E3 {name}", f"@models/{name}", 2, f"@models/{name}: ", mend, "translate")
    ),
    *(
        Row(f"E4 {name}", f"translate --device cpu @models/lying-{name} @flat out", 2, says, "")
        for name, (_, says) in LYING_MODELS.items()
    ),
    *(
        Row(f"E4 sampler {name}", f"{SAMPLE} '@models/lying-sampler-{name}' --out out", 2, says, "")
        for name, (_, says) in LYING_SAMPLERS.items()
    ),
    Row("E4 two members", f"{SAMPLE} '@models/lying-two members' --out out", 2, "does not fit its networks", "Use the"),
    Row(
        "E4 class names with paths",
        f"{SAMPLE} @sampler.safetensors --out out",
        0,
        "made 3 pictures",
        writes=("out", "out/cat", "out/dog", "out/*owl", "out/*.png"),
    ),
    Row("E4 wide", f"{DCGAN} --images @flat --set generator.width=1000000000", 2, "generator.width: 10000", "Use"),
    Row("E4 negative", f"{DCGAN} --images @flat --set generator.width=-4", 2, "generator.width: -4 is", "Use"),
    Row("E4 network", f"{DCGAN} --images @flat --set generator.name=evil", 2, "generator.name: 'evil' is", ""),
    Row("E4 resolution", f"{DCGAN} --images @flat --set data.resolution=100000", 2, "data.resolution: cannot", "Give"),
    Row("E4 batch", f"{DCGAN} --images @flat --set train.batch=1000000000", 2, "train.batch: cannot be", "Give"),
    # choices that do not go together, refused before the pictures (all of them broken) are read
    *(
        Row(f"fit {setting}", f"{recipe} --dry-run {settings(setting)}", 2, says, mend)
        for recipe, setting, says, mend in (
            (
                f"{DCGAN} --images @only-bad",
                "loss.adversarial=began",
                "discriminator.name: began needs an autoencoder",
                "Use",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "loss.adversarial=wgan loss.adversarial.real_label=0.9",
                "loss.adversarial.real_label: wgan has no such constant",
                "It belongs to minimax, nonsaturating",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "loss.adversarial=relativistic loss.adversarial.form=square",
                "loss.adversarial.form: got 'square'",
                "Use one of logistic, ls, hinge",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "train.unroll=-1",
                "train.unroll: cannot be -1",
                "Give an integer, at least 0",
            ),
            (f"{DCGAN} --images @only-bad", "train.top_k=0", "train.top_k: cannot be 0", "Give a number, above 0"),
            (
                f"{DCGAN} --images @only-bad",
                "train.packing=3",
                "train.packing: 3 samples at once do not divide",
                "Use a",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "loss.penalties.r1.weight=-1",
                "loss.penalties.r1.weight: got -1",
                "at least 0",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "loss.penalties.r1.weight=nan",
                "loss.penalties.r1.weight: ",
                "finite number",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "loss.penalties.r1.weight=inf",
                "loss.penalties.r1.weight: ",
                "finite number",
            ),
            (
                f"{DCGAN} --images @only-bad",
                "loss.penalties=consensus train.accumulate=2",
                "loss.penalties.consensus: squares the whole batch's gradient",
                "Set train.accumulate=1",
            ),
            (
                f"{CGAN} --classes @empty-class",
                "train.packing=2",
                "train.packing: shows samples of several",
                "minibatch_std",
            ),
            (f"{PIX2PIX} --pairs @only-bad", "train.unroll=5", "train.unroll: is for generators that start from", "=0"),
            (
                f"{PIX2PIX} --pairs @only-bad",
                "train.packing=2",
                "train.packing: is for generators that start from",
                "=1",
            ),
            (f"{PIX2PIX} --pairs @only-bad", "train.generators=2", "train.generators: is for generators that", "=1"),
            (f"{PIX2PIX} --pairs @only-bad", "train.scales=3", "train.scales: the last of 3 discriminators", "lower"),
            (f"{PIX2PIX} --pairs @only-bad", "data.labels=4", "generator.name: network unet does not fit", "spade"),
            (f"{PIX2PIX} --pairs @only-bad", "data.palette=red", "data.palette: 'red' is no colour", "#0000aa"),
            (f"{PIX2PIX} --pairs @only-bad", "loss.perceptual=1", "loss.perceptual_network: vgg19", "weights import"),
            (
                f"{PIX2PIX} --pairs @only-bad",
                "loss.adversarial=ebgan",
                "loss.adversarial: ebgan wants an auto",
                "hinge",
            ),
            (
                f"{POINTS} --world ring",
                "loss.penalties=consistency",
                "loss.penalties.consistency: moves pictures",
                "Rem",
            ),
            (
                f"{POINTS} --world ring",
                "discriminator.name=mlp_autoencoder",
                "loss.adversarial: relativistic needs",
                "beg",
            ),
        )
    ),
    Row(
        "fit warning",
        f"{DCGAN} --images @flat --dry-run --set loss.penalties=gradient_penalty --set discriminator.norm=batch",
        0,
        "but discriminator.norm=batch lets it see the batch. Set discriminator.norm=none",
    ),
    # toy worlds
    Row("world unknown", f"{POINTS} --world rong", 2, "--world: 'rong' is unknown", "Did you mean ring?"),
    Row("world and pictures", f"{POINTS} --world ring --images @only-bad", 2, "exclude each other", "Give"),
    Row(
        "world for pictures",
        f"{DCGAN} --world ring",
        2,
        "unconditional learns from images, not from points",
        "Give --im",
    ),
    Row(
        "pictures for points",
        f"{POINTS} --images @only-bad",
        2,
        "points learns from points, not from images",
        "Give --w",
    ),
    Row("world nothing", POINTS, 2, "data: nothing to learn from is named", "or --world NAME"),
    Row("world dimensions", f"{POINTS} --world ring --world gaussian", 2, "and one network cannot learn both", "Give"),
    Row("world", f"{POINTS} --world ring --out out", 0, "trained on 16 images", writes=("out", "out/*")),
    Row("worlds", f"{POINTS} --world ring --world grid --set data.resolution=50 --dry-run", 0, "Nothing was written"),
    Row("world speed", "bench speed points --world ring --steps 1 --warm-up 0 --set train.batch=8", 0, "images/s"),
    Row("points info", "models info @points.safetensors", 0, "points of ring"),
    Row("points copies", "models info @points.safetensors", 0, "generator: 2 × mlp("),
    Row("E4 onnx of noise", "models export @sampler.safetensors a.onnx", 2, "makes new pictures", "Use img2img sample"),
    Row("E4 onnx direction", f"{ONNX} --direction b2a", 2, "has no b2a, only a2b (photos → drawings)", "Use a2b"),
    Row("E4 onnx half", f"{ONNX} --half", 2, "--half: is for .safetensors files", "Leave it out"),
    Row("E4 onnx metric", f"{ONNX} --metric fd=1", 2, "--metric: is for .safetensors files", "Leave it out"),
    Row(
        "E4 export direction",
        "models export @grey.safetensors a.safetensors --direction a2b",
        2,
        "is for .onnx",
        "Leave",
    ),
    Row("E1 onnx", "models export @payloads/zip.pt a.onnx", 2, "@payloads/zip.pt: a pickle", "Ask for a .safetensors"),
    Row("points export", "models export @points.safetensors a.safetensors", 0, "wrote", writes=("a.safetensors",)),
    Row("points sample", f"{SAMPLE} @points.safetensors", 2, "makes points of a toy world, not pictures", "See them"),
    Row(
        "points translate",
        "translate --device cpu @points.safetensors @flat out",
        2,
        "makes points of a toy",
        "See them",
    ),
    Row(
        "points init",
        f"{POINTS} --world ring --dry-run --init @points.safetensors",
        2,
        "it has train.generators = 2, this run 1",
        "Set",
    ),
    # a generator in use
    Row("B8 ψ", f"{SAMPLE} @sampler.safetensors --truncation 0", 2, "--truncation: 0 is no threshold", "Give a"),
    Row("B8 ψ of nothing", f"{SAMPLE} @sampler.safetensors --centre class", 2, "--centre: is of a", "Add --trunc"),
    Row("B8 ψ of points", f"{SAMPLE} @points.safetensors --truncation 1", 2, "makes points", "See them"),
    Row("B8 centre of z", f"{SAMPLE} @sampler.safetensors --truncation 1 --centre class", 2, "has no styles", "Leave"),
    Row("B8 of no class", "sample --device cpu @dots.safetensors --per-class 3", 2, "knows no classes", "Use --count"),
    Row(
        "B8 of each class",
        "sample --device cpu @sampler.safetensors --per-class 1 --class dog --truncation 0.5 --out 'ö 1'",
        0,
        "made 1 picture",
        writes=("ö 1", "ö 1/dog", "ö 1/dog/000000.png"),
    ),
    Row("A11 grid", f"{SAMPLE} @sampler.safetensors --skip-existing --grid", 2, "needs all pictures", "Leave one"),
    Row("A6 file: explore", f"{EXPLORE} @sampler.safetensors --out @file/a.png", 2, "@file: is a file", "Choose"),
    Row("F10 explore", f"{EXPLORE} @sampler.safetensors --out 'ä b.gif'", 0, "wrote ä b.gif", writes=("ä b.gif",)),
    Row("B8 explore a class", f"{EXPLORE} @sampler.safetensors --class dgo", 2, "has no class dgo", "Did you mean dog"),
    Row("B8 explore a translator", f"{EXPLORE} @translator.safetensors", 2, "translates pictures", "Use img2img tr"),
    Row("B8 explore points", f"{EXPLORE} @points.safetensors", 2, "makes points of a toy world", "See them"),
    Row("B8 numbers", f"{EXPLORE} @dots.safetensors --pictures 1,b", 2, "--pictures: '1,b' names no", "Give their"),
    Row("B8 across", f"{EXPLORE} @sampler.safetensors --across-classes", 2, "has no styles", "Use interpolate"),
    Row("B8 mix", "explore mix --device cpu @sampler.safetensors", 2, "has no styles", "Use interpolate"),
    Row("B8 noise", "explore variation --device cpu @dots.safetensors", 2, "nothing is random", "Use a generator"),
    Row("B8 ψ side by side", "explore truncation --device cpu @dots.safetensors --values 1,-1", 2, "no threshold", ""),
    Row("B8 sum", "explore arithmetic --device cpu @dots.safetensors --expr '1 /'", 2, "is no sum", "Write it as"),
    Row(
        "B8 sum of classes",
        "explore arithmetic --device cpu @sampler.safetensors --expr '1 + 2'",
        2,
        "do not add up",
        "Name one, such as --class cat",
    ),
    Row("D7 empty: neighbours", f"{NEAR} @empty", 2, "@empty: no images in it", "Check the path"),
    Row("C1 neighbours", f"{NEAR} -k 2 @only-bad", 2, "2 of 2 files cannot be used", "leave them out by --skip-bad"),
    Row("B8 neighbours", f"{NEAR} @few -k 4", 2, "@few has 3 pictures, not 4", "Use -k 3"),
    Row("B8 neighbours by name", f"{NEAR} @few -k 2 --extractor vgg", 2, "'vgg' is unknown", "Did you mean vgg16"),
    Row(
        "B8 no weights: neighbours",
        f"{NEAR} @few -k 2 --extractor vgg16",
        2,
        "its weights are not here",
        "weights fetch",
    ),
    Row(
        "B8 neighbours of a network",
        f"{NEAR} @few -k 2 --weights @squeezenet.safetensors",
        0,
        "nearest is",
        writes=("neighbours.png",),
    ),
    Row("F10 project", f"{PROJECT} @flat/00.png --out 'ö 1'", 0, "levels of 255", writes=("ö 1", "ö 1/*")),
    Row("A6 file: project", f"{PROJECT} @flat/00.png --out @file", 2, "@file: is a file", "Choose another"),
    Row("C1 project", f"{PROJECT} @broken/cut-half.jpg", 1, "file is cut short", "Copy it again"),
    Row("C2 project", f"{PROJECT} @broken/page.jpg", 1, "begins like HTML", "Download the picture"),
    Row("D7 project", f"{PROJECT} @nowhere.png", 2, "@nowhere.png: no such file", "Check the path"),
    Row("B8 project's class", f"{PROJECT} @flat/00.png --class dgo", 2, "has no class dgo", "Did you mean dog"),
    Row("B8 project's space", f"{PROJECT} @flat/00.png --space w", 2, "is not projected into w", "Use z"),
    Row("B8 project's eye", f"{PROJECT} @flat/00.png --perceptual vgg", 2, "'vgg' is unknown", "Did you mean vgg16"),
    Row("B8 project small", f"{PROJECT} @flat/00.png --weights @squeezenet.safetensors", 2, "needs sides of 21", "Lea"),
    Row(
        "B8 project a translator",
        "project --device cpu @translator.safetensors @flat/00.png",
        2,
        "translates pictures",
        "Use img2img translate",
    ),
    Row("B8 no latent", f"{LATENT} @sampler.safetensors", 2, "holds no latent", "Give a latent.safetensors"),
    Row("E1 latent", f"{LATENT} @payloads/plain.pth", 2, "@payloads/plain.pth: ", "Ask for a .safetensors"),
    Row("B8 latent and class", f"{LATENT} @sampler.safetensors --class cat", 2, "stands beside --latent", "Leave one"),
    # usage
    Row("F4 command", "trian", 2, "there is no command 'trian'", "Did you mean train?"),
    Row(
        "F4 command of a group", "models show", 2, "there is no command 'show'", "The commands are export, import, inf"
    ),
    *(
        Row(f"F4 command of {group}", f"{group} {word}", 2, f"there is no command '{word}'", f"Did you mean {meant}?")
        for group, word, meant in (
            ("data", "chekc", "check"),
            ("explore", "neighbors", "neighbours"),
            ("weights", "fech", "fetch"),
            ("bench", "sped", "speed"),
            ("recipes", "lits", "list"),
        )
    ),
    Row("F4 recipe", "recipes show pix2pik", 2, "recipe pix2pik: there is no such recipe", "Did you mean pix2pix"),
    *each(MODEL_READERS, "F4 shipped name", "sign-digit", 2, "sign-digit: there is no such file", "Did you mean sign-"),
    Row("F4 key", "recipes keys nothing", 2, "nothing: no key contains this", "lists every key"),
    Row("F4 argument", "doctor twice", 2, "img2img doctor: ", "See `img2img doctor --help`"),
    Row("F4 doctor", "doctor", 0, "Picture formats"),
    Row("F4 recipes", "recipes list", 0, "cyclegan-small"),
    Row("F4 check", "data check --images @flat", 0, "no problems"),
    Row("F4 option", "models info --jsn", 2, "'--jsn'", "See `img2img models info --help`"),
    Row("F2 a variable that is not set", f"{TRANSLATE} '' out", 2, "'SRC': is empty", "Give a path"),
    Row("D3 no name so long", f"{TRANSLATE} @flat {'n' * 300}", 2, "File name too long", "Check the path"),
    Row("D1 a link to itself", "models info @loop", 2, "Too many levels of symbolic", "Check the path"),
    Row("F7 unconditional", f"{DCGAN} --images @flat --dry-run --out run", 0, "Nothing was written"),
    Row("F7 conditional", f"{CGAN} --classes @classes --dry-run", 0, "Nothing was written"),
    Row("F7 pairs", f"{PIX2PIX} --pairs @flat @flat/../large --set data.resize_pairs=true --dry-run", 0, "Nothing was"),
    Row("F7 side by side", f"{PIX2PIX} --pairs @sides --dry-run", 0, "Nothing was written"),
    Row("F7 unpaired", f"{CYCLEGAN} --a @flat --b @few --dry-run", 0, "Nothing was written"),
    Row(
        "F10 train",
        f"{DCGAN} --images @flat --config @keys.toml --init @run/model.safetensors --out 'rüns 🎨/a b'",
        0,
        "rüns 🎨/a b/model.safetensors",
        writes=("rüns 🎨", "rüns 🎨/*"),
    ),
    Row("F10 pack", f"{PACK} --images @flat --out 'päck 1'", 0, "into päck 1", writes=("päck 1", "päck 1/*")),
    Row("F10 split", "data split --images @flat --out 'pärts 1'", 0, "pärts 1/tr", writes=("pärts 1", "pärts 1/*")),
    Row("F10 against", "data check --images @flat --against @few", 0, "no problems"),
    Row("F10 translate", f"{TRANSLATE} @flat 'öut 🎨'", 0, "translated 12", writes=("öut 🎨", "öut 🎨/*")),
    Row("F10 picture", f"{TRANSLATE} @flat/00.png 'ä b.jpg'", 0, "translated 1", writes=("ä b.jpg",)),
    Row("F10 sample", f"{SAMPLE} @sampler.safetensors --out 'ä b.png'", 0, "ä b.png", writes=("ä b.png",)),
    Row("F10 bench", f"{BENCH} --images @flat", 0, "images/s"),
    Row("F10 arrays", f"{DCGAN} --images @arrays.npz --dry-run", 0, "4 images at"),
    Row(
        "F10 parzen",
        f"{PARZEN} @arrays.npz @run/model.safetensors --out 'ä b'",
        0,
        "nats, bandwidth",
        writes=("ä b", "ä b/parzen.json"),
    ),
    Row(
        "F10 export",
        "models export @sampler.safetensors 'ä b.safetensors'",
        0,
        "wrote ä b",
        writes=("ä b.safetensors",),
    ),
    Row("F10 models", "models info @translator.safetensors", 0, "photos → drawings"),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.promise for row in ROWS])
def test_row(row: Row, world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, as_json = here / "plain", here / "json"
    says = unicodedata.normalize("NFC", world.fill(row.says))
    for folder, line in ((plain, row.line), (as_json, f"{row.line} --json")):
        folder.mkdir()
        monkeypatch.chdir(folder)
        result = world.run(line)
        assert result.exit_code == row.code, result.output
        new = [path for path in tree(folder) if not any(fnmatch.fnmatchcase(path, one) for one in row.writes)]
        assert new == []
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        if row.code:
            parts = [require_form(error) for error in errors]
            assert any(says in problem and row.mend in mend for problem, mend in parts), result.stderr
        if folder is plain:
            assert says in result.output
            continue
        answer = only_object(result.stdout)
        if "error" in answer:
            assert answer == {"error": [error.removeprefix("error: ") for error in errors], "exit_code": row.code}


def test_what_evaluate_leaves_out_is_named_and_counted(world: World, here: Path) -> None:
    result = world.run(f"{EVALUATE} @some-bad @flat --skip-bad")
    assert result.exit_code == 3
    assert f"left out: {world.root / 'some-bad' / 'empty.png'}" in result.stderr
    assert "9 pictures of some-bad, 2 left out" in result.stdout


def test_neighbours_may_be_looked_for_without_the_bad_files(world: World, here: Path) -> None:
    result = world.run(f"{NEAR} -k 10 @some-bad --skip-bad --allow-truncated --json")
    assert result.exit_code == 3, result.output
    assert f"left out: {world.root / 'some-bad' / 'empty.png'}" in result.stderr
    answer = only_object(result.stdout)
    assert answer["left_out"] == 1
    assert {one["name"] for one in answer["samples"][0]["neighbours"]} == {"cut-half", *(f"{n:02d}" for n in range(9))}


def test_every_command_is_in_the_table() -> None:
    from img2img_cli import COMMANDS

    assert {row.line.split()[0] for row in ROWS} >= set(COMMANDS) - {"demo"}


# --- pictures that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "writes"),
    [
        ("data check --images @broken", 2, set()),
        (f"{DCGAN} --images @broken --dry-run", 2, set()),
        (f"{DCGAN} --images @broken --out runs/new", 2, set()),
        (f"{PACK} --images @broken --out pack", 2, set()),
        (f"{TRANSLATE} @broken out", 3, {*TRANSLATED, "out/good-1.png", "out/good-2.jpg"}),
    ],
    ids=["check", "dry run", "train", "pack", "translate"],
)
def test_broken_pictures_are_listed_together(line: str, code: int, writes: set[str], world: World, here: Path) -> None:
    result = world.run(line)
    assert result.exit_code == code, result.output
    assert set(tree(here)) == writes
    lines = result.stderr.splitlines()
    for name, (promise, _, problem, mend) in BROKEN.items():
        prefix = f"error: {printable(world.root / 'broken' / name)}: "
        found = [line for line in lines if line.startswith(prefix)]
        assert len(found) == 1, f"{promise}: {name}"
        assert problem in require_form(found[0])[0], promise
        assert mend in require_form(found[0])[1], promise
    if writes:
        skipped = [json.loads(line) for line in (here / "out" / "skipped.jsonl").read_text().splitlines()]
        assert {Path(entry["path"]).name for entry in skipped} == {printable(name) for name in BROKEN}
        assert all(entry["reason"] and entry["mend"] for entry in skipped)
        assert result.stdout.splitlines()[-1] == f"translated 2, skipped {len(BROKEN)} (see skipped.jsonl)"


@pytest.mark.parametrize(
    "line",
    [
        f"{DCGAN} --dry-run --images FOLDER",
        f"{BENCH} --images FOLDER",
        f"{PACK} --out pack --images FOLDER",
        "data check --images FOLDER",
        f"{DERIVE} FOLDER made",
        f"{TRANSLATE} FOLDER out",
        f"{EVALUATE} FOLDER @flat",
        f"{NEAR} FOLDER -k 1",
        f"{PROJECT} FOLDER/cut-half.jpg",
    ],
    ids=lambda line: " ".join(line.split()[:2]),
)
def test_a_mend_names_what_the_command_has(line: str, world: World, here: Path) -> None:
    """C1, C5: options where there are, and keys where there is --set."""
    shutil.copytree(world.root / "only-bad", here / "bad")
    shutil.copy(world.root / "broken" / "bomb.png", here / "bad")
    words = world.words(line.replace("FOLDER", "bad"))
    result = invoke(*words)
    assert result.exit_code in (1, 2)
    command = words[:2] if words[0] in ("data", "explore", "bench") else words[:1]
    known = set(re.findall(r"--[a-z][a-z-]+", invoke(*command, "--help").stdout))
    mends = [require_form(error)[1] for error in result.stderr.splitlines() if error.startswith("error: ")]
    assert set(re.findall(r"--[a-z][a-z-]+", " ".join(mends))) <= known
    if "--set" in known:
        assert any("take what is there with data.allow_truncated=true" in mend for mend in mends)
        assert any("raise data.max_pixels" in mend for mend in mends)
    else:
        assert any("--max-pixels" in mend for mend in mends) == ("--max-pixels" in known)


@pytest.mark.parametrize("line", [f"{DCGAN} --dry-run", f"{PACK} --out pack"], ids=["train", "pack"])
def test_a_few_bad_files_may_be_left_out_and_are_listed(line: str, world: World, here: Path) -> None:
    result = world.run(f"{line} --images @mostly-good --set data.skip_bad=true")
    assert result.exit_code == 0, result.output
    assert "left out 2 of 32 files" in result.stderr
    for name in ("cut-half.jpg", "empty.png"):
        assert any("left out: " in line and name in line for line in result.stderr.splitlines())


# --- odd pictures that can be used -----------------------------------------------------------------------------------


def test_every_mode_becomes_the_right_colour(world: World, here: Path) -> None:
    """C6, C7, C8: a pack holds what training sees."""
    (here / "modes").mkdir()
    for name, (_, content, _) in MODES.items():
        (here / "modes" / name).write_bytes(content)
    line = "data pack dcgan-small --set data.resolution=8 --images modes --out pack"
    result = world.run(line)
    assert result.exit_code == 0, result.output
    packed = np.load(here / "pack" / "image.npy")
    index = json.loads((here / "pack" / "index.json").read_text())
    names = [records[0][0] for records in index["lanes"]["image"]["records"]]
    assert sorted(names) == sorted(MODES)
    for name, image in zip(names, packed):
        promise, _, colour = MODES[name]
        difference = np.abs(image.astype(int) - np.reshape(colour, (3, 1, 1))).max()
        assert difference <= (3 if name.endswith((".jpg", "lab.tif")) else 0), f"{promise}: {name}"


def test_a_wrong_suffix_is_accepted_with_a_note(world: World, here: Path) -> None:
    """C4."""
    (here / "in").mkdir()
    (here / "in" / "really.jpg").write_bytes(_PNG)
    result = world.run(f"{TRANSLATE} in out")
    assert result.exit_code == 0, result.output
    assert "really.jpg: PNG named .jpg" in result.stderr
    assert "PNG named .jpg (1)" in world.run("data check --images in").stdout


@pytest.mark.parametrize("model", ["translator", "grey"])
def test_any_size_comes_out_as_it_went_in(model: str, world: World, here: Path) -> None:
    """C11, C12, of a ResNet and a U-Net."""
    for height, width in SIZES:
        fill(here / "in", [f"{height}-{width}.png"], size=(height, width))
    result = world.run(f"translate --device cpu @{model}.safetensors in out")
    assert result.exit_code == 0, result.output
    for height, width in SIZES:
        with Image.open(here / "out" / f"{height}-{width}.png") as image:
            assert image.size == (width, height)
    assert world.run(f"{PACK} --images in --out pack").exit_code == 0


def test_deep_grey_stays_deep(world: World, here: Path) -> None:
    """C7."""
    (here / "in").mkdir()
    for name in ("grey-16.png", "grey-16.tif"):
        (here / "in" / name).write_bytes(MODES[name][1])
    assert world.run("translate --device cpu @grey.safetensors in out").exit_code == 0
    for name in ("grey-16.png", "grey-16.tif"):
        with Image.open(here / "out" / name) as image:
            assert image.mode == "I;16"


def test_the_first_frame_or_all_of_them(world: World, here: Path) -> None:
    """C10; C5 of animations."""
    first, *rest = (Image.fromarray(pixels(seed, 20, 24)) for seed in range(3))
    names = ["a.gif", "b.webp", "c.png", "d.tif"]
    (here / "in").mkdir()
    for name in names:
        first.save(here / "in" / name, save_all=True, append_images=rest, duration=[50, 100, 150], loop=0)
    result = world.run(f"{TRANSLATE} in out")
    assert result.exit_code == 0, result.output
    assert all(f"{name}: first of " in result.stderr for name in names)
    assert world.run(f"{TRANSLATE} in all --frames all").exit_code == 0
    for name in names:
        for folder, count in (("out", 1), ("all", 3)):
            with Image.open(here / folder / name) as image:
                assert (getattr(image, "n_frames", 1), image.size) == (count, (24, 20))
    result = world.run(f"{TRANSLATE} in/a.gif a.jpg --frames all")
    assert result.exit_code == 1
    problem, mend = require_form(result.stderr)
    assert "has 3 frames, and JPEG holds a single picture" in problem
    assert "--frames first" in mend
    result = world.run(f"{TRANSLATE} in none --frames all --max-pixels 12000 --format png")
    assert result.exit_code == 2
    assert result.stderr.count("3 frames of 0.01229 megapixels together are over the limit of 0.012") == 4


def test_opacity_is_kept_or_laid_on_the_background(world: World, here: Path) -> None:
    """C8."""
    (here / "in").mkdir()
    (here / "in" / "a.png").write_bytes(MODES["hidden.png"][1])
    assert world.run(f"{TRANSLATE} in out").exit_code == 0
    with Image.open(here / "out" / "a.png") as image:
        assert image.mode == "RGBA"
        assert np.array(image)[..., 3].tolist() == [[255] * 8] * 4 + [[0] * 8] * 4
    assert world.run(f"{TRANSLATE} in red --format bmp --background red").exit_code == 0
    with Image.open(here / "red" / "a.bmp") as image:
        assert (np.array(image)[4:] == (255, 0, 0)).all()


def test_orientation_is_applied_and_position_forgotten(world: World, here: Path) -> None:
    """C9: pixel for pixel, by all eight orientations."""
    upright = Image.fromarray(pixels(3))
    (here / "in").mkdir()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "Camera"
        exif.get_ifd(0x8825)[1] = "N"
        stored = upright if orientation == 1 else upright.transpose(_TURNS[orientation - 2])
        stored.save(here / "in" / f"{orientation}.png", exif=exif)
        stored.save(here / "in" / f"{orientation}.jpg", exif=exif)
    result = world.run(f"{TRANSLATE} in out")
    assert result.exit_code == 0, result.output
    with Image.open(here / "out" / "1.png") as image:
        expected = np.array(image)
    for path in (here / "out").glob("?.*"):
        with Image.open(path) as image:
            assert image.size == (24, 20)
            exif = image.getexif()
            assert exif.get(0x010F) == "Camera"
            assert 0x0112 not in exif
            assert exif.get_ifd(0x8825) == {}
            if path.suffix == ".png":
                assert "srgb" in image.info
                assert np.array_equal(np.array(image), expected), path.name
            else:
                assert "icc_profile" in image.info


# --- folders ---------------------------------------------------------------------------------------------------------


def translations(out: Path) -> dict[str, str]:
    """Name -> content of the pictures that a translation wrote."""
    return {name: content for name, content in tree(out).items() if Path(name).suffix in (".png", ".jpg")}


@pytest.mark.parametrize("options", ["", "--format png"])
def test_every_name_has_its_own_output(options: str, world: World, here: Path) -> None:
    """D2: also on a file system that ignores case and Unicode composition."""
    names = [
        "a.jpg",
        "a.png",
        "A.jpg",
        "x/a.jpg",
        "y/a.jpg",
        "é.png",
        "e\u0301.png",
        "-n.png",
        "l\nf.png",
        "n" * 251 + ".png",
    ]
    fill(here / "in", names)
    if len(list((here / "in").rglob("*.*g"))) < len(names):
        pytest.skip("this file system ignores case or composition")
    result = world.run(f"{TRANSLATE} in out {options}")
    assert result.exit_code == 0, result.output
    outputs = translations(here / "out")
    assert len({unicodedata.normalize("NFC", name).casefold() for name in outputs}) == len(names)
    lines = map(json.loads, (here / "out" / ".img2img-manifest.jsonl").read_text().splitlines())
    made = {line["name"]: line["source"] for line in lines}
    assert set(made) == set(outputs)
    assert sorted(made.values()) == sorted(tree(here / "in")[name] for name in names)
    assert {Path(name).parent.name for name in outputs} == {"", "x", "y"}


def test_own_outputs_are_never_input(world: World, here: Path) -> None:
    """D4."""
    fill(here / "in", 3)
    for _ in range(2):
        result = world.run(f"{TRANSLATE} in in/out --json")
        assert only_object(result.stdout)["translated"] == 3
    world.run(f"{TRANSLATE} few few --in-place".replace("few", "in/out"))
    result = world.run(f"{TRANSLATE} in/out in/out --in-place --json")
    assert only_object(result.stdout)["translated"] == 0


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Files above so many bytes fail to be written, as on a full disk; nobody needs to be root for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_a_translation_that_can_go_on(
    world: World, here: Path, largest_file: Callable[[int], None]
) -> None:
    """D5, D6: nothing is there by half, and both runs together are one clean run."""
    fill(here / "in", 4)
    fill(here / "in", ["big.png"], size=(90, 90))
    assert world.run(f"{TRANSLATE} in clean").exit_code == 0
    largest_file(10_000)
    result = world.run(f"{TRANSLATE} in out")
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    problem, mend = require_form(error)
    assert "out/big.png: cannot be written: no space" in problem
    assert "--skip-existing" in mend
    clean, partial = translations(here / "clean"), translations(here / "out")
    assert partial.items() <= clean.items()
    assert not list((here / "out").glob("*.tmp"))
    largest_file(resource.RLIM_INFINITY)
    result = world.run(f"{TRANSLATE} in out --skip-existing --json")
    assert only_object(result.stdout)["existing"] == len(partial)
    assert translations(here / "out") == clean


@pytest.mark.parametrize("line", [f"{PACK} --images in --out new/pack", "data split --images in --out parts"])
def test_a_full_disk_leaves_no_half_of_a_new_folder(
    line: str, world: World, here: Path, largest_file: Callable[[int], None]
) -> None:
    fill(here / "in", ["big.png"], size=(90, 90))
    largest_file(500)
    result = world.run(line)
    largest_file(resource.RLIM_INFINITY)
    assert result.exit_code == 1
    assert "cannot be written: no space" in require_form(result.stderr.strip())[0]
    assert set(tree(here)) <= {"in", "in/big.png", "new"}


_WRITERS = {
    "train": f"{DCGAN} --images @flat --out out",
    "sample": f"{SAMPLE} @sampler.safetensors --out out",
    "explore": f"{EXPLORE} @sampler.safetensors --out out.gif",
    "neighbours": f"{NEAR} @few -k 2 --out out.png",
    "project": f"{PROJECT} @flat/00.png --out out",
    "evaluate": f"{EVALUATE} @flat @ten --measure fd --out out.json".replace("--no-card ", ""),
    "derive": f"{DERIVE} @flat out",
    "export": "models export @translator.safetensors out.safetensors",
    "import": f"{IMPORT} @latest_net_G.pth",
    "parzen": f"{PARZEN} @arrays.npz @run/model.safetensors --out out",
    "weights": "weights import @squeezenet.safetensors",
}


@pytest.mark.parametrize("command", _WRITERS)
def test_a_full_disk_is_named_by_every_command_that_writes(
    command: str, world: World, here: Path, largest_file: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room for 50 bytes a file: one line, code 1, and no file, whole or in part."""
    for variable in ("IMG2IMG_CACHE", "IMG2IMG_WEIGHTS"):
        monkeypatch.setenv(variable, str(here / variable))
    largest_file(50)
    result = world.run(_WRITERS[command])
    largest_file(resource.RLIM_INFINITY)
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors
    assert all("cannot be written: no space" in require_form(error)[0] for error in errors)
    assert [path for path in here.rglob("*") if path.is_file()] == []


def test_a_home_that_cannot_be_written_costs_time_only(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F6: features are then not kept; weights have to be."""
    monkeypatch.setenv("HOME", "/proc/nobody")
    for variable in ("IMG2IMG_CACHE", "IMG2IMG_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    result = world.run(f"{EVALUATE} @flat @ten --measure fd")
    assert result.exit_code == 0, result.output
    assert "warning: features are not kept for the next time" in result.stderr
    result = world.run("weights import @squeezenet.safetensors")
    assert result.exit_code in (1, 2)
    assert "/proc/nobody" in require_form(result.stderr.strip())[0]


def test_hostile_models_cost_neither_time_nor_memory(world: World, peak_growth: Callable[[], int]) -> None:
    """E3: each is refused within a second and 200 MB, of which a header of 100,000 entries takes the most."""
    for name in (*DAMAGED_MODELS, *(f"lying-{name}" for name in LYING_MODELS)):
        began = time.process_time()
        peak_growth()
        with pytest.raises(Fault):
            Model.load(world.root / "models" / name, "cpu")
        assert time.process_time() - began < 3, name  # a second, on a core that nobody else slows down
        assert peak_growth() < 200e6, name


def test_a_killed_translation_goes_on(world: World, here: Path) -> None:
    """D6."""
    fill(here / "in", 300, size=(40, 40))
    command = [sys.executable, "-m", "img2img_cli", *world.words(f"{TRANSLATE} in out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((here / "out").glob("*.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "300 pictures were done before the fifth was seen"
    done = only_object(world.run(f"{TRANSLATE} in out --skip-existing --json").stdout)
    assert done["translated"] + done["existing"] == 300
    assert done["existing"] >= 5
    assert world.run(f"{TRANSLATE} in clean").exit_code == 0
    assert translations(here / "out") == translations(here / "clean")
    assert not list((here / "out").rglob("*.tmp"))


def test_pairs_belong_together_by_name(world: World, here: Path) -> None:
    """D9: whatever the order, the suffix and the case."""
    for number, name in enumerate(("b", "a", "c")):
        for folder, suffix in (("photos", ".png"), ("maps", ".bmp")):
            (here / folder).mkdir(exist_ok=True)
            grey = 40 * number + (20 if folder == "maps" else 0)
            Image.new("RGB", (16, 16), (grey,) * 3).save(here / folder / f"{name}{suffix}")
    assert world.run(f"{PACK_PAIRS} --pairs photos maps").exit_code == 0
    a, b = (np.load(here / "pack" / f"{domain}.npy") for domain in "ab")
    assert (b == a + 20).all()


# --- resuming --------------------------------------------------------------------------------------------------------


def test_harmless_changes_may_be_resumed(world: World, here: Path) -> None:
    """A11."""
    shutil.copytree(world.root / "run", here / "run")
    line = (
        f"{DCGAN} --images @flat --out run --resume --set data.workers=2 --set train.log_kimg=1 --set train.kimg=0.008"
    )
    result = world.run(f"{line} --json")
    assert result.exit_code == 0, result.output
    assert "resumed step-000000002 at 4 images" in result.stderr
    assert only_object(result.stdout)["images_seen"] == 8


# --- the surroundings ------------------------------------------------------------------------------------------------


def start(world: World, line: str, shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line as a process of its own; `shell` runs it as "$@" and redirects its streams."""
    command = [sys.executable, "-m", "img2img_cli", *world.words(line)]
    return subprocess.run(
        ["sh", "-c", shell, "sh", *command],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=110,
    )


_BARE = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "COLUMNS": "20",
    "HOME": "/nonexistent",
}


def test_a_reader_that_has_left(world: World, here: Path) -> None:
    """F1."""
    result = start(world, "data check --images @flat", '{ "$@"; echo "code $?" >&2; } | :')
    assert result.stderr in (b"code 0\n", b"code 141\n")


def test_no_stdin_no_stdout_no_home_no_locale(world: World, here: Path) -> None:
    """F2, F3, F5, F6: nothing is asked, and what the encoding lacks comes escaped."""
    result = start(world, f"{DCGAN} --images @mostly-good --out rün", '"$@" <&- >&-', **_BARE)
    assert result.returncode == 2
    assert result.stderr.isascii()
    assert b"empty.png: is empty (0 bytes). " in result.stderr
    assert rb"w\udcc3\udcb6rld" in result.stderr
    assert not set(result.stderr) & set(b"\x1b\r")
    assert tree(here) == {}


def test_help_needs_no_torch(world: World) -> None:
    """F9."""
    command = [sys.executable, "-X", "importtime", "-m", "img2img_cli", "translate", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "img2img translate" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "click" in imported
    assert not {"torch", "numpy", "PIL"} & imported


def test_clocks_may_be_wrong(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F8: the clock goes backwards, and files come from the future."""
    ticks = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    fill(here / "in", 4)
    os.utime(here / "in" / "00.png", (4e9, 4e9))
    assert world.run(f"{TRANSLATE} in out").exit_code == 0
    os.utime(here / "in" / "01.png", (0, 0))
    again = only_object(world.run(f"{TRANSLATE} in out --skip-existing --json").stdout)
    assert (again["existing"], again["translated"]) == (4, 0)
    trained = only_object(world.run(f"{DCGAN} --images in --out run --json").stdout)
    assert trained["seconds"] >= 0
    assert trained["images_seen"] == 4
