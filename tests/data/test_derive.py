"""Pairs out of one folder: what each kind does to a picture, and what becomes of a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from img2img.data.decode import open_image
from img2img.data.derive import KINDS, _follow, add_noise, blur, cut_holes, derive, find_edges, shrink_and_enlarge
from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img_cli import main


def picture(seed: int = 0, height: int = 40, width: int = 56) -> Image.Image:
    """A smooth picture with one hard vertical line."""
    rows, columns = np.mgrid[:height, :width] / 50
    planes = [np.sin(columns * (2 + seed)), np.cos(rows * 3), rows * columns]
    pixels = np.stack(planes, axis=2) * 60 + 100
    pixels[:, width // 2 :] += 60
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def fill(folder: Path) -> Path:
    for index, name in enumerate(("a.png", "deep/b.jpg", "deep/er/c d.webp", "e.tif")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is done to a picture ---------------------------------------------------------------------------------------


def test_edges_are_thin_black_lines_where_the_step_is_and_not_at_the_frame() -> None:
    grey = torch.full((1, 1, 32, 40), 0.2)
    grey[..., 20:] = 0.8
    edges = find_edges(grey, sigma=1.0, threshold=0.2)
    assert edges.shape == grey.shape
    assert edges.unique().tolist() == [0.0, 1.0]
    black = (edges[0, 0] == 0).nonzero()
    assert set(black[:, 1].tolist()) <= {19, 20}
    assert (edges[0, 0] == 0).sum(dim=1).tolist() == [1] * 32  # one pixel wide, from the top to the bottom
    assert find_edges(grey * 0.1, sigma=1.0, threshold=0.2).min() == 1  # too little contrast


@pytest.mark.parametrize("size", [(3, 3), (3, 9), (17, 40), (64, 31), (200, 300)])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_lines_are_followed_as_by_kornia(size: tuple[int, int], sigma: float) -> None:
    from kornia.filters import canny

    generator = torch.Generator().manual_seed(sum(size))
    fine = torch.rand(1, 1, *size, generator=generator)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8, generator=generator), size=size, mode="bicubic")
    for grey, threshold in ((fine, 0.9), (coarse.clamp(0, 1), 0.35), (0.5 * fine + 0.5 * coarse, 0.5)):
        _, weak_and_strong = canny(grey, threshold / 2, threshold, 5, (sigma, sigma), hysteresis=False)
        _, expected = canny(grey, threshold / 2, threshold, 5, (sigma, sigma), hysteresis=True)
        assert torch.equal(_follow(weak_and_strong), expected)
        if size == (200, 300):
            strong = weak_and_strong == 1
            assert strong.sum() < expected.sum() < (weak_and_strong > 0).sum(), "nothing was followed, or all"


def test_one_strong_pixel_keeps_a_weak_line_to_its_end() -> None:
    """A spiral whose turns do not touch; and a line that nothing strong leads to."""
    spiral = torch.zeros(61, 61)
    row, column, ahead = 0, 0, (0, 1)
    spiral[0, 0] = 0.5
    for length in [60, *(side for side in range(60, 2, -2) for _ in range(2))]:
        for _ in range(length):
            row, column = row + ahead[0], column + ahead[1]
            spiral[row, column] = 0.5
        ahead = (ahead[1], -ahead[0])
    expected = (spiral > 0).float()
    assert expected.sum() > 1800
    assert torch.equal(_follow(spiral[None, None]), torch.zeros(1, 1, 61, 61))
    spiral[row, column] = 1
    assert torch.equal(_follow(spiral[None, None])[0, 0], expected)
    apart = torch.tensor([[1.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.5], [0.5, 0.0, 1.0, 0.0]])
    assert _follow(apart[None, None])[0, 0].tolist() == [[1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_blur_spreads_a_point_by_sigma_and_keeps_its_sum() -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blur(point, sigma=2.5)[0, 0]
    places = torch.arange(41) - 20.0
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(dim=0) * places**2).sum().sqrt() == pytest.approx(2.5, rel=0.01)
    constant = torch.full((1, 3, 2, 3), 0.7)
    torch.testing.assert_close(blur(constant, sigma=10), constant)  # also where the Gaussian is wider than the picture


def test_small_keeps_what_is_coarse_and_loses_what_is_fine() -> None:
    coarse = (torch.arange(64) / 63).expand(1, 1, 64, 64)
    torch.testing.assert_close(shrink_and_enlarge(coarse, factor=4), coarse, atol=0.02, rtol=0)
    fine = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    assert (shrink_and_enlarge(fine, factor=4) - 0.5).abs().max() < 0.05
    torch.testing.assert_close(shrink_and_enlarge(fine, factor=1), fine)


@pytest.mark.parametrize("amount", [0.05, 0.25, 0.9])
def test_holes_cover_the_amount_and_leave_the_rest(amount: float) -> None:
    images = torch.rand(1, 3, 60, 80) * 0.4  # nothing of it is grey
    shares = []
    for number in range(20):
        cut = cut_holes(images, amount=amount, draws=Draws(0, "x", torch.tensor([number])))
        covered = (cut == 0.5).all(dim=1, keepdim=True)
        assert torch.equal(cut.masked_fill(covered, 0), images.masked_fill(covered, 0))
        shares.append(covered.double().mean().item())
    assert min(shares) >= amount
    assert max(shares) <= amount + 1 / 9  # the last rectangle is at most a third by a third
    assert len(set(shares)) > 10


def test_holes_are_anywhere() -> None:
    images = torch.zeros(1, 1, 24, 24)
    counts = sum(
        (cut_holes(images, amount=0.2, draws=Draws(0, "x", torch.tensor([number]))) == 0.5).float()
        for number in range(300)
    )
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 2 * counts.mean()


def test_noise_has_its_deviation_and_no_seam_between_strips() -> None:
    images = torch.full((1, 3, 1200, 1000), 0.5)  # four strips
    noise = add_noise(images, amount=0.1, seed=0, name="a.png") - images
    assert noise.std() == pytest.approx(0.1, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    flat = noise.flatten()
    for lag in (1, 1000, 349 * 1000, 1200 * 1000):  # values, rows, strips, channels
        assert (flat[lag:] * flat[:-lag]).mean() == pytest.approx(0, abs=2e-5)


# --- a folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_becomes_pairs_that_pix2pix_takes(kind: str, tmp_path: Path) -> None:
    source, target = fill(tmp_path / "photos"), tmp_path / "new" / "made of"
    result = CliRunner().invoke(main, ["data", "derive", kind, str(source), str(target), "--workers", "2"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "made 4"
    assert f"img2img train pix2pix-small --pairs '{target}' {source}" in lines[1]
    assert sorted(files(target)) == ["a.png", "deep/b.png", "deep/er/c d.png", "e.png"]
    for name in files(target):
        made, original = open_image(target / name), open_image(next(source.glob(f"{name[:-4]}.*")))
        assert (made.height, made.width) == (original.height, original.width)
        assert made.pixels.shape[2] == (1 if kind in ("edges", "gray") else 3)
        assert made.pixels.std() > 1
        assert not np.array_equal(made.as_channels(3), original.as_channels(3))
    words = ["train", "pix2pix-small", "--pairs", str(target), str(source), "--dry-run", "--device", "cpu"]
    dry = CliRunner().invoke(main, [*words, "--set", "data.resolution=32"])
    assert dry.exit_code == 0, dry.output


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_again_and_others_by_seed_where_there_is_chance(kind: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "photos")
    for name, seed, workers in (("one", 0, 1), ("two", 0, 4), ("other", 1, 2)):
        derive(kind, source, tmp_path / name, seed=seed, workers=workers)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (files(tmp_path / "one") != files(tmp_path / "other")) is (kind in ("holes", "noise"))


def test_chance_depends_on_the_name_and_not_on_the_other_files(tmp_path: Path) -> None:
    for folder, names in (("few", ["b.png"]), ("more", ["a.png", "b.png"])):
        (tmp_path / folder).mkdir()
        for name in names:
            picture().save(tmp_path / folder / name)
        derive("holes", tmp_path / folder, tmp_path / f"{folder}-holes")
    more = files(tmp_path / "more-holes")
    assert more["b.png"] == files(tmp_path / "few-holes")["b.png"] != more["a.png"]


def test_grey_of_16_bits_transparency_and_single_pixels(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    deep = np.linspace(0, 65535, 30 * 20).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(source / "deep.png")
    hidden = picture().convert("RGBA")
    hidden.putalpha(Image.fromarray(np.where(np.arange(56) < 20, 0, 255).astype(np.uint8)[None].repeat(40, 0)))
    hidden.save(source / "hidden.png")
    Image.new("RGB", (1, 1), (200, 10, 10)).save(source / "pixel.png")
    for kind in KINDS:
        derive(kind, source, tmp_path / kind)
        made = {name: open_image(tmp_path / kind / f"{name}.png") for name in ("deep", "hidden", "pixel")}
        assert made["deep"].pixels.dtype == (np.uint8 if kind == "edges" else np.uint16)
        assert all(one.alpha is None for one in made.values())
        assert made["pixel"].pixels.shape[:2] == (1, 1)
    assert np.array_equal(open_image(tmp_path / "gray" / "deep.png").pixels[..., 0], deep)
    soft = open_image(tmp_path / "blur" / "deep.png").pixels.astype(int)[4:-4, 8:-8, 0]
    assert len(np.unique(soft % 257)) > 50  # not rounded to 8 bits on the way
    behind = open_image(source / "hidden.png").as_channels(3)
    assert np.array_equal(open_image(tmp_path / "gray" / "hidden.png").pixels, behind_grey(behind))


def behind_grey(pixels: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(pixels).convert("L"))[..., None]


def test_what_cannot_be_used_is_listed_and_the_rest_made(tmp_path: Path) -> None:
    source, target = fill(tmp_path / "photos"), tmp_path / "edges"
    (source / "empty.png").write_bytes(b"")
    result = CliRunner().invoke(main, ["data", "derive", "edges", str(source), str(target), "--json"])
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert (answer["made"], answer["exit_code"]) == (4, 3)
    (line,) = (target / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == answer["skipped"][0]
    assert json.loads(line)["path"] == str(source / "empty.png")
    assert "empty.png: is empty" in result.stderr
    words = f"train pix2pix-small --dry-run --device cpu --set data.resolution=32 --pairs {target} {source}".split()
    dry = CliRunner().invoke(main, [*words, "--set", "data.pairs_policy=intersect"])
    assert dry.exit_code == 0, dry.output


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fill(tmp_path / "photos")

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("img2img.data.derive.save_image", full)
    with pytest.raises(Exception, match="no space"):
        derive("gray", source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_picture_that_is_late_brings_no_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is still at work when the run has failed and its folder is gone."""
    from img2img.data import derive as deriving

    source = fill(tmp_path / "photos")
    begun, gone, ended = threading.Event(), threading.Event(), threading.Event()
    save = deriving.save_image

    def late(place: Path, *arguments: object, **options: object) -> None:
        if place.name != "e.png":
            assert begun.wait(20)
            raise OSError(28, "No space left on device")
        begun.set()
        try:
            gone.wait(20)
            save(place, *arguments, **options)  # type: ignore[arg-type]
        finally:
            ended.set()

    monkeypatch.setattr(deriving, "save_image", late)
    with pytest.raises(Exception, match="no space"):
        derive("gray", source, tmp_path / "out", workers=4)
    gone.set()
    assert ended.wait(20)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "the keyboard"), (signal.SIGTERM, "signal 15")])
def test_a_signal_while_it_works_leaves_nothing(number: signal.Signals, said: str, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 2000), np.uint8)
    for index in range(8):
        Image.fromarray(pixels).save(source / f"{index}.bmp")
    words = [sys.executable, "-m", "img2img_cli", "data", "derive", "edges", str(source), str(tmp_path / "edges")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".img2img-*.tmp/*.png")):  # the others are in the middle of torch
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, f"stopped by {said}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
@pytest.mark.parametrize("columns", [0, 100])
def test_a_bar_is_seen_on_a_terminal_also_of_unknown_width(columns: int, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    words = ["data", "derive", "gray", str(fill(tmp_path / "photos")), str(tmp_path / "gray")]
    subprocess.run(
        [sys.executable, "-m", "img2img_cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        check=True,
        timeout=60,
    )
    drawn = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "| 0/4 [00:00<?, ?img/s]" in drawn
    assert "| 4/4 [" in drawn


def test_progress_begins_before_the_first_picture_is_done(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    derive("gray", fill(tmp_path / "photos"), tmp_path / "gray", progress=lambda *counts: calls.append(counts))
    assert calls == [(done, 4) for done in range(5)]


def test_two_originals_of_one_name_are_refused(tmp_path: Path) -> None:
    source = fill(tmp_path / "photos")
    picture().save(source / "A.jpg")
    with pytest.raises(UsageFault, match=r"several files would be made into one: A\.jpg and a\.png"):
        derive("gray", source, tmp_path / "out")


def test_kornia_is_only_loaded_where_it_is_needed(tmp_path: Path) -> None:
    source = fill(tmp_path / "photos")
    script = """
import sys
from img2img.data.derive import derive
for kind in ("gray", "small", "holes", "noise"):
    derive(kind, sys.argv[1], f"{sys.argv[2]}/{kind}")
print("kornia" in sys.modules)
"""
    words = [sys.executable, "-c", script, str(source), str(tmp_path)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
