"""Normalisation, dropout, spectral norm and initialisation, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.networks.dcgan import DCGANGenerator
from img2img.networks.layers import (
    NORMS,
    ConditionalBatchNorm,
    InstanceNorm,
    KeyedDropout,
    MinibatchDiscrimination,
    MinibatchStd,
    apply_spectral_norm,
    draw_latents,
    filter_matrices,
    init_normal,
    init_translator,
    make_norm,
    mixes_samples,
    needs_bias,
    reflect_pad,
    standing_statistics,
)
from img2img.networks.mlp import MLPGenerator


def draws_for(*numbers: int) -> Draws:
    return Draws(3, "dropout", torch.tensor(numbers))


class TestInstanceNorm:
    def by_definition(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(2, 3), keepdim=True)
        variance = (images - mean).square().mean(dim=(2, 3), keepdim=True)
        return (images - mean) / (variance + 1e-5).sqrt()

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("size", [(5, 7), (33, 32)])
    def test_value_and_gradient_in_every_layout(
        self, size: tuple[int, int], batch: int, memory_format: torch.memory_format
    ) -> None:
        torch.manual_seed(0)
        values = torch.randn(batch, 4, *size, dtype=torch.float64) * 3 + 2
        images = values.contiguous(memory_format=memory_format).requires_grad_()
        expected_images = values.clone().requires_grad_()
        cotangent = torch.randn(batch, 4, *size, dtype=torch.float64)
        output = InstanceNorm()(images)
        expected = self.by_definition(expected_images)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(InstanceNorm()(images.detach()), expected.detach())
        torch.testing.assert_close(
            torch.autograd.grad(output, images, cotangent), torch.autograd.grad(expected, expected_images, cotangent)
        )

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_second_derivative(self, memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        images = torch.randn(2, 2, 2, 3, dtype=torch.float64).contiguous(memory_format=memory_format)
        assert torch.autograd.gradgradcheck(InstanceNorm(), (images.requires_grad_(),))

    def test_equals_batch_norm_at_batch_1(self) -> None:
        torch.manual_seed(0)
        images = torch.randn(1, 4, 6, 5)
        torch.testing.assert_close(make_norm("instance", 4)(images), make_norm("batch", 4).train()(images))

    def test_scaled_and_shifted_it_equals_batch_norm_at_batch_1(self) -> None:
        torch.manual_seed(0)
        images = torch.randn(1, 4, 6, 5)
        ours, batch = make_norm("instance_affine", 4), make_norm("batch", 4).train()
        for key in ("weight", "bias"):
            values = torch.randn(4)
            ours[1].get_parameter(key).data.copy_(values)
            batch.get_parameter(key).data.copy_(values)
        torch.testing.assert_close(ours(images), batch(images))

    def test_a_single_pixel_becomes_zero(self) -> None:
        assert InstanceNorm()(torch.full((1, 3, 1, 1), 7.0)).eq(0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_bias_is_left_out_just_where_the_norm_subtracts_it(norm: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    layer = make_norm(norm, 3).double().train()
    biased = layer(images + torch.tensor([1.0, -2.0, 3.0])[:, None, None])
    unchanged = torch.allclose(biased, layer(images), atol=1e-12)
    assert unchanged is not needs_bias(norm)


@pytest.mark.parametrize("norm", NORMS)
def test_mixes_samples_is_true_just_where_a_batch_changes_a_sample(norm: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    network = nn.Sequential(nn.Conv2d(3, 3, 1), make_norm(norm, 3)).double().train()
    alone = network(images[:1])
    changed = not torch.allclose(network(images)[:1], alone)
    assert changed is mixes_samples(network)


def test_conditional_batch_norm_is_batch_norm_with_each_class_own_scale_and_shift() -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm(3, num_classes=4).double()
    images, labels = torch.randn(6, 3, 4, 5, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    plain = nn.BatchNorm2d(3).double()
    for mode in (True, False):
        out = layer.train(mode)(images, labels)
        normal = plain.train(mode)(images)
        for index, label in enumerate(labels):
            wanted = normal[index] * layer.scale.weight[label][:, None, None] + layer.shift.weight[label][:, None, None]
            torch.testing.assert_close(out[index], wanted)


@pytest.mark.parametrize(("count", "size"), [(8, 4), (6, 3), (5, 1), (3, 3), (1, 1)])
def test_minibatch_std_is_the_mean_deviation_in_a_group(count: int, size: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(count, 3, 4, 5, dtype=torch.float64)
    out = MinibatchStd(group_size=4)(features)
    assert out.shape == (count, 4, 4, 5)
    assert torch.equal(out[:, :3], features)
    for start in range(0, count, size):
        group = features[start : start + size]
        wanted = (((group - group.mean(dim=0)) ** 2).mean(dim=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[start : start + size, 3], wanted.expand(size, 4, 5))


def test_minibatch_std_mixes_samples_and_is_smooth_where_they_are_equal() -> None:
    assert mixes_samples(nn.Sequential(MinibatchStd()))
    features = torch.ones(4, 2, 3, 3, requires_grad=True)
    MinibatchStd()(features).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_minibatch_std_makes_no_group_of_two_members() -> None:
    """Two rows a member: groups of two, where as one batch of four it would be one group."""
    torch.manual_seed(0)
    features = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    out = MinibatchStd(members=2)(features)
    torch.testing.assert_close(out, torch.cat([MinibatchStd()(features[:2]), MinibatchStd()(features[2:])]))
    assert not torch.allclose(out, MinibatchStd()(features))


class TestMinibatchDiscrimination:
    @pytest.mark.parametrize("members", [1, 2])
    def test_by_brute_force(self, members: int) -> None:
        torch.manual_seed(0)
        layer = MinibatchDiscrimination(3, kernels=2, dim=4, members=members).double()
        features = torch.randn(members * 5, 3, dtype=torch.float64)
        out = layer(features)
        assert out.shape == (members * 5, 2)
        for row in range(members * 5):
            member = row // 5
            tensor = layer.project.weight.detach()[member].reshape(3, 2, 4)
            matrices = torch.einsum("na,abc->nbc", features[member * 5 : member * 5 + 5], tensor)
            for kernel in range(2):
                near = sum(math.exp(-(matrices[row % 5, kernel] - other[kernel]).abs().sum()) for other in matrices)
                assert out[row, kernel].item() == pytest.approx(near, rel=1e-12)

    def test_equal_samples_are_as_near_as_can_be_and_a_lone_one_has_itself(self) -> None:
        torch.manual_seed(0)
        layer = MinibatchDiscrimination(3)
        torch.testing.assert_close(layer(torch.randn(1, 3).expand(6, -1)), torch.full((6, 16), 6.0))
        torch.testing.assert_close(layer(torch.randn(1, 3)), torch.ones(1, 16))

    def test_it_pushes_samples_apart(self) -> None:
        """Less nearness is more distance: its gradient at two points of one coordinate has opposite signs."""
        layer = MinibatchDiscrimination(1, kernels=1, dim=1)
        points = torch.tensor([[0.0], [0.5]], requires_grad=True)
        layer(points).sum().backward()
        assert points.grad is not None
        assert points.grad[0].item() == -points.grad[1].item() > 0

    def test_second_derivative(self) -> None:
        torch.manual_seed(0)
        layer = MinibatchDiscrimination(2, kernels=2, dim=2, members=2).double()
        features = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(layer, (features,))

    def test_it_mixes_samples(self) -> None:
        assert mixes_samples(nn.Sequential(MinibatchDiscrimination(2)))


class TestDrawLatents:
    class Generator:
        latent_dim = 3
        prior = "normal"

    def test_normal_is_the_stream_s_normal_and_the_default(self) -> None:
        generator = self.Generator()
        expected = draws_for(1, 2).normal(3)
        assert torch.equal(draw_latents(generator, draws_for(1, 2)), expected)
        assert torch.equal(draw_latents(WithoutPrior(), draws_for(1, 2)), expected)

    def test_uniform_fills_the_cube(self) -> None:
        generator = self.Generator()
        generator.prior = "uniform"
        z = draw_latents(generator, draws_for(*range(5000)))
        assert z.shape == (5000, 3)
        assert -1 <= z.min() < -0.99
        assert 0.99 < z.max() < 1
        # the standard deviation of 15,000 values' mean is 0.005
        assert z.mean().item() == pytest.approx(0, abs=0.02)
        assert z.std().item() == pytest.approx(3**-0.5, abs=0.01)
        assert torch.equal(z[7:8], draw_latents(generator, draws_for(7)))


class WithoutPrior:
    latent_dim = 3


def test_reflect_pad_mirrors_without_repeating_the_edge() -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).expand(1, 1, 3, 3)
    assert reflect_pad(row, 2)[0, 0, 0].tolist() == [3, 2, 1, 2, 3, 2, 1]


def test_reflect_pad_keeps_bfloat16_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert reflect_pad(torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16), 1).dtype == torch.bfloat16


class TestKeyedDropout:
    def test_off_without_draws_and_at_probability_zero(self) -> None:
        x = torch.randn(2, 3)
        assert KeyedDropout(0.5)(x) is x
        assert KeyedDropout(0.0)(x, draws_for(0, 1)) is x

    def test_zeroes_the_share_and_keeps_the_mean(self) -> None:
        dropped = KeyedDropout(0.3)(torch.ones(4, 10_000), draws_for(0, 1, 2, 3))
        assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
        # 40,000 values: the share's standard deviation is 0.0023
        assert dropped.eq(0).float().mean().item() == pytest.approx(0.3, abs=0.012)

    def test_a_row_depends_on_its_image_number_alone(self) -> None:
        layer, ones = KeyedDropout(0.5), torch.ones(4, 3, 5, 5)
        whole = layer(ones, draws_for(8, 9, 10, 11))
        torch.testing.assert_close(layer(ones[:2], draws_for(10, 9)), whole[[2, 1]], rtol=0, atol=0)
        assert not torch.equal(whole[0], whole[1])


class TestSpectralNorm:
    @pytest.mark.parametrize(
        "layer",
        [nn.Conv2d(5, 7, 3), nn.ConvTranspose2d(5, 7, 3), nn.Linear(6, 4), nn.Embedding(6, 4)],
        ids=lambda layer: type(layer).__name__,
    )
    def test_largest_singular_value_becomes_one(self, layer: nn.Module) -> None:
        torch.manual_seed(0)
        init_normal(layer)
        apply_spectral_norm(layer)
        with torch.no_grad():
            for _ in range(100):
                weight = layer.weight
        matrix = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
        assert torch.linalg.svdvals(matrix.flatten(1))[0].item() == pytest.approx(1, abs=1e-4)

    def test_one_iteration_for_a_training_forward_and_none_in_evaluation(self) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(6, 4, bias=False).double()
        apply_spectral_norm(layer)
        norm, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original.detach()
        norm.u.copy_(F.normalize(torch.randn(4, dtype=torch.float64), dim=0))
        before = norm.u.clone()
        v = F.normalize(weight.T @ before, dim=0)
        expected_u = F.normalize(weight @ v, dim=0)
        layer.eval()(torch.ones(1, 6, dtype=torch.float64))
        assert torch.equal(norm.u, before)
        layer.train()(torch.ones(1, 6, dtype=torch.float64))
        torch.testing.assert_close(norm.u, expected_u)

    def test_gradient_is_that_of_w_over_sigma(self) -> None:
        """At convergence d(c · W/σ) = c/σ - (c · W) u vᵀ / σ², since dσ = uᵀ dW v."""
        torch.manual_seed(0)
        layer = nn.Linear(5, 4, bias=False).double()
        apply_spectral_norm(layer)
        for _ in range(300):
            layer.weight  # noqa: B018 (each access is a forward of the parametrization)
        original = layer.parametrizations.weight.original
        cotangent = torch.randn(4, 5, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((layer.weight * cotangent).sum(), original)
        left, singular, right = torch.linalg.svd(original.detach())
        sigma, outer = singular[0], torch.outer(left[:, 0], right[0])
        expected = cotangent / sigma - (cotangent * original.detach()).sum() / sigma**2 * outer
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)

    def test_two_forwards_before_one_backward(self) -> None:
        layer = nn.Linear(3, 2)
        apply_spectral_norm(layer)
        (layer(torch.ones(1, 3)) - layer(-torch.ones(1, 3))).sum().backward()
        assert layer.parametrizations.weight.original.grad is not None

    def test_computed_in_float32_under_autocast(self) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(64, 64).eval()
        apply_spectral_norm(layer)
        expected = layer.weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(torch.ones(1, 64)).dtype == torch.bfloat16
            torch.testing.assert_close(layer.weight, expected, rtol=0, atol=0)

    def test_state_moves_to_another_instance(self) -> None:
        torch.manual_seed(0)
        one, other = nn.Linear(6, 4), nn.Linear(6, 4)
        apply_spectral_norm(one)
        apply_spectral_norm(other)
        other.load_state_dict(one.state_dict())
        torch.testing.assert_close(other.eval().weight, one.eval().weight, rtol=0, atol=0)


def test_init_normal_draws_the_stated_distributions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(32, 64, 4), nn.BatchNorm2d(4096), nn.ConvTranspose2d(32, 64, 4))
    init_normal(network)
    for layer, mean in zip(network, (0.0, 1.0, 0.0)):
        # the standard deviation of a standard deviation over n ≥ 4096 values is below 0.02 · 0.012
        assert layer.weight.std().item() == pytest.approx(0.02, abs=0.001)
        assert layer.weight.mean().item() == pytest.approx(mean, abs=0.002)
        assert layer.bias.eq(0).all()


@pytest.mark.parametrize(("init", "variance"), [("normal", 0.02**2), ("xavier", 2 * 0.02**2 / ((32 + 64) * 4 * 4))])
def test_a_translator_begins_as_was_chosen(init: str, variance: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(32, 64, 4), nn.ConvTranspose2d(32, 64, 4), nn.BatchNorm2d(4096))
    init_translator(network, init)
    for layer in network[:2]:
        assert layer.weight.std().item() == pytest.approx(variance**0.5, rel=0.05)
        assert layer.bias.eq(0).all()
    assert network[2].weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kind", [DCGANGenerator, MLPGenerator])
def test_a_generator_s_layers_can_be_kept_from_stretching(kind: type[nn.Module]) -> None:
    network = kind(resolution=(8, 8), out_channels=1, width=4, latent_dim=6, spectral_norm=True)
    matrices = list(filter_matrices(network))
    assert len(matrices) >= 3 or kind is DCGANGenerator
    for matrix in matrices:
        assert torch.linalg.matrix_norm(matrix.detach(), ord=2).max().item() == pytest.approx(1.0, abs=0.02)


class TestStandingStatistics:
    def network(self) -> nn.Module:
        class Small(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 4)
                self.norm = nn.BatchNorm1d(4)

            def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
                x = self.linear(z)
                return self.norm(x if labels is None else x + labels[:, None])

        return Small()

    @pytest.mark.parametrize("with_labels", [False, True])
    def test_the_plain_average_over_batches(self, with_labels: bool) -> None:
        torch.manual_seed(0)
        network = self.network()
        for _ in range(3):  # statistics of other numbers, to be forgotten
            network(torch.randn(8, 3) * 9)
        batches = [(torch.randn(8, 3) + 1, torch.randint(5, (8,)) if with_labels else None) for _ in range(7)]
        inside = [network.linear(z) + (0 if labels is None else labels[:, None]) for z, labels in batches]
        standing_statistics(network, batches)
        torch.testing.assert_close(network.norm.running_mean, torch.cat(inside).mean(dim=0))
        variances = torch.stack([values.var(dim=0) for values in inside])
        torch.testing.assert_close(network.norm.running_var, variances.mean(dim=0))
        assert not network.training
        assert not network.norm.training
        assert network.norm.momentum == 0.1

    def test_the_vectors_of_spectral_norm_stay(self) -> None:
        torch.manual_seed(0)
        network = self.network()
        apply_spectral_norm(network)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        standing_statistics(network, [(torch.randn(8, 3), None)])
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
