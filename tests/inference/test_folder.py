"""A folder's translation: what comes out, what is skipped, and what a killed or repeated run leaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from img2img.data import encode
from img2img.errors import Fault, ImageFault, UsageFault
from img2img.inference import folder as folder_module
from img2img.inference.folder import translate_file, translate_folder
from img2img.inference.manifest import MANIFEST_NAME
from img2img.inference.model import Model

Build = Callable[..., Model]


def picture(height: int = 9, width: int = 12, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def fill(root: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(9 + seed % 3, 12, seed).save(root / name)
    return root


def tree(root: Path, *, hidden: bool = False) -> dict[str, str]:
    """Relative name -> sha256 of every file, without hidden ones."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and (hidden or not path.name.startswith("."))
    }


def skips(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


# --- what comes out ---


def test_same_tree_names_formats_and_sizes(pointwise: Build, tmp_path: Path) -> None:
    names = ["a.jpg", "b.PNG", "x/a.jpg", "x/y z/ü.webp", "x/-c.bmp", "d.tif", "e.gif"]
    src = fill(tmp_path / "src", names)
    (src / "notes.txt").write_text("no picture")
    summary = translate_folder(pointwise(factor=-1.0), src, tmp_path / "dst")
    assert (summary.translated, summary.skipped, summary.exit_code) == (7, [], 0)
    assert sorted(tree(tmp_path / "dst")) == sorted(names)
    for name in names:
        before, after = Image.open(src / name), Image.open(tmp_path / "dst" / name)
        assert (after.format, after.size) == (before.format, before.size)
    exact = np.asarray(Image.open(tmp_path / "dst" / "b.PNG"))
    assert np.array_equal(exact, 255 - np.asarray(Image.open(src / "b.PNG")))
    assert summary.images_per_second > 0
    assert 0 < summary.network_seconds < summary.seconds


def test_opacity_depth_exif_and_colour_tag_are_kept(pointwise: Build, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    rgba = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    Image.fromarray(rgba).save(src / "alpha.png")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    exif[0x8825] = {1: "N"}
    picture(9, 12).save(src / "photo.jpg", exif=exif)
    translate_folder(pointwise(), src, tmp_path / "dst")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "dst" / "alpha.png"))[..., 3], rgba[..., 3])
    photo = Image.open(tmp_path / "dst" / "photo.jpg")
    assert photo.size == (9, 12)
    assert photo.getexif()[0x010F] == "a camera"
    assert 0x0112 not in photo.getexif()
    assert not photo.getexif().get_ifd(0x8825)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(photo.info["icc_profile"]))
    assert "srgb" in ImageCms.getProfileDescription(profile).lower()


def test_grey_of_16_bits(pointwise: Build, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    deep = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    Image.fromarray(deep).save(src / "deep.png")
    translate_folder(pointwise(1, 1), src, tmp_path / "grey")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grey" / "deep.png")), deep)
    translate_folder(pointwise(3, 3), src, tmp_path / "colour")
    assert Image.open(tmp_path / "colour" / "deep.png").mode == "RGB"


def test_side_by_side(pointwise: Build, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    rng = np.random.default_rng(0)
    colour, rgba = rng.integers(0, 256, (9, 7, 3), np.uint8), rng.integers(0, 256, (9, 7, 4), np.uint8)
    deep = rng.integers(0, 65536, (9, 7)).astype(np.uint16)
    rgba[..., 3] = 255 * (rgba[..., 3] > 99)
    for name, pixels in (("colour.png", colour), ("rgba.png", rgba), ("deep.png", deep), ("grey.png", colour[..., 0])):
        Image.fromarray(pixels).save(src / name)
    translate_folder(pointwise(factor=-1.0), src, tmp_path / "dst", side_by_side=True)
    pairs = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "dst").glob("*.png")}
    assert np.array_equal(pairs["colour"], np.hstack((colour, 255 - colour)))
    assert np.array_equal(pairs["rgba"][:, :7], rgba)
    assert np.array_equal(pairs["rgba"][:, 7:, 3], rgba[..., 3])
    assert np.array_equal(pairs["grey"][:, :7, 0], colour[..., 0])
    assert pairs["grey"].shape == (9, 14, 3)
    translate_file(pointwise(1, 1, factor=-1.0), src / "deep.png", tmp_path / "deep.png", side_by_side=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep.png")), np.hstack((deep, 65535 - deep)))
    again = translate_folder(pointwise(factor=-1.0), src, tmp_path / "dst", skip_existing=True)
    assert again.translated == 4, "other options make other outputs"


def test_another_format_keeps_names_apart(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.jpg", "a.png", "b.jpg"])
    translate_folder(pointwise(), src, tmp_path / "dst", format="jpg")
    assert sorted(tree(tmp_path / "dst")) == ["a.jpg.jpg", "a.png.jpg", "b.jpg"]
    with pytest.raises(UsageFault, match="--format"):
        translate_folder(pointwise(), src, tmp_path / "dst", format="pdf")


def test_one_file_into_a_folder(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png", "b.png"])
    assert translate_folder(pointwise(), src / "a.png", tmp_path / "dst").translated == 1
    assert list(tree(tmp_path / "dst")) == ["a.png"]


def test_one_file_to_one_file(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png"])
    assert translate_file(pointwise(factor=-1.0), src / "a.png", tmp_path / "new" / "b.tif").translated == 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "b.tif")), 255 - np.asarray(picture(9, 12)))
    assert list(tree(tmp_path / "new", hidden=True)) == ["b.tif"]
    with pytest.raises(UsageFault, match="--in-place"):
        translate_file(pointwise(), src / "a.png", src / "a.png")
    translate_file(pointwise(factor=-1.0), src / "a.png", src / "a.png", in_place=True)
    assert np.array_equal(np.asarray(Image.open(src / "a.png")), 255 - np.asarray(picture(9, 12)))
    before = (tmp_path / "new" / "b.tif").read_bytes()
    for target in (tmp_path / "new" / "b.tif", fill(tmp_path / "mine", ["c.png"]) / "c.png"):
        with pytest.raises(UsageFault, match=f"{target.name}: is there already. Give another name, or --overwrite"):
            translate_file(pointwise(), src / "a.png", target)
    assert (tmp_path / "new" / "b.tif").read_bytes() == before
    translate_file(pointwise(factor=-1.0), src / "a.png", tmp_path / "new" / "b.tif", overwrite=True)
    assert (tmp_path / "new" / "b.tif").read_bytes() != before
    with pytest.raises(UsageFault, match="suffix"):
        translate_file(pointwise(), src / "a.png", tmp_path / "b.xyz")


def test_results_do_not_depend_on_batch_and_workers(model_files: dict[str, Path], tmp_path: Path) -> None:
    src = fill(tmp_path / "src", [f"{index}.png" for index in range(8)])
    model = Model.load(model_files["pix2pix"], "cpu")
    for batch, workers in ((1, 1), (3, 2), (8, 4)):
        out = tmp_path / f"{batch}"
        translate_folder(model, src, out, batch=batch, workers=workers)
        for path in sorted(out.glob("*.png")):
            ours, first = (np.asarray(Image.open(each / path.name), int) for each in (out, tmp_path / "1"))
            assert np.abs(ours - first).max() <= 1


def test_folder_and_single_call_agree(model_files: dict[str, Path], tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png"])
    model = Model.load(model_files["cyclegan"], "cpu")
    translate_folder(model, src, tmp_path / "dst", direction="b2a", scale="trained")
    expected = model.translate(src / "a.png", direction="b2a", scale="trained")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "dst" / "a.png")), np.asarray(expected))


# --- what is skipped ---


def bad_files(root: Path) -> list[str]:
    """Files that cannot be used, beside the good ones a.jpg and z.png."""
    fill(root, ["a.jpg", "z.png"])
    whole = io.BytesIO()
    picture(64, 64).save(whole, "JPEG")
    (root / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (root / "empty.png").touch()
    (root / "page.jpg").write_text("<html>not found</html>")
    (root / "folder.png").mkdir()
    (root / "esc\x1b[31m.jpg").write_bytes(b"\x00")
    os.mkfifo(root / "pipe.jpg")
    (root / "broken.png").symlink_to("nowhere.png")
    return ["broken.png", "cut.jpg", "empty.png", "esc\\x1b[31m.jpg", "folder.png", "page.jpg", "pipe.jpg"]


def test_bad_files_are_named_counted_and_listed(
    pointwise: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = bad_files(tmp_path / "src")
    summary = translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst")
    assert (summary.translated, summary.exit_code) == (2, 3)
    assert summary.line() == "translated 2, skipped 7 (see skipped.jsonl)"
    listed = skips(tmp_path / "dst")
    assert [Path(line["path"]).name for line in listed] == bad
    assert all(line["reason"] and line["mend"] for line in listed)
    assert all(name in caplog.text for name in bad)
    for path in (tmp_path / "src").iterdir():
        if path.name not in ("a.jpg", "z.png"):
            path.rmdir() if path.is_dir() else path.unlink()
    assert translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst").exit_code == 0
    assert not (tmp_path / "dst" / "skipped.jsonl").exists()


def test_in_place_nothing_is_translated_twice(pointwise: Build, tmp_path: Path) -> None:
    """Neither by the same options nor by others, of which the original is gone."""
    src = fill(tmp_path / "src", ["a.png", "b.png"])
    translate_folder(pointwise(factor=-1.0), src, src, in_place=True)
    before = tree(src)
    assert translate_folder(pointwise(factor=-1.0), src, src, in_place=True).existing == 2
    Image.fromarray(np.full((9, 12, 3), 7, np.uint8)).save(src / "b.png")  # somebody's new picture of that name
    summary = translate_folder(pointwise(factor=-1.0), src, src, in_place=True, scale=0.5)
    assert (summary.translated, summary.exit_code) == (1, 3)
    (skip,) = skips(src)
    assert Path(skip["path"]).name == "a.png"
    assert "is what an earlier run made in this place" in skip["reason"]
    assert tree(src)["a.png"] == before["a.png"]


@pytest.mark.parametrize("name", ["out.jpgg", "out.xyz"])
def test_a_misspelt_suffix_makes_no_folder(name: str, pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png"])
    with pytest.raises(UsageFault, match=f"{name}: no picture format is known by the suffix"):
        translate_folder(pointwise(), src / "a.png", tmp_path / name)
    assert translate_folder(pointwise(), src / "a.png", tmp_path / "version.2").translated == 1


def test_files_that_vanish_or_change_on_the_way_are_skipped(pointwise: Build, tmp_path: Path) -> None:
    """PROMISES C16: between the look into the folder and the look into the file."""
    names = [f"{index:02d}.png" for index in range(40)]
    src = fill(tmp_path / "src", names)

    def meddle(done: int, total: int) -> None:
        (src / names[-1]).unlink(missing_ok=True)
        # in one stroke: the reader may be at it, and would find a file just emptied
        (tmp_path / "other").write_bytes(b"something else")
        (tmp_path / "other").replace(src / names[-2])

    summary = translate_folder(pointwise(), src, tmp_path / "dst", workers=1, progress=meddle)
    assert (summary.translated, summary.exit_code) == (38, 3)
    reasons = {Path(skip["path"]).name: skip["reason"] for skip in skips(tmp_path / "dst")}
    assert reasons.keys() == set(names[-2:])
    assert "not there any more" in reasons[names[-1]]
    assert "is not a picture" in reasons[names[-2]]


@pytest.mark.parametrize("busy", ["content_digest", "open_image"])
@pytest.mark.parametrize("name", ["00.png", "19.png"])
def test_a_picture_that_never_comes_is_named(
    busy: str, name: str, pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROMISES A14, where the disk hangs beside the network and where it hangs before."""
    src = fill(tmp_path / "src", [f"{index:02d}.png" for index in range(20)])
    gate, whole = threading.Event(), getattr(folder_module, busy)

    def hang(path: Path, **options: object) -> object:
        if path.name == name:
            gate.wait(10)
        return whole(path, **options)

    monkeypatch.setattr(folder_module, busy, hang)
    monkeypatch.setattr(folder_module, "_PATIENCE", 0.3)
    try:
        with pytest.raises(Fault, match=rf"{name}: no answer for 0\.3 seconds"):
            translate_folder(pointwise(), src, tmp_path / "dst", workers=2)
    finally:
        gate.set()


def test_small_pictures_are_read_and_written_between_the_network_s_turns(
    pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU a thread that decodes holds up every thread of the network."""
    src = fill(tmp_path / "src", [f"{index:02d}.png" for index in range(20)])
    model = pointwise()
    running = threading.Event()
    beside: list[str] = []

    def watched(module: object, name: str) -> None:
        whole = getattr(module, name)

        def watch(*args: object, **options: object) -> object:
            if running.is_set():
                beside.append(name)
            return whole(*args, **options)

        monkeypatch.setattr(module, name, watch)

    def run_each(*args: object, **options: object) -> object:
        running.set()
        time.sleep(0.005)
        results = Model.run_each(model, *args, **options)
        running.clear()
        return results

    watched(folder_module, "open_image")
    watched(folder_module, "encode_frames")
    monkeypatch.setattr(model, "run_each", run_each)
    assert translate_folder(model, src, tmp_path / "dst", workers=2).translated == 20
    assert beside == []
    monkeypatch.setattr(folder_module, "_TURN_PIXELS", 1)  # as if they were large
    assert translate_folder(model, src, tmp_path / "other", workers=2).translated == 20
    assert set(beside) == {"open_image", "encode_frames"}


def test_strict_stops_at_the_first(pointwise: Build, tmp_path: Path) -> None:
    bad_files(tmp_path / "src")
    with pytest.raises(ImageFault, match=r"broken\.png") as caught:
        translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst", strict=True)
    assert caught.value.exit_code == 1


def test_only_bad_files(pointwise: Build, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").touch()
    assert translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst").exit_code == 2


def test_no_pictures_is_refused_before_anything_is_made(pointwise: Build, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "Thumbs.db").touch()
    (tmp_path / "src" / ".hidden.jpg").touch()
    with pytest.raises(UsageFault, match=r"no images .*\.jpg"):
        translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_out_of_memory_skips_what_does_not_fit_alone(pointwise: Build, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for seed in range(4):
        picture(8, 8, seed).save(src / f"{seed}.png")
    picture(40, 40).save(src / "large.png")
    free = translate_folder(pointwise(factor=-1.0), src, tmp_path / "free", batch=4)
    tight = translate_folder(pointwise(factor=-1.0, pixel_limit=64), src, tmp_path / "tight", batch=4)
    assert (free.translated, tight.translated) == (5, 4)
    (skip,) = skips(tmp_path / "tight")
    assert "large.png" in skip["path"]
    assert "memory" in skip["reason"]
    assert "--scale" in skip["mend"]
    expected = tree(tmp_path / "free")
    assert all(expected[name] == digest for name, digest in tree(tmp_path / "tight").items() if name.endswith("png"))


def test_an_error_of_the_network_skips_its_picture_only(
    pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for seed in range(5):
        picture(8, 8, seed).save(src / f"{seed}.png")
    Image.new("RGB", (8, 8), "red").save(src / "plain.png")
    model = pointwise()
    forward = model._networks["generator"].forward

    def fails_on_plain_pictures(images: torch.Tensor, draws: object = None) -> torch.Tensor:
        if (images.std(dim=(2, 3)) == 0).any():
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nand a stack of other lines")
        return forward(images)

    monkeypatch.setattr(model._networks["generator"], "forward", fails_on_plain_pictures)
    summary = translate_folder(model, src, tmp_path / "dst", batch=6)
    assert summary.translated == 5
    (skip,) = summary.skipped
    assert "plain.png" in skip.path
    assert skip.reason == "the network failed on it (CUDNN_STATUS_NOT_SUPPORTED)"


def test_a_device_that_fails_stops_the_run(pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = fill(tmp_path / "src", ["a.png", "b.png"])
    model = pointwise()

    def fails(*arguments: object, **keywords: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(model._networks["generator"], "forward", fails)
    monkeypatch.setattr(folder_module.torch, "zeros", fails)
    with pytest.raises(Fault, match=r"illegal memory access.*--skip-existing"):
        translate_folder(model, src, tmp_path / "dst")


def test_an_encoder_that_cannot_skips_the_picture(
    pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    picture(1, 17_000).save(src / "wide.png")
    picture(8, 8).save(src / "a.png")
    summary = translate_folder(pointwise(), src, tmp_path / "dst", format="webp")
    assert summary.translated == 1
    assert "WEBP" in summary.skipped[0].reason
    assert not list((tmp_path / "dst").rglob("*.tmp"))


def test_remarks_and_the_scale_warning_come_once(
    pointwise: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    frames = [picture(8, 8, seed) for seed in range(3)]
    frames[0].save(src / "moving.gif", save_all=True, append_images=frames[1:])
    for seed in range(3):
        picture(100, 100, seed).save(src / f"{seed}.png")
    caplog.set_level("INFO")
    translate_folder(pointwise(), src, tmp_path / "dst")
    assert "moving.gif: first of" in caplog.text
    assert caplog.text.count("times the scale the model was trained at") == 1
    assert "3 pictures are above 2 times" in caplog.text


# --- where it writes ---


def test_in_place_needs_permission_and_is_not_done_twice(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png", "x/b.png"])
    before = tree(src)
    (tmp_path / "link").symlink_to(src)
    for dst in (src, tmp_path / "link"):
        with pytest.raises(UsageFault, match="--in-place"):
            translate_folder(pointwise(), src, dst)
    assert tree(src) == before
    assert translate_folder(pointwise(factor=-1.0), src, src, in_place=True).translated == 2
    once = tree(src)
    assert set(once) == set(before)
    assert not set(once.values()) & set(before.values())
    picture(5, 5).save(src / "new.png")
    again = translate_folder(pointwise(factor=-1.0), src, src, in_place=True)
    assert (again.translated, again.existing) == (1, 2)
    assert {name: digest for name, digest in tree(src).items() if name != "new.png"} == once


def test_in_place_with_a_format_does_not_take_its_own_outputs(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.jpg"])
    for expected in ((1, 0), (0, 1)):
        summary = translate_folder(pointwise(), src, src, in_place=True, format="png")
        assert (summary.translated, summary.existing) == expected
        assert list(tree(src)) == ["a.jpg", "a.png"]


def test_output_inside_the_input_is_not_read(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png", "x/b.png"])
    for _ in range(3):
        assert translate_folder(pointwise(), src, src / "x" / "out").translated == 2
    assert sorted(tree(src / "x" / "out")) == ["a.png", "x/b.png"]


def test_output_around_the_input_does_not_replace_a_picture(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "out" / "sub", ["a.png"])
    assert translate_folder(pointwise(), src, tmp_path / "out").translated == 1
    fill(src, ["sub/a.png"])  # its output would be out/sub/a.png
    before = tree(src)
    with pytest.raises(UsageFault, match="is one of the pictures"):
        translate_folder(pointwise(), src, tmp_path / "out")
    with pytest.raises(UsageFault, match="is one of the pictures"):
        translate_folder(pointwise(), src / "a.png", src)
    assert tree(src) == before
    assert not (src / MANIFEST_NAME).exists()


def test_files_of_others_are_not_replaced(pointwise: Build, tmp_path: Path) -> None:
    src, dst = (
        fill(tmp_path / "src", ["a.png", "x/b.png", "c.png"]),
        fill(tmp_path / "dst", ["x/b.png", "c.png", "d.png"]),
    )
    before = tree(dst, hidden=True)
    with pytest.raises(
        UsageFault, match=r"c\.png: is there already, as are 1 more, and is no output of an earlier run"
    ):
        translate_folder(pointwise(), src, dst)
    assert tree(dst, hidden=True) == before
    (dst / "x" / "b.png").unlink()
    (dst / "c.png").unlink()
    for _ in range(2):  # what a run has made, the next one may make anew
        assert translate_folder(pointwise(), src, dst).translated == 3
    assert tree(dst)["d.png"] == before["d.png"]


@pytest.mark.parametrize("dst", ["file", "file/below"])
def test_a_file_in_the_place_of_the_output_folder(pointwise: Build, tmp_path: Path, dst: str) -> None:
    src = fill(tmp_path / "src", ["a.png"])
    (tmp_path / "file").touch()
    with pytest.raises(UsageFault, match="file"):
        translate_folder(pointwise(), src, tmp_path / dst)


def test_a_full_disk_stops_at_once_and_the_next_run_goes_on(
    pointwise: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = fill(tmp_path / "src", [f"{index:02d}.png" for index in range(40)])
    translate_folder(pointwise(), src, tmp_path / "whole")
    num_written = 0
    real = os.replace

    def fills_up(source: Any, target: Any) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > 10:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(encode.os, "replace", fills_up)
    with pytest.raises(Fault, match=r"no space.*--skip-existing") as caught:
        translate_folder(pointwise(), src, tmp_path / "dst", workers=1)
    monkeypatch.setattr(encode.os, "replace", real)
    assert caught.value.exit_code == 1
    assert ".png" in caught.value.subject
    assert ".tmp" not in caught.value.subject
    assert num_written < 20
    done = tree(tmp_path / "dst")
    assert done.items() <= tree(tmp_path / "whole").items()
    summary = translate_folder(pointwise(), src, tmp_path / "dst", skip_existing=True)
    assert summary.existing == len(done)
    assert tree(tmp_path / "dst") == tree(tmp_path / "whole")


# --- again ---


def test_skip_existing_redoes_exactly_what_changed(pointwise: Build, tmp_path: Path) -> None:
    src, dst = fill(tmp_path / "src", ["a.png", "b.png", "c.png", "d.png", "e.png"]), tmp_path / "dst"
    assert translate_folder(pointwise(), src, dst).translated == 5
    whole = tree(dst)

    def again(**options: object) -> tuple[int, int]:
        summary = translate_folder(pointwise(), src, dst, skip_existing=True, **options)  # type: ignore[arg-type]
        return summary.translated, summary.existing

    assert again() == (0, 5)
    (dst / "a.png").unlink()
    (dst / "b.png").write_bytes((dst / "b.png").read_bytes()[:-1])
    (dst / "c.png").touch()
    os.utime(src / "d.png", (0, time.time() + 1e6))
    assert again() == (2, 3)
    assert tree(dst) == whole
    picture(7, 7, 99).save(src / "d.png")
    picture(7, 7, 98).save(src / "new.png")
    assert again() == (2, 4)
    assert again(quality=50) == (6, 0)
    assert translate_folder(pointwise(factor=0.5), src, dst, skip_existing=True).translated == 6
    (dst / MANIFEST_NAME).unlink()
    with pytest.raises(UsageFault, match="is no output of an earlier run"):
        again()


def test_batches_are_of_one_size(pointwise: Build, tmp_path: Path) -> None:
    """Upright and lying pictures in turns fill batches all the same."""
    src = tmp_path / "src"
    src.mkdir()
    for seed in range(12):
        picture(8 + 4 * (seed % 2), 16, seed).save(src / f"{seed:02d}.png")
    model = pointwise(factor=-1.0)
    translate_folder(model, src, tmp_path / "dst", batch=3)
    network: Any = model._networks["generator"]
    assert sorted(network.shapes) == sorted([(3, 3, 8, 16)] * 2 + [(3, 3, 12, 16)] * 2)
    for seed in range(12):
        before, after = (np.asarray(Image.open(tmp_path / folder / f"{seed:02d}.png")) for folder in ("src", "dst"))
        assert np.array_equal(after, 255 - before)


def test_a_part_of_a_batch_is_redone_in_the_same_batch(pointwise: Build, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for seed in range(7):
        picture(8, 8, seed).save(src / f"{seed}.png")
    model = pointwise()
    network: Any = model._networks["generator"]
    translate_folder(model, src, tmp_path / "dst", batch=4)
    assert [shape[0] for shape in network.shapes] == [4, 3]
    (tmp_path / "dst" / "1.png").unlink()
    network.shapes.clear()
    summary = translate_folder(model, src, tmp_path / "dst", batch=4, skip_existing=True)
    assert (summary.translated, summary.existing) == (1, 6)
    assert [shape[0] for shape in network.shapes] == [4]


@pytest.mark.parametrize("count", [2, 3, 20])
def test_shards_together_are_one_run(pointwise: Build, tmp_path: Path, count: int) -> None:
    bad_files(tmp_path / "src")
    fill(tmp_path / "src", ["b.jpg", "x/a.png", "x/b.png", "x/c.png"])
    model = pointwise(factor=-1.0)
    whole = translate_folder(model, tmp_path / "src", tmp_path / "whole")
    shards = [
        translate_folder(model, tmp_path / "src", tmp_path / "dst", shard=(number, count))
        for number in range(1, count + 1)
    ]
    assert sum(shard.translated for shard in shards) == whole.translated
    assert all(shard.exit_code == (3 if shard.skipped else 0) for shard in shards)
    names = {name: digest for name, digest in tree(tmp_path / "whole").items() if name != "skipped.jsonl"}
    assert {name: digest for name, digest in tree(tmp_path / "dst").items() if name != "skipped.jsonl"} == names
    assert skips(tmp_path / "dst") == skips(tmp_path / "whole")
    # a run over all of it, or in other shards, knows what they did
    again = translate_folder(model, tmp_path / "src", tmp_path / "dst", skip_existing=True, shard=(1, 2))
    assert again.translated == 0
    again = translate_folder(model, tmp_path / "src", tmp_path / "dst", skip_existing=True)
    assert (again.translated, again.existing) == (0, whole.translated)
    assert skips(tmp_path / "dst") == skips(tmp_path / "whole")
    assert not list((tmp_path / "dst").glob(".img2img-skipped*"))


def test_a_mended_picture_leaves_the_list_of_its_shard(pointwise: Build, tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png", "b.png", "c.png", "d.png"])
    for name in ("b.png", "c.png"):
        (src / name).write_bytes(b"")
    for number in (1, 2):
        translate_folder(pointwise(), src, tmp_path / "dst", shard=(number, 2))
    assert [Path(line["path"]).name for line in skips(tmp_path / "dst")] == ["b.png", "c.png"]
    picture().save(src / "b.png")
    assert translate_folder(pointwise(), src, tmp_path / "dst", skip_existing=True, shard=(2, 2)).exit_code == 0
    assert [Path(line["path"]).name for line in skips(tmp_path / "dst")] == ["c.png"]


_SHARDS = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from img2img.inference.folder import translate_folder
from img2img.inference.model import Model
src, out, model_file, number, count = sys.argv[1:]
summary = translate_folder(Model.load(model_file, "cpu"), src, out, shard=(int(number), int(count)), workers=2)
print(summary.translated, len(summary.skipped))
"""


def test_shards_at_once(model_files: dict[str, Path], tmp_path: Path) -> None:
    """Three processes in one folder, begun at the same time: nothing is lost of files, manifest and list."""
    src = fill(tmp_path / "src", [f"{index:02d}.png" for index in range(24)])
    for index in range(9):
        (src / f"bad{index}.png").touch()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _SHARDS, src, tmp_path / "dst", model_files["cyclegan"], str(number), "3"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2, 3)
    ]
    counts = [tuple(map(int, child.communicate(timeout=100)[0].split())) for child in children]
    assert tuple(map(sum, zip(*counts))) == (24, 9)
    assert len(skips(tmp_path / "dst")) == 9
    model = Model.load(model_files["cyclegan"], "cpu")
    again = translate_folder(model, src, tmp_path / "dst", skip_existing=True)
    assert (again.translated, again.existing) == (0, 24)


_KILLED = """
import os, signal, sys
from pathlib import Path
os.environ["OMP_NUM_THREADS"] = "1"
import torch
torch.set_num_threads(1)
from img2img.inference.folder import translate_folder
from img2img.inference.model import Model

src, out, model_file = map(Path, sys.argv[1:])
model = Model.load(model_file, "cpu")

def run(dst, events=None, in_place=False):
    # in a child, killed at the given number of writes, renames and unlinks
    child = os.fork()
    if child == 0:
        count = 0
        def counted(real):
            def function(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == events:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **keywords)
            return function
        if events is not None:
            for name in ("write", "replace", "unlink"):
                setattr(os, name, counted(getattr(os, name)))
        translate_folder(model, src if not in_place else dst, dst, skip_existing=True, in_place=in_place)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert run(out / "clean") == 0
for events in range(1, 16, 2):
    dst = out / f"killed{events}"
    code = run(dst, events)
    assert code in (0, -signal.SIGKILL), code
    assert run(dst) == 0
    print(events, code)
os.system(f"cp -r {src} {out}/place")
assert run(out / "place", 6, in_place=True) == -signal.SIGKILL
assert run(out / "place", in_place=True) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_and_run_again_equals_one_clean_run(model_files: dict[str, Path], tmp_path: Path) -> None:
    src = fill(tmp_path / "src", ["a.png", "b.jpg", "x/c.png", "x/d.webp"])
    (src / "bad.png").touch()
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", _KILLED, str(src), str(tmp_path / "out"), str(model_files["cyclegan"])]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    codes = [int(line.split()[1]) for line in child.stdout.splitlines()]
    assert codes.count(-9) >= 5, "most kills must have hit"
    clean = tree(tmp_path / "out" / "clean")
    assert len(clean) == 5
    for folder in (tmp_path / "out").glob("killed*"):
        assert tree(folder) == clean
        assert not list(folder.rglob("*.tmp"))
    in_place = tree(tmp_path / "out" / "place")
    assert {name: digest for name, digest in in_place.items() if name not in ("bad.png", "skipped.jsonl")} == {
        name: digest for name, digest in clean.items() if name != "skipped.jsonl"
    }


def test_memory_does_not_grow_with_the_folder(pointwise: Build, tmp_path: Path) -> None:
    """No more than a few pictures are decoded ahead of the network, however long the folder."""
    src = fill(tmp_path / "src", [f"{index:03d}.png" for index in range(60)])
    model = pointwise()
    alive, most = 0, 0
    prepare, finish = model.prepare, model.finish

    def counted_prepare(*arguments: Any, **keywords: Any) -> Any:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return prepare(*arguments, **keywords)

    def counted_finish(*arguments: Any) -> Any:
        nonlocal alive
        alive -= 1
        return finish(*arguments)

    model.prepare, model.finish = counted_prepare, counted_finish  # type: ignore[method-assign]
    assert translate_folder(model, src, tmp_path / "dst", workers=2, batch=2).translated == 60
    assert most <= 16


# --- streams ---


@pytest.mark.parametrize(("format", "written"), [(None, "GIF"), ("png", "PNG")])
def test_from_and_into_streams(pointwise: Build, format: str | None, written: str) -> None:
    source, target = io.BytesIO(), io.BytesIO()
    picture().convert("P").save(source, "GIF")
    summary = translate_file(pointwise(factor=-1.0), source, target, format=format)
    assert summary.translated == 1
    image = Image.open(target)
    assert (image.format, image.size) == (written, (12, 9))
    with pytest.raises(ImageFault, match="cut short"):
        translate_file(pointwise(), io.BytesIO(source.getvalue()[:30]), target)


def test_progress_counts_everything(pointwise: Build, tmp_path: Path) -> None:
    bad_files(tmp_path / "src")
    seen: list[tuple[int, int]] = []
    translate_folder(pointwise(), tmp_path / "src", tmp_path / "dst", progress=lambda *done: seen.append(done))
    assert seen[-1] == (9, 9)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
