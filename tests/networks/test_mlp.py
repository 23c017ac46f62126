"""Fully connected networks: plain arithmetic, members, classes, what the batch tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.errors import UsageFault
from img2img.networks.layers import MinibatchStd, mixes_samples
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator

GENERATORS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"layers": 0},
    "batch": {"norm": "batch", "activation": "leaky_relu"},
    "classes": {"num_classes": 3, "label_dim": 4, "activation": "tanh"},
}
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"layers": 0},
    "batch": {"norm": "batch"},
    "layer": {"norm": "layer"},
    "spectral": {"spectral_norm": True},
    "concat": {"num_classes": 3, "conditioning": "concat"},
    "projection": {"num_classes": 3, "conditioning": "projection", "spectral_norm": True},
    "discrimination": {"minibatch_discrimination": True, "activation": "relu"},
    "std": {"minibatch_std": True},
    "everything": {
        "num_classes": 3,
        "conditioning": "projection",
        "spectral_norm": True,
        "norm": "batch",
        "minibatch_discrimination": True,
        "minibatch_std": True,
    },
}


def make_generator(members: int = 1, **arguments: Any) -> MLPGenerator:
    plain = {"resolution": (1, 1), "out_channels": 2, "latent_dim": 3, "width": 5, "output": "linear"}
    return MLPGenerator(members=members, **{**plain, **arguments})


def make_discriminator(members: int = 1, **arguments: Any) -> MLPDiscriminator:
    plain = {"resolution": (1, 1), "in_channels": 2, "width": 5, "activation": "tanh"}
    return MLPDiscriminator(members=members, **{**plain, **arguments})


def points(count: int, *, classes: bool, dim: int = 2, point: bool = True) -> list[Tensor]:
    """Points (count, dim, 1, 1) or latents (count, dim), and labels where there are classes."""
    torch.manual_seed(1)
    first = torch.randn(count, dim, dtype=torch.float64)
    labels = [torch.arange(count) * 2 % 3] if classes else []
    return [first[:, :, None, None] if point else first, *labels]


class TestMembers:
    @pytest.mark.parametrize("kind", GENERATORS)
    def test_generators_answer_and_learn_as_alone(self, kind: str, members_are_separate: Callable[..., None]) -> None:
        arguments = GENERATORS[kind]
        inputs = points(12, classes="num_classes" in arguments, dim=3, point=False)
        members_are_separate(lambda members: make_generator(members, **arguments), inputs)

    @pytest.mark.parametrize("kind", DISCRIMINATORS)
    def test_discriminators_answer_and_learn_as_alone(
        self, kind: str, members_are_separate: Callable[..., None]
    ) -> None:
        arguments = DISCRIMINATORS[kind]
        inputs = points(12, classes="num_classes" in arguments)
        members_are_separate(lambda members: make_discriminator(members, **arguments), inputs)

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_minibatch_std_groups_within_a_member_whatever_the_batch(
        self, count: int, members_are_separate: Callable[..., None]
    ) -> None:
        inputs = points(3 * count, classes=False)
        members_are_separate(lambda members: make_discriminator(members, minibatch_std=True), inputs)

    @pytest.mark.parametrize("kind", DISCRIMINATORS)
    def test_no_discriminator_sees_another_s_rows(self, kind: str, no_member_sees_another: Callable[..., None]) -> None:
        arguments = DISCRIMINATORS[kind]
        inputs = points(12, classes="num_classes" in arguments)
        no_member_sees_another(make_discriminator(3, **arguments), inputs)

    @pytest.mark.parametrize("kind", GENERATORS)
    def test_no_generator_sees_another_s_rows(self, kind: str, no_member_sees_another: Callable[..., None]) -> None:
        arguments = GENERATORS[kind]
        inputs = points(12, classes="num_classes" in arguments, dim=3, point=False)
        no_member_sees_another(make_generator(3, **arguments), inputs)

    def test_members_begin_apart(self) -> None:
        torch.manual_seed(0)
        first, second = make_generator(2)(torch.ones(2, 3))
        assert not torch.allclose(first, second)


class TestAgainstTorch:
    """One member is the plain network of torch.nn layers."""

    @pytest.mark.parametrize(("activation", "output"), [*product(["relu", "leaky_relu", "tanh"], ["linear", "tanh"])])
    def test_generator(self, activation: str, output: str) -> None:
        torch.manual_seed(0)
        generator = make_generator(activation=activation, output=output, resolution=(2, 3), norm="batch")
        hidden, z = list(generator.hidden), torch.randn(4, 3)
        x = z
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            "relu": F.relu,
            "leaky_relu": lambda x: torch.where(x > 0, x, 0.2 * x),
            "tanh": torch.tanh,
        }
        for linear in (hidden[0], hidden[3]):
            x = x @ linear.weight[0]
            x = functions[activation]((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
        x = x @ generator.last.weight[0] + generator.last.bias[0]
        expected = (torch.tanh(x) if output == "tanh" else x).reshape(4, 2, 2, 3)
        torch.testing.assert_close(generator(z), expected)

    def test_discriminator_with_layer_norm(self) -> None:
        torch.manual_seed(0)
        discriminator = make_discriminator(norm="layer", activation="leaky_relu")
        first, _, second, norm, _ = discriminator.hidden
        images = torch.randn(4, 2, 1, 1)
        x = F.leaky_relu(images.flatten(1) @ first.weight[0] + first.bias[0], 0.2)
        x = F.layer_norm(x @ second.weight[0] + second.bias[0], (5,), norm.scale[0, 0], norm.shift[0, 0])
        x = F.leaky_relu(x, 0.2)
        expected = (x @ discriminator.logit.weight[0] + discriminator.logit.bias[0])[:, 0]
        torch.testing.assert_close(discriminator(images), expected)

    def test_the_mnist_network_of_the_field(self) -> None:
        """784 values: 100·128 + 128 + 128·128 + 128 + 128·784 + 784 weights, pictures in [-1, 1]."""
        torch.manual_seed(0)
        generator = MLPGenerator(resolution=(28, 28), out_channels=1)
        images = generator(torch.randn(3, 100))
        assert images.shape == (3, 1, 28, 28)
        assert images.abs().max() <= 1
        assert sum(p.numel() for p in generator.parameters()) == 101 * 128 + 129 * 128 + 129 * 784
        assert MLPDiscriminator(resolution=(28, 28), in_channels=1)(images).shape == (3,)

    def test_sigmoid_makes_points_of_the_unit_cube(self) -> None:
        torch.manual_seed(0)
        linear, sigmoid = make_generator(), make_generator(output="sigmoid")
        sigmoid.load_state_dict(linear.state_dict())
        z = torch.randn(4, 3)
        torch.testing.assert_close(sigmoid(z), 1 / (1 + (-linear(z)).exp()))


class TestClasses:
    def test_generator_follows_the_label(self) -> None:
        torch.manual_seed(0)
        images = make_generator(num_classes=3)(torch.randn(1, 3).expand(3, -1), torch.tensor([0, 1, 0]))
        torch.testing.assert_close(images[0], images[2])
        assert not torch.allclose(images[0], images[1])

    def test_concat_is_one_hot_beside_the_image(self) -> None:
        torch.manual_seed(0)
        discriminator = make_discriminator(num_classes=3, conditioning="concat")
        images, labels = torch.randn(4, 2, 1, 1), torch.tensor([2, 0, 1, 1])
        seen = torch.cat((images.flatten(1), F.one_hot(labels, 3).float()), dim=1)
        expected = discriminator.logit(discriminator.hidden(seen[None])).flatten()
        torch.testing.assert_close(discriminator(images, labels), expected)

    def test_projection_adds_the_inner_product_with_the_features(self) -> None:
        torch.manual_seed(0)
        discriminator = make_discriminator(num_classes=3, conditioning="projection")
        images, labels = torch.randn(4, 2, 1, 1), torch.tensor([2, 0, 1, 1])
        logits, features = discriminator(images, labels, with_features=True)
        assert discriminator.embed is not None
        inner = (discriminator.embed.weight[0, labels] * features).sum(dim=1)
        torch.testing.assert_close(logits, discriminator.logit(features[None]).flatten() + inner)


class TestFeatures:
    @pytest.mark.parametrize("kind", DISCRIMINATORS)
    def test_asking_for_them_changes_no_logit(self, kind: str) -> None:
        torch.manual_seed(0)
        discriminator = make_discriminator(3, **DISCRIMINATORS[kind]).double().eval()
        inputs = points(12, classes=discriminator.num_classes > 0)
        logits, features = discriminator(*inputs, with_features=True)
        assert torch.equal(logits, discriminator(*inputs))
        assert features.shape == (12, 2 if kind == "linear" else 5)

    def test_they_are_what_the_last_layer_takes(self) -> None:
        torch.manual_seed(0)
        discriminator = make_discriminator(3)
        logits, features = discriminator(torch.randn(12, 2, 1, 1), with_features=True)
        torch.testing.assert_close(discriminator.logit(features.unflatten(0, (3, 4))).flatten(), logits)

    def test_they_know_nothing_of_the_rest_of_the_batch(self) -> None:
        torch.manual_seed(0)
        discriminator = make_discriminator(minibatch_std=True, minibatch_discrimination=True)
        images = torch.randn(4, 2, 1, 1)
        logits, features = discriminator(images, with_features=True)
        seen = MinibatchStd()(features[:, :, None, None])[:, :, 0, 0]
        assert discriminator.minibatch_discrimination is not None
        seen = torch.cat((seen, discriminator.minibatch_discrimination(features)), dim=1)
        torch.testing.assert_close(discriminator.logit(seen[None]).flatten(), logits)
        torch.testing.assert_close(discriminator(images[:1], with_features=True)[1], features[:1])


def test_mixes_samples_just_where_a_batch_changes_a_sample() -> None:
    for kind, arguments in DISCRIMINATORS.items():
        torch.manual_seed(0)
        discriminator = make_discriminator(**arguments).double().train()
        for layer in discriminator.modules():
            if hasattr(layer, "stacked"):
                layer.eval()  # power iteration changes the logits from call to call
        inputs = points(6, classes=discriminator.num_classes > 0)
        whole = discriminator(*inputs)[:2]
        part = discriminator(*(value[:2] for value in inputs))
        assert mixes_samples(discriminator) is not torch.allclose(whole, part, rtol=1e-12, atol=1e-12), kind


def test_weights_begin_as_those_of_torch_s_linear_layer() -> None:
    """Uniform in ±1/√in has the standard deviation 1/√(3·in)."""
    torch.manual_seed(0)
    generator = MLPGenerator(resolution=(1, 1), out_channels=2, members=4, latent_dim=100, width=400)
    for layer, inputs in ((generator.hidden[0], 100), (generator.hidden[2], 400)):
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= inputs**-0.5
            assert values.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.05)


@pytest.mark.parametrize("kind", ["spectral", "projection"])
def test_spectral_norm_is_each_member_s_own(kind: str) -> None:
    torch.manual_seed(0)
    discriminator = make_discriminator(2, **DISCRIMINATORS[kind]).double()
    for layer in discriminator.modules():
        if hasattr(layer, "parametrizations"):
            layer.parametrizations.weight.original.data[1] *= 100
    for _ in range(200):
        discriminator(*points(4, classes=discriminator.num_classes > 0))
    stacks = [layer.weight for layer in discriminator.modules() if hasattr(layer, "parametrizations")]
    assert len(stacks) == 3 + (kind == "projection")
    for stack in stacks:
        torch.testing.assert_close(torch.linalg.svdvals(stack)[:, 0], torch.ones(2, dtype=torch.float64))


def test_batch_norm_of_one_sample_is_refused_with_a_mend() -> None:
    generator = make_generator(norm="batch")
    with pytest.raises(UsageFault, match=r"^train\.batch: .*Use 2 or more"):
        generator(torch.zeros(1, 3))
    assert generator.eval()(torch.zeros(1, 3)).isfinite().all()


def test_a_norm_that_has_no_place_is_refused() -> None:
    with pytest.raises(UsageFault, match=r"^norm: 'batch' follows hidden layers"):
        make_generator(norm="batch", layers=0)
    with pytest.raises(UsageFault, match=r"^norm: 'layer' begins at the second hidden layer"):
        make_discriminator(norm="layer", layers=1)


def test_a_model_with_a_uniform_prior_samples_from_it(tmp_path: Path) -> None:
    """An affine map with weight 1 and bias 0 shows z: its pictures are uniform in grey values."""
    from img2img.checkpoint import ModelInfo, NetworkSpec, write_model
    from img2img.inference.model import Model

    arguments = {"resolution": (4, 4), "out_channels": 1, "latent_dim": 16, "layers": 0, "prior": "uniform"}
    arguments["output"] = "linear"
    generator = MLPGenerator(**arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        generator.last.weight.copy_(torch.eye(16)[None])
        generator.last.bias.zero_()
    path = tmp_path / "model.safetensors"
    info = ModelInfo(
        translator="unconditional",
        task="sample",
        networks={"generator": NetworkSpec("mlp", arguments)},
        directions={},
        domains={"image": "images"},
        channels={"image": 1},
        resolution=(4, 4),
    )
    write_model(path, {"generator": generator}, info)
    pixels = torch.tensor(np.array([np.asarray(image) for image in Model.load(path, "cpu").sample(64)])).float()
    # 1,024 values uniform in 0..255: the standard deviation of the mean is 2.3, of the extremes' distance 0.25
    assert pixels.mean().item() == pytest.approx(127.5, abs=10)
    assert pixels.std().item() == pytest.approx(255 / math.sqrt(12), abs=5)
    assert pixels.min() < 5
    assert pixels.max() > 250


def test_a_classifier_leaves_the_logit_alone_and_is_each_member_s_own() -> None:
    torch.manual_seed(0)
    discriminator = MLPDiscriminator(
        resolution=(2, 3), num_classes=4, members=3, width=5, layers=1, conditioning="classifier"
    )
    images, labels = torch.randn(6, 3, 2, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    logits, features = discriminator(images, labels, with_features=True)
    assert torch.equal(logits, discriminator(images))
    expected = torch.einsum("rnf,rfk->rnk", features.unflatten(0, (3, 2)), discriminator.classes.weight)
    expected = expected + discriminator.classes.bias
    torch.testing.assert_close(discriminator.classify(features), expected.flatten(0, 1))
