from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from img2img_cli import doctor, main
from img2img_cli.doctor import examine


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["doctor", *words])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices without asking torch."""
    cpu = {"device": "cpu", "name": "A CPU", "memory_gb": 8.0, "bfloat16": False, "cores": 2, "threads": 2}
    monkeypatch.setattr(doctor, "_devices", lambda: [cpu])


def test_doctor_names_versions_devices_and_formats() -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["versions"]["torch"]
    assert report["devices"][0]["device"] == "cpu"
    assert isinstance(report["devices"][0]["bfloat16"], bool)
    assert report["devices"][0]["threads"] >= 1
    assert {"PNG", "JPEG", "WEBP", "TIFF"} <= set(report["formats"])
    assert report["broken"] == []
    text = run().stdout
    for word in ("torch", "cpu", "PNG", "Everything that img2img needs is here."):
        assert word in text


def test_what_is_missing_comes_with_its_mend(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pillow-heif" else version(name))
    report = examine()
    assert {entry["what"] for entry in report["missing"]} >= {
        "package pillow-heif, for reading HEIC and HEIF pictures",
        "a GPU that torch can use",
        "bfloat16 in hardware",
    }
    assert all(entry["mend"] for entry in report["missing"])
    result = run()
    assert result.exit_code == 0
    assert "pip install pillow-heif" in result.stdout


def test_a_broken_installation_is_described_not_suffered(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("libtorch.so: cannot open shared object file")

    version = doctor._version
    monkeypatch.setattr(doctor, "_devices", broken)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "kornia" else version(name))
    result = run("--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    whats = [entry["what"] for entry in report["broken"]]
    assert whats == ["package kornia", "torch does not work (libtorch.so: cannot open shared object file)"]
    text = run().stdout
    assert "Broken" in text
    assert "Everything" not in text
