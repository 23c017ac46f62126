"""Autoencoders as discriminators: errors by their definitions, codes, members, classes, second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import UsageFault
from img2img.networks.autoencoder import (
    ERRORS,
    AutoencoderDiscriminator,
    MLPAutoencoderDiscriminator,
    reconstruction_error,
)

every_error = pytest.mark.parametrize("error", ERRORS)
MLPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"layers": 0},
    "batch": {"norm": "batch", "layers": 2},
    "layer": {"norm": "layer"},
    "classes": {"num_classes": 3, "conditioning": "concat"},
}


def make_convolutional(**arguments: Any) -> AutoencoderDiscriminator:
    plain = {"resolution": (8, 16), "in_channels": 1, "width": 2, "code_dim": 5}
    return AutoencoderDiscriminator(**{**plain, **arguments})


def make_mlp(members: int = 1, **arguments: Any) -> MLPAutoencoderDiscriminator:
    plain = {"resolution": (1, 1), "in_channels": 2, "width": 5, "code_dim": 3, "activation": "tanh", "error": "mse"}
    return MLPAutoencoderDiscriminator(members=members, **{**plain, **arguments})


def inputs_for(count: int, shape: tuple[int, int, int], *, classes: bool) -> list[Tensor]:
    torch.manual_seed(1)
    images = torch.randn(count, *shape, dtype=torch.float64)
    return [images, torch.arange(count) * 2 % 3] if classes else [images]


class TestError:
    def test_by_definition(self) -> None:
        images, back = torch.tensor([[[1.0, -2.0]], [[0.0, 0.0]]]), torch.tensor([[[4.0, 2.0]], [[0.0, 0.0]]])
        assert reconstruction_error(images, back, "l1").tolist() == [3.5, 0]
        assert reconstruction_error(images, back, "mse").tolist() == [12.5, 0]
        assert reconstruction_error(images, back, "norm").tolist() == pytest.approx([5, 0], abs=1e-5)

    @every_error
    def test_a_perfect_reconstruction_has_a_finite_gradient(self, error: str) -> None:
        back = torch.zeros(2, 3, requires_grad=True)
        reconstruction_error(torch.zeros(2, 3), back, error).sum().backward()
        assert back.grad is not None
        assert back.grad.eq(0).all()

    @every_error
    def test_does_not_depend_on_the_rest_of_the_batch(self, error: str) -> None:
        torch.manual_seed(0)
        for network, shape in ((make_convolutional(error=error), (1, 8, 16)), (make_mlp(error=error), (2, 1, 1))):
            images = torch.randn(4, *shape)
            torch.testing.assert_close(network(images[1:2]), network(images)[1:2])


class TestConvolutional:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("resolution", [(8, 8), (40, 20), (64, 64)])
    def test_shapes(self, resolution: tuple[int, int], channels: int) -> None:
        network = make_convolutional(resolution=resolution, in_channels=channels)
        energies, code = network(torch.randn(2, channels, *resolution), with_features=True)
        assert energies.shape == (2,)
        assert energies.ge(0).all()
        assert code.shape == (2, 5)

    @every_error
    def test_the_energy_is_the_error_of_what_the_decoder_makes_of_the_code(self, error: str) -> None:
        torch.manual_seed(0)
        network = make_convolutional(error=error)
        images = torch.randn(3, 1, 8, 16)
        energies, code = network(images, with_features=True)
        assert torch.equal(energies, network(images))
        torch.testing.assert_close(reconstruction_error(images, network.decoder(code), error), energies)

    def test_class_planes_beside_the_image_and_one_hot_beside_the_code(self) -> None:
        torch.manual_seed(0)
        network = make_convolutional(num_classes=3, conditioning="concat", error="mse")
        images, labels = torch.randn(2, 1, 8, 16), torch.tensor([2, 0])
        hot = F.one_hot(labels, 3).float()
        expected = network.encoder(torch.cat((images, hot[:, :, None, None].expand(-1, -1, 8, 16)), dim=1))
        energies, code = network(images, labels, with_features=True)
        torch.testing.assert_close(code, expected)
        back = network.decoder(torch.cat((code, hot), dim=1))
        torch.testing.assert_close(energies, (back - images).square().mean(dim=(1, 2, 3)))

    def test_it_learns_to_give_back_one_picture(self) -> None:
        torch.manual_seed(0)
        network = make_convolutional(width=4)
        images = torch.rand(1, 1, 8, 16) * 2 - 1
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        before = network(images).item()
        for _ in range(60):
            optimizer.zero_grad()
            network(images).sum().backward()
            optimizer.step()
        assert network(images).item() < 0.2 * before


class TestFullyConnected:
    @pytest.mark.parametrize("kind", MLPS)
    @every_error
    def test_members_answer_and_learn_as_alone(
        self, kind: str, error: str, members_are_separate: Callable[..., None]
    ) -> None:
        arguments = {**MLPS[kind], "error": error}
        inputs = inputs_for(12, (2, 1, 1), classes=kind == "classes")
        members_are_separate(lambda members: make_mlp(members, **arguments), inputs)

    @pytest.mark.parametrize("kind", MLPS)
    def test_no_member_sees_another_s_rows(self, kind: str, no_member_sees_another: Callable[..., None]) -> None:
        inputs = inputs_for(12, (2, 1, 1), classes=kind == "classes")
        no_member_sees_another(make_mlp(3, **MLPS[kind]), inputs)

    def test_without_hidden_layers_it_is_an_affine_map_there_and_back(self) -> None:
        torch.manual_seed(0)
        network = make_mlp(layers=0, code_dim=1)
        images = torch.randn(4, 2, 1, 1)
        energies, code = network(images, with_features=True)
        (there, back), x = (network.encoder[1], network.decoder[1]), images.flatten(1)
        expected = x @ there.weight[0] + there.bias[0]
        torch.testing.assert_close(code, expected)
        torch.testing.assert_close(energies, (expected @ back.weight[0] + back.bias[0] - x).square().mean(1))

    def test_it_follows_the_label(self) -> None:
        torch.manual_seed(0)
        network = make_mlp(num_classes=3, conditioning="concat")
        energies = network(torch.ones(3, 2, 1, 1), torch.tensor([0, 1, 0]))
        torch.testing.assert_close(energies[0], energies[2])
        assert not torch.allclose(energies[0], energies[1])

    def test_a_norm_without_hidden_layers_is_refused(self) -> None:
        with pytest.raises(UsageFault, match=r"^norm: "):
            make_mlp(layers=0, norm="layer")


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@every_error
@pytest.mark.parametrize("kind", ["convolutional", "mlp"])
def test_can_be_differentiated_twice(kind: str, error: str, norm: str) -> None:
    """Penalties differentiate the input's gradient by the weights: checked against finite differences."""
    torch.manual_seed(0)
    network: nn.Module
    if kind == "mlp":
        network = make_mlp(error=error, norm=norm)
        images = torch.randn(3, 2, 1, 1, dtype=torch.float64)
    else:
        network = make_convolutional(resolution=(8, 8), width=1, max_width=2, error=error, norm=norm)
        images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    network = network.double()
    images.requires_grad_()
    weight_name, weight = next(iter(network.named_parameters()))

    def penalty(weight: Tensor) -> Tensor:
        energies = torch.func.functional_call(network, {weight_name: weight}, (images,))
        (gradient,) = torch.autograd.grad(energies.sum(), images, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, (weight,), fast_mode=True)
    assert torch.autograd.grad(penalty(weight), weight)[0].abs().max() > 0


def test_conditioning_must_fit_the_classes() -> None:
    for make in (make_convolutional, make_mlp):
        with pytest.raises(UsageFault, match=r"^conditioning: .*3 classes.*Use 'concat'"):
            make(num_classes=3)
        with pytest.raises(UsageFault, match=r"^conditioning: .*needs classes"):
            make(conditioning="concat")
