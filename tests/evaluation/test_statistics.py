"""Statistics of other tools: read as they are written, and anything else named."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from img2img.errors import UsageFault
from img2img.evaluation.statistics import is_statistics, read_statistics


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(50, 6))
    return {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}


def test_mean_and_covariance_come_back(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "stats.npz", **arrays)
    assert is_statistics(tmp_path / "stats.npz")
    found = read_statistics(tmp_path / "stats.npz", 6)
    assert (found.count, found.values) == (None, None)
    np.testing.assert_allclose(found.gaussian.mean, arrays["mu"], rtol=1e-15)
    np.testing.assert_allclose(found.gaussian.covariance, arrays["sigma"], rtol=1e-15)


def test_features_come_back(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    np.savez(tmp_path / "stats.npz", feats=np.asfortranarray(features))
    found = read_statistics(tmp_path / "stats.npz", 6)
    assert found.count == 9
    np.testing.assert_array_equal(found.values, features)


def test_pictures_are_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "pictures.npz", images=np.zeros((3, 4, 4), np.uint8))
    assert not is_statistics(tmp_path / "pictures.npz")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mu": np.zeros(5)}, r"its mu has shape \(5,\), not 6"),
        ({"sigma": np.zeros((6, 5))}, r"its sigma has shape \(6, 5\), not 6 × 6"),
        ({"mu": np.full(6, np.nan)}, "not finite"),
        ({"sigma": np.triu(np.ones((6, 6)))}, "no covariance"),
        ({"sigma": -np.eye(6)}, "no covariance"),
        ({"mu": np.array(["a"] * 6)}, "not numbers"),
    ],
)
def test_what_is_no_statistics_is_named(
    change: dict[str, np.ndarray], problem: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "stats.npz", **{**arrays, **change})
    with pytest.raises(UsageFault, match=problem) as caught:
        read_statistics(tmp_path / "stats.npz", 6)
    assert str(caught.value).startswith(str(tmp_path / "stats.npz"))


def test_a_pickle_is_refused_and_not_run(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "stats.npz", mu=np.array([Payload()] * 6, object), sigma=arrays["sigma"])
    with pytest.raises(UsageFault, match="pickled, which can run code"):
        read_statistics(tmp_path / "stats.npz", 6)
    with zipfile.ZipFile(tmp_path / "bare.npz", "w") as archive:
        archive.writestr("mu.npy", pickle.dumps(Payload()))
        archive.writestr("sigma.npy", pickle.dumps(Payload()))
    with pytest.raises(UsageFault, match="no usable"):
        read_statistics(tmp_path / "bare.npz", 6)
    assert not (tmp_path / "ran").exists()


def test_a_cut_file_is_named(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        with pytest.raises(UsageFault, match="no usable"):
            read_statistics(path, 6)
