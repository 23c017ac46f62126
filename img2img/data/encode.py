"""Save one picture: tagged as sRGB, complete or not at all; every picture of the project goes out here."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageColor, PngImagePlugin, TiffImagePlugin

from img2img.atomic import write_bytes
from img2img.data.decode import FORMATS, Picture, composite, open_regular, reduce_to_8_bits
from img2img.errors import ImageFault, UsageFault

# What is written, and which of these keep opacity. GIF keeps one bit of it and 256 colours.
WRITABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")
KEEPS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "GIF", "AVIF"))
KEEPS_16_BITS = frozenset(("PNG", "TIFF", "PPM"))
# Which hold several frames or pages. In one animation all frames are of one size and of 8 bits, pages are as they are.
KEEPS_FRAMES = frozenset(("PNG", "WEBP", "TIFF", "GIF", "AVIF"))
# What files of save_sample and save_animation say of where they are from, within so many bytes of their ends
_MARK = "img2img sample"
_MARK_WITHIN = 4096
_PAGE_MILLISECONDS = 1000  # that a page is shown when it becomes a frame


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
    encoded = encode_image(
        pixels,
        name,
        alpha=alpha,
        exif=exif,
        quality=quality,
        compress_type=compress_type,
        background=background,
    )
    write_bytes(path, encoded, sync=False)


def save_sample(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """save_image of a picture that a model made from nothing of the user's, so that the next one may replace it.

    PNG, JPEG, GIF, WebP and TIFF carry a mark that refuse_strangers knows; other formats keep none.
    """
    write_bytes(path, encode_image(pixels, format_of(path), marked=True), sync=False)


def _marked(options: dict[str, Any], name: str) -> dict[str, Any]:
    if name == "PNG":
        information = options.get("pnginfo") or PngImagePlugin.PngInfo()
        information.add_text("Software", _MARK)
        return options | {"pnginfo": information}
    if name in ("JPEG", "GIF"):
        return options | {"comment": _MARK.encode()}
    if name in ("WEBP", "TIFF"):
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = _MARK
        return options | {"exif": exif.tobytes()}
    return options


def refuse_strangers(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise UsageFault where a file is there that has content and that neither save_sample nor save_animation wrote."""
    strangers = [path for path in paths if os.path.lexists(path) and not _is_replaceable(path)]
    if strangers:
        others = f", as are {len(strangers) - 1} more," if len(strangers) > 1 else ""
        raise UsageFault(
            strangers[0],
            f"is there already{others} and is no sample of an earlier run",
            "Give another --out, or move it away first",
        )


def _is_replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether it has our mark, or nothing in it, as a power failure can leave it."""
    try:
        with open_regular(path) as file:
            begin = file.read(_MARK_WITHIN)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MARK_WITHIN))
            return not begin or _MARK.encode() in begin + file.read(_MARK_WITHIN)
    except ImageFault:
        return False


def encode_image(
    pixels: np.ndarray,
    format: str,
    *,
    alpha: np.ndarray | None = None,
    exif: bytes | None = None,
    quality: int = 95,
    compress_type: int = 3,
    background: str = "white",
    marked: bool = False,
) -> memoryview:
    """What save_image writes, or with `marked` save_sample; `format` is one of WRITABLE."""
    if pixels.shape[2] == 4:
        pixels, alpha = pixels[..., :3], pixels[..., 3]
    if alpha is not None and format not in KEEPS_ALPHA:
        pixels, alpha = composite(reduce_to_8_bits(pixels), alpha, ImageColor.getrgb(background)[:3]), None
    image = _to_pillow(pixels, alpha, format)
    options = _options(image.mode, format, exif, quality, compress_type)
    encoded = io.BytesIO()
    image.save(encoded, format=format, **(_marked(options, format) if marked else options))
    return encoded.getbuffer()


def encode_frames(
    frames: Sequence[Picture],
    format: str,
    *,
    quality: int = 95,
    compress_type: int = 3,
    background: str = "white",
) -> memoryview:
    """Frames as one animation, or one file of pages; one frame alone is what encode_image makes of it.

    Animations keep each frame's time, and how often the first says that all are played (AVIF: for ever). Frames that
    come out equal are one that stays as long. GIF keeps whole hundredths of a second.

    Args:
        format: one of KEEPS_FRAMES where there are several frames.

    Raises:
        ValueError: frames of an animation differ in size.
    """
    first = frames[0]
    if len(frames) == 1:
        return encode_image(
            first.pixels,
            format,
            alpha=first.alpha,
            exif=first.exif,
            quality=quality,
            compress_type=compress_type,
            background=background,
        )
    encoded = io.BytesIO()
    if format == "TIFF":
        with TiffImagePlugin.AppendingTiffWriter(encoded) as pages:
            for frame in frames:
                image = _to_pillow(frame.pixels, frame.alpha, format)
                image.save(pages, format, **_options(image.mode, format, frame.exif, quality, compress_type))
                pages.newFrame()
        return encoded.getbuffer()
    if len({(frame.height, frame.width) for frame in frames}) > 1:
        raise ValueError("its frames differ in size")
    num_channels = max(frame.pixels.shape[2] for frame in frames)
    has_alpha = any(frame.alpha is not None for frame in frames)
    images = [_to_pillow(*_alike(frame, num_channels, has_alpha), format) for frame in frames]
    milliseconds = [_PAGE_MILLISECONDS if frame.milliseconds is None else frame.milliseconds for frame in frames]
    options = _options(images[0].mode, format, first.exif, quality, compress_type)
    _save_frames(encoded, images, format, milliseconds, first.plays, options)
    return encoded.getbuffer()


def _alike(frame: Picture, num_channels: int, has_alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    pixels = reduce_to_8_bits(frame.pixels)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], num_channels))
    alpha = np.full(pixels.shape[:2], 255, np.uint8) if has_alpha and frame.alpha is None else frame.alpha
    return pixels, alpha


def _save_frames(
    encoded: io.BytesIO,
    images: Sequence[Image.Image],
    format: str,
    milliseconds: Iterable[float],
    plays: int,
    options: dict[str, Any],
) -> None:
    first, *rest = images
    if format == "GIF":
        # zero stays what it is, as long as a viewer likes; less than a hundredth of a second must not become it
        milliseconds = [10 * max(1, round(time / 10)) if time else 0 for time in milliseconds]
        # without a loop it is played once, with one so many times more
        options = options | ({} if plays == 1 else {"loop": min(max(0, plays - 1), 65_535)})
        if first.mode == "RGBA":  # else what is behind a transparent pixel is the frame before
            options["disposal"] = 2
    else:
        options = options | {"loop": min(plays, 65_535)}
    duration = list(milliseconds) if format == "PNG" else [round(time) for time in milliseconds]
    first.save(encoded, format, save_all=True, append_images=rest, duration=duration, **options)
    if format == "WEBP" and first.mode == "RGBA" and encoded.getbuffer()[12:16] == b"VP8X":
        # Where every frame is opaque in its own rectangle, libwebp's header denies the opacity of what lies around
        encoded.getbuffer()[20] |= 0x10


# Suffixes of files that show a sequence of frames; other formats, and .png, show one
ANIMATED = (".gif", ".webp", ".apng")


def save_animation(path: str | os.PathLike[str], frames: Sequence[np.ndarray], *, seconds: float) -> None:
    """Write frames, (H, W, C) uint8 of one shape, as a picture that repeats them for ever; atomic and marked as by
    save_sample.

    GIF keeps 256 colours a frame and whole hundredths of a second, WebP is lossless here, APNG always.

    Args:
        seconds: that each frame stays.

    Raises:
        UsageFault: the suffix is none of ANIMATED. Fault: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ANIMATED:
        raise UsageFault(path, f"no animation is known by the suffix '{suffix}'", f"Use one of {', '.join(ANIMATED)}")
    name = "PNG" if suffix == ".apng" else format_of(path)
    images = [_to_pillow(frame[..., :3], frame[..., 3] if frame.shape[2] == 4 else None, name) for frame in frames]
    encoded = io.BytesIO()
    options = _marked({"lossless": True} if name == "WEBP" else {}, name)
    _save_frames(encoded, images, name, [1000 * seconds] * len(images), 0, options)
    write_bytes(path, encoded.getbuffer(), sync=False)


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix stands for."""
    suffix = Path(path).suffix.lower()
    for name in WRITABLE:
        if suffix in FORMATS[name]:
            return name
    known = ", ".join(suffix for name in WRITABLE for suffix in FORMATS[name])
    raise UsageFault(path, f"no picture format is known by the suffix '{suffix}'", f"Use one of {known}")


def refuse_unknown_suffix(path: str | os.PathLike[str]) -> None:
    """Raise UsageFault for a path that is not there and ends like a file, such as out.jpgg, in no picture's suffix.

    A name such as version.2 or out-0.7 may well be a folder's.
    """
    path = Path(path)
    if path.suffix[1:].isalpha() and not path.exists():
        format_of(path)


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


def _options(mode: str, format: str, exif: bytes | None, quality: int, compress_type: int) -> dict[str, Any]:
    """What Pillow is to save with."""
    kept = {"exif": exif} if exif and format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    return kept | _srgb_tag(mode, format) | _quality_options(format, quality, compress_type)


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
