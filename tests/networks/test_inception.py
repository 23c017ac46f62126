"""The FID Inception: against another implementation on the same weights, and folded against unfolded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from img2img.networks.inception import Inception, fold_norms


@pytest.fixture
def network(inception_state: dict[str, Tensor]) -> Inception:
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(inception_state, assign=True)
    return network.double().eval().requires_grad_(False)


def test_equals_torch_fidelity_in_double_precision(
    network: Inception, inception_state: dict[str, Tensor], tmp_path: Path
) -> None:
    reference = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(inception_state, tmp_path / "weights.pth")
    oracle = reference.FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
    ).double()
    oracle.feature_extractor_internal_dtype = torch.float64
    oracle.INPUT_IMAGE_SIZE = 107  # instead of 299, for speed
    images = torch.randint(0, 256, (2, 3, 107, 107), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    features, logits = network((images.double() - 128) / 128)
    expected = oracle(images)  # rounded to single precision at the end
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    torch.testing.assert_close(features.float(), expected[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits.float(), expected[1], rtol=1e-6, atol=1e-6)


def test_folded_norms_change_no_value(network: Inception) -> None:
    images = torch.rand(2, 3, 107, 91, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    before = network(images)
    fold_norms(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    torch.testing.assert_close(network(images), before, rtol=1e-10, atol=1e-10)
