from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from img2img.config import KEYS
from img2img.errors import UsageFault
from img2img.evaluation.extractors import IMAGENET_MEAN, IMAGENET_STD
from img2img.evaluation.known_weights import KNOWN, layout
from img2img.evaluation.perceptual import (
    LIN_WEIGHTS,
    LOSS_LAYERS,
    NETWORKS,
    Perceptual,
    load_perceptual,
    load_perceptual_loss,
    unfit_for_loss,
)
from img2img.evaluation.weights import import_weights

IMAGENET = {"input": "imagenet"}
# our name -> what the lpips package calls it, and torchvision in its hands
THEIRS = {"alexnet": ("alex", "alexnet"), "vgg16": ("vgg", "vgg16"), "squeezenet1_1": ("squeeze", "squeezenet1_1")}


def random_blocks(network: str, seed: int = 0) -> nn.Sequential:
    """The network's `features` with weights N(0, 2 / fan-in), under which activations keep their size."""
    with torch.device("meta"):
        blocks: nn.Sequential = models.get_model(network, weights=None).features
    blocks.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in blocks.parameters():
            std = math.sqrt(2 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
            parameter.normal_(0, std, generator=generator)
    return blocks.eval().requires_grad_(False)


def write_weights(path: Path, network: str, blocks: nn.Sequential, metadata: dict[str, str]) -> Path:
    """A file of the whole network, whose classifier is a hole: zeros that take no room on the disk."""
    tensors = {f"features.{key}": tensor for key, tensor in blocks.state_dict().items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, shape in sorted(layout(network).items(), key=lambda item: item[0] not in tensors):
        begin, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in header:
            if key in tensors:
                file.write(tensors[key].numpy().tobytes())
        file.truncate(8 + len(text) + end)
    return path


def pictures(count: int = 2, channels: int = 3, size: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of SqueezeNet 1.1 that say what they take."""
    path = tmp_path_factory.mktemp("weights") / "squeeze.safetensors"
    return write_weights(path, "squeezenet1_1", random_blocks("squeezenet1_1"), IMAGENET)


@pytest.fixture
def bring_lin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Brings in the weights that the lpips package ships for a network."""
    lpips = pytest.importorskip("lpips")
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(tmp_path / "brought"))
    shipped = Path(lpips.__file__).parent / "weights" / "v0.1"
    return lambda network: import_weights(shipped / f"{THEIRS[network][0]}.pth", LIN_WEIGHTS[network])


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", THEIRS)
def test_it_is_the_authors(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bring_lin: Callable[[str], Path]
) -> None:
    """The same random backbone, the lin weights they ship, their own way from pixels to distances."""
    lpips = pytest.importorskip("lpips")
    blocks = random_blocks(network)
    short, maker = THEIRS[network]
    monkeypatch.setattr(
        lpips.pretrained_networks.tv, maker, lambda pretrained: SimpleNamespace(features=copy.deepcopy(blocks))
    )
    weights = write_weights(tmp_path / "weights.safetensors", network, blocks, IMAGENET)
    a, b = pictures(size=40), pictures(size=40, seed=1)
    for lin, name in (
        (bring_lin(network), f"LPIPS-{network} (unpublished weights)"),
        (None, f"perceptual-{network} (unweighted)"),
    ):
        theirs = lpips.LPIPS(net=short, pnet_rand=True, lpips=lin is not None, verbose=False)
        ours = load_perceptual(network, weights, lin)
        assert ours.name == name
        for other in (b, (a + 0.1 * b).clamp(-1, 1)):
            expected = theirs(a, other).flatten()
            assert (expected > 0).all()
            torch.testing.assert_close(ours(a, other), expected, rtol=1e-5, atol=0)


# --- what holds of every one -----------------------------------------------------------------------------------------


def test_equal_pictures_symmetry_and_batch_size(squeeze: Path) -> None:
    distance = load_perceptual("squeezenet1_1", squeeze)
    a, b = pictures(3), pictures(3, seed=1)
    values = distance(a, b)
    assert values.shape == (3,)
    assert values.dtype == torch.float32
    assert distance(a, a).tolist() == [0, 0, 0]
    torch.testing.assert_close(distance(b, a), values, rtol=1e-6, atol=0)
    alone = torch.cat([distance(one[None], other[None]) for one, other in zip(a, b)])
    torch.testing.assert_close(alone, values, rtol=1e-5, atol=0)


def test_grey_is_grey_in_all_channels(squeeze: Path) -> None:
    distance = load_perceptual("squeezenet1_1", squeeze)
    a, b = pictures(channels=1), pictures(channels=1, seed=1)
    assert torch.equal(distance(a, b), distance(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


def test_more_noise_is_farther(squeeze: Path) -> None:
    distance = load_perceptual("squeezenet1_1", squeeze)
    a, b = pictures() / 2, pictures(seed=1) / 2
    values = [distance(a, a + amount * b).mean().item() for amount in (0, 0.01, 0.03, 0.1, 0.3, 1)]
    assert values == sorted(values)
    assert values[1] > 0


def test_what_the_first_convolution_takes_is_undone(tmp_path: Path) -> None:
    """A convolution without padding that takes (x − shift) / scale equals one with w / scale and b − Σ w shift / scale
    that takes x; SqueezeNet's first one is such."""
    blocks = random_blocks("squeezenet1_0")
    folded = copy.deepcopy(blocks)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    first: Any = folded[0]
    with torch.no_grad():
        first.weight.div_(scale.view(3, 1, 1))
        first.bias.sub_((first.weight * shift.view(3, 1, 1)).sum(dim=(1, 2, 3)))
    a, b = pictures(), pictures(seed=1)
    distances = [
        load_perceptual("squeezenet1_0", write_weights(tmp_path / "w.safetensors", "squeezenet1_0", network, words))
        for network, words in ((blocks, IMAGENET), (folded, {"input": "RGB in [-1,1]"}))
    ]
    torch.testing.assert_close(distances[0](a, b), distances[1](a, b), rtol=1e-4, atol=0)
    assert distances[0].digest != distances[1].digest


@pytest.mark.parametrize("network", NETWORKS)
def test_the_smallest_picture(network: str, tmp_path: Path) -> None:
    distance = load_perceptual(
        network, write_weights(tmp_path / "w.safetensors", network, random_blocks(network), IMAGENET)
    )
    smallest = {"alexnet": 31, "vgg16": 16, "squeezenet1_1": 17, "squeezenet1_0": 21}[network]
    assert distance(pictures(size=smallest), pictures(size=smallest, seed=1)).isfinite().all()
    message = (
        f"{network} needs sides of {smallest} pixels or more, and the pictures are {smallest - 1} × {smallest - 1}"
    )
    with pytest.raises(ValueError, match=message):
        distance(pictures(size=smallest - 1), pictures(size=smallest - 1))


def test_shapes_must_agree(squeeze: Path) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\) and \(2, 3, 64, 64\)"):
        load_perceptual("squeezenet1_1", squeeze)(pictures(1), pictures(2))


def test_real_pictures_order_as_a_person_would(shared_data: Path) -> None:
    """With real weights: mirrored or a little blurred is nearer than badly blurred, and that than another photograph."""
    distance = load_perceptual("squeezenet1_0", shared_data / "weights" / "squeezenet1_0.safetensors")
    assert distance.name == "perceptual-squeezenet1_0 (unweighted)"
    photographs = []
    for path in sorted((shared_data / "photos").iterdir())[:8]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC))
        photographs.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1)
    a = torch.stack(photographs)
    blurred = [nn.functional.avg_pool2d(a, size, 1, size // 2) for size in (1, 3, 7)]
    values = [distance(a, other).mean().item() for other in (*blurred, a.roll(1, dims=0))]
    assert values[0] == 0
    assert values == sorted(values)


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, with random ones of SqueezeNet 1.0 in it."""
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(tmp_path))
    write_weights(tmp_path / "squeezenet1_0.safetensors", "squeezenet1_0", random_blocks("squeezenet1_0"), IMAGENET)
    return tmp_path


def test_the_loss_is_the_weighted_sum_of_mean_differences(brought: Path) -> None:
    loss = load_perceptual_loss("squeezenet1_0")
    output, target = pictures(3), pictures(3, seed=1)
    blocks = random_blocks("squeezenet1_0")
    expected = torch.zeros(3)
    for place, weight in LOSS_LAYERS["squeezenet1_0"].items():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        made, wanted = (blocks[: place + 1](((images + 1) / 2 - mean) / std) for images in (output, target))
        expected += weight * (made - wanted).abs().mean((1, 2, 3))
    torch.testing.assert_close(loss(output, target), expected, rtol=1e-4, atol=0)
    assert loss(output, output).tolist() == [0, 0, 0]


def test_the_loss_has_the_type_of_the_output_and_gradients_for_it_alone(brought: Path) -> None:
    loss = load_perceptual_loss("squeezenet1_0")
    output, target = (pictures(seed=seed).double().requires_grad_() for seed in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        values = loss(output, target)
    assert values.dtype == torch.float64
    assert torch.equal(values, loss(output, target))
    values.sum().backward()
    assert target.grad is None
    assert output.grad is not None
    assert (output.grad != 0).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in loss._blocks.parameters())


@pytest.mark.parametrize(("network", "convolutions"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))])
def test_of_vgg_it_sees_the_first_activation_of_each_size(network: str, convolutions: tuple[int, ...]) -> None:
    """A block is its convolutions, each with a ReLU, and a pooling."""
    firsts = [1 + sum(2 * count + 1 for count in convolutions[:block]) for block in range(5)]
    assert list(LOSS_LAYERS[network]) == firsts
    assert list(LOSS_LAYERS[network].values()) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]
    with torch.device("meta"):
        features = models.get_model(network, weights=None).features
    assert all(isinstance(features[place], nn.ReLU) for place in firsts)


def test_weights_that_are_not_here_are_missed_before_training_with_what_brings_them(brought: Path) -> None:
    assert unfit_for_loss("squeezenet1_0", (64, 64)) == []
    (fault,) = map(str, unfit_for_loss("squeezenet1_0", (64, 64), 16))
    assert fault.startswith("growth.start: squeezenet1_0 of loss.perceptual needs sides of 21 pixels or more, got 16")
    assert unfit_for_loss("squeezenet1_0", (64, 64), 32) == []
    (fault,) = map(str, unfit_for_loss("vgg19", (64, 64)))
    assert fault.startswith("loss.perceptual_network: vgg19: its weights are not here")
    assert "Run `img2img weights import FILE` with a copy of them, choose another" in fault
    (fault,) = map(str, unfit_for_loss("squeezenet1_0", (64, 16)))
    assert "squeezenet1_0 needs sides of 21 pixels or more, data.resolution is [64, 16]" in fault


def test_every_network_of_the_loss_can_be_chosen_and_brought() -> None:
    assert set(KEYS["loss.perceptual_network"].choices) == set(LOSS_LAYERS)
    assert set(LOSS_LAYERS) <= set(KNOWN)


def test_photographs_that_have_nothing_in_common_are_about_one_apart(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each place of SqueezeNet adds about a quarter to that: what its weights were chosen for, on other pictures."""
    monkeypatch.setenv("IMG2IMG_WEIGHTS", str(tmp_path))
    import_weights(shared_data / "weights" / "squeezenet1_0.safetensors")
    loss = load_perceptual_loss("squeezenet1_0")
    photographs = []
    for path in sorted((shared_data / "photos").iterdir())[-24:]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((192, 192), Image.Resampling.BICUBIC))
        photographs.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1)
    a = torch.stack(photographs)
    b = a.roll(1, dims=0)
    assert 0.7 < loss(a, b).mean() < 1.4
    for weight, one, other in zip(LOSS_LAYERS["squeezenet1_0"].values(), loss.features(a), loss.features(b)):
        assert 0.15 < weight * (one - other).abs().mean() < 0.4


# --- names and digests -----------------------------------------------------------------------------------------------


def test_only_published_weights_make_lpips(tmp_path: Path, bring_lin: Callable[[str], Path]) -> None:
    lin = bring_lin("squeezenet1_1")
    for sha256, name in (
        (KNOWN["squeezenet1_1"].sha256, "LPIPS-squeezenet1_1"),
        ("0" * 64, "LPIPS-squeezenet1_1 (unpublished weights)"),
    ):
        said = {"network": "squeezenet1_1", "input": "imagenet", "source": "some.pth", "source_sha256": sha256}
        blocks = random_blocks("squeezenet1_1")
        path = write_weights(tmp_path / "w.safetensors", "squeezenet1_1", blocks, {"img2img": json.dumps(said)})
        assert load_perceptual("squeezenet1_1", path, lin).name == name
        assert load_perceptual("squeezenet1_1", path).name == "perceptual-squeezenet1_1 (unweighted)"


def test_the_digest_is_of_the_weights_in_use(squeeze: Path, tmp_path: Path, bring_lin: Callable[[str], Path]) -> None:
    def digest(seed: int, metadata: dict[str, str]) -> str:
        path = tmp_path / "w.safetensors"
        return load_perceptual(
            "squeezenet1_1", write_weights(path, "squeezenet1_1", random_blocks("squeezenet1_1", seed), metadata)
        ).digest

    usual = load_perceptual("squeezenet1_1", squeeze).digest
    assert digest(0, IMAGENET | {"source": "elsewhere"}) == usual
    assert digest(1, IMAGENET) != usual
    assert load_perceptual("squeezenet1_1", squeeze, bring_lin("squeezenet1_1")).digest != usual


def test_every_network_is_one_whose_weights_are_known() -> None:
    assert set(NETWORKS) <= set(KNOWN)
    assert set(LIN_WEIGHTS) <= set(NETWORKS)
    assert set(LIN_WEIGHTS.values()) <= set(KNOWN)


# --- bad input -------------------------------------------------------------------------------------------------------


def fault(network: str, weights: Path, lin: Path | None = None) -> str:
    with pytest.raises(UsageFault) as caught:
        load_perceptual(network, weights, lin)
    return str(caught.value)


def test_an_unknown_network(squeeze: Path) -> None:
    assert fault("vgg", squeeze) == "--perceptual: 'vgg' is unknown. Did you mean vgg16?"


def test_weights_of_another_network(squeeze: Path) -> None:
    assert "does not fit squeezenet1_0" in fault("squeezenet1_0", squeeze)
    assert "does not fit alexnet" in fault("alexnet", squeeze)


def test_lin_weights_of_another_network(squeeze: Path, bring_lin: Callable[[str], Path]) -> None:
    assert "does not fit lpips-squeeze" in fault("squeezenet1_1", squeeze, bring_lin("alexnet"))


def test_there_is_no_lpips_over_squeezenet1_0(tmp_path: Path, bring_lin: Callable[[str], Path]) -> None:
    weights = write_weights(tmp_path / "w.safetensors", "squeezenet1_0", random_blocks("squeezenet1_0"), IMAGENET)
    assert "there is no LPIPS over squeezenet1_0. Choose one of alexnet" in fault(
        "squeezenet1_0", weights, bring_lin("squeezenet1_1")
    )


def test_weights_that_do_not_say_what_they_take(tmp_path: Path) -> None:
    """Of two ranges the wrong one gives a number too."""
    weights = write_weights(tmp_path / "w.safetensors", "squeezenet1_1", random_blocks("squeezenet1_1"), {})
    assert "does not say what its first convolution takes" in fault("squeezenet1_1", weights)


def test_files_that_cannot_be_read(squeeze: Path, tmp_path: Path) -> None:
    content = squeeze.read_bytes()
    for name, data, problem in (
        ("cut.safetensors", content[: len(content) // 2], "is a damaged safetensors file"),
        ("header.safetensors", content[:300], "not a safetensors file"),
        ("empty.safetensors", b"", "not a safetensors file"),
        ("pickle.safetensors", b"\x80\x02}q\x00.", "a pickle, which can run code when read"),
    ):
        (tmp_path / name).write_bytes(data)
        assert problem in fault("squeezenet1_1", tmp_path / name)
    assert "there is no such file" in fault("squeezenet1_1", tmp_path / "nowhere.safetensors")
    assert "is no regular file" in fault("squeezenet1_1", tmp_path)


def test_what_was_loaded_stays_when_the_file_changes(squeeze: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(squeeze.read_bytes())
    distance = load_perceptual("squeezenet1_1", path)
    before = distance(pictures(), pictures(seed=1))
    write_weights(path, "squeezenet1_1", random_blocks("squeezenet1_1", seed=1), IMAGENET)
    assert torch.equal(distance(pictures(), pictures(seed=1)), before)


def test_the_same_through_safetensors_own_writer(squeeze: Path, tmp_path: Path) -> None:
    """The files above are written by hand; what is read does not depend on that."""
    tensors = safetensors.torch.load_file(squeeze)
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors", IMAGENET)
    loaded: list[Perceptual] = [
        load_perceptual("squeezenet1_1", path) for path in (squeeze, tmp_path / "w.safetensors")
    ]
    assert loaded[0].digest == loaded[1].digest
