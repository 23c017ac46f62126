"""Open one picture, whatever it is, as upright sRGB pixels; every picture of the project comes in here.

The header is read first: a file outside the format list or over the pixel limit is never decoded. Whatever a damaged or
hostile file makes the decoder do ends as one ImageFault that names the file, what is wrong and how to mend it.
"""

from __future__ import annotations

import functools
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from img2img.errors import ImageFault

# The formats that are opened, by Pillow's name, and the suffixes that are looked for in folders. EPS, PDF, FITS, PSD,
# WMF and the rest stay closed: some of their readers start other programs, and none is a picture to learn from.
FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "HEIF": (".heic", ".heif", ".hif"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 178_956_970
# What the smallest frame of an animation counts towards the limit, since objects around its pixels take memory too
_LEAST_FRAME = 64 * 64

# Pillow remarks on odd metadata with warnings; what matters here becomes an ImageFault or a note, and the rest would
# reach the terminal from many threads at once.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_TRUNCATED_MEND = "Copy it again, or take what is there with --allow-truncated"
_LARGE_MEND = "Make it smaller, or raise --max-pixels"
_DAMAGED_MEND = "Copy it again or save it anew with a picture editor"
_CONVERT_MEND = "Convert it to PNG or JPEG"
_NO_PICTURE_MEND = "Remove it, or copy it again if it was a picture"
# What a mend says of the options of a command -> the same of keys, and of neither
_BY_KEY = {"--allow-truncated": "data.allow_truncated=true", "--max-pixels": "data.max_pixels"}
_BY_NEITHER = {", or take what is there with --allow-truncated": "", ", or raise --max-pixels": ""}
_REDUCED = "16-bit colour reduced to 8"

Background = Literal["edge"] | tuple[int, int, int]


@dataclass(eq=False)
class Picture:
    """One decoded picture: upright, sRGB.

    Attributes:
        pixels: (H, W, C) uint8 with C = 1 (grey) or 3 (RGB), or (H, W, 1) uint16 for grey of more than 8 bits.
            Colours are not multiplied by alpha.
        alpha: (H, W) uint8 opacity, or None where the file has none.
        format: Pillow's name of the file format, a key of FORMATS.
        exif: Exif block without orientation, position (GPS), thumbnail and storage layout, or None.
        notes: remarks for the user, such as "first of 12 frames".
        milliseconds: how long it is shown as a frame of an animation; None where there is no such time, as of a page.
        plays: how often its animation is played, 0 for ever.
        bits: that the file keeps of each channel: 8, or 1, 16 and so on; 8 of a palette.
        mode: Pillow's name of how the file keeps colours, such as "P" for a palette or "CMYK".
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    format: str
    exif: bytes | None
    notes: tuple[str, ...]
    milliseconds: float | None = None
    plays: int = 0
    bits: int = 8
    mode: str = "RGB"

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def as_channels(self, channels: int, background: Background = "edge", *, deep: bool = False) -> np.ndarray:
        """The pixels as (H, W, channels) uint8, or uint16 where they are deep and grey.

        Args:
            channels: 1 for grey (luma of ITU-R BT.601), 3 for RGB, 4 for RGB with opacity.
            background: what lies behind transparent pixels for 1 and 3 channels: an RGB colour, or "edge" for the
                colour of the visible pixels along the edge of the transparent region. Not used for 4.
            deep: one channel comes as uint16, unrounded where the file has more than 8 bits of grey.
        """
        if deep and channels == 1:
            return self._as_deep_grey(background)
        pixels = reduce_to_8_bits(self.pixels)
        if channels == 4:
            alpha = np.full(pixels.shape[:2], 255, np.uint8) if self.alpha is None else self.alpha
            return np.concatenate((_as_rgb(pixels), alpha[..., None]), axis=2)
        if self.alpha is not None:
            colour = edge_colour(pixels, self.alpha) if background == "edge" else background
            pixels = composite(pixels, self.alpha, colour)
        return _as_grey(pixels) if channels == 1 else _as_rgb(pixels)

    def _as_deep_grey(self, background: Background) -> np.ndarray:
        if self.pixels.dtype == np.uint8:
            return self.as_channels(1, background).astype(np.uint16) * 257
        if self.alpha is None:
            return self.pixels
        pixels = reduce_to_8_bits(self.pixels)
        colour = edge_colour(pixels, self.alpha) if background == "edge" else background
        grey = int(_as_grey(np.array([[colour]], np.uint8))[0, 0, 0])
        return composite(self.pixels, self.alpha, (257 * grey,))


def reduce_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """uint16 to uint8 by 257, so that 65535 becomes 255, rounded; uint8 comes back unchanged."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def composite(pixels: np.ndarray, alpha: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    """(H, W, C) over a plain colour by (H, W) uint8 opacity; grey stays grey over a grey colour, else RGB.

    Pixels are uint8 or uint16, the colour on their scale.
    """
    if pixels.shape[2] == 1 and len(set(colour)) > 1:
        pixels = _as_rgb(pixels)
    behind = np.asarray(colour[: pixels.shape[2]], np.uint32)
    opacity = alpha.astype(np.uint32)[..., None]
    return ((pixels * opacity + behind * (255 - opacity) + 127) // 255).astype(pixels.dtype)


def edge_colour(pixels: np.ndarray, alpha: np.ndarray) -> tuple[int, int, int]:
    """The mean colour of visible pixels (alpha ≥ 128) beside transparent ones.

    Without such a border it is the mean over all pixels weighted by opacity, and white where nothing is visible.
    """
    visible = alpha >= 128
    hidden = np.pad(~visible, 1, constant_values=False)
    beside = hidden[:-2, 1:-1] | hidden[2:, 1:-1] | hidden[1:-1, :-2] | hidden[1:-1, 2:]
    border = visible & beside
    weights = border.astype(np.float64) if border.any() else alpha.astype(np.float64)
    total = weights.sum()
    if total == 0:
        return (255, 255, 255)
    mean = np.rint((_as_rgb(pixels) * weights[..., None]).sum(axis=(0, 1)) / total).astype(int)
    return (int(mean[0]), int(mean[1]), int(mean[2]))


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _as_grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] == 1:
        return pixels
    # Pillow's conversion is 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point, rounded
    return np.array(Image.fromarray(pixels).convert("L"))[..., None]


def accepted_formats() -> tuple[str, ...]:
    """Names of the formats that this installation opens; HEIF only where the package pillow-heif is installed."""
    Image.init()
    _register_heif()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name != "AVIF" or _has_avif()))


def open_image(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    frame: int = 0,
) -> Picture:
    """Open a picture from a path or a seekable binary file.

    Args:
        file: path, or a binary file positioned anywhere.
        max_pixels: width × height above which nothing is decoded. For a frame of an animation, the frames that must be
            decoded before it are counted too.
        allow_truncated: take a file that is cut short; what is missing is grey or black.
        frame: which frame of an animation or page of a TIFF.

    Raises:
        ImageFault: with the path as subject; its mend names the options of `img2img translate` and others.
    """
    with _opened(file) as (stream, subject):
        return _decode(stream, subject, max_pixels, allow_truncated, frame)


def open_by_keys(path: Path, *, max_pixels: int, allow_truncated: bool) -> Picture:
    """As open_image, where the mend of a fault is to name the keys of a configuration."""
    with _mend_reworded(_BY_KEY):
        return open_image(path, max_pixels=max_pixels, allow_truncated=allow_truncated)


def open_whole(file: str | os.PathLike[str] | BinaryIO) -> Picture:
    """As open_image with its defaults, where a user has no option to change them, so that no mend names one."""
    with _mend_reworded(_BY_NEITHER):
        return open_image(file)


@contextmanager
def _mend_reworded(words: Mapping[str, str]) -> Iterator[None]:
    try:
        yield
    except ImageFault as fault:
        mend = fault.mend
        for old, new in words.items():
            mend = mend.replace(old, new)
        raise ImageFault(fault.subject, fault.problem, mend) from fault


def count_frames(file: str | os.PathLike[str] | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> int:
    """How many pictures `open_frames` gives, by the headers alone.

    Raises:
        ImageFault: no picture, a damaged header, or more than `max_pixels` in all frames together.
    """
    with _opened(file) as (stream, subject), _as_image_faults(stream, subject):
        image, name = _open_header(stream, subject)
        return len(_shown_frames(image, name, stream, subject, max_pixels))


def open_frames(
    file: str | os.PathLike[str] | BinaryIO, *, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False
) -> Iterator[Picture]:
    """Open every frame of an animation, as a viewer shows them, or every page of a TIFF, one after the other.

    Any other file gives the one picture of `open_image`; so does a camera's MPO file. The picture that an animated PNG
    has for programs without animations is none of its frames.

    Args:
        max_pixels: of all frames together, of which each counts as at least 64 × 64.
        allow_truncated: take the frames that are there.

    Raises:
        ImageFault: when it is that frame's turn; the problem names the frame, counted from 1.
    """
    with _opened(file) as (stream, subject):
        with _as_image_faults(stream, subject):
            image, name = _open_header(stream, subject)
            numbers = _shown_frames(image, name, stream, subject, max_pixels)
            count = len(numbers)
            problem = _find_damage(stream, name, allow_truncated)
            if problem is not None:
                raise problem
            # Pillow takes it for the end of the animation where the file ends between two frames
            if name == "GIF" and not allow_truncated and not _walk_gif(stream)[1]:
                raise _CutShort
        if count == 1:
            yield _decode(stream, subject, max_pixels, allow_truncated, frame=0)
            return
        notes = [f"{count} frames", *_format_notes(image, name, subject)]
        num_pixels = 0
        for position, number in enumerate(numbers, 1):
            with naming_frame(subject, position, count), _as_image_faults(stream, subject):
                try:
                    image = _load(image, name, stream, subject, max_pixels, allow_truncated, number)
                except (OSError, SyntaxError, EOFError, struct.error, _NoFrame) as error:
                    if not _is_cut_short(error):
                        raise
                    if allow_truncated and position > 1:
                        return
                    raise _CutShort from None
                picture = _to_picture(image, name, subject, notes)
                num_pixels += max(_LEAST_FRAME, picture.height * picture.width)
                _check_total(num_pixels, position, subject, max_pixels)
            notes = []
            yield picture


@contextmanager
def naming_frame(subject: object, number: int, count: int) -> Iterator[None]:
    """Let an ImageFault say which of several frames it is about."""
    try:
        yield
    except ImageFault as fault:
        if count == 1:
            raise
        raise ImageFault(subject, f"frame {number} of {count}: {fault.problem}", fault.mend) from fault


def upright_size(file: BinaryIO, subject: object, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) that a picture will have, by its header alone.

    Raises:
        ImageFault: no picture, a damaged header, or more than `max_pixels`.
    """
    image, name = _open_header(file, subject)
    _check_size(image, name, subject, max_pixels, frame=0)
    try:
        turned = image.getexif().get(_ORIENTATION_TAG, 1) in _TURNED
    except Exception:  # metadata of any shape; the picture itself is fine
        turned = False
    width, height = image.size
    return (width, height) if turned else (height, width)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open an ordinary file; a pipe, socket or device is refused before it can block."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            # Without blocking, in case the file was replaced by a pipe since the look at its kind
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            stream = os.fdopen(descriptor, "rb")
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return stream
            stream.close()
    except FileNotFoundError:
        if os.path.islink(path):
            raise ImageFault(path, "is a link to nothing", "Remove the link or restore what it points to") from None
        raise ImageFault(path, "is not there any more", "Restore it or leave it out") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageFault(path, f"cannot be opened ({reason})", "Check its permissions and its disk") from error
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
    raise ImageFault(path, f"is {kind}, not a picture file", "Rename it or leave it out")


@contextmanager
def _opened(file: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[BinaryIO, object]]:
    """A picture's bytes, and what it is called."""
    if isinstance(file, (str, os.PathLike)):
        with open_regular(file) as stream:
            yield stream, file
    else:
        name = getattr(file, "name", None)
        yield file, name if isinstance(name, str) else "picture"


def _decode(stream: BinaryIO, subject: object, max_pixels: int, allow_truncated: bool, frame: int) -> Picture:
    with _as_image_faults(stream, subject):
        image, name = _open_header(stream, subject)
        _check_size(image, name, subject, max_pixels, frame)
        problem = _find_damage(stream, name, allow_truncated)
        if problem is not None:
            raise problem
        notes = [*_frame_notes(image, name, frame), *_format_notes(image, name, subject)]
        try:
            loaded = _load(image, name, stream, subject, max_pixels, allow_truncated, frame)
        except _NoFrame:
            raise ImageFault(subject, f"has no frame {frame}", "Ask for an earlier frame") from None
        return _to_picture(loaded, name, subject, notes)


def _to_picture(image: Image.Image, name: str, subject: object, notes: list[str]) -> Picture:
    """A loaded image, or the loaded frame of it, as a Picture; `notes` may grow."""
    bits, mode = 16 if _REDUCED in notes else _bits(image), image.mode
    upright, exif = _upright(image, notes)
    pixels, alpha = _to_srgb_arrays(upright, subject, notes)
    milliseconds = image.info.get("duration", 0 if name == "GIF" else None)
    return Picture(pixels, alpha, name, exif, tuple(notes), milliseconds, _plays(image, name), bits, mode)


def _bits(image: Image.Image) -> int:
    """Bits of a channel by the mode of a loaded image, and for deep grey by what a TIFF says of itself."""
    if image.mode.startswith("I"):
        return int(getattr(image, "tag_v2", {}).get(258, (16,))[0])
    return {"1": 1, "F": 32}.get(image.mode, 8)


def _plays(image: Image.Image, name: str) -> int:
    loop = image.info.get("loop")
    if name != "GIF" or loop == 0:
        return loop or 0
    return 1 if loop is None else loop + 1  # a GIF says how often it is repeated after the first time


@contextmanager
def _as_image_faults(stream: BinaryIO, subject: object) -> Iterator[None]:
    """Whatever decoders raise comes out as an ImageFault."""
    try:
        yield
    except (ImageFault, _NoFrame):
        raise
    except _CutShort:
        raise _cut_short(stream, subject) from None
    except _Damaged as error:
        raise ImageFault(subject, f"is damaged ({error})", _DAMAGED_MEND) from None
    except Image.DecompressionBombError as error:
        raise ImageFault(
            subject, f"is too large for its decoder ({error})", "Make it smaller or leave it out"
        ) from None
    except MemoryError:
        raise ImageFault(subject, "does not fit into memory", "Make it smaller or leave it out") from None
    except OSError as error:
        if error.errno is not None:
            raise ImageFault(
                subject, f"cannot be read ({error.strerror})", "Check its disk and copy it again"
            ) from error
        raise _fault_of(error, stream, subject) from error
    # Decoders answer damage with every kind of exception; a bad file must not end a night's run, whatever it raises
    except Exception as error:
        raise _fault_of(error, stream, subject) from error


class _NoFrame(Exception):
    """The file has fewer frames."""


class _CutShort(Exception):
    """The file ends too early."""


class _Damaged(Exception):
    """The file contradicts itself."""


def _cut_short(stream: BinaryIO, subject: object) -> ImageFault:
    size = stream.seek(0, os.SEEK_END)
    return ImageFault(subject, f"file is cut short ({_readable_bytes(size)} are there)", _TRUNCATED_MEND)


def _readable_bytes(size: int) -> str:
    return f"{size} bytes" if size < 2048 else f"{size / 1024:.0f} KiB"


def _fault_of(error: Exception, stream: BinaryIO, subject: object) -> ImageFault:
    if _is_cut_short(error):
        return _cut_short(stream, subject)
    return ImageFault(subject, f"is damaged ({str(error) or type(error).__name__})", _DAMAGED_MEND)


def _is_cut_short(error: Exception) -> bool:
    hints = ("truncated", "not enough", "unexpected end", "end of file", "incomplete", "no more")
    return isinstance(error, EOFError | _NoFrame) or any(hint in str(error).lower() for hint in hints)


# ---------------------------------------------------------------------------------------------------- header


def _open_header(stream: BinaryIO, subject: object) -> tuple[ImageFile.ImageFile, str]:
    """Identify the format by the first bytes and read the header; returns the lazy image and its key of FORMATS."""
    stream.seek(0)
    prefix = stream.read(64)
    if not prefix:
        raise ImageFault(subject, "is empty (0 bytes)", "Copy it again or remove it")
    Image.preinit()
    if any(name not in Image.OPEN for name in FORMATS):
        Image.init()
    if prefix[4:12] in _HEIF_STARTS and not _register_heif():
        raise ImageFault(
            subject, "is a HEIC picture", "Install the package pillow-heif to read it, or convert it to PNG or JPEG"
        )
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        # Pillow's readers are called directly: Image.open would check the size against a limit that is global to the
        # process and below ours, with a warning that cannot be silenced in one thread.
        factory, accepts = Image.OPEN[name]
        answer = accepts(prefix[:16]) if accepts is not None else True
        if isinstance(answer, str):
            raise ImageFault(subject, f"cannot be read here ({answer})", _CONVERT_MEND)
        if not answer:
            continue
        stream.seek(0)
        try:
            return factory(stream, ""), name
        except (SyntaxError, UnidentifiedImageError) as error:
            raise _unreadable_header(name, error, stream, subject) from error
        except (struct.error, IndexError) as error:
            raise _cut_short(stream, subject) from error
    words, mend = _describe_start(prefix)
    raise ImageFault(subject, f"is not a picture that can be read ({words})", mend)


def _unreadable_header(name: str, error: Exception, stream: BinaryIO, subject: object) -> ImageFault:
    if "pixel mode" in str(error) or "data organization" in str(error):
        # Pillow has no mode for it: float RGB, 64-bit, 5 channels
        return ImageFault(
            subject,
            f"has {name} pixels of a kind that is not read here ({error})",
            "Convert it to 8-bit RGB or 16-bit grey",
        )
    size = stream.seek(0, os.SEEK_END)
    if size < 128:
        return _cut_short(stream, subject)
    return ImageFault(subject, f"has a damaged {name} header ({error})", _DAMAGED_MEND)


_STARTS = {
    b"%PDF": "it is a PDF",
    b"%!PS": "it is PostScript",
    b"\xc5\xd0\xd3\xc6": "it is PostScript",
    b"8BPS": "it is a Photoshop document",
    b"SIMPLE": "it is FITS data",
    b"\xd7\xcd\xc6\x9a": "it is a Windows metafile",
    b"\x00\x00\x00\x0cjP": "it is JPEG 2000",
    b"\x93NUMPY": "it is a NumPy array",
}
_PACKED_STARTS = {b"PK\x03\x04": "it is a zip archive", b"\x1f\x8b": "it is gzip data"}
_HEIF_STARTS = frozenset(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"))


def _describe_start(prefix: bytes) -> tuple[str, str]:
    """What a file that is no picture seems to be, and how to mend it."""
    for starts, mend in ((_STARTS, _CONVERT_MEND), (_PACKED_STARTS, "Unpack it")):
        for start, words in starts.items():
            if prefix.startswith(start):
                return words, mend
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and (b"svg" in text or text.startswith(b"<?xml")):
        return "it begins like SVG or XML", "Convert it to PNG or JPEG if it is a drawing, or else remove it"
    if text.startswith(b"<"):
        return "it begins like HTML, as web pages do", "Download the picture itself, not the page that shows it"
    if prefix.count(0) == len(prefix):
        return "it begins with zeros", _NO_PICTURE_MEND
    return "its first bytes fit no accepted format", _NO_PICTURE_MEND


_heif_lock = threading.Lock()


def _register_heif() -> bool:
    """Let Pillow read HEIF if the package pillow-heif is installed; False where it is not."""
    with _heif_lock:
        if "HEIF" in Image.OPEN:
            return True
        try:
            import pillow_heif
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
        return True


def _has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def _check_size(image: ImageFile.ImageFile, name: str, subject: object, max_pixels: int, frame: int) -> None:
    width, height = image.size
    # The frames of an animation build on one another; the pages of a TIFF and the pictures of an MPO do not
    num_decoded = frame + 1 if name in ("GIF", "PNG", "WEBP", "AVIF") else 1
    pixels = width * height * num_decoded
    if pixels > max_pixels:
        raise ImageFault(
            subject,
            f"{pixels / 1e6:.4g} megapixels is over the limit of {max_pixels / 1e6:.4g}",
            _LARGE_MEND,
        )


def _shown_frames(image: ImageFile.ImageFile, name: str, stream: BinaryIO, subject: object, max_pixels: int) -> range:
    """The numbers of the frames or pages that a viewer shows, by headers alone; none is over the limit of pixels."""
    _check_size(image, name, subject, max_pixels, frame=0)
    if name == "JPEG":
        return range(1)
    if name == "TIFF":
        return range(_count_pages(image, subject, max_pixels))
    count = max(1, _walk_gif(stream)[0]) if name == "GIF" else getattr(image, "n_frames", 1)
    width, height = image.size
    _check_total(count * max(_LEAST_FRAME, width * height), count, subject, max_pixels)
    return range(1 if count > 1 and image.info.get("default_image") else 0, count)


def _count_pages(image: ImageFile.ImageFile, subject: object, max_pixels: int) -> int:
    """Pages are looked at one by one: each has a size of its own, and a hostile file may have any number of them."""
    num_pixels = count = 0
    while True:
        try:
            image.seek(count)
        except EOFError:
            break
        except Exception as error:  # directories of pages can be damaged in every way
            raise ImageFault(subject, f"frame {count + 1}: is damaged ({error})", _DAMAGED_MEND) from error
        count += 1
        width, height = image.size
        num_pixels += max(_LEAST_FRAME, width * height)
        _check_total(num_pixels, count, subject, max_pixels)
    image.seek(0)
    return count


def _check_total(num_pixels: int, num_frames: int, subject: object, max_pixels: int) -> None:
    if num_frames > 1 and num_pixels > max_pixels:
        raise ImageFault(
            subject,
            f"{num_frames} frames of {num_pixels / 1e6:.4g} megapixels together are over the limit of "
            f"{max_pixels / 1e6:.4g} (each counts as 64 × 64 at least)",
            "Take its first with --frames first, make it shorter, or raise --max-pixels",
        )


def _walk_gif(stream: BinaryIO) -> tuple[int, bool]:
    """How many frames a GIF has, and whether the trailer follows them (GIF89a specification, section 27).

    Nothing is decoded. Frames whose data begin are counted.
    """
    stream.seek(10)
    flags = stream.read(3)[0]
    if flags & 0x80:
        stream.seek(3 << (flags & 7) + 1, os.SEEK_CUR)  # its palette
    count = 0
    while True:
        kind = stream.read(1)
        if kind in (b";", b""):
            return count, kind == b";"
        if kind == b",":
            descriptor = stream.read(9)
            if len(descriptor) == 9 and descriptor[8] & 0x80:
                stream.seek(3 << (descriptor[8] & 7) + 1, os.SEEK_CUR)
            count += bool(stream.read(1))  # the width of its codes
        elif kind == b"!":
            stream.seek(1, os.SEEK_CUR)
        else:  # no block begins so; Pillow passes over such bytes, too
            continue
        while (size := stream.read(1)) and size[0]:
            stream.seek(size[0], os.SEEK_CUR)


def _format_notes(image: ImageFile.ImageFile, name: str, subject: object) -> list[str]:
    notes = []
    suffix = Path(os.fsdecode(subject)).suffix.lower() if isinstance(subject, (str, os.PathLike)) else ""
    if suffix in SUFFIXES and suffix not in FORMATS[name]:
        notes.append(f"{name} named {suffix}")
    if _has_deep_colour(image):
        notes.append(_REDUCED)
    return notes


def _frame_notes(image: ImageFile.ImageFile, name: str, frame: int) -> list[str]:
    # A camera's MPO file holds the same picture again, smaller or for the other eye: no animation
    if name == "JPEG" or not getattr(image, "is_animated", False):
        return []
    which = "first" if frame == 0 else f"frame {frame}"
    # Pillow counts the frames of a GIF or TIFF by walking through the file, which a hostile one can make very long
    count = "several" if name in ("GIF", "TIFF") else str(getattr(image, "n_frames", "several"))
    return [f"{which} of {count} frames"]


def _has_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether the file keeps more than 8 bits per channel in colour, which Pillow reduces to 8 as it decodes."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    for tile in image.tile:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(argument, str) and ";16" in argument for argument in arguments):
            return True
        if tile[0].startswith("ppm") and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return True
    return False


# ---------------------------------------------------------------------------------------------------- damage


def _find_damage(stream: BinaryIO, name: str, allow_truncated: bool) -> Exception | None:
    """What Pillow's decoders would let pass: a JPEG without its end marker, a PNG chunk with a wrong checksum."""
    if name == "JPEG" and not allow_truncated and not _jpeg_has_end(stream):
        return _CutShort()
    if name == "PNG":
        try:
            _check_png(stream)
        except _CutShort as error:
            return None if allow_truncated else error
        except _Damaged as error:
            return error
    return None


def _jpeg_has_end(stream: BinaryIO) -> bool:
    """Whether an end marker follows the start of the first scan; in the scan itself FF is always stuffed with 00."""
    stream.seek(2)
    while True:
        head = stream.read(4)
        if len(head) < 4:
            return False
        if head[0] != 0xFF:
            return True  # not in the order expected here: the decoder has the last word
        if head[1] == 0xFF:  # fill byte
            stream.seek(-3, os.SEEK_CUR)
            continue
        stream.seek(int.from_bytes(head[2:], "big") - 2, os.SEEK_CUR)
        if head[1] == 0xDA:
            break
    last = b""
    while block := stream.read(1 << 20):
        if b"\xff\xd9" in last + block:
            return True
        last = block[-1:]
    return False


def _check_png(stream: BinaryIO) -> None:
    """Walk the chunks to IEND and compare the checksums of the critical ones (PNG specification, section 5.3)."""
    stream.seek(8)
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise _CutShort
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha():
            raise _Damaged(f"no chunk where one should begin, at byte {stream.tell() - 8}")
        checksum = zlib.crc32(kind)
        remaining = length
        while remaining:
            block = stream.read(min(remaining, 1 << 20))
            if not block:
                raise _CutShort
            checksum = zlib.crc32(block, checksum)
            remaining -= len(block)
        stored = stream.read(4)
        if len(stored) < 4:
            raise _CutShort
        critical = kind[:1].isupper()
        if critical and int.from_bytes(stored, "big") != checksum:
            raise _Damaged(f"wrong checksum in its {kind.decode()} chunk")
        if kind == b"IEND":
            return


# ---------------------------------------------------------------------------------------------------- pixels


class _Turnstile:
    """Many ordinary decodes at a time, or one that tolerates truncation alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_ordinary = 0
        self._tolerant = False

    @contextmanager
    def ordinary(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._tolerant)
            self._num_ordinary += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_ordinary -= 1
                self._changed.notify_all()

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        # Pillow has this switch only for the whole process, so the other decodes wait outside while it is on
        with self._changed:
            self._changed.wait_for(lambda: not self._tolerant and self._num_ordinary == 0)
            self._tolerant = True
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
            with self._changed:
                self._tolerant = False
                self._changed.notify_all()


_turnstile = _Turnstile()


def _load(
    image: ImageFile.ImageFile,
    name: str,
    stream: BinaryIO,
    subject: object,
    max_pixels: int,
    allow_truncated: bool,
    frame: int,
) -> ImageFile.ImageFile:
    try:
        with _turnstile.ordinary():
            _seek(image, frame)
            # a GIF's frame may be larger than its first, and so may a page
            _check_size(image, name, subject, max_pixels, frame=0)
            image.load()
        return image
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error):
        if not allow_truncated:
            raise
    with _turnstile.tolerant():
        stream.seek(0)
        image = Image.OPEN[name][0](stream, "")
        _seek(image, frame)
        _check_size(image, name, subject, max_pixels, frame=0)
        image.load()
    return image


def _seek(image: ImageFile.ImageFile, frame: int) -> None:
    if frame:
        try:
            image.seek(frame)
        except EOFError:
            raise _NoFrame from None


# Exif tags that describe how the file stored its pixels, which is no longer true of what is saved later: TIFF 6.0
# layout tags, colour profile, XMP, Photoshop and IPTC blocks (which repeat position and orientation), and orientation.
_STORAGE_TAGS = frozenset(
    (
        *range(254, 260), 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293,
        301, 317, 318, 319, 320, 321, *range(322, 331), 332, 333, 334, 336, 337, 338, 339, 340, 341, 342, 347,
        *range(512, 533), 700, 33723, 34377, 34675,
    )
)  # fmt: skip
_ORIENTATION_TAG = 0x0112
_TURNED = range(5, 9)  # its values that lay a picture on its side
_GPS_TAG = 0x8825
_EXIF_TAG = 0x8769


def _upright(image: Image.Image, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """Apply the Exif orientation; returns the upright image and the Exif block that may be kept."""
    try:
        exif = image.getexif()
        kept = _kept_exif(exif)
        # transposing would copy even where there is nothing to turn
        return (ImageOps.exif_transpose(image) if exif.get(_ORIENTATION_TAG, 1) != 1 else image), kept
    except Exception:  # metadata of any shape; the picture itself is fine
        notes.append("unreadable Exif ignored")
        return image, None


def _kept_exif(exif: Image.Exif) -> bytes | None:
    if not len(exif):
        return None
    kept = Image.Exif()
    for tag, value in exif.items():
        if tag not in _STORAGE_TAGS and tag not in (_GPS_TAG, _EXIF_TAG):
            kept[tag] = value
    details = exif.get_ifd(_EXIF_TAG)
    if details:
        kept[_EXIF_TAG] = details
    return kept.tobytes() if len(kept) else None


def _to_srgb_arrays(image: Image.Image, subject: object, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and opacity of a loaded image of any mode."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, subject, notes)
    profile = image.info.get("icc_profile")
    if image.mode in ("P", "PA", "RGBa") or (image.mode == "RGB" and image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("La", "1", "L"):
        image = image.convert("LA" if image.has_transparency_data else "L")
    alpha = None
    if image.mode in ("RGBA", "LA"):
        alpha = np.array(image.getchannel("A"))
        image = image.convert(image.mode[:-1])
    if profile:
        image = _apply_profile(image, profile, notes)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    pixels = np.array(image)
    return pixels.reshape(*pixels.shape[:2], -1), alpha


def _deep_grey(image: Image.Image, subject: object, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey of more than 8 bits as (H, W, 1) uint16 on the scale 0…65535."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        # NaN fails both comparisons
        if not ((values >= 0) & (values <= 1)).all():
            raise ImageFault(
                subject, "has float pixels outside [0, 1]", "Scale them to [0, 1], or save it as 8-bit or 16-bit grey"
            )
        pixels = np.rint(values.astype(np.float64) * 65535).astype(np.uint16)
    elif image.mode == "I" and tags:
        raise ImageFault(subject, "has signed or 32-bit pixels of unknown scale", "Save it as 8-bit or 16-bit grey")
    else:
        pixels = np.clip(values, 0, 65535).astype(np.uint16)
        bits = tags.get(258, (16,))[0]
        if bits < 16:  # a 12-bit TIFF comes as 0…4095
            pixels = (pixels.astype(np.uint32) * 65535 // ((1 << bits) - 1)).astype(np.uint16)
        if tags.get(262) == 0:  # WhiteIsZero, which Pillow inverts for 8 bits only
            pixels = 65535 - pixels
    if image.info.get("icc_profile"):
        notes.append("colour profile of 16-bit grey not applied")
    transparent = image.info.get("transparency")
    alpha = np.where(values == transparent, 0, 255).astype(np.uint8) if isinstance(transparent, int) else None
    return pixels[..., None], alpha


def _apply_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    try:
        transform = _srgb_transform(profile, image.mode)
        if transform is None:
            return image
        converted = transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("unusable colour profile ignored")
        return image
    return converted.getchannel("G") if image.mode == "L" else converted


@functools.lru_cache(maxsize=64)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a colour profile to sRGB; None where the profile is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
