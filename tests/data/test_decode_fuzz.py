"""PROMISES C3, E13: damaged and hostile pictures by the thousand, each format in processes that may die of them.

`pytest -m slow -s tests/data/test_decode_fuzz.py` prints how many were opened. FUZZ_FILES is how many of each format,
FUZZ_SEED another choice of them.
"""

from __future__ import annotations

import io
import os
import signal
import struct
import traceback
import zlib

import numpy as np
import pytest
from PIL import Image

from img2img.data.decode import open_frames, open_image
from img2img.errors import ImageFault

FILES = int(os.environ.get("FUZZ_FILES", "6000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
PATIENCE = 30  # seconds for one file, on a busy machine
OPENED, REFUSED, ESCAPED = b"o", b"r", b"e"
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "I;16", "1"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "TIFF": ("RGB", "RGBA", "L", "I;16", "CMYK", "1", "F", "LAB"),
    "BMP": ("RGB", "L", "P", "1"),
    "AVIF": ("RGB", "RGBA"),
}


def whole_files(format: str) -> list[bytes]:
    """A file of every mode, animations and pages, and every kind of compression."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(np.kron(rng.integers(0, 256, (6, 7, 3), np.uint8), np.ones((5, 5, 1), np.uint8)))
    variants: list[dict[str, object]] = [{}]
    if format == "JPEG":
        variants = [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}]
    elif format == "TIFF":
        variants = [{"compression": name} for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    elif format == "WEBP":
        variants = [{}, {"lossless": True}]
    found = []
    for mode in MODES[format]:
        grey = np.asarray(colours.convert("L"))
        deep = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32) / 255}
        image = Image.fromarray(deep[mode]) if mode in deep else colours.convert(mode)
        for options in variants:
            if options.get("compression") == "jpeg" and mode not in ("RGB", "L"):
                continue
            stream = io.BytesIO()
            image.save(stream, format, **options)
            found.append(stream.getvalue())
    if format in ("PNG", "WEBP", "GIF", "TIFF", "AVIF"):
        stream = io.BytesIO()
        frames = [colours.rotate(90 * turn) for turn in range(4)]
        frames[0].save(stream, format, save_all=True, append_images=frames[1:])
        found.append(stream.getvalue())
    return found


def with_right_checksums(content: bytes) -> bytes:
    """A PNG's chunks with the checksums of what they hold now, or the decoder would never see the damage."""
    made, position = [content[:8]], 8
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position + 4 : position + 8 + length]
        made.append(content[position : position + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)))
        position += 12 + length
    return b"".join(made)


def mutated(wholes: list[bytes], rng: np.random.Generator) -> bytes:
    content = bytearray(wholes[rng.integers(len(wholes))])
    reach = len(content) if rng.random() < 0.5 else min(len(content), 120)  # headers decide most
    for _ in range(rng.integers(1, 8)):
        place = int(rng.integers(reach))
        match rng.integers(4):
            case 0:
                content[place] = rng.integers(256)
            case 1:
                content[place] ^= 1 << int(rng.integers(8))
            case 2:
                size = int(rng.choice([1, 2, 4]))
                content[place : place + size] = bytes(rng.choice([0, 0x7F, 0x80, 0xFF], size).astype(np.uint8))
            case 3:
                start = int(rng.integers(len(content)))
                content[place:place] = content[start : start + int(rng.integers(1, 40))]
    if rng.random() < 0.2:
        del content[int(rng.integers(len(content))) :]
    if content[:4] == b"\x89PNG" and rng.random() < 0.7:
        return with_right_checksums(bytes(content))
    return bytes(content)


def open_one(format: str, wholes: list[bytes], number: int) -> bytes:
    rng = np.random.default_rng([SEED, sorted(MODES).index(format), number])
    content = mutated(wholes, rng)
    tolerant = bool(rng.random() < 0.3)
    try:
        if rng.random() < 0.3:
            for _ in open_frames(io.BytesIO(content), max_pixels=1_000_000, allow_truncated=tolerant):
                pass
        else:
            open_image(io.BytesIO(content), max_pixels=1_000_000, allow_truncated=tolerant)
    except ImageFault:
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return ESCAPED
    return OPENED


def open_all_after(format: str, wholes: list[bytes], first: int) -> tuple[bytes, int]:
    """What became of the files from number `first` on, one letter each, and the signal that ended it, or 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for number in range(first, FILES):
            signal.alarm(PATIENCE)
            os.write(writing, open_one(format, wholes, number))
        os._exit(0)
    os.close(writing)
    outcomes = b""
    while letters := os.read(reading, 1 << 16):
        outcomes += letters
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return outcomes, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format", MODES)
def test_no_file_ends_the_process_or_escapes(format: str) -> None:
    wholes = whole_files(format)
    for content in wholes:
        open_image(io.BytesIO(content))
    outcomes, deaths = b"", []
    while len(outcomes) < FILES:
        letters, number = open_all_after(format, wholes, len(outcomes))
        outcomes += letters
        if number:
            deaths.append((len(outcomes), signal.Signals(number).name))
            outcomes += b"x"
    opened, refused, escaped = (outcomes.count(letter) for letter in (OPENED, REFUSED, ESCAPED))
    print(
        f"\n{format}: {opened:,} opened, {refused:,} refused, {escaped} escaped, {len(deaths)} crashes or hangs {deaths}"
    )
    assert opened > FILES / 100, "the damage is so great that hardly a file reaches the decoder"
    assert escaped == 0
    assert deaths == []
