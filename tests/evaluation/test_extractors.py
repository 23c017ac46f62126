"""Extractors: against other implementations on the same weights and pictures, and independent of batches and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.functional import normalize

from img2img.errors import UsageFault
from img2img.evaluation import extractors
from img2img.evaluation.extractors import EXTRACTORS, Extractor, load_extractor, wrap_module
from img2img.evaluation.known_weights import layout
from img2img.evaluation.resizing import RESIZES, resize_clean
from img2img.networks.inception import Inception

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    """(count, channels, height, width) uint8: coarse colours that differ from picture to picture, under noise."""
    generator = torch.Generator().manual_seed(height * width + count)
    coarse = 255 * torch.rand(count, channels, 5, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 30 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """Equal to a hundred-thousandth of their size, and to a thousandth of what tells the rows apart."""
    assert found.shape == expected.shape
    difference = (found - expected).norm()
    assert difference <= 1e-5 * expected.norm()
    assert difference <= 1e-3 * (expected - expected.mean(0)).norm()


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> Extractor:
    return load_extractor("inception-2015", inception_file)


@pytest.fixture(scope="module")
def torch_fidelity(
    inception_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    reference = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("torch_fidelity") / "weights.pth"
    torch.save(inception_state, path)
    return reference.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )


@pytest.fixture(scope="module")
def squeezenet_tensors() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(models.squeezenet1_0().state_dict())


# --- against other implementations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(128, 128), (299, 299), (341, 256)])
def test_inception_is_that_of_torch_fidelity(
    shape: tuple[int, int], inception: Extractor, torch_fidelity: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    images = pictures(2, *shape)
    seen = inception(images)
    features, logits = torch_fidelity(images)
    assert_alike(seen.features, features)
    assert_alike(seen.logits, logits)


def test_inception_by_pytorch_is_that_of_pytorch_fid(
    inception_file: Path, inception_state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: inception_state)
    oracle = reference.InceptionV3().eval()
    images = pictures(2, 100, 120)
    seen = load_extractor("inception-2015", inception_file, "pytorch")(images)
    assert_alike(seen.features, oracle(images / 255)[0][:, :, 0, 0])


def test_inception_by_clean_takes_what_pillow_makes(inception_file: Path, inception_state: dict[str, Tensor]) -> None:
    images = pictures(2, 400, 310)
    planes = [
        np.asarray(Image.fromarray(plane.float().numpy()).resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
        for plane in images.flatten(0, 1)
    ]
    network = Inception().eval().requires_grad_(False)
    network.load_state_dict(inception_state)
    features, logits = network((torch.from_numpy(np.stack(planes)).unflatten(0, (2, 3)) - 128) / 128)
    seen = load_extractor("inception-2015", inception_file, "clean")(images)
    assert_alike(seen.features, features)
    assert_alike(seen.logits, logits)


def test_torchvision_inception_is_that_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = models.inception_v3(weights=None, init_weights=False, transform_input=True).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.1, 0.2)
    path = tmp_path / "inception_v3.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)  # with AuxLogits, and no word on what it takes
    images = pictures(2, 299, 299)
    seen = load_extractor("inception_v3", path)(images)
    taken = normalize(images / 255, _MEAN, _STD)  # as torchvision asks for; transform_input undoes it
    assert_alike(seen.logits, model(taken))
    model.fc = nn.Identity()
    assert_alike(seen.features, model(taken))


@pytest.mark.parametrize("said", ["RGB in [-1, 1]", "ImageNet mean and deviation"])
def test_squeezenet_is_that_of_torchvision(said: str, squeezenet_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "squeezenet1_0.safetensors"
    safetensors.torch.save_file(squeezenet_tensors, path, {"input": said})
    model = models.squeezenet1_0().eval().requires_grad_(False)
    model.load_state_dict(squeezenet_tensors)
    images = pictures(3, 90, 300)
    resized = resize_clean(images, 224) / 255
    taken = 2 * resized - 1 if "[-1" in said else normalize(resized, _MEAN, _STD)
    seen = load_extractor("squeezenet1_0", path)(images)
    assert_alike(seen.features, model.features(taken).mean((2, 3)))
    assert_alike(seen.logits, model(taken))


def test_vgg_is_cut_behind_fc2() -> None:
    torch.manual_seed(5)
    with torch.device("meta"):
        model = models.vgg16()
    model.features.to_empty(device="cpu").apply(
        lambda layer: hasattr(layer, "reset_parameters") and layer.reset_parameters()
    )
    # a slimmer classifier of the same make: the real one has half a gigabyte
    model.classifier = nn.Sequential(
        nn.Linear(512 * 49, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5)
    )
    model.eval().requires_grad_(False)
    images = torch.randn(2, 3, 64, 64)
    logits = model(images)
    features, cut_logits = extractors._cut(model)(images)
    assert features.shape == (2, 8)
    assert features.min() == 0
    torch.testing.assert_close(cut_logits, logits)


@pytest.mark.slow
def test_vgg_is_that_of_torch_fidelity(tmp_path: Path) -> None:
    reference = pytest.importorskip("torch_fidelity.feature_extractor_vgg16")
    torch.manual_seed(6)
    state = models.vgg16().state_dict()
    torch.save(state, tmp_path / "vgg16.pth")
    safetensors.torch.save_file(state, tmp_path / "vgg16.safetensors", {"input": "ImageNet"})
    oracle = reference.FeatureExtractorVGG16(
        "vgg16", ["fc2_relu"], feature_extractor_weights_path=str(tmp_path / "vgg16.pth")
    )
    images = pictures(2, 128, 200)
    seen = load_extractor("vgg16", tmp_path / "vgg16.safetensors", "tf1")(images)
    assert_alike(seen.features, oracle(images)[0])


# --- what features must not depend on ---------------------------------------------------------------------------------


def test_features_do_not_depend_on_batch_order_or_settings(inception: Extractor) -> None:
    images = pictures(11, 60, 80)  # in one call, more than are computed at once
    together = inception(images)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    shuffled = inception(images[order])
    some = [3, 7, 10]
    alone = [inception(images[index : index + 1]) for index in some]
    with torch.autocast("cpu", torch.bfloat16):
        within_autocast = inception(images[some])
    for name in ("features", "logits"):
        expected = getattr(together, name)
        size = float(expected.abs().max())
        for found, rows in (
            (getattr(shuffled, name), order),
            (torch.cat([getattr(one, name) for one in alone]), some),
            (getattr(within_autocast, name), some),
        ):
            torch.testing.assert_close(found, expected[rows], rtol=0, atol=1e-6 * size)
    assert together.features.dtype == torch.float32
    together.features.clone().mul_(torch.ones((), requires_grad=True)).sum().backward()  # they are ordinary tensors


def test_grey_stands_in_every_channel(inception: Extractor) -> None:
    grey = pictures(1, 50, 70, channels=1)
    torch.testing.assert_close(inception(grey).features, inception(grey.expand(-1, 3, -1, -1)).features)


def test_large_pictures_are_resized_in_parts(inception_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = wrap_module(nn.Flatten(), size=7)
    images = pictures(5, 40, 30)
    expected = extractor(images).features
    monkeypatch.setattr(extractors, "_PIXELS_AT_ONCE", 2500)
    assert torch.equal(extractor(images).features, expected)


def test_nothing_but_batches_of_bytes(inception: Extractor) -> None:
    for images in (torch.rand(1, 3, 8, 8), pictures(1, 8, 8)[0], torch.zeros(1, 4, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            inception(images)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(inception_file: Path, inception: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    images = pictures(5, 128, 100)
    expected = inception(images)
    for resize in EXTRACTORS["inception-2015"].resizes:
        expected = load_extractor("inception-2015", inception_file, resize)(images)
        seen = load_extractor("inception-2015", inception_file, resize, "cuda")(images)
        assert_alike(seen.features, expected.features)
        assert_alike(seen.logits, expected.logits)


# --- weights and words ------------------------------------------------------------------------------------------------


def test_specs_are_sound() -> None:
    for name, spec in EXTRACTORS.items():
        assert spec.name == name
        assert spec.default_resize in spec.resizes
        assert set(spec.resizes) <= set(RESIZES)
        assert (spec.distance_name == "FID") == (name == "inception-2015")
        with torch.device("meta"):
            state = extractors._BUILD[name]().state_dict()
        counted = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
        assert counted == layout(name)


def test_spec_and_digest(inception: Extractor, inception_file: Path) -> None:
    seen = inception(pictures(1, 30, 30))
    assert seen.features.shape == (1, inception.spec.feature_dim)
    assert (inception.spec.distance_name, inception.resize, inception.device) == ("FID", "tf1", torch.device("cpu"))
    assert inception.digest == hashlib.sha256(inception_file.read_bytes()).hexdigest()


def test_real_squeezenet_tells_faces_of_buildings_from_photos(shared_data: Path) -> None:
    extractor = load_extractor("squeezenet1_0", shared_data / "weights" / "squeezenet1_0.safetensors")
    assert extractor.spec.distance_name == "FD-SqueezeNet"

    def features(folder: str) -> Tensor:
        files = sorted((shared_data / folder).iterdir())[:6]
        images = [Image.open(file).convert("RGB").resize((160, 160)) for file in files]
        seen = extractor(torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2))
        return seen.features

    facades, photos = features("facades/test"), features("photos")
    assert torch.cdist(facades, facades).sum() / 30 < torch.cdist(facades, photos).mean()


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors["features.3.squeeze.bias"]


def _add(tensors: dict[str, Tensor]) -> None:
    tensors["features.99.weight"] = torch.zeros(1)


def _reshape(tensors: dict[str, Tensor]) -> None:
    tensors["features.0.weight"] = torch.zeros(96, 1, 7, 7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_drop, "features.3.squeeze.bias is missing"),
        (_add, "features.99.weight is not part of it"),
        (_reshape, r"features.0.weight has shape \(96, 1, 7, 7\), not \(96, 3, 7, 7\)"),
    ],
)
def test_weights_of_another_network_are_named(
    change: Callable[[dict[str, Tensor]], None], named: str, squeezenet_tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    tensors = dict(squeezenet_tensors)
    change(tensors)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(tensors, path, {"input": "RGB in [-1, 1]"})
    with pytest.raises(UsageFault, match=named):
        load_extractor("squeezenet1_0", path)


def test_files_that_are_no_weights(squeezenet_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    def refusal(path: Path, name: str = "squeezenet1_0", **options: Any) -> str:
        with pytest.raises(UsageFault) as caught:
            load_extractor(name, path, **options)
        return str(caught.value)

    pickled = tmp_path / "weights.pth"
    torch.save(squeezenet_tensors, pickled)
    assert "pickle" in refusal(pickled)
    assert "img2img weights import FILE" in refusal(pickled)
    silent = tmp_path / "silent.safetensors"
    safetensors.torch.save_file(squeezenet_tensors, silent)
    assert "does not say what its first convolution takes" in refusal(silent)
    assert "missing" in refusal(silent, "inception-2015")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(silent.read_bytes()[:-100])
    assert "damaged" in refusal(cut)
    text = tmp_path / "text.safetensors"
    text.write_text("no weights at all")
    assert "not a safetensors file" in refusal(text)
    assert "no such file" in refusal(tmp_path / "nowhere.safetensors")
    assert "no regular file" in refusal(tmp_path)
    assert "Did you mean squeezenet1_0" in refusal(silent, "squeezenet")
    assert "Choose clean or tf1" in refusal(silent, resize="pytorch")


# --- any module -------------------------------------------------------------------------------------------------------


class _Tiny(nn.Module):
    """Mean colours, and twice them as logits; batch normalisation would mix pictures in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.norm(images.mean((2, 3)))
        return features, 2 * features


def test_any_module() -> None:
    images = pictures(4, 9, 6)
    scaled = images / 127.5 - 1
    plain = wrap_module(nn.Flatten(), "pixels")
    assert plain.spec.name == "custom"
    assert plain.spec.distance_name == "FD-pixels"
    assert (plain.resize, plain.spec.has_logits) == ("none", False)
    seen = plain(images)
    assert seen.logits is None
    torch.testing.assert_close(seen.features, scaled.flatten(1))

    module = _Tiny()
    extractor = wrap_module(module, size=12)
    assert extractor.spec.distance_name == "FD-_Tiny"
    assert (extractor.resize, extractor.spec.feature_dim, extractor.spec.has_logits) == ("clean", 3, True)
    seen = extractor(images)
    expected = (resize_clean(images, 12) / 127.5 - 1).mean((2, 3)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(seen.features, expected)
    torch.testing.assert_close(seen.logits, 2 * expected)
    assert module.norm.num_batches_tracked == 0

    with torch.no_grad():
        module.norm.weight[0] = 2
    digests = {extractor.digest, wrap_module(module, size=12).digest, wrap_module(module, size=13).digest}
    assert len(digests) == 3
    assert wrap_module(module, "another", 13).digest in digests

    with pytest.raises(UsageFault, match=r"Identity: gives \(1, 3, 8, 8\) for one picture"):
        wrap_module(nn.Identity(), size=8)
    with pytest.raises(UsageFault, match="Choose none"):
        wrap_module(nn.Flatten(), resize="clean")
