from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from img2img_cli import main


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, words)])


def fill(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (40, 48)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        blocks = random.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.NEAREST).save(folder / f"{index:03d}.png")
    return folder


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from img2img_cli import main\n"
        "try: main(['data', 'pack', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["check", "pack", "split"])
def test_every_command_has_help_with_examples(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"img2img data {name}" in result.output


class TestCheck:
    def test_clean(self, tmp_path: Path) -> None:
        result = run("check", "--images", fill(tmp_path / "x", 3))
        assert result.exit_code == 0, result.output
        assert "3 images (images)" in result.stdout
        assert "sizes: 48×40 to 48×40" in result.stdout
        assert "no problems" in result.stdout

    def test_bad_files(self, tmp_path: Path) -> None:
        fill(tmp_path, 2)
        (tmp_path / "bad.jpg").write_bytes(b"%PDF-1.4")
        (tmp_path / "\x1b[2Jbad.png").write_bytes(b"")
        result = run("check", "--images", tmp_path)
        assert result.exit_code == 2
        assert "bad.jpg: is not a picture that can be read (it is a PDF). Convert it to PNG or JPEG" in result.stderr
        assert "2 problems" in result.stdout
        assert "4 files, 2 of them usable (images)" in result.stdout
        assert json.loads(run("check", "--images", tmp_path, "--json").stdout)["usable"] == 2
        assert "\x1b" not in result.output

    def test_links_to_folders(self, tmp_path: Path) -> None:
        fill(tmp_path / "x", 1)
        (tmp_path / "x" / "more").symlink_to(fill(tmp_path / "y", 2))
        result = run("check", "--images", tmp_path / "x")
        assert f"warning: 1 link to a folder is not followed, such as {tmp_path / 'x' / 'more'}" in result.stdout
        assert "1 image (images)" in result.stdout

    def test_json(self, tmp_path: Path) -> None:
        fill(tmp_path / "train", 2)
        fill(tmp_path / "test", 1)
        result = run("check", "--images", tmp_path, "--json")
        assert result.exit_code == 0
        report = json.loads(result.stdout)
        assert report["images"] == 3
        assert report["sizes"] == {"48x40": 3}
        assert len(report["leaks"]) == 1

    def test_pairs_in_two_folders(self, tmp_path: Path) -> None:
        a, b = fill(tmp_path / "a", 3), fill(tmp_path / "b", 2, seed=1)
        result = run("check", "--pairs", a, b)
        assert result.exit_code == 2
        assert "1 only in" in result.stderr
        assert "002" in result.stderr

    def test_missing_folder(self, tmp_path: Path) -> None:
        result = run("check", "--images", tmp_path / "nowhere")
        assert result.exit_code == 2
        assert "no such folder" in result.output
        assert "Traceback" not in result.output


class TestPack:
    def test_pack(self, tmp_path: Path) -> None:
        a, b = fill(tmp_path / "a", 3), fill(tmp_path / "b", 2, seed=1)
        out = tmp_path / "packed"
        result = run(
            "pack", "cyclegan-small", "--a", a, "--b", b, "--set", "data.resolution=32", "--out", out, "--json"
        )
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        assert answer["counts"] == {"a": 3, "b": 2}
        assert (out / "index.json").is_file()
        again = run("pack", "cyclegan-small", "--a", a, "--b", b, "--out", out)
        assert again.exit_code == 2
        assert "exists already" in again.output
        checked = run("check", "--a", out, "--b", out)
        assert checked.exit_code == 0, checked.output
        assert "5 images (packs)" in checked.stdout

    def test_pairs_and_skip(self, tmp_path: Path) -> None:
        a, b = fill(tmp_path / "a", 12), fill(tmp_path / "b", 12, seed=1)
        (b / "003.png").write_bytes(b"")
        words = ["pack", "pix2pix-small", "--pairs", a, b, "--out", tmp_path / "packed", "--set", "data.resolution=32"]
        result = run(*words)
        assert result.exit_code == 2
        assert "003.png: is empty" in result.output
        assert not (tmp_path / "packed").exists()
        result = run(*words, "--set", "data.skip_bad=true")
        assert result.exit_code == 0, result.output
        assert "left out: " in result.stderr
        assert "packed 11 pairs" in result.stdout

    def test_wrong_words(self, tmp_path: Path) -> None:
        result = run("pack", "nonsense", "--images", tmp_path, "--out", tmp_path / "packed")
        assert result.exit_code == 2
        assert "nonsense" in result.output


class TestSplit:
    def test_split(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            fill(tmp_path / "x" / name, 20)
        result = run(
            "split", "--classes", tmp_path / "x", "--out", tmp_path / "y", "--fractions", "0.7,0,0.3", "--json"
        )
        assert result.exit_code == 0, result.output
        counts = json.loads(result.stdout)["counts"]
        assert counts["train"] + counts["test"] == 40
        assert sorted(path.name for path in (tmp_path / "y" / "train").iterdir()) == ["cat", "dog"]

    def test_a_class_that_gets_nothing_is_named(self, tmp_path: Path) -> None:
        fill(tmp_path / "x" / "cat", 30)
        fill(tmp_path / "x" / "dog", 1)
        result = run("split", "--classes", tmp_path / "x", "--out", tmp_path / "y", "--every", 5)
        assert result.exit_code == 0, result.output
        assert "warning: class dog has no picture in test" in result.stderr

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--fractions", "half"], "not three numbers"),
            (["--fractions", "0.5,0.1,0.1"], "not a division of 1"),
            (["--pairs", "a"], "needs one kind of data"),
        ],
    )
    def test_wrong_words(self, tmp_path: Path, words: list[str], message: str) -> None:
        result = run("split", "--images", fill(tmp_path / "x", 2), "--out", tmp_path / "y", *words)
        assert result.exit_code == 2
        assert message in result.output
        assert not (tmp_path / "y").exists()
