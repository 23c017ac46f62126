"""ONNX files: what a program that reads nothing but the file makes of a picture, and what leaves no file."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import img2img
from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
from img2img.errors import Fault, UsageFault
from img2img.inference import onnx_export
from img2img.inference.onnx_export import export_onnx
from img2img.networks import GENERATORS
from img2img_cli import main

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet", {"in_channels": 3, "out_channels": 1, "width": 4, "blocks": 1}),
    "antialiased": (
        "resnet",
        {
            "in_channels": 1,
            "out_channels": 3,
            "width": 4,
            "blocks": 1,
            "norm": "instance_affine",
            **dict.fromkeys(("downsampling", "upsampling"), "antialiased"),
        },
    ),
    "unet": (
        "unet",
        {"in_channels": 3, "out_channels": 3, "width": 4, "depth": 3, "norm": "batch", "dropout_at_test": False},
    ),
    "stylegan2_resnet": (
        "stylegan2_resnet",
        {"in_channels": 3, "out_channels": 3, "widths": (4, 6), "blocks": 1, "noise": False},
    ),
    "noisy": ("unet", {"in_channels": 1, "out_channels": 3, "width": 2, "depth": 2, "dropout_levels": (1,)}),
}


def write(path: Path, *names: str) -> Path:
    """A model with a direction for each name of NETWORKS."""
    torch.manual_seed(0)
    directions = dict(zip(("a2b", "b2a"), ("generator_ab", "generator_ba")[: len(names)]))
    specs = {
        f"generator_{'ab' if index == 0 else 'ba'}": NetworkSpec(*NETWORKS[name]) for index, name in enumerate(names)
    }
    modules = {key: GENERATORS[spec.name](**spec.arguments).eval() for key, spec in specs.items()}
    for module in modules.values():  # weights of a size at which the output depends on them
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
    first = specs["generator_ab"].arguments
    info = ModelInfo(
        translator="cyclegan",
        task="translate",
        networks=specs,
        directions=directions,
        domains={"a": "photos", "b": "drawings"},
        channels={"a": first["in_channels"], "b": first["out_channels"]},
        resolution=(16, 24),
        licence="CC0-1.0",
    )
    write_model(path, modules, info)
    return path


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"the extra onnx is not installed: {package} is missing")
    return pytest.importorskip("onnxruntime", reason="the extra onnx is not installed: onnxruntime is missing")


def translate_by_the_file_alone(runtime: ModuleType, file: Path, image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> the same, as its metadata tell."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    multiple, minimum = int(facts["size_multiple"]), int(facts["size_minimum"])
    crops = []
    for axis in (1, 2):
        side = image.shape[axis]
        padding = math.ceil(max(side, minimum) / multiple) * multiple - side
        before, behind = padding // 2, padding - padding // 2
        amounts = [(0, 0)] * 3
        amounts[axis] = (before, behind)
        image = np.pad(image, amounts, mode="reflect" if behind < side else "edge")
        crops.append(slice(before, before + side))
    (translated,) = session.run(None, {"images": image[None]})
    return translated[0][:, crops[0], crops[1]]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "noisy"])
def test_the_file_alone_gives_the_models_pictures(name: str, runtime: ModuleType, tmp_path: Path) -> None:
    source, target = write(tmp_path / "model.safetensors", name), tmp_path / "model.onnx"
    result = CliRunner().invoke(main, ["models", "export", str(source), str(target), "--json"])
    assert result.exit_code == 0, result.output
    exported = json.loads(result.stdout)
    assert exported["difference"] <= 1e-4
    assert exported["bytes"] == target.stat().st_size
    assert len(exported["sizes"]) == 4
    assert [1, 16, 24] in exported["sizes"]  # the trained size
    model = img2img.load(source, device="cpu")
    channels = NETWORKS[name][1]["in_channels"]
    for height, width in ((1, 3), (5, 7), (21, 40)):
        image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
        wanted = model.run_each(image[None], "a2b")[0]
        given = translate_by_the_file_alone(runtime, target, image.numpy())
        np.testing.assert_allclose(given, wanted.numpy(), atol=1e-4)
    assert wanted.std() > 0.01, "a picture with something in it"


def test_a_direction_and_what_else_the_file_says(runtime: ModuleType, tmp_path: Path) -> None:
    source, target = write(tmp_path / "model.safetensors", "resnet", "noisy"), tmp_path / "back.onnx"
    words = ["models", "export", str(source), str(target), "--direction", "b2a", "--licence", "MIT"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for line in (
        "drawings → photos, opset ",
        "sides: multiples of 4, at least 4\n",
        "compared at 4 × 4, 8 × 12, 16 × 8, 24",
    ):
        assert line in result.stdout
    assert "noise (dropout while translating) is left out" in result.stdout
    session = runtime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["from"], facts["to"], facts["channels_in"], facts["channels_out"]) == ("drawings", "photos", "1", "3")
    assert (facts["value_range"], facts["size_multiple"], facts["size_minimum"]) == ("-1 1", "4", "4")
    assert (facts["licence"], facts["noise"], facts["scale"]) == ("MIT", "left out", "trained")
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]


def test_other_pictures_leave_no_file(runtime: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "model.safetensors", "resnet")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)  # rounding differs
    with pytest.raises(Fault, match=r"model\.safetensors: its ONNX file gives other pictures: values differ by .*e-"):
        export_onnx(source, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_network_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "model.safetensors", "resnet")
    monkeypatch.setattr(onnx_export, "require_packages", lambda: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *_args, **_options: 1 / 0)
    with pytest.raises(Fault, match="cannot be written as ONNX") as caught:
        export_onnx(source, tmp_path / "model.onnx")
    assert "ZeroDivisionError" in caught.value.problem
    assert not (tmp_path / "model.onnx").exists()


def test_a_missing_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "model.safetensors", "resnet")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in onnx_export.PACKAGES else find(name, *rest)
    )
    result = CliRunner().invoke(main, ["models", "export", str(source), str(tmp_path / "model.onnx")])
    assert result.exit_code == 2
    assert "an ONNX file needs onnx, onnxruntime, onnxscript, which are not installed" in result.stderr
    assert "pip install -e '.[onnx]'" in result.stderr
    assert not (tmp_path / "model.onnx").exists()


def test_a_network_with_more_inputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Styled(GENERATORS["resnet"]):  # type: ignore[misc, name-defined]
        def forward(self, images: torch.Tensor, style: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return images + style

    source = write(tmp_path / "model.safetensors", "resnet")
    monkeypatch.setitem(GENERATORS, "resnet", Styled)
    with pytest.raises(UsageFault, match="its network also needs style"):
        export_onnx(source, tmp_path / "model.onnx")
