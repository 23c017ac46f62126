"""`img2img translate` as typed: exit codes, last lines, JSON, messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.errors import UsageFault
from img2img.networks import GENERATORS, ROLES
from img2img_cli import main
from img2img_cli.translate import _streams


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model a → b."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    arguments = {"in_channels": 3, "out_channels": 3, "width": 4, "blocks": 1}
    info = ModelInfo(
        translator="pix2pix",
        task="translate",
        networks={"generator": NetworkSpec("resnet", arguments)},
        directions={"a2b": "generator"},
        domains={"a": "photos", "b": "maps"},
        channels={"a": 3, "b": 3},
        resolution=(32, 32),
    )
    write_model(path, {"generator": GENERATORS["resnet"](**arguments)}, info)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos é"
    (folder / "x").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "x/a.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def translate(*arguments: object, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["translate", *map(str, arguments), "--device", "cpu"], input=input)


def test_a_folder(model_file: Path, photos: Path, tmp_path: Path) -> None:
    result = translate(model_file, photos, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "translated 3"
    assert "images/s, the network took" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*g")) == ["a.png", "a.png", "b.jpg"]
    again = translate(model_file, photos, tmp_path / "out", "--skip-existing")
    assert again.stdout.splitlines()[-1] == "translated 0, already there 3"


def test_skips_give_3_and_name_the_file(model_file: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = translate(model_file, photos, tmp_path / "out")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1] == "translated 3, skipped 1 (see skipped.jsonl)"
    assert "error: " in result.stderr
    assert "bad.png" in result.stderr
    strict = translate(model_file, photos, tmp_path / "strict", "--strict")
    assert strict.exit_code == 1
    assert "bad.png" in strict.stderr


def test_json_is_one_object(model_file: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").touch()
    result = translate(model_file, photos, tmp_path / "out", "--json")
    answer = json.loads(result.stdout)
    assert (answer["translated"], answer["exit_code"], result.exit_code) == (3, 3, 3)
    assert answer["skipped"][0]["path"].endswith("bad.png")
    assert answer["images_per_second"] > 0
    assert answer["network_seconds"] < answer["seconds"]


def test_a_file(model_file: Path, photos: Path, tmp_path: Path) -> None:
    assert translate(model_file, photos / "a.png", tmp_path / "new.jpg").stdout == "translated 1\n"
    assert Image.open(tmp_path / "new.jpg").size == (24, 20)
    assert translate(model_file, photos / "a.png", tmp_path / "folder").exit_code == 0
    assert (tmp_path / "folder" / "a.png").exists()
    (photos / "bad.png").touch()
    bad = translate(model_file, photos / "bad.png", tmp_path / "bad.png")
    assert (bad.exit_code, (tmp_path / "bad.png").exists()) == (1, False)


def test_standard_input_and_output(model_file: Path, photos: Path, tmp_path: Path) -> None:
    photo = (photos / "b.jpg").read_bytes()
    assert translate(model_file, photos / "b.jpg", tmp_path / "named.jpg").exit_code == 0
    expected = (tmp_path / "named.jpg").read_bytes()
    for arguments, stdin in ((["-", "-"], photo), ([photos / "b.jpg", "-"], None)):
        result = translate(model_file, *arguments, input=stdin)
        assert result.exit_code == 0
        assert result.stdout_bytes == expected
        assert "translated 1" in result.stderr
    assert translate(model_file, "-", tmp_path / "new.png", input=photo).stdout == "translated 1\n"
    assert Image.open(tmp_path / "new.png").size == (24, 20)
    bad = translate(model_file, "-", "-", input=photo[:50])
    assert (bad.exit_code, bad.stdout_bytes) == (1, b"")
    assert "standard input: " in bad.stderr


@pytest.mark.parametrize(("source", "target"), [("-", "out.png"), ("photo", "-")])
def test_a_closed_stream_is_named(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell closes them by <&- and >&-."""
    monkeypatch.setattr("sys.stdin" if source == "-" else "sys.stdout", None)
    with pytest.raises(UsageFault, match=r"standard (input|output) is closed"):
        _streams(Path(source), Path(target), as_json=False)


def test_all_frames_are_each_what_it_is_alone(model_file: Path, tmp_path: Path) -> None:
    """Whole or in tiles, by a file, a folder or streams."""
    frames = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 36, 3), np.uint8)) for seed in range(3)]
    film = tmp_path / "src" / "film.png"
    film.parent.mkdir()
    frames[0].save(film, save_all=True, append_images=frames[1:], duration=[40, 50, 60])
    for index, frame in enumerate(frames):
        frame.save(tmp_path / f"{index}.png")
        result = translate(model_file, tmp_path / f"{index}.png", tmp_path / f"{index}-alone.png")
        assert result.exit_code == 0, result.output
    assert translate(model_file, film, tmp_path / "whole.png", "--frames", "all").stdout == "translated 1\n"
    assert translate(model_file, film, tmp_path / "tiles.png", "--frames", "all", "--tile", "16").exit_code == 0
    for name, tolerance in (("whole", 0), ("tiles", 1)):
        with Image.open(tmp_path / f"{name}.png") as made:
            assert made.n_frames == 3  # type: ignore[attr-defined]
            for index in range(3):
                made.seek(index)
                alone = np.asarray(Image.open(tmp_path / f"{index}-alone.png")).astype(int)
                assert np.abs(np.asarray(made) - alone).max() <= tolerance
                assert made.info["duration"] == 40 + 10 * index
    expected = (tmp_path / "whole.png").read_bytes()
    assert translate(model_file, film.parent, tmp_path / "out", "--frames", "all").exit_code == 0
    assert (tmp_path / "out" / "film.png").read_bytes() == expected
    assert translate(model_file, "-", "-", "--frames", "all", input=film.read_bytes()).stdout_bytes == expected


def test_shards(model_file: Path, photos: Path, tmp_path: Path) -> None:
    results = [translate(model_file, photos, tmp_path / "out", "--shard", f"{number}/2") for number in (1, 2)]
    assert [result.stdout.splitlines()[-1] for result in results] == ["translated 2", "translated 1"]


def test_torchrun_shares_and_counts_once(model_file: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--module", "img2img_cli", "translate", str(model_file), str(photos), str(tmp_path / "out")]
    run = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "translated 3, skipped 1 (see skipped.jsonl)", run.stderr
    assert run.stdout.count("translated") == 1
    assert run.returncode != 0
    assert "exitcode  : 3" in run.stderr
    assert len(list((tmp_path / "out").rglob("*.*g"))) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL", "PHOTOS", "PHOTOS"], "--in-place"),
        (["MODEL", "PHOTOS", "OUT", "--direction", "b2a"], "only a2b (photos → maps)"),
        (["MODEL", "PHOTOS", "OUT", "--direction", "north"], "Use a2b"),
        (["MODEL", "PHOTOS", "OUT", "--scale", "big"], "auto, trained, native or a factor"),
        (["MODEL", "PHOTOS", "OUT", "--format", "pdf"], "Use one of png"),
        (["MODEL", "PHOTOS", "OUT", "--background", "noir"], "#rrggbb"),
        (["MODEL", "PHOTOS", "OUT", "--quality", "0"], "--quality"),
        (["MODEL", "PHOTOS", "OUT", "--frames", "2"], "--frames"),
        (["MODEL", "PHOTOS", "MODEL"], "is a file"),
        (["MODEL", "MISSING", "OUT"], "no such folder"),
        (["MISSING", "PHOTOS", "OUT"], "there is no such file"),
        (["MODEL", "MISSING.png", "OUT.png"], "no such file"),
        (["MODEL", "PHOTOS/a.png", "OUT.png", "--skip-existing"], "is for folders"),
        (["MODEL", "PHOTOS/a.png", "OUT.png", "--shard", "1/2"], "is for folders"),
        (["MODEL", "PHOTOS", "OUT", "--shard", "3/2"], "1/4, 2/4, 3/4 and 4/4"),
        (["MODEL", "PHOTOS", "OUT", "--tile", "big"], "auto, off or a number"),
        (["MODEL", "PHOTOS", "OUT", "--tile", "4"], "from 16 on"),
        (["MODEL", "-", "OUT"], "for a folder"),
        (["MODEL", "PHOTOS", "-"], "for a folder"),
        (["MODEL", "PHOTOS/a.png", "-", "--json"], "Give DST a name"),
    ],
)
def test_usage_faults(model_file: Path, photos: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    paths = {"MODEL": model_file, "PHOTOS": photos, "OUT": tmp_path / "out", "MISSING": tmp_path / "missing"}
    filled = []
    for word in arguments:
        for name, path in paths.items():
            word = word.replace(name, str(path)) if word.startswith(name) else word
        filled.append(word)
    result = translate(*filled)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_model(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    result = translate(tmp_path / "model.pt", photos, tmp_path / "out")
    assert result.exit_code == 2
    assert "Ask for a .safetensors" in result.stderr


def test_help_names_every_option() -> None:
    result = CliRunner().invoke(main, ["translate", "--help"])
    for option in ("--direction", "--scale", "--skip-existing", "--strict", "--in-place", "--format", "--batch"):
        assert option in result.stdout


def test_a_style_by_class_seed_and_reference(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "animals.safetensors"
    torch.manual_seed(0)
    size = {"resolution": (16, 16), "width": 4, "max_width": 8}
    styles = {"num_classes": 2, "style_dim": 4}
    arguments = {
        "generator": ("generator", {**size, "style_dim": 4}),
        "generator_mapping": ("mapping", styles),
        "generator_style_encoder": ("style_encoder", {**size, **styles}),
    }
    info = ModelInfo(
        translator="starganv2",
        task="translate",
        networks={name: NetworkSpec("starganv2", values, role=role) for name, (role, values) in arguments.items()},
        directions={"a2b": "generator"},
        domains={"a": "animals", "b": "animals"},
        channels={"a": 3, "b": 3},
        classes=("cat", "dog"),
        resolution=(16, 16),
    )
    write_model(path, {name: ROLES[role]["starganv2"](**values) for name, (role, values) in arguments.items()}, info)
    reference = photos / "a.png"
    made = set()
    for options in (
        ["--style", "cat"],
        ["--style", "dog"],
        ["--style", "dog", "--seed", "1"],
        ["--style", "dog", "--reference", reference],
    ):
        result = translate(path, photos / "x" / "a.png", tmp_path / "out.png", "--overwrite", *options)
        assert result.exit_code == 0, result.output
        made.add((tmp_path / "out.png").read_bytes())
    assert len(made) == 4
    sheet = tmp_path / "sheet.png"
    options = ["--sources", photos, "--references", photos, "--count", 2, "--out", sheet, "--device", "cpu"]
    result = CliRunner().invoke(main, ["explore", "references", *map(str, [path, *options])])
    assert result.exit_code == 2
    assert "does not say of which class it is" in result.stderr
    result = CliRunner().invoke(main, ["explore", "references", *map(str, [path, *options, "--class", "cat"])])
    assert result.exit_code == 0, result.output
    assert Image.open(sheet).size == (3 * 16 + 2 * 2, 3 * 16 + 2 * 2)
    result = translate(path, photos, tmp_path / "out")
    assert result.exit_code == 2
    assert "translates into one of cat, dog" in result.stderr
    result = translate(path, photos, tmp_path / "out", "--style", "dig")
    assert result.exit_code == 2
    assert "Did you mean dog?" in result.stderr
    result = CliRunner().invoke(main, ["models", "info", str(path)])
    assert "translates into 2 classes, in many styles" in result.stdout
    assert "cat, dog" in result.stdout
