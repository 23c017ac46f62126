"""The demo, trained for a second: every file is there, the page is whole, nothing of others is touched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from img2img_cli import main

pytest.importorskip("skimage", reason="scikit-image is not installed (extra demo)")
pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra demo)")

from img2img import demo
from img2img.errors import UsageFault


class Links(HTMLParser):
    """All src and href of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value is not None]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A finished demo: its folder, stdout and stderr."""
    out = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(main, ["demo", "--out", str(out), "--length", "0.002", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return out, result.stdout, result.stderr


def test_page_is_whole_and_asks_for_nothing_from_outside(finished: tuple[Path, str, str]) -> None:
    out, _, _ = finished
    text = (out / "index.html").read_text("utf-8")
    page = Links(text)
    own = [link for link in page.links if not link.startswith("data:")]
    assert own == ["runs/photographs/report.html", "runs/digits/report.html"]
    assert all((out / link).is_file() for link in own)
    assert not re.search(r"url\(|@import|https?://", text)
    assert text.count("output: restored</figcaption>") == len(demo.HELD_OUT_PHOTOGRAPHS)
    assert text.count('<figure class="chart"') == 2
    assert "Mean absolute difference" in page.text
    assert "nan" not in page.text


def test_files_are_there(finished: tuple[Path, str, str]) -> None:
    out, _, _ = finished
    data = out / "data" / "photographs"
    for side in ("aged", "fresh"):
        assert len(list((data / "train" / side).glob("*.png"))) == demo.NUM_TILES
    assert len(list((out / "data" / "digits").glob("?/*.png"))) == 1797
    for _, name in demo.HELD_OUT_PHOTOGRAPHS:
        with Image.open(out / "restored" / name) as restored, Image.open(data / "held-out" / "fresh" / name) as fresh:
            assert restored.size == fresh.size
    for name in ("real.png", "generated.png"):
        with Image.open(out / "digits" / name) as grid:
            assert grid.size == (10 * (demo.DIGIT_SIZE + 4), 10 * (demo.DIGIT_SIZE + 4))
    for run in ("photographs", "digits"):
        assert (out / "runs" / run / "model.safetensors").is_file()


def test_last_line_names_the_page(finished: tuple[Path, str, str]) -> None:
    out, stdout, _ = finished
    assert stdout.splitlines()[-1].endswith(str(out / "index.html"))
    assert re.search(r"aged prints: [\d.]+ / 255", stdout)
    assert re.search(r"digits: \d+% ", stdout)


def test_held_out_photographs_are_not_trained_on() -> None:
    assert not set(demo.TRAINING_PHOTOGRAPHS) & set(demo.HELD_OUT_PHOTOGRAPHS)


def test_an_earlier_demo_is_made_anew_and_nothing_else(tmp_path: Path) -> None:
    demo.prepare_folder(tmp_path / "new")
    old, kept = tmp_path / "new" / "runs" / "old", tmp_path / "new" / "mine.txt"
    old.mkdir(parents=True)
    kept.write_text("mine")
    demo.prepare_folder(tmp_path / "new")
    assert not old.exists()
    assert kept.is_file()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "runs").mkdir()
    with pytest.raises(UsageFault, match="not made by the demo"):
        demo.prepare_folder(foreign)
    assert (foreign / "runs").is_dir()


def test_foreign_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 2
    assert "not made by the demo" in json.loads(result.stdout)["error"][0]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda module: None if module == "skimage" else object())
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: scikit-image: not installed")
    assert "[demo]" in result.stderr
    assert not (tmp_path / "out").exists()


def test_ageing_is_repeatable_and_keeps_size() -> None:
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    first, second = (np.asarray(demo.age(photograph, np.random.default_rng(1))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (40, 60, 3)
    assert first.std() < np.asarray(photograph).std()


def test_nearest_label_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    images, known, labels = rng.random((20, 4, 4)), rng.random((50, 4, 4)), rng.integers(0, 5, 50)
    expected = [labels[min(range(50), key=lambda i: float(((image - known[i]) ** 2).sum()))] for image in images]
    np.testing.assert_array_equal(demo.nearest_label(images, known, labels), expected)


def test_colour_correction_recovers_an_affine_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fresh = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for side, pixels in (("aged", 40 + fresh // 2), ("fresh", fresh)):
        (tmp_path / side).mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / side / "0.png")
    correction = demo.fit_colour_correction(tmp_path)
    np.testing.assert_allclose(correction[:3], 2 * np.eye(3), atol=0.01)
    np.testing.assert_allclose(correction[3], -80, atol=1.5)


def test_spread_is_zero_for_equal_images_and_scales() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 5)
    assert demo.spread(np.ones((50, 8, 8)), labels) == 0
    images = rng.random((50, 8, 8))
    assert demo.spread(3 * images, labels) == pytest.approx(3 * demo.spread(images, labels))
