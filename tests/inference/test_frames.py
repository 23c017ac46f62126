"""Animations and files of pages through a folder's and a file's translation, with --frames all. PROMISES C10."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from img2img.data.decode import Picture, open_frames
from img2img.errors import ImageFault, UsageFault
from img2img.inference import folder as folder_module
from img2img.inference.folder import translate_file, translate_folder
from img2img.inference.model import Model

Build = Callable[..., Model]
COLOURS = [(10, 20, 30), (90, 80, 70), (200, 0, 255), (0, 128, 64), (255, 255, 0)]
TIMES = [40, 80, 120, 160, 200]


def animate(path: Path, format: str | None = None, count: int = 5, **options: object) -> None:
    """Frames of one colour each, of different times, played three times."""
    first, *rest = (Image.new("RGB", (12, 9), colour) for colour in COLOURS[:count])
    options = {"loop": 2 if path.suffix == ".gif" else 3, "lossless": True, **options}
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, format, save_all=True, append_images=rest, duration=TIMES[:count], **options)


def page(path: Path, pages: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as writer:
        for pixels in pages:
            Image.fromarray(pixels).save(writer, "TIFF")
            writer.newFrame()


def inverted(found: list[Picture], expected: list[tuple[int, int, int]], tolerance: int = 0) -> bool:
    """Whether the frames are those colours under x -> 255 - x."""
    return len(found) == len(expected) and all(
        np.abs(one.as_channels(3) - (255 - np.array(colour))).max() <= tolerance for one, colour in zip(found, expected)
    )


# --- what comes out ---


@pytest.mark.parametrize("batch", [1, 2])
def test_animations_stay_animations(pointwise: Build, tmp_path: Path, batch: int) -> None:
    src = tmp_path / "src"
    for name in ("a.gif", "x/b.webp", "x/c.png", "d.apng", "e.avif"):
        animate(src / name, "PNG" if name.endswith("png") else None)
    Image.new("RGB", (12, 9), COLOURS[0]).save(src / "still.png")
    summary = translate_folder(pointwise(factor=-1.0), src, tmp_path / "dst", frames="all", batch=batch)
    assert (summary.translated, summary.skipped) == (6, [])
    for path in (path for path in src.rglob("*.*") if path.stem != "still"):
        before, after = (list(open_frames(each)) for each in (path, tmp_path / "dst" / path.relative_to(src)))
        assert (after[0].format, after[0].height, after[0].width) == (before[0].format, 9, 12)
        assert inverted(after, COLOURS, tolerance={".webp": 6, ".avif": 6}.get(path.suffix, 0)), path
        assert [frame.milliseconds for frame in after] == TIMES
        assert after[0].plays == before[0].plays == (0 if path.suffix == ".avif" else 3)


def test_frames_are_translated_as_they_are_shown(pointwise: Build, tmp_path: Path) -> None:
    """A GIF whose frames change a part and take it away again, with transparency, as a PNG: no palette rounds it."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(8):
        array = rng.choice(np.array([0, 60, 200, 255], np.uint8), (9, 12, 4))
        array[..., 3] = 255 * (array[..., 3] > 60)
        frames.append(Image.fromarray(array))
    source = tmp_path / "a.gif"
    frames[0].save(source, save_all=True, append_images=frames[1:], disposal=[2, 3, 1, 2, 3, 0, 2, 1])
    translate_file(pointwise(factor=-1.0), source, tmp_path / "b.png", frames="all")
    before, after = Image.open(source), Image.open(tmp_path / "b.png")
    assert after.n_frames == before.n_frames == 8  # type: ignore[attr-defined]
    for index in range(8):
        before.seek(index)
        after.seek(index)
        shown, made = (np.array(image.convert("RGBA")) for image in (before, after))
        assert np.array_equal(made[..., 3], shown[..., 3])
        visible = shown[..., 3] > 0
        assert np.array_equal(made[visible][:, :3], 255 - shown[visible][:, :3])


def test_pages_keep_sizes_and_depth(pointwise: Build, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pages = [
        rng.integers(0, 65536, (9, 12)).astype(np.uint16),
        rng.integers(0, 65536, (9, 12)).astype(np.uint16),
        rng.integers(0, 256, (20, 8), np.uint8),
    ]
    page(tmp_path / "src" / "a.tif", pages)
    translate_folder(pointwise(1, 1, factor=-1.0), tmp_path / "src", tmp_path / "dst", frames="all", batch=2)
    with Image.open(tmp_path / "dst" / "a.tif") as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
        for index, pixels in enumerate(pages):
            image.seek(index)
            assert np.array_equal(np.asarray(image), np.iinfo(pixels.dtype).max - pixels)


def test_side_by_side(pointwise: Build, tmp_path: Path) -> None:
    """A GIF's grey first frame has one channel, the others have three."""
    source = tmp_path / "a.gif"
    frames = [Image.new("RGB", (12, 9), (level, level, level)) for level in (0, 80)]
    frames[0].convert("L").save(source, save_all=True, append_images=[*frames[1:], Image.new("RGB", (12, 9), "red")])
    translate_file(pointwise(factor=-1.0), source, tmp_path / "b.png", frames="all", side_by_side=True)
    found = [frame.as_channels(3) for frame in open_frames(tmp_path / "b.png")]
    for pixels, colour in zip(found, ((0, 0, 0), (80, 80, 80), (255, 0, 0)), strict=True):
        assert pixels.shape == (9, 24, 3)
        assert (pixels[:, :12] == colour).all()
        assert (pixels[:, 12:] == 255 - np.array(colour)).all()


def test_in_batches_and_at_a_scale(pointwise: Build, tmp_path: Path) -> None:
    animate(tmp_path / "src" / "a.png")
    animate(tmp_path / "src" / "b.png")
    model = pointwise(factor=-1.0)
    network: Any = model._networks["generator"]
    translate_folder(model, tmp_path / "src", tmp_path / "dst", frames="all", batch=3, scale=2.0)
    assert network.shapes == [(3, 3, 20, 24), (2, 3, 20, 24)] * 2
    for name in ("a.png", "b.png"):
        assert inverted(list(open_frames(tmp_path / "dst" / name)), COLOURS)


def test_a_single_picture_is_the_same_file(pointwise: Build, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    names = ["a.png", "b.gif", "c.webp", "d.tif", "e.jpg", "f.bmp"]
    for name in names:
        Image.fromarray(pixels).save(src / name)
    for frames in ("first", "all"):
        translate_folder(pointwise(), src, tmp_path / frames, frames=frames)  # type: ignore[arg-type]
        translate_file(pointwise(), src / "b.gif", tmp_path / f"{frames}.gif", frames=frames)  # type: ignore[arg-type]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    assert (tmp_path / "first.gif").read_bytes() == (tmp_path / "all.gif").read_bytes()


def test_a_file_and_a_folder_agree_and_streams_do(pointwise: Build, tmp_path: Path) -> None:
    source, stream = tmp_path / "a.gif", io.BytesIO()
    animate(source)
    model = pointwise(factor=-1.0)
    translate_file(model, source, tmp_path / "b.gif", frames="all")
    translate_folder(model, source, tmp_path / "dst", frames="all")
    translate_file(model, io.BytesIO(source.read_bytes()), stream, frames="all")
    expected = (tmp_path / "b.gif").read_bytes()
    assert (tmp_path / "dst" / "a.gif").read_bytes() == stream.getvalue() == expected
    assert inverted(list(open_frames(tmp_path / "b.gif")), COLOURS)


def test_only_the_first_unless_all_are_asked_for(pointwise: Build, tmp_path: Path) -> None:
    animate(tmp_path / "src" / "a.gif")
    src, dst = tmp_path / "src", tmp_path / "dst"
    model = pointwise(factor=-1.0)
    translate_folder(model, src, dst)
    assert inverted(list(open_frames(dst / "a.gif")), COLOURS[:1])
    all_of_it = translate_folder(model, src, dst, skip_existing=True, frames="all")
    assert all_of_it.translated == 1, "another option makes another output"
    assert len(list(open_frames(dst / "a.gif"))) == 5
    again = translate_folder(model, src, dst, skip_existing=True, frames="all")
    assert (again.translated, again.existing) == (0, 1)
    with pytest.raises(UsageFault, match="--frames"):
        translate_folder(model, src, dst, frames="every")  # type: ignore[arg-type]


# --- what is skipped ---


def test_a_format_of_single_pictures_is_refused_before_the_network_runs(pointwise: Build, tmp_path: Path) -> None:
    animate(tmp_path / "src" / "a.gif")
    Image.new("RGB", (12, 9)).save(tmp_path / "src" / "b.png")
    model = pointwise()
    summary = translate_folder(model, tmp_path / "src", tmp_path / "dst", frames="all", format="jpg")
    assert (summary.translated, summary.exit_code) == (1, 3)
    assert "has 5 frames, and JPEG holds a single picture" in summary.skipped[0].reason
    assert "--frames first" in summary.skipped[0].mend
    network: Any = model._networks["generator"]
    assert len(network.shapes) == 1
    with pytest.raises(ImageFault, match="BMP holds a single picture"):
        translate_file(model, tmp_path / "src" / "a.gif", tmp_path / "a.bmp", frames="all")
    assert not (tmp_path / "a.bmp").exists()


def test_a_damaged_frame_is_named_and_nothing_is_written(pointwise: Build, tmp_path: Path) -> None:
    animate(tmp_path / "src" / "a.png")
    animate(tmp_path / "src" / "b.png")
    content = bytearray((tmp_path / "src" / "a.png").read_bytes())
    second = content.index(b"fdAT") + 8
    content[second + 2] ^= 0xFF
    (tmp_path / "src" / "a.png").write_bytes(content)
    summary = translate_folder(pointwise(factor=-1.0), tmp_path / "src", tmp_path / "dst", frames="all")
    (skip,) = summary.skipped
    assert skip.reason.startswith("frame 2 of 5: is damaged")
    assert json.loads((tmp_path / "dst" / "skipped.jsonl").read_text())["reason"] == skip.reason
    assert sorted(path.name for path in (tmp_path / "dst").glob("*.png")) == ["b.png"]
    with pytest.raises(ImageFault, match="frame 2 of 5"):
        translate_file(pointwise(), tmp_path / "src" / "a.png", tmp_path / "a.png", frames="all")
    assert not (tmp_path / "a.png").exists()


def test_a_frame_that_the_network_cannot_do_is_named(
    pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    animate(tmp_path / "src" / "a.gif")
    page(tmp_path / "src" / "b.tif", [np.zeros((9, 12, 3), np.uint8), np.zeros((40, 40, 3), np.uint8)])
    model = pointwise(pixel_limit=12 * 12)
    forward = model._networks["generator"].forward

    def fails_on_purple(images: torch.Tensor, draws: object = None) -> torch.Tensor:
        if bool((images[:, 2] == 1).all(dim=(1, 2)).any()):
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")
        return forward(images)

    monkeypatch.setattr(model._networks["generator"], "forward", fails_on_purple)
    summary = translate_folder(model, tmp_path / "src", tmp_path / "dst", frames="all", batch=4)
    gif, tiff = summary.skipped
    assert gif.reason == "frame 3 of 5: the network failed on it (CUDNN_STATUS_NOT_SUPPORTED)"
    assert tiff.reason.startswith("frame 2 of 2: 40 × 40 pixels need more memory")
    with pytest.raises(ImageFault, match="frame 2 of 2: 40 × 40 pixels need more memory"):
        translate_file(model, tmp_path / "src" / "b.tif", tmp_path / "b.tif", frames="all")


def test_frames_of_different_sizes_are_pages_only(pointwise: Build, tmp_path: Path) -> None:
    page(tmp_path / "a.tif", [np.zeros((9, 12), np.uint8), np.zeros((12, 9), np.uint8)])
    with pytest.raises(ImageFault, match=r"cannot be written as GIF \(its frames differ in size\)\. Use --format tiff"):
        translate_file(pointwise(1, 1), tmp_path / "a.tif", tmp_path / "a.gif", frames="all")


def test_a_long_animation_is_refused_by_its_header(pointwise: Build, tmp_path: Path) -> None:
    animate(tmp_path / "src" / "a.gif")
    model = pointwise()
    summary = translate_folder(model, tmp_path / "src", tmp_path / "dst", frames="all", max_pixels=5 * 64 * 64 - 1)
    assert "5 frames of 0.02048 megapixels together are over the limit" in summary.skipped[0].reason
    network: Any = model._networks["generator"]
    assert not network.shapes


def test_frames_of_one_file_at_a_time_are_in_memory(
    pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded frames are a few batches ahead of the network at most, and one file's outputs are written at a time."""
    for index in range(3):
        animate(tmp_path / "src" / f"{index}.png", count=5)
    model = pointwise()
    ahead = most_ahead = written = 0
    outputs: list[int] = []
    prepare, finish, encode = model.prepare, model.finish, folder_module.encode_frames

    def counted_prepare(*arguments: Any) -> Any:
        nonlocal ahead, most_ahead
        ahead += 1
        most_ahead = max(most_ahead, ahead)
        return prepare(*arguments)

    def counted_finish(*arguments: Any) -> Any:
        nonlocal ahead, written
        ahead -= 1
        written += 1
        return finish(*arguments)

    def counted_encode(frames: Any, *arguments: Any, **keywords: Any) -> Any:
        outputs.append(written)
        return encode(frames, *arguments, **keywords)

    model.prepare, model.finish = counted_prepare, counted_finish  # type: ignore[method-assign]
    monkeypatch.setattr(folder_module, "encode_frames", counted_encode)
    translate_folder(model, tmp_path / "src", tmp_path / "dst", frames="all", batch=1, workers=4)
    assert most_ahead <= 3, "one in the network, one read ahead of it, and one to see where its batch ends"
    assert outputs == [5, 10, 15]


def test_the_note_says_how_many_frames(pointwise: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    animate(tmp_path / "src" / "a.gif")
    caplog.set_level("INFO")
    translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst", frames="all")
    translate_file(pointwise(), tmp_path / "src" / "a.gif", tmp_path / "b.gif", frames="all")
    assert caplog.text.count("a.gif: 5 frames") == 2
