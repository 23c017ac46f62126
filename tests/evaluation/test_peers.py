"""From the same two folders and the same Inception weights: the scores of torch-fidelity, pytorch-fid and clean-fid."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.evaluation.extractors import Extractor, load_extractor
from img2img.evaluation.features import extract
from img2img.evaluation.image_set import open_set
from img2img.evaluation.run import evaluate
from img2img.metrics.frechet import frechet_distance_of
from img2img.metrics.inception_score import inception_score

COUNT = 12
# of scipy, which the peers call by an older name
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::scipy.linalg.LinAlgWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Smooth pictures, and the same kind with less contrast: no two alike, at 64 × 48."""
    root = tmp_path_factory.mktemp("peers")
    generator = np.random.default_rng(0)
    for name, contrast in (("real", 1.0), ("fake", 0.6)):
        (root / name).mkdir()
        for number in range(COUNT):
            coarse = 128 + contrast * generator.uniform(-128, 127, (6, 6, 3))
            image = Image.fromarray(coarse.astype(np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
            image.save(root / name / f"{number:02d}.png")
    return root / "real", root / "fake"


@pytest.fixture(scope="module")
def weights(inception_state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers-weights") / "weights.pth"
    torch.save(inception_state, path)
    return path


@pytest.mark.slow  # their root of a matrix of 2048 rows
def test_scores_are_those_of_torch_fidelity(folders: tuple[Path, Path], inception_file: Path, weights: Path) -> None:
    peer = pytest.importorskip("torch_fidelity")
    theirs = peer.calculate_metrics(
        input1=str(folders[1]),
        input2=str(folders[0]),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        isc_splits=1,
        kid_subsets=2,
        kid_subset_size=COUNT,
        verbose=False,
        cache=False,
        save_cpu_ram=True,
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(weights),
    )
    card = evaluate(*folders, weights=inception_file, measures=("fd", "kid", "prdc"), resamples=0, device="cpu")
    ours = card.values()
    assert list(ours) == ["FID", "KID", "precision", "recall", "density", "coverage"]
    assert ours["FID"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["KID"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert ours["precision"] == pytest.approx(theirs["precision"], rel=1e-4)
    assert ours["recall"] == pytest.approx(theirs["recall"], rel=1e-4)
    logits = extract(open_set(folders[1]), load_extractor("inception-2015", inception_file)).logits
    assert logits is not None
    assert inception_score(logits, splits=1).mean == pytest.approx(theirs["inception_score_mean"], rel=1e-4)


def _values(folder: Path, extractor: Extractor) -> np.ndarray:
    values = extract(open_set(folder), extractor).values
    assert values is not None
    return values.double().numpy()


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # of so few pictures the whole covariance is singular, and its root in their code takes a minute
    some = values[:, :5]
    return some.mean(0), np.cov(some, rowvar=False)


@pytest.mark.slow
def test_features_and_distance_are_those_of_pytorch_fid(
    folders: tuple[Path, Path], inception_file: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = pytest.importorskip("pytorch_fid.fid_score")
    inception = pytest.importorskip("pytorch_fid.inception")
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    extractor = load_extractor("inception-2015", inception_file, "pytorch")
    ours, theirs = [], []
    for folder in folders:
        ours.append(_values(folder, extractor))
        files = sorted(folder.iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
        theirs.append(peer.get_activations(files, network, 6, 2048, "cpu", num_workers=0))
        np.testing.assert_allclose(ours[-1], theirs[-1], rtol=1e-4, atol=1e-4 * theirs[-1].max())
    distance = peer.calculate_frechet_distance(*_statistics(theirs[0]), *_statistics(theirs[1]))
    some = (torch.from_numpy(values[:, :5]) for values in ours)
    assert frechet_distance_of(*some) == pytest.approx(distance, rel=1e-4)


def test_the_distance_of_the_same_features_is_that_of_clean_fid(
    folders: tuple[Path, Path], inception_file: Path
) -> None:
    peer = pytest.importorskip("cleanfid.fid")
    extractor = load_extractor("inception-2015", inception_file, "clean")
    real, fake = (_values(folder, extractor) for folder in folders)
    theirs = peer.frechet_distance(*_statistics(real), *_statistics(fake))
    some = (torch.from_numpy(values[:, :5]) for values in (real, fake))
    assert frechet_distance_of(*some) == pytest.approx(theirs, rel=1e-8)
