"""500 files of every kind through `img2img translate`: what comes out, how fast, and after a kill -9 in the middle.

    python tests/bench/folder_zoo.py [--count 500] [--width 32] [--blocks 6] [--keep FOLDER]

The network is an untrained CycleGAN generator. Every output is compared with what rows C and D of the promises say of
its input; then as many pictures of the same sizes go through the network alone; then a second run is killed in the
middle and gone on with.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from translate_speed import network_alone, write_resnet

from img2img.data.decode import open_image
from img2img.inference.model import Model

_SIZES = [(120, 160), (160, 120), (128, 192), (97, 131), (150, 150)]  # (height, width)
_TURN = Image.Transpose
# by Exif orientation from 2: what was done to the upright picture before it was stored
_TURNS = (
    *(_TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM),
    *(_TURN.TRANSPOSE, _TURN.ROTATE_90, _TURN.TRANSVERSE, _TURN.ROTATE_270),
)


@dataclass
class Zoo:
    """The folder, and what each of its files is."""

    root: Path
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    kinds: dict[str, str] = field(default_factory=dict)

    def pixels(self, channels: int = 3, size: tuple[int, int] | None = None) -> np.ndarray:
        """Smooth colours with a little grain, as photographs have."""
        height, width = size or _SIZES[len(self.kinds) % len(_SIZES)]
        coarse = self.rng.integers(0, 256, (5, 5, channels), np.uint8)
        planes = [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
            for plane in np.moveaxis(coarse, 2, 0)
        ]
        grain = self.rng.integers(-6, 7, (height, width, channels))
        return np.clip(np.stack(planes, axis=2) + grain, 0, 255).astype(np.uint8)

    def add(self, name: str, kind: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert not path.exists(), f"{name} is there twice"
        path.write_bytes(content)
        self.kinds[name] = kind


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any header over any pixel data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _animation(zoo: Zoo, format: str) -> bytes:
    frames = [Image.fromarray(zoo.pixels(size=(60, 80))) for _ in range(3)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


def _deep_colour(zoo: Zoo) -> bytes:
    pixels = zoo.pixels(size=(90, 70)).astype(">u2") * 257
    return png(70, 90, 16, 2, b"".join(b"\0" + row.tobytes() for row in pixels))


def _with_alpha(zoo: Zoo, mode: str) -> Image.Image:
    image = Image.fromarray(zoo.pixels(4))
    return image if mode == "RGBA" else image.convert(mode)


def _palette(zoo: Zoo, transparent: bool) -> bytes:
    image = Image.fromarray(zoo.pixels()).convert("P", palette=Image.Palette.ADAPTIVE)
    return encoded(image, "PNG", **({"transparency": 3} if transparent else {}))


def _photo(zoo: Zoo, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8825] = "a camera", orientation, {1: "N", 2: (52.0, 31.0, 0.0)}
    image = Image.fromarray(zoo.pixels(size=(90, 130)))
    return encoded(image if orientation == 1 else image.transpose(_TURNS[orientation - 2]), "JPEG", exif=exif)


# kind -> (suffix, how many, how one is made)
_KINDS: dict[str, tuple[str, int, Callable[[Zoo], bytes]]] = {
    "png": (".png", 60, lambda zoo: encoded(Image.fromarray(zoo.pixels()), "PNG")),
    "grey png": (".png", 12, lambda zoo: encoded(Image.fromarray(zoo.pixels(1)[..., 0]), "PNG")),
    "alpha": (".png", 20, lambda zoo: encoded(_with_alpha(zoo, "RGBA"), "PNG")),
    "grey alpha": (".png", 6, lambda zoo: encoded(_with_alpha(zoo, "LA"), "PNG")),
    "alpha webp": (".webp", 6, lambda zoo: encoded(_with_alpha(zoo, "RGBA"), "WEBP", lossless=True)),
    "16-bit grey": (
        ".png",
        8,
        lambda zoo: encoded(Image.fromarray(zoo.pixels(1)[..., 0].astype(np.uint16) * 257), "PNG"),
    ),
    "16-bit tiff": (
        ".tif",
        4,
        lambda zoo: encoded(Image.fromarray(zoo.pixels(1)[..., 0].astype(np.uint16) * 257), "TIFF"),
    ),
    "16-bit colour": (".png", 4, _deep_colour),
    "cmyk": (".jpg", 12, lambda zoo: encoded(Image.fromarray(zoo.pixels()).convert("CMYK"), "JPEG", quality=95)),
    "palette": (".png", 8, lambda zoo: _palette(zoo, False)),
    "palette alpha": (".png", 6, lambda zoo: _palette(zoo, True)),
    "webp": (".webp", 6, lambda zoo: encoded(Image.fromarray(zoo.pixels()), "WEBP")),
    "bmp": (".bmp", 4, lambda zoo: encoded(Image.fromarray(zoo.pixels()), "BMP")),
    "tiff": (".tiff", 4, lambda zoo: encoded(Image.fromarray(zoo.pixels()), "TIFF")),
    "gif": (".gif", 3, lambda zoo: _animation(zoo, "GIF")),
    "png as jpg": (".jpg", 3, lambda zoo: encoded(Image.fromarray(zoo.pixels()), "PNG")),
}
_NAMES = [
    "ü nfc.jpg", unicodedata.normalize("NFD", "ü nfd.jpg"), "🎨 emoji.jpg", "-dash.jpg", "new\nline.jpg", "x" * 251 + ".jpg",
    "same.jpg", "same.png", "Same.jpg", "same/same.jpg", os.fsdecode(b"\xff not utf-8.jpg"), "ESC\x1b[31m.jpg",
]  # fmt: skip


def build(root: Path, count: int) -> Zoo:
    zoo = Zoo(root)
    for size in [(1, 1), (1, 70), (70, 1), (3, 400), (5, 7)]:
        zoo.add(f"tiny/{size[0]}x{size[1]}.png", "png", encoded(Image.fromarray(zoo.pixels(size=size)), "PNG"))
    for name in _NAMES:
        suffix = Path(name).suffix
        zoo.add(
            name,
            "jpeg" if suffix == ".jpg" else "png",
            encoded(Image.fromarray(zoo.pixels()), {".jpg": "JPEG"}.get(suffix, "PNG")),
        )
    for orientation in range(1, 9):
        zoo.add(f"camera/exif-{orientation}.jpg", "exif", _photo(zoo, orientation))
    whole = encoded(Image.fromarray(zoo.pixels()), "JPEG")
    plain = encoded(Image.fromarray(zoo.pixels()), "PNG")
    zoo.add("bad/cut.jpg", "corrupt", whole[: len(whole) // 2])
    zoo.add("bad/checksum.png", "corrupt", plain[:60] + bytes([plain[60] ^ 1]) + plain[61:])
    zoo.add("bad/empty.webp", "corrupt", b"")
    zoo.add("bad/bomb.png", "bomb", png(30_000, 30_000, 1, 0, b"\0" * 3751))
    for kind, (suffix, number, make) in _KINDS.items():
        for index in range(number):
            zoo.add(f"{kind}/{index:02d}{suffix}", kind, make(zoo))
    while len(zoo.kinds) < count:
        number = len(zoo.kinds)
        zoo.add(
            f"photos/{number % 7}/{number % 3}/{number}.jpg",
            "jpeg",
            encoded(Image.fromarray(zoo.pixels()), "JPEG", quality=92),
        )
    for junk in ("Thumbs.db", ".hidden.jpg", "__MACOSX/a.jpg", "notes.txt"):
        (root / junk).parent.mkdir(exist_ok=True)
        (root / junk).write_bytes(whole)
    return zoo


def command(model: Path, source: Path, target: Path, *options: str) -> list[str]:
    words = ["translate", "--device", "cpu", "--json", *options, str(model), str(source), str(target)]
    return [sys.executable, "-m", "img2img_cli", *words]


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".img2img-manifest")
    }


def check(zoo: Zoo, target: Path, model: Model) -> dict[str, int]:
    """Hold every output to its promise; returns how many of each kind were looked at."""
    outputs = set(tree(target)) - {"skipped.jsonl"}
    good = {name for name, kind in zoo.kinds.items() if kind not in ("corrupt", "bomb")}
    lines = map(json.loads, (target / ".img2img-manifest.jsonl").read_text().splitlines())
    made_of = {line["source"]: line["name"] for line in lines}
    result = {name: made_of[hashlib.sha256((zoo.root / name).read_bytes()).hexdigest()] for name in good}
    assert sorted(result.values()) == sorted(outputs), "one output for each picture, and nothing else"
    # two names that are one on a disk that ignores case get a hash each; all others are kept
    assert sorted(name for name in good if result[name] != name) == ["Same.jpg", "same.jpg"]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in outputs}) == len(outputs)
    skipped = [json.loads(line) for line in (target / "skipped.jsonl").read_text().splitlines()]
    assert {Path(line["path"]).parent.name + "/" + Path(line["path"]).name for line in skipped} == {
        name for name in zoo.kinds if name not in good
    }
    assert all(line["reason"] and line["mend"] for line in skipped)
    looked: dict[str, int] = {}
    for name in sorted(good, key=os.fsencode):
        kind = zoo.kinds[name]
        looked[kind] = looked.get(kind, 0) + 1
        with Image.open(zoo.root / name) as before, Image.open(target / result[name]) as after:
            if kind != "png as jpg":
                assert after.format == before.format, name
            # MPO and the like aside, the size is that of the upright picture
            assert after.size == ImageOps.exif_transpose(before).size, name
            has_alpha = "alpha" in kind
            assert (after.mode in ("RGBA", "PA") or "transparency" in after.info) == has_alpha, f"{name}: {after.mode}"
            if has_alpha and kind != "palette alpha":
                assert np.array_equal(np.asarray(after)[..., 3], np.asarray(before.convert("RGBA"))[..., 3]), name
            profile = after.info.get("icc_profile")
            if after.format in ("JPEG", "WEBP", "TIFF"):
                described = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
                assert "srgb" in described.lower(), name
            exif = after.getexif()
            assert 0x0112 not in exif or exif[0x0112] == 1, name
            assert not exif.get_ifd(0x8825), f"{name} says where it was taken"
            if kind == "exif":
                assert exif[0x010F] == "a camera", name
            if after.format in ("PNG", "BMP", "TIFF") and not has_alpha:
                expected = np.asarray(model.translate(zoo.root / name))
                assert np.abs(np.asarray(after.convert("RGB")).astype(int) - expected).max() <= 1, name
    return looked


def killed_in_the_middle(words: list[str], target: Path, wanted: int) -> int:
    """Run until `wanted` outputs are there, then kill -9; returns how many there were."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if len([name for name in tree(target) if "skipped" not in name]) >= wanted:
                break
        time.sleep(0.2)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    return len(tree(target))


def main() -> None:
    parser = argparse.ArgumentParser(description="A folder of every kind of picture, translated.")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="where to leave the folders")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = options.keep or Path(name)
        zoo = build(base / "zoo", options.count)
        model_file = base / "model.safetensors"
        write_resnet(model_file, width=options.width, blocks=options.blocks)
        model = Model.load(model_file, "cpu")
        print(f"{len(zoo.kinds)} files, {torch.get_num_threads()} threads", flush=True)

        run = subprocess.run(command(model_file, base / "zoo", base / "out"), capture_output=True, text=True)
        assert run.returncode == 3, f"exit code {run.returncode}: {run.stderr[-2000:]}"
        answer = json.loads(run.stdout)
        looked = check(zoo, base / "out", model)
        print(f"translated {answer['translated']}, skipped {len(answer['skipped'])}, exit code 3", flush=True)
        print("as promised: " + ", ".join(f"{number} {kind}" for kind, number in sorted(looked.items())), flush=True)
        share = answer["network_seconds"] / answer["seconds"]
        print(f"{answer['images_per_second']:.2f} images/s; the network took {share:.1%} of the time", flush=True)

        good = [path for path, kind in zoo.kinds.items() if kind not in ("corrupt", "bomb")]
        pictures = [open_image(zoo.root / path) for path in good]
        seconds = network_alone(model, [(picture.height, picture.width) for picture in pictures])
        alone = len(good) / seconds
        print(f"the network alone: {alone:.2f} images/s; ratio {answer['images_per_second'] / alone:.3f}", flush=True)

        wanted = random.Random(0).randint(len(good) // 4, len(good) // 2)
        done = killed_in_the_middle(command(model_file, base / "zoo", base / "killed"), base / "killed", wanted)
        run = subprocess.run(
            command(model_file, base / "zoo", base / "killed", "--skip-existing"), capture_output=True, text=True
        )
        assert run.returncode == 3, run.stderr[-2000:]
        again = json.loads(run.stdout)
        assert tree(base / "killed") == tree(base / "out"), "the end is another"
        print(
            f"killed with {done} files there; the second run did {again['translated']}, found {again['existing']} done, "
            "and the folder is byte-equal to that of one clean run",
            flush=True,
        )


if __name__ == "__main__":
    main()
