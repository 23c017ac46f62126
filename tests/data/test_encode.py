from __future__ import annotations

import errno
import io
import os
import resource
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from img2img.data.decode import Picture, open_frames, open_image
from img2img.data.encode import (
    ANIMATED,
    KEEPS_FRAMES,
    WRITABLE,
    encode_frames,
    encode_image,
    format_of,
    save_animation,
    save_image,
)
from img2img.errors import Fault, UsageFault

RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm"])
def test_lossless_round_trip(tmp_path: Path, channels: int, suffix: str) -> None:
    pixels = noise(9, 7, channels)
    save_image(tmp_path / f"x{suffix}", pixels)
    picture = open_image(tmp_path / f"x{suffix}")
    assert picture.pixels.shape == pixels.shape
    assert (picture.pixels == pixels).all()
    assert os.listdir(tmp_path) == [f"x{suffix}"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70))
def test_round_trip_at_any_size(tmp_path_factory: pytest.TempPathFactory, height: int, width: int) -> None:
    path = tmp_path_factory.mktemp("size") / "x.png"
    pixels = noise(height, width, 3)
    save_image(path, pixels)
    assert (open_image(path).pixels == pixels).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_16_bit_grey_round_trip(tmp_path: Path, suffix: str) -> None:
    pixels = RANDOM.integers(0, 65536, (5, 6, 1)).astype(np.uint16)
    save_image(tmp_path / f"x{suffix}", pixels)
    picture = open_image(tmp_path / f"x{suffix}")
    assert picture.pixels.dtype == np.uint16
    assert (picture.pixels == pixels).all()


def test_16_bit_grey_is_reduced_where_the_format_cannot_hold_it(tmp_path: Path) -> None:
    save_image(tmp_path / "x.bmp", np.full((4, 4, 1), 257 * 77, np.uint16))
    assert (open_image(tmp_path / "x.bmp").pixels == 77).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_opacity_round_trip(tmp_path: Path, channels: int, suffix: str) -> None:
    pixels, alpha = noise(5, 6, channels), noise(5, 6)
    save_image(tmp_path / f"x{suffix}", pixels, alpha=alpha)
    picture = open_image(tmp_path / f"x{suffix}")
    assert (picture.pixels == pixels).all()
    assert picture.alpha is not None
    assert (picture.alpha == alpha).all()


def test_four_channels_are_colour_and_opacity(tmp_path: Path) -> None:
    pixels = noise(5, 6, 4)
    save_image(tmp_path / "x.png", pixels)
    assert (open_image(tmp_path / "x.png").as_channels(4) == pixels).all()


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".gif"])
def test_other_formats_keep_opacity(tmp_path: Path, suffix: str) -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:8] = 255
    for channels in (1, 3):
        save_image(tmp_path / f"x{suffix}", np.full((16, 16, channels), 90, np.uint8), alpha=alpha)
        picture = open_image(tmp_path / f"x{suffix}")
        assert picture.alpha is not None
        assert np.abs(picture.alpha.astype(int) - alpha).max() <= 8


@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#204060", (32, 64, 96))])
def test_jpeg_lies_on_the_background(tmp_path: Path, background: str, colour: tuple[int, int, int]) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    save_image(tmp_path / "x.jpg", pixels, alpha=np.zeros((16, 16), np.uint8), background=background)
    picture = open_image(tmp_path / "x.jpg")
    assert picture.alpha is None
    assert np.abs(picture.pixels.astype(int) - colour).max() <= 3


def test_everything_is_tagged_as_srgb(tmp_path: Path) -> None:
    for suffix in (".jpg", ".webp", ".tif", ".avif"):
        save_image(tmp_path / f"x{suffix}", noise(8, 8, 3))
        with Image.open(tmp_path / f"x{suffix}") as image:
            assert "sRGB" in ImageCms.getProfileDescription(image_profile(image))
    for channels in (1, 3, 4):
        save_image(tmp_path / "x.png", noise(8, 8, channels))
        assert b"sRGB\0" in (tmp_path / "x.png").read_bytes()


def image_profile(image: Image.Image) -> ImageCms.ImageCmsProfile:
    import io

    return ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    pixels = noise(8, 8, 3)
    save_image(tmp_path / "a.jpg", pixels)
    from img2img.data import encode

    encode._srgb_profile.cache_clear()
    time.sleep(1.1)  # a profile made a second later must not differ
    save_image(tmp_path / "b.jpg", pixels)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_is_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    save_image(tmp_path / f"x{suffix}", noise(8, 8, 3), exif=exif.tobytes())
    kept = Image.Exif()
    stored = open_image(tmp_path / f"x{suffix}").exif
    assert stored is not None
    kept.load(stored)
    assert kept[ExifTags.Base.Artist] == "somebody"


def test_quality(tmp_path: Path) -> None:
    pixels = noise(32, 32, 3)
    save_image(tmp_path / "low.jpg", pixels, quality=20)
    save_image(tmp_path / "high.jpg", pixels)
    assert (tmp_path / "low.jpg").stat().st_size < (tmp_path / "high.jpg").stat().st_size


def test_format_may_differ_from_the_suffix(tmp_path: Path) -> None:
    save_image(tmp_path / "x.jpg", noise(8, 8, 3), format="PNG")
    assert open_image(tmp_path / "x.jpg").format == "PNG"


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"no picture format is known by the suffix '\.xyz'.*\.png"):
        format_of("x.xyz")
    with pytest.raises(UsageFault, match="not written as EPS"):
        save_image(tmp_path / "x.png", noise(8, 8, 3), format="EPS")
    assert set(WRITABLE) == {"PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM"}


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    """PROMISES E12."""
    before = os.umask(0o027)
    try:
        save_image(tmp_path / "x.png", noise(4, 4, 3))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.png").stat().st_mode) == 0o640


def test_names_of_255_bytes(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + "x.png")
    assert len(os.fsencode(path.name)) == 255
    save_image(path, noise(4, 4, 3))
    assert os.listdir(tmp_path) == [path.name]


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """PROMISES D5: a limit on file size stands in for a full disk."""
    path = tmp_path / "x.png"
    save_image(path, noise(4, 4, 3))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(Fault, match=r"x\.png: cannot be written: no space .*Free some space") as caught:
            save_image(path, noise(200, 200, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "nowhere" / "x.png", tmp_path / "file" / "x.png"):
        with pytest.raises(Fault, match="cannot be written") as caught:
            save_image(path, noise(4, 4, 3))
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("suffix", ANIMATED)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_animation_holds_every_frame(suffix: str, channels: int, tmp_path: Path) -> None:
    frames = [np.full((6, 8, channels), level, np.uint8) for level in (0, 100, 200)]
    for frame in frames if channels == 4 else ():
        frame[..., 3] = 255
    save_animation(tmp_path / f"a{suffix}", frames, seconds=0.05)
    with Image.open(tmp_path / f"a{suffix}") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
        assert animation.info["loop"] == 0
        for index, frame in enumerate(frames):
            animation.seek(index)
            shown = np.asarray(animation.convert("RGB"))
            assert np.abs(shown.astype(int) - frame[..., :1]).max() <= 1
            if suffix != ".webp":  # Pillow tells WebP's durations only while it decodes
                assert round(animation.info["duration"]) == 50


def frame(
    pixels: np.ndarray, milliseconds: float | None = None, plays: int = 0, alpha: np.ndarray | None = None
) -> Picture:
    return Picture(pixels, alpha, "GIF", None, (), milliseconds, plays)


def again(frames: list[Picture], format: str) -> list[Picture]:
    return list(open_frames(io.BytesIO(encode_frames(frames, format))))


@pytest.mark.parametrize("format", sorted(KEEPS_FRAMES))
def test_frames_keep_pixels_order_and_times(format: str) -> None:
    frames = [frame(np.full((6, 8, 3), (level, 90, 10), np.uint8), 40 + level, 3) for level in (0, 100, 200)]
    found = again(frames, format)
    for before, after in zip(frames, found, strict=True):
        difference = np.abs(after.as_channels(3).astype(int) - before.pixels).max()
        assert difference <= {"WEBP": 5, "AVIF": 5}.get(format, 0)
        assert after.milliseconds == (None if format == "TIFF" else before.milliseconds)
    assert [each.plays for each in found] == [{"TIFF": 0, "AVIF": 0}.get(format, 3)] * 3


@pytest.mark.parametrize("plays", [0, 1, 2])
def test_a_gif_is_played_as_often(plays: int) -> None:
    frames = [frame(np.full((6, 8, 3), level, np.uint8), 50, plays) for level in (0, 100)]
    assert again(frames, "GIF")[0].plays == plays


def test_times_that_a_gif_cannot_keep_are_rounded_but_not_to_nothing() -> None:
    frames = [frame(np.full((6, 8, 3), level, np.uint8), time) for level, time in ((0, 33), (1, 2), (2, 0), (3, None))]
    assert [each.milliseconds for each in again(frames, "GIF")] == [30, 10, 0, 1000]


def half_hidden() -> list[Picture]:
    """An opaque frame of grey, one of colour with its right half transparent, one of grey with its left half."""
    left = np.repeat(np.array([[255, 0]], np.uint8), 4, axis=1).repeat(8, axis=0)
    return [
        frame(np.full((8, 8, 1), 200, np.uint8), 50),
        frame(np.full((8, 8, 3), (100, 0, 0), np.uint8), 50, alpha=left),
        frame(np.full((8, 8, 1), 50, np.uint8), 50, alpha=255 - left),
    ]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_frames_with_and_without_opacity(format: str) -> None:
    frames = half_hidden()
    found = again(frames, format)
    for before, after in zip(frames, found, strict=True):
        alpha = np.full((8, 8), 255) if before.alpha is None else before.alpha
        assert np.array_equal(after.as_channels(4)[..., 3], alpha)
    assert np.abs(found[1].as_channels(4)[:, :4, :3].astype(int) - (100, 0, 0)).max() <= {"WEBP": 6, "AVIF": 6}.get(
        format, 0
    )


def test_a_gif_clears_each_frame_before_the_next() -> None:
    """Its extension before each frame: disposal 2 to the background, and transparency of the second and third."""
    content = bytes(encode_frames(half_hidden(), "GIF"))
    flags = [content[place + 3] for place in range(len(content)) if content[place : place + 3] == b"!\xf9\x04"]
    assert [flag >> 2 for flag in flags] == [2, 2, 2]
    assert [flag & 1 for flag in flags] == [0, 1, 1]


def test_pages_keep_their_sizes_depths_and_exif() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    deep = RANDOM.integers(0, 65536, (5, 6, 1)).astype(np.uint16)
    pages = [frame(deep), Picture(noise(9, 4, 3), None, "TIFF", exif.tobytes(), ()), frame(noise(3, 3, 1))]
    found = again(pages, "TIFF")
    for before, after in zip(pages, found, strict=True):
        assert after.pixels.dtype == before.pixels.dtype
        assert np.array_equal(after.pixels, before.pixels)
    assert found[1].exif == exif.tobytes()
    with pytest.raises(ValueError, match="differ in size"):
        encode_frames(pages, "PNG")
    shallow = again([frame(np.full((4, 4, 1), level * 257, np.uint16)) for level in (7, 8)], "PNG")
    assert [int(each.pixels[0, 0, 0]) for each in shallow] == [7, 8]


def test_one_frame_is_a_picture() -> None:
    pixels, alpha = noise(5, 6, 3), noise(5, 6)
    for format in WRITABLE:
        alone = encode_frames([frame(pixels, 50, 2, alpha)], format, quality=80, background="red")
        assert alone == encode_image(pixels, format, alpha=alpha, quality=80, background="red")


def test_what_is_no_animation(tmp_path: Path) -> None:
    frames = [np.zeros((4, 4, 3), np.uint8)]
    with pytest.raises(UsageFault, match=r"Use one of \.gif"):
        save_animation(tmp_path / "a.png", frames, seconds=0.1)
    with pytest.raises(Fault):
        save_animation(tmp_path / "nowhere" / "a.gif", frames, seconds=0.1)
    assert list(tmp_path.iterdir()) == []
