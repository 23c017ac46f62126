"""Several generators as one: shares, what each sees, and that a sample depends on its z alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.networks.layers import PRIORS, draw_latents
from img2img.networks.mixture import GeneratorMixture
from img2img.networks.mlp import MLPGenerator
from img2img.networks.resnet import ResnetGenerator

every_prior = pytest.mark.parametrize("prior", PRIORS)


class Echo(nn.Module):
    """z and its own number, as an image."""

    num_classes, out_channels, latent_dim = 0, 1, 2

    def __init__(self, number: float, prior: str) -> None:
        super().__init__()
        self.number, self.prior = number, prior

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: object = None) -> Tensor:
        return torch.cat((z, torch.full_like(z[:, :1], self.number)), dim=1)[:, :, None, None]


def mixture_of(count: int, prior: str) -> GeneratorMixture:
    return GeneratorMixture([Echo(number, prior) for number in range(count)])


def z_of(mixture: GeneratorMixture, count: int) -> Tensor:
    return draw_latents(mixture, Draws(0, "z", torch.arange(count)))


@every_prior
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_makes_its_share_of_the_samples(count: int, prior: str) -> None:
    mixture = mixture_of(count, prior)
    made = mixture(z_of(mixture, 20_000))[:, 2, 0, 0]
    shares = torch.bincount(made.long(), minlength=count) / 20_000
    # a share's standard deviation is at most 0.0035
    torch.testing.assert_close(shares, torch.full((count,), 1 / count), atol=0.014, rtol=0)


@every_prior
def test_each_sees_the_whole_prior(prior: str) -> None:
    """Kolmogorov-Smirnov: of 5,000 numbers the distance stays below 1.95/√5000 in 999 of 1,000 draws."""
    mixture = mixture_of(4, prior)
    made = mixture(z_of(mixture, 20_000))[:, :, 0, 0]
    for number in range(4):
        seen = made[made[:, 2] == number]
        for coordinate in (0, 1):
            ordered = seen[:, coordinate].double().sort().values
            even = torch.special.ndtr(ordered) if prior == "normal" else (ordered + 1) / 2
            ranks = torch.arange(1, len(even) + 1, dtype=torch.float64) / len(even)
            assert (even - ranks).abs().max() < 1.95 / len(even) ** 0.5


@every_prior
def test_the_first_coordinate_s_probability_is_cut_into_equal_parts(prior: str) -> None:
    mixture = mixture_of(2, prior)
    middle = 0.67448975 if prior == "normal" else 0.5  # three quarters of the prior are below it
    z = torch.tensor([[-middle, 7.0], [middle, -7.0]])
    made = mixture(z)[:, :, 0, 0]
    torch.testing.assert_close(made, torch.tensor([[0.0, 7.0, 0.0], [0.0, -7.0, 1.0]]), atol=1e-6, rtol=0)


@every_prior
def test_the_rarest_z_are_made_into_pictures_too(prior: str) -> None:
    mixture = mixture_of(3, prior)
    far = 8.0 if prior == "normal" else 1.0
    z = torch.tensor([[-far, 0.0], [far, 0.0], [0.0, 0.0], [-far / 3, 0.0]])
    made = mixture(z)
    assert made.isfinite().all()
    assert made[:3, 2, 0, 0].tolist() == [0, 2, 1]


@every_prior
def test_the_chosen_coordinate_is_differentiable(prior: str) -> None:
    mixture = mixture_of(3, prior)
    z = (torch.rand(6, 2, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: mixture(z)[:, :2], (z,))


def make_generators(members: int, **arguments: object) -> list[MLPGenerator]:
    torch.manual_seed(0)
    return [
        MLPGenerator(resolution=(1, 1), out_channels=2, latent_dim=3, width=5, members=members, **arguments)  # type: ignore[arg-type]
        for _ in range(3)
    ]


@pytest.mark.parametrize("members", [1, 2])
def test_a_sample_is_what_the_chosen_generator_alone_makes_of_it(members: int) -> None:
    generators = make_generators(members, num_classes=2)
    mixture = GeneratorMixture(generators)
    assert (mixture.latent_dim, mixture.prior, mixture.num_classes, mixture.members) == (3, "normal", 2, members)
    z, labels = torch.randn(12, 3), torch.arange(12) % 2
    images = mixture(z, labels)
    index, seen = mixture.choose(z)
    assert set(index.tolist()) == {0, 1, 2}
    for number, generator in enumerate(generators):
        chosen = index == number
        torch.testing.assert_close(images[chosen], generator(seen, labels)[chosen], rtol=0, atol=0)
    rows = [0, 6] if members == 2 else [4]
    torch.testing.assert_close(mixture(z[rows], labels[rows]), images[rows])


def test_only_generators_from_noise_can_share_the_work() -> None:
    with pytest.raises(UsageFault, match=r"^copies: ResnetGenerator makes nothing of noise.*Use 1"):
        GeneratorMixture([ResnetGenerator(width=1, blocks=1) for _ in range(2)])


def test_each_learns_from_its_own_samples() -> None:
    mixture = GeneratorMixture(make_generators(1))
    z = torch.randn(12, 3)
    index, _ = mixture.choose(z)
    mixture(z)[index == 1].square().sum().backward()
    sizes = [sum(p.grad.abs().sum().item() for p in g.parameters() if p.grad is not None) for g in mixture.generators]
    assert sizes[1] > 0
    assert sizes[0] == sizes[2] == 0


def test_a_state_moves_to_another_instance_and_batch_norm_trains() -> None:
    one = GeneratorMixture(make_generators(1, norm="batch"))
    with torch.device("meta"):
        other = GeneratorMixture(make_generators(1, norm="batch"))
    z = torch.randn(12, 3)
    one.train()(z)
    other.load_state_dict(one.state_dict(), assign=True)
    assert torch.equal(one.eval()(z), other.eval()(z))
