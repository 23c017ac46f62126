"""Save one picture: tagged as sRGB, complete or not at all; every picture of the project goes out here."""

from __future__ import annotations

import errno
import functools
import io
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageColor, PngImagePlugin

from img2img.data.decode import FORMATS, composite, reduce_to_8_bits
from img2img.errors import Fault, UsageFault

# What is written, and which of these keep opacity. GIF keeps one bit of it and 256 colours.
WRITABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")
KEEPS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "GIF", "AVIF"))
KEEPS_16_BITS = frozenset(("PNG", "TIFF", "PPM"))


def save_image(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    format: str | None = None,
    exif: bytes | None = None,
    quality: int = 95,
    compress_type: int = 3,
    background: str = "white",
) -> None:
    """Write `pixels` to `path`, replacing what is there; under the final name there is never half a picture.

    Args:
        path: target; its folder exists.
        pixels: (H, W, C) sRGB, uint8 with C in {1, 3, 4} or uint16 with C = 1.
        alpha: (H, W) uint8 opacity; with C = 4 the fourth channel is the opacity.
        format: Pillow's name of the format; None takes it from the suffix.
        exif: Exif block to store where the format can, such as Picture.exif.
        quality: 1…100 of JPEG, WebP and AVIF.
        compress_type: zlib strategy of PNG; 3 (run lengths) is five times as fast as zlib's own choice, and smaller
            on most photographs.
        background: colour behind transparent pixels where the format keeps no opacity.

    Raises:
        UsageFault: the suffix or format is none that is written.
        Fault: the file cannot be written; the OSError is its __cause__, so that a full disk can be told apart.
    """
    name = format_of(path) if format is None else format.upper()
    if name not in WRITABLE:
        raise UsageFault(path, f"pictures are not written as {name}", f"Choose one of {', '.join(WRITABLE)}")
    if pixels.shape[2] == 4:
        pixels, alpha = pixels[..., :3], pixels[..., 3]
    if alpha is not None and name not in KEEPS_ALPHA:
        pixels, alpha = composite(reduce_to_8_bits(pixels), alpha, ImageColor.getrgb(background)[:3]), None
    options: dict[str, Any] = {"exif": exif} if exif and name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    image = _to_pillow(pixels, alpha, name)
    options |= _srgb_tag(image.mode, name) | _quality_options(name, quality, compress_type)
    encoded = io.BytesIO()
    image.save(encoded, format=name, **options)
    write_atomically(path, encoded.getbuffer())


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix stands for."""
    suffix = Path(path).suffix.lower()
    for name in WRITABLE:
        if suffix in FORMATS[name]:
            return name
    known = ", ".join(suffix for name in WRITABLE for suffix in FORMATS[name])
    raise UsageFault(path, f"no picture format is known by the suffix '{suffix}'", f"Use one of {known}")


def _to_pillow(pixels: np.ndarray, alpha: np.ndarray | None, name: str) -> Image.Image:
    if pixels.dtype == np.uint16 and alpha is None and name in KEEPS_16_BITS:
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    pixels = reduce_to_8_bits(pixels)
    grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    if alpha is not None:
        if grey and name not in ("PNG", "TIFF"):
            image = image.convert("RGB")
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image


def _srgb_tag(mode: str, name: str) -> dict[str, Any]:
    if name == "PNG":
        # The sRGB chunk says it in one byte, and unlike an RGB colour profile it is allowed on grey
        information = PngImagePlugin.PngInfo()
        information.add(b"sRGB", b"\0")
        return {"pnginfo": information}
    if mode in ("RGB", "RGBA") and name in ("JPEG", "WEBP", "TIFF", "AVIF"):
        return {"icc_profile": _srgb_profile()}
    return {}


@functools.cache
def _srgb_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Bytes 24…35 of the header hold the moment of its making: fixed, so that equal pictures are equal files
    profile[24:36] = b"\x07\xd0\0\x01\0\x01\0\0\0\0\0\0"
    return bytes(profile)


def _quality_options(name: str, quality: int, compress_type: int) -> dict[str, Any]:
    if name == "PNG":
        return {"compress_type": compress_type}
    if name == "JPEG":
        # At high quality the colours keep the full resolution (4:4:4)
        return {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    if name in ("WEBP", "AVIF"):
        return {"quality": quality}
    if name == "TIFF":
        return {"compression": "tiff_adobe_deflate"}
    return {}


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a whole file under a temporary name in the same folder and rename it; the mode follows the umask.

    Raises:
        Fault: with the OSError as __cause__; nothing is left behind and an older file of that name is untouched.
    """
    # A short name of our own: the target's may already have the 255 bytes that file systems allow
    temporary = Path(path).parent / f".img2img-{os.getpid()}-{secrets.token_hex(6)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as stream:
                remaining = memoryview(content).cast("B")
                while remaining:
                    remaining = remaining[stream.write(remaining) :]
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_fault(path, error) from error


def write_fault(path: str | os.PathLike[str], error: OSError) -> Fault:
    """The Fault for an OSError met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Fault(path, f"cannot be written: no space ({error.strerror})", "Free some space or choose another disk")
    return Fault(path, f"cannot be written ({error.strerror})", "Choose another place or mend its permissions")
