from __future__ import annotations

import io
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageFile, TiffImagePlugin

from img2img.data.decode import (
    FORMATS,
    Picture,
    accepted_formats,
    count_frames,
    edge_colour,
    open_frames,
    open_image,
    upright_size,
)
from img2img.errors import ImageFault

# Pillow's remarks on damaged metadata; img2img silences them, pytest turns them on again
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return stream


def waves(height: int = 48, width: int = 64, seed: int = 0) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 120 * np.sin((x + seed) / 7 + shift + y / 11) for shift in range(3)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def png(width: int, height: int, depth: int, colour_type: int, data: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def picture_of(pixels: np.ndarray, alpha: np.ndarray | None = None) -> Picture:
    return Picture(pixels, alpha, "PNG", None, ())


class TestModes:
    """PROMISES C6, C7: every mode becomes upright sRGB with known values."""

    def test_plain_modes(self) -> None:
        for image, channels, value in [
            (Image.new("1", (3, 2), 1), 1, [255]),
            (Image.new("L", (3, 2), 77), 1, [77]),
            (Image.new("RGB", (3, 2), (10, 20, 30)), 3, [10, 20, 30]),
        ]:
            picture = open_image(encoded(image))
            assert picture.pixels.shape == (2, 3, channels)
            assert picture.pixels.dtype == np.uint8
            assert picture.pixels[0, 0].tolist() == value
            assert picture.alpha is None

    def test_opacity(self) -> None:
        grey = open_image(encoded(Image.new("LA", (3, 2), (77, 128))))
        assert (grey.pixels == 77).all()
        assert grey.pixels.shape == (2, 3, 1)
        assert grey.alpha is not None
        assert (grey.alpha == 128).all()
        colour = open_image(encoded(Image.new("RGBA", (3, 2), (10, 20, 30, 0))))
        assert colour.pixels[0, 0].tolist() == [10, 20, 30]
        assert colour.alpha is not None
        assert (colour.alpha == 0).all()

    def test_palette(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([*RED, *BLUE])
        image.putpixel((1, 0), 1)
        assert open_image(encoded(image)).pixels[0].tolist() == [list(RED), list(BLUE)]
        picture = open_image(encoded(image, transparency=0))
        assert picture.alpha is not None
        assert picture.alpha.tolist() == [[0, 255]]

    def test_transparent_colour(self) -> None:
        image = Image.new("RGB", (2, 1), RED)
        image.putpixel((1, 0), BLUE)
        picture = open_image(encoded(image, transparency=RED))
        assert picture.alpha is not None
        assert picture.alpha.tolist() == [[0, 255]]

    def test_cmyk(self) -> None:
        picture = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
        assert picture.pixels[0, 0].tolist() == list(RED)
        picture = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
        assert np.abs(picture.pixels[0, 0].astype(int) - RED).max() <= 3

    def test_ycck(self) -> None:
        """CMYK whose inks C, M, Y are kept as YCbCr of 255 less each, and again inverted, as Photoshop does.

        Byte 11 of Adobe's marker is then 2.
        """
        for ink, black, level in ((0, 0, 255), (100, 0, 155), (0, 155, 100), (255, 0, 0)):
            stored = Image.new("CMYK", (16, 16), (255 - ink, 127, 127, black))
            content = bytearray(encoded(stored, "JPEG", quality=100, subsampling=0).getvalue())
            marker = content.index(b"Adobe")
            assert content[marker + 11] == 0
            content[marker + 11] = 2
            pixels = open_image(io.BytesIO(bytes(content))).pixels
            assert np.abs(pixels.astype(int) - level).max() <= 3, (ink, black, pixels[0, 0])

    def test_lab(self) -> None:
        # L* = 50 without colour (128 stands for a* = b* = 0) is the grey 119 of sRGB
        picture = open_image(encoded(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF"))
        assert picture.pixels.shape[2] == 3
        assert np.abs(picture.pixels[0, 0].astype(int) - 119).max() <= 2

    @pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12 does not read the TIFF that it makes"
    )
    def test_ycbcr(self) -> None:
        image = Image.new("RGB", (8, 8), (200, 100, 50)).convert("YCbCr")
        picture = open_image(encoded(image, "TIFF"))
        assert np.abs(picture.pixels[0, 0].astype(int) - (200, 100, 50)).max() <= 2

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
    def test_16_bit_grey_is_scaled_and_not_clipped(self, format: str) -> None:
        values = np.arange(0, 65536, 257 * 2, dtype=np.uint16)[:128].reshape(8, 16)
        picture = open_image(encoded(Image.fromarray(values), format))
        assert picture.pixels.dtype == np.uint16
        assert (picture.pixels[..., 0] == values).all()
        assert picture.as_channels(1)[..., 0].ravel().tolist() == list(range(0, 256, 2))

    def test_16_bit_grey_mean(self) -> None:
        values = np.random.default_rng(0).integers(0, 2 * 63.4 * 257, (64, 64)).astype(np.uint16)
        assert abs(open_image(encoded(Image.fromarray(values))).as_channels(3).mean() - 63.4) < 1.0

    def test_white_is_zero_and_12_bits(self) -> None:
        values = np.array([[0, 65535, 1000]], np.uint16)
        inverted = encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
        assert open_image(inverted).pixels[0, :, 0].tolist() == [65535, 0, 64535]

    def test_16_bit_colour_is_reduced_with_a_note(self) -> None:
        rows = b"".join(b"\0" + struct.pack(">6H", 0, 257 * 100, 65535, 257, 514, 771) for _ in range(2))
        picture = open_image(io.BytesIO(png(2, 2, 16, 2, zlib.compress(rows))))
        assert picture.pixels[0].tolist() == [[0, 100, 255], [1, 2, 3]]
        assert picture.notes == ("16-bit colour reduced to 8",)

    def test_float_in_the_unit_interval(self) -> None:
        picture = open_image(encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))
        assert picture.pixels[0, :, 0].tolist() == [0, 32768, 65535]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 3.0])
    def test_other_floats_are_refused(self, value: float) -> None:
        stream = encoded(Image.fromarray(np.array([[0.0, value]], np.float32)), "TIFF")
        with pytest.raises(ImageFault, match="float pixels outside"):
            open_image(stream)

    def test_integers_of_unknown_scale_are_refused(self) -> None:
        stream = encoded(Image.fromarray(np.array([[0, 1 << 20]], np.int32)), "TIFF")
        with pytest.raises(ImageFault, match="unknown scale"):
            open_image(stream)


class TestColourProfiles:
    def test_wide_gamut_is_converted(self) -> None:
        # Display P3 with gamma 2.2; the closed form is P3 -> XYZ -> linear sRGB
        primaries = np.array(
            [[0.515102, 0.291965, 0.157153], [0.241182, 0.692236, 0.066582], [-0.001049, 0.041882, 0.784378]]
        )
        to_linear_srgb = np.array(
            [
                [3.1338561, -1.6168667, -0.4906146],
                [-0.9787684, 1.9161415, 0.0334540],
                [0.0719453, -0.2289914, 1.4052427],
            ]
        )
        pixel = np.array([120, 160, 100])
        linear = to_linear_srgb @ primaries @ (pixel / 255) ** 2.2
        expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        image = Image.new("RGB", (4, 4), tuple(pixel.tolist()))
        picture = open_image(encoded(image, icc_profile=matrix_profile(primaries, 2.2)))
        assert np.abs(picture.pixels[0, 0] - expected).max() <= 1.5
        assert np.abs(picture.pixels[0, 0] - pixel).max() > 5

    def test_srgb_profile_changes_nothing(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        image = waves()
        assert (open_image(encoded(image, icc_profile=profile)).pixels == np.array(image)).all()

    def test_unusable_profile_is_noted(self) -> None:
        picture = open_image(encoded(waves(), icc_profile=b"no profile" * 20))
        assert picture.notes == ("unusable colour profile ignored",)
        assert (picture.pixels == np.array(waves())).all()

    def test_rgb_profile_on_grey_is_no_failure(self) -> None:
        profile = matrix_profile(np.diag([0.96, 1.0, 0.82]), 1.8)
        picture = open_image(encoded(Image.new("L", (4, 4), 90), icc_profile=profile))
        assert picture.pixels.shape == (4, 4, 1)


def matrix_profile(primaries: np.ndarray, gamma: float) -> bytes:
    """An ICC v2 display profile with these columns of red, green and blue in XYZ (D50) and one gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(fixed(value) for value in values)

    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"desc": description + bytes(-len(description) % 4),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(np.array([0.9642, 1.0, 0.8249])),
        b"rXYZ": xyz(primaries[:, 0]),
        b"gXYZ": xyz(primaries[:, 1]),
        b"bXYZ": xyz(primaries[:, 2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    position = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", position + len(data), len(content))
        data += content
    header = bytearray(128)
    header[0:4] = struct.pack(">I", position + len(data))
    header[8:12] = b"\x02\x10\0\0"
    header[12:24] = b"mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return bytes(header) + table + data


class TestOrientation:
    """PROMISES C9."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
    def test_upright(self, orientation: int, format: str) -> None:
        pixels = np.array(waves(6, 10))
        # how a camera stores it, so that the orientation brings it back: definitions of Exif 2.3, tag 274
        stored = {
            1: pixels,
            2: pixels[:, ::-1],
            3: pixels[::-1, ::-1],
            4: pixels[::-1],
            5: pixels.transpose(1, 0, 2),
            6: pixels.transpose(1, 0, 2)[::-1],
            7: pixels.transpose(1, 0, 2)[::-1, ::-1],
            8: pixels.transpose(1, 0, 2)[:, ::-1],
        }[orientation]
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options = {"lossless": True, "exact": True} if format == "WEBP" else {}
        image = Image.fromarray(np.ascontiguousarray(stored))
        picture = open_image(encoded(image, format, exif=exif, **options))
        assert picture.pixels.shape == pixels.shape
        assert (picture.pixels == pixels).all()

    def test_what_is_kept(self) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        exif[ExifTags.Base.Artist] = "somebody"
        exif[0x8769] = {ExifTags.Base.FNumber: 2.5}
        exif[0x8825] = {ExifTags.GPS.GPSLatitude: (48.0, 1.0, 2.0)}
        picture = open_image(encoded(waves(), "JPEG", exif=exif))
        kept = Image.Exif()
        assert picture.exif is not None
        kept.load(picture.exif)
        assert kept[ExifTags.Base.Artist] == "somebody"
        assert kept.get_ifd(0x8769)[ExifTags.Base.FNumber] == 2.5
        assert ExifTags.Base.Orientation not in kept
        assert not kept.get_ifd(0x8825)

    def test_only_orientation_leaves_nothing(self) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 3
        assert open_image(encoded(waves(), "JPEG", exif=exif)).exif is None

    def test_storage_tags_of_a_tiff_are_not_kept(self) -> None:
        picture = open_image(encoded(waves(), "TIFF", tiffinfo={315: "somebody"}))
        kept = Image.Exif()
        assert picture.exif is not None
        kept.load(picture.exif)
        assert set(kept) <= {315, 282, 283, 296}


class TestDamage:
    """PROMISES C1, C2, C3: one ImageFault that names the file, and nothing else."""

    @pytest.mark.parametrize("part", [0.5, 0.98])
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM"])
    def test_cut_short(self, tmp_path: Path, format: str, part: float) -> None:
        content = encoded(waves(), format).getvalue()
        path = tmp_path / f"photo{FORMATS[format][0]}"
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(ImageFault, match=r"photo\.\w+: .*(cut short|damaged)"):
            open_image(path)

    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg_without_its_last_two_bytes(self, tmp_path: Path, progressive: bool) -> None:
        content = encoded(waves(), "JPEG", progressive=progressive).getvalue()
        assert content.endswith(b"\xff\xd9")
        path = tmp_path / "photo.jpg"
        path.write_bytes(content[:-2])
        with pytest.raises(ImageFault, match=r"cut short .*--allow-truncated$"):
            open_image(path)
        assert (open_image(path, allow_truncated=True).pixels == open_image(io.BytesIO(content)).pixels).all()

    def test_header_only(self, tmp_path: Path) -> None:
        for format, length in [("JPEG", 20), ("PNG", 12), ("PNG", 40), ("TIFF", 8), ("GIF", 10), ("WEBP", 16)]:
            content = encoded(waves(), format).getvalue()[:length]
            with pytest.raises(ImageFault, match=r"cut short|damaged|can be read"):
                open_image(io.BytesIO(content))

    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_truncated_is_taken_when_allowed(self, format: str) -> None:
        content = encoded(waves(240, 320), format).getvalue()
        picture = open_image(io.BytesIO(content[: len(content) * 2 // 3]), allow_truncated=True)
        assert picture.pixels.shape == (240, 320, 3)
        assert (picture.pixels[:8] == open_image(io.BytesIO(content)).pixels[:8]).all()
        assert not ImageFile.LOAD_TRUNCATED_IMAGES

    def test_tolerance_stays_in_its_own_call(self) -> None:
        content = encoded(waves(400, 600), "JPEG").getvalue()
        cut = content[: len(content) // 2]
        outcomes: list[bool] = []

        def tolerant() -> None:
            for _ in range(20):
                open_image(io.BytesIO(cut), allow_truncated=True)

        def strict() -> None:
            for _ in range(20):
                try:
                    open_image(io.BytesIO(cut))
                    outcomes.append(True)
                except ImageFault:
                    outcomes.append(False)

        threads = [threading.Thread(target=function) for function in (tolerant, strict, tolerant, strict)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [False] * 40

    def test_wrong_checksum(self) -> None:
        content = bytearray(encoded(waves()).getvalue())
        position = content.index(b"IDAT") + 50
        content[position] ^= 1
        with pytest.raises(ImageFault, match="wrong checksum in its IDAT chunk"):
            open_image(io.BytesIO(bytes(content)))
        with pytest.raises(ImageFault, match="wrong checksum"):
            open_image(io.BytesIO(bytes(content)), allow_truncated=True)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b"<!DOCTYPE html><html>not found</html>" * 9, "begins like HTML.*Download the picture"),
            (b"\xef\xbb\xbf <svg xmlns='http://www.w3.org/2000/svg'/>", "begins like SVG"),
            (b"%PDF-1.7 ...", "it is a PDF"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is PostScript"),
            (b"SIMPLE  =                    T", "it is FITS"),
            (b"8BPS\0\1" + bytes(40), "it is a Photoshop"),
            (b"\xd7\xcd\xc6\x9a\0\0" + bytes(40), "it is a Windows metafile"),
            (bytes(100), "begins with zeros.*Remove it"),
            (b"<note/>", "begins like HTML"),
            (b"\x1f\x8b" + bytes(40), "it is gzip data.*Unpack it"),
            (b"PK\x03\x04" + bytes(40), "it is a zip archive.*Unpack it"),
            (b"some words" * 9, "fit no accepted format.*Remove it"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "pillow-heif"),
        ],
    )
    def test_no_picture(self, tmp_path: Path, content: bytes, words: str) -> None:
        """PROMISES C2, C14, C15."""
        path = tmp_path / "photo.jpg"
        path.write_bytes(content)
        with pytest.raises(ImageFault, match=words) as caught:
            open_image(path)
        assert caught.value.subject == str(path)

    def test_no_ordinary_file(self, tmp_path: Path) -> None:
        folder, pipe, link = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"
        folder.mkdir()
        os.mkfifo(pipe)
        link.symlink_to(tmp_path / "nowhere")
        (tmp_path / "f.jpg").symlink_to("f.jpg")
        address = tmp_path / "d.jpg"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(address))
            for path, words in [
                (folder, "is a folder"),
                (pipe, "is a pipe"),
                (address, "is a pipe, socket or device"),
                (Path("/dev/null"), "is a pipe, socket or device"),
                (link, "is a link to nothing"),
                (tmp_path / "e.jpg", "not there any more"),
                (tmp_path / "f.jpg", "cannot be opened"),
                (tmp_path / ("x" * 300), "cannot be opened"),
            ]:
                began = time.monotonic()
                with pytest.raises(ImageFault, match=words):
                    open_image(path)
                assert time.monotonic() - began < 1

    @pytest.mark.parametrize("format", [name for name in FORMATS if name != "HEIF"])
    def test_mutations_never_escape(self, format: str) -> None:
        random = np.random.default_rng(0)
        content = encoded(waves(20, 24), format).getvalue()
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(random.integers(1, 6)):
                damaged[random.integers(len(damaged))] = random.integers(256)
            if random.random() < 0.3:
                damaged = damaged[: random.integers(len(damaged))]
            try:
                picture = open_image(io.BytesIO(bytes(damaged)), max_pixels=1_000_000, allow_truncated=bool(_ % 2))
            except ImageFault:
                continue
            assert picture.pixels.shape[2] in (1, 3)


class TestSize:
    """PROMISES C5: refused by the header, at once."""

    @pytest.mark.parametrize("side", [30_000, 65_000])
    def test_png_bomb(self, side: int, peak_growth: Callable[[], int]) -> None:
        content = png(side, side, 8, 2, bytes(1000))
        peak_growth()
        began = time.process_time()
        with pytest.raises(ImageFault, match=r"megapixels is over the limit of 179.*--max-pixels$"):
            open_image(io.BytesIO(content))
        assert time.process_time() - began < 0.2  # 0.05, on a core that nobody else slows down
        assert peak_growth() < 50e6

    def test_jpeg_bomb(self) -> None:
        content = bytearray(encoded(waves(), "JPEG").getvalue())
        frame = content.index(b"\xff\xc0")
        content[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
        with pytest.raises(ImageFault, match="4290 megapixels is over the limit of 179"):
            open_image(io.BytesIO(bytes(content)))

    def test_limit_is_ours_and_not_pillows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert open_image(encoded(waves()), max_pixels=48 * 64).width == 64
        with pytest.raises(ImageFault, match="over the limit"):
            open_image(encoded(waves()), max_pixels=48 * 64 - 1)

    def test_frames_are_counted(self) -> None:
        stream = animation("GIF", 5)
        assert open_image(stream, frame=3, max_pixels=4 * 48 * 64).width == 64
        with pytest.raises(ImageFault, match="over the limit"):
            open_image(stream, frame=4, max_pixels=4 * 48 * 64)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 70), st.integers(1, 70))
    def test_any_size(self, height: int, width: int) -> None:
        """PROMISES C11."""
        image = waves(height, width)
        assert (open_image(encoded(image)).pixels == np.array(image)).all()


def animation(format: str, count: int) -> io.BytesIO:
    frames = [waves(seed=9 * index) for index in range(count)]
    options = {"lossless": True} if format == "WEBP" else {}
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)


class TestFrames:
    """PROMISES C10."""

    @pytest.mark.parametrize(
        ("format", "note"),
        [
            ("GIF", "first of several frames"),
            ("WEBP", "first of 4 frames"),
            ("PNG", "first of 4 frames"),
            ("TIFF", "first of several frames"),
        ],
    )
    def test_first_frame(self, format: str, note: str) -> None:
        stream = animation(format, 4)
        picture = open_image(stream)
        assert picture.notes == (note,)
        tolerance = 40 if format == "GIF" else 0
        assert np.abs(picture.pixels.astype(int) - np.array(waves())).max() <= tolerance
        third = open_image(stream, frame=2)
        assert np.abs(third.as_channels(3).astype(int) - np.array(waves(seed=18))).max() <= tolerance
        with pytest.raises(ImageFault, match="no frame 9"):
            open_image(stream, frame=9)

    def test_single_frame_has_no_note(self) -> None:
        for format in ("GIF", "WEBP", "PNG", "TIFF"):
            assert open_image(encoded(waves(), format)).notes == ()


def moving(format: str = "GIF", count: int = 4, **options: object) -> bytes:
    """Frames of plain colour, 10, 20, ... ms long."""
    frames = [Image.new("RGB", (9, 7), (50 * index, 200, 30)) for index in range(count)]
    options = {"lossless": True, "quality": 100, **options}
    durations = [10 * index for index in range(1, count + 1)]
    stream = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=durations, **options)
    return stream.getvalue()


def by_hand(sizes: list[tuple[int, int]], count: int = 1) -> bytes:
    """A GIF of `count` times frames of these (width, height) without pixels, after a canvas of 1 × 1."""
    frames = [struct.pack("<cHHHHB", b",", 0, 0, *size, 0) + b"\x02\x01\x00\x00" for size in sizes]
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"".join(frames) * count + b";"


class TestAllFrames:
    """PROMISES C10."""

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
    def test_every_frame_in_order(self, format: str) -> None:
        stream = io.BytesIO(moving(format))
        assert count_frames(stream) == 4
        pictures = list(open_frames(stream))
        for index, picture in enumerate(pictures):
            expected = np.array([50 * index, 200, 30])
            assert np.abs(picture.as_channels(3) - expected).max() <= (3 if format == "AVIF" else 0)
            assert picture.notes == (("4 frames",) if index == 0 else ())
        times = [picture.milliseconds for picture in pictures]
        assert times == ([None] * 4 if format == "TIFF" else [10, 20, 30, 40])

    def test_frames_are_composed_as_pillow_does(self) -> None:
        """Frames that draw a part, over what was before, or that is taken away again, with transparent pixels."""
        rng = np.random.default_rng(0)
        frames = []
        for _ in range(12):
            array = np.repeat(np.repeat(rng.integers(0, 256, (4, 5, 4), np.uint8), 2, 0), 2, 1)
            array[..., 3] = 255 * (array[..., 3] > 90)
            frames.append(Image.fromarray(array))
        disposal = [0, 1, 2, 3, 2, 3, 1, 0, 3, 2, 2, 1]
        gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal)
        blended = {"disposal": [each % 3 for each in disposal], "blend": [each % 2 for each in disposal]}
        apng = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], **blended)
        for stream in (gif, apng):
            pictures = list(open_frames(stream))
            image = Image.open(stream)
            assert len(pictures) == image.n_frames == 12  # type: ignore[attr-defined]
            for index, picture in enumerate(pictures):
                image.seek(index)
                shown = np.array(image.convert("RGBA"))
                ours = picture.as_channels(4)
                assert np.array_equal(ours[..., 3], shown[..., 3])
                assert np.array_equal(ours[shown[..., 3] > 0], shown[shown[..., 3] > 0])

    def test_pages_have_sizes_depths_and_turns_of_their_own(self) -> None:
        deep = np.arange(0, 60_000, 1_000, dtype=np.uint16).reshape(6, 10)
        turned = Image.Exif()
        turned[0x0112] = 6
        pages = [(Image.fromarray(deep), {}), (waves(9, 5), {}), (waves(8, 4), {"exif": turned})]
        stream = io.BytesIO()
        with TiffImagePlugin.AppendingTiffWriter(stream) as writer:
            for image, options in pages:
                image.save(writer, "TIFF", **options)  # type: ignore[arg-type]
                writer.newFrame()
        first, second, third = open_frames(stream)
        assert np.array_equal(first.pixels[..., 0], deep)
        assert np.array_equal(second.pixels, np.array(waves(9, 5)))
        assert np.array_equal(third.pixels, np.rot90(np.array(waves(8, 4)), -1))

    @pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (2, 3)])
    def test_how_often_a_gif_is_played(self, loop: int | None, plays: int) -> None:
        """A GIF counts how often it is repeated, the other formats how often it is played."""
        options = {} if loop is None else {"loop": loop}
        assert next(open_frames(io.BytesIO(moving("GIF", **options)))).plays == plays
        for format in ("PNG", "WEBP"):
            assert next(open_frames(io.BytesIO(moving(format, loop=plays)))).plays == plays

    def test_one_picture_is_that_of_open_image(self) -> None:
        mpo = encoded(waves(), "MPO", save_all=True, append_images=[waves(seed=5)])
        for stream in (encoded(waves()), encoded(waves(), "GIF"), encoded(waves(), "TIFF"), mpo):
            (picture,) = open_frames(stream)
            alone = open_image(stream)
            assert np.array_equal(picture.pixels, alone.pixels)
            assert (picture.notes, picture.exif, count_frames(stream)) == (alone.notes, alone.exif, 1)

    def test_the_picture_for_programs_without_animations_is_no_frame(self) -> None:
        frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (255, 10, 20)]
        stream = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
        assert [int(picture.pixels[0, 0, 0]) for picture in open_frames(stream)] == [10, 20]

    def test_the_limit_holds_for_all_frames_together(self) -> None:
        large = [Image.new("L", (100, 80), level) for level in (0, 100, 200)]
        for format in ("GIF", "PNG", "WEBP", "TIFF"):
            stream = encoded(large[0], format, save_all=True, append_images=large[1:])
            assert count_frames(stream, max_pixels=3 * 8000) == 3
            for function in (count_frames, lambda *given, **keywords: next(open_frames(*given, **keywords))):
                with pytest.raises(ImageFault, match=r"0.024 megapixels together are over .*--frames first"):
                    function(stream, max_pixels=3 * 8000 - 1)

    def test_many_small_frames_are_refused_before_they_are_decoded(self) -> None:
        content = by_hand([(1, 1)], 100_000)
        started = time.process_time()
        with pytest.raises(ImageFault, match=r"100000 frames of 409\.6 megapixels together"):
            count_frames(io.BytesIO(content))
        assert time.process_time() - started < 5

    def test_a_frame_larger_than_its_canvas_counts_as_it_is(self) -> None:
        content = by_hand([(1, 1), (3000, 3000)])
        assert count_frames(io.BytesIO(content), max_pixels=1_000_000) == 2
        with pytest.raises(ImageFault, match="frame 2 of 2: 9 megapixels is over the limit of 1"):
            list(open_frames(io.BytesIO(content), max_pixels=1_000_000))

    @pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF"])
    def test_a_cut_anywhere_is_noticed(self, format: str) -> None:
        content = moving(format)
        padding = 16 if format == "TIFF" else 0
        for length in range(60, len(content) - padding, 7):
            with pytest.raises(ImageFault, match=r"cut short|damaged|not read here"):
                list(open_frames(io.BytesIO(content[:length])))

    @pytest.mark.parametrize("format", ["GIF", "PNG"])
    def test_what_is_there_of_a_cut_animation(self, format: str) -> None:
        content = moving(format)
        pictures = list(open_frames(io.BytesIO(content[: len(content) * 3 // 4]), allow_truncated=True))
        assert 2 <= len(pictures) < 4
        for index, picture in enumerate(pictures[:2]):
            assert (picture.pixels == [50 * index, 200, 30]).all()

    def test_a_damaged_frame_is_named(self) -> None:
        content = bytearray(moving("PNG"))
        second = content.index(b"fdAT") + 8  # after the name and the number in the sequence
        content[second + 2] ^= 0xFF
        pictures = open_frames(io.BytesIO(bytes(content)))
        next(pictures)
        with pytest.raises(ImageFault, match=r"frame 2 of 4: is damaged"):
            next(pictures)

    def test_a_damaged_directory_of_a_page_is_named(self) -> None:
        content = bytearray(moving("TIFF"))
        first = struct.unpack_from("<I", content, 4)[0]
        (num_tags,) = struct.unpack_from("<H", content, first)
        (second,) = struct.unpack_from("<I", content, first + 2 + 12 * num_tags)
        content[second : second + 2] = b"\0\0"
        with pytest.raises(ImageFault, match="frame 2: is damaged"):
            count_frames(io.BytesIO(bytes(content)))


class TestFormats:
    def test_every_format_is_read(self, tmp_path: Path) -> None:
        for name in accepted_formats():
            if name == "HEIF":
                continue
            for suffix in FORMATS[name]:
                path = tmp_path / f"x{suffix}"
                path.write_bytes(encoded(waves(), name).getvalue())
                picture = open_image(path)
                assert picture.format == name
                assert picture.notes == ()

    def test_wrong_suffix_is_noted(self, tmp_path: Path) -> None:
        """PROMISES C4."""
        path = tmp_path / "x.jpg"
        path.write_bytes(encoded(waves()).getvalue())
        assert open_image(path).notes == ("PNG named .jpg",)


class TestChannels:
    """PROMISES C8."""

    def test_grey_is_luma(self) -> None:
        pixels = np.array([[RED, GREEN, BLUE]], np.uint8)
        assert picture_of(pixels).as_channels(1)[0, :, 0].tolist() == [76, 150, 29]

    def test_grey_to_colour(self) -> None:
        assert picture_of(np.full((2, 2, 1), 9, np.uint8)).as_channels(3).tolist() == [[[9, 9, 9]] * 2] * 2

    def test_four_channels_keep_the_hidden_colour(self) -> None:
        alpha = np.array([[0, 255]], np.uint8)
        pixels = np.array([[RED, BLUE]], np.uint8)
        assert picture_of(pixels, alpha).as_channels(4)[0].tolist() == [[*RED, 0], [*BLUE, 255]]
        assert picture_of(pixels).as_channels(4)[0, :, 3].tolist() == [255, 255]

    def test_composition(self) -> None:
        pixels = np.array([[RED, RED, RED]], np.uint8)
        picture = picture_of(pixels, np.array([[0, 51, 255]], np.uint8))
        assert picture.as_channels(3, (0, 0, 255))[0].tolist() == [[0, 0, 255], [51, 0, 204], [255, 0, 0]]

    def test_edge_colour_is_that_of_the_border(self) -> None:
        pixels = np.full((5, 5, 3), 255, np.uint8)
        pixels[1:4, 1:4] = (10, 20, 30)
        pixels[2, 2] = (200, 200, 200)
        alpha = np.zeros((5, 5), np.uint8)
        alpha[1:4, 1:4] = 255
        assert edge_colour(pixels, alpha) == (10, 20, 30)
        assert picture_of(pixels, alpha).as_channels(3)[0, 0].tolist() == [10, 20, 30]

    def test_edge_colour_without_a_border(self) -> None:
        pixels = np.full((2, 2, 3), 40, np.uint8)
        assert edge_colour(pixels, np.full((2, 2), 200, np.uint8)) == (40, 40, 40)
        assert edge_colour(pixels, np.zeros((2, 2), np.uint8)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_the_size_that_decoding_gives(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.new("RGB", (12, 7)).save(stream, "JPEG", exif=exif.tobytes())
    picture = open_image(stream)
    assert upright_size(stream, "picture") == (picture.height, picture.width)
