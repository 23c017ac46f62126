"""Each method's terms on networks whose outputs are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import ADVERSARIAL
from img2img.translators.base import DataShape, Verdict, apply_together
from img2img.translators.conditional import Conditional
from img2img.translators.cyclegan import CycleGAN
from img2img.translators.pix2pix import Pix2Pix
from img2img.translators.unconditional import Unconditional

SHAPE = DataShape((4, 4), {"image": 1, "a": 1, "b": 1}, ("cat", "dog"))


class Add(nn.Module):
    """x + value; remembers the batches it was called with."""

    latent_dim = 16

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.batches: list[int] = []

    def forward(self, images: Tensor, condition: object = None, draws: object = None) -> Tensor:
        self.batches.append(len(images))
        return images.reshape(-1, 1, 4, 4) + self.value


class Judge(nn.Module):
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        return images.flatten(1).mean(1)


@pytest.fixture
def batch() -> Batch:
    images = {
        "a": torch.full((2, 1, 4, 4), 0.25),
        "b": torch.full((2, 1, 4, 4), -0.5),
        "image": torch.zeros(2, 1, 4, 4),
    }
    return Batch(images=images, labels=torch.tensor([0, 1]), numbers=torch.arange(2), seed=0)


def test_cyclegan_terms_in_closed_form(batch: Batch) -> None:
    """With a → b adding 0.1 and b → a adding 0.3, every cycle is off by 0.4, identities by 0.1 and 0.3."""
    networks = {
        "generator_ab": Add(0.1),
        "generator_ba": Add(0.3),
        "discriminator_a": Judge(),
        "discriminator_b": Judge(),
    }
    translator = CycleGAN(SHAPE, networks, ADVERSARIAL["lsgan"](), 2.0, {"cycle": 10.0, "identity": 5.0})
    outputs = translator.generate(batch, for_generator=True)
    views = {view.name: view for view in translator.views(batch, outputs)}
    torch.testing.assert_close(views["discriminator_b"].fake, batch["a"] + 0.1)
    torch.testing.assert_close(views["discriminator_a"].fake, batch["b"] + 0.3)
    assert views["discriminator_b"].real is batch["b"]
    verdicts = [Verdict(name, None, torch.tensor([0.0, 3.0])) for name in views]
    terms = {name: term.item() for name, term in translator.generator_terms(batch, outputs, verdicts).items()}
    # weight 2 · mean of ½(0 − 1)², ½(3 − 1)² = 2.5
    expected = {
        "generator_a": 2.5,
        "generator_b": 2.5,
        "cycle_a": 4.0,
        "cycle_b": 4.0,
        "identity_a": 1.5,
        "identity_b": 0.5,
    }
    assert terms == pytest.approx(expected)


def test_cyclegan_shares_forward_passes_and_skips_what_only_the_generator_needs(batch: Batch) -> None:
    networks = {
        "generator_ab": Add(0.1),
        "generator_ba": Add(0.3),
        "discriminator_a": Judge(),
        "discriminator_b": Judge(),
    }
    translator = CycleGAN(SHAPE, networks, ADVERSARIAL["lsgan"](), 1.0, {"cycle": 10.0, "identity": 5.0})
    assert set(translator.generate(batch, for_generator=False)) == {"fake_a", "fake_b"}
    translator.generate(batch, for_generator=True)
    assert networks["generator_ab"].batches == [2, 4]
    translator.weights["identity"] = 0.0
    assert set(translator.generate(batch, for_generator=True)) == {"fake_a", "fake_b"}


def test_batch_normalisation_is_not_applied_together() -> None:
    network = nn.BatchNorm2d(1)
    first, second = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    for result in apply_together(network, first, second):
        torch.testing.assert_close(result, torch.zeros_like(result))


def test_pix2pix_terms(batch: Batch) -> None:
    translator = Pix2Pix(
        SHAPE, {"generator": Add(0.1), "discriminator": Judge()}, ADVERSARIAL["nonsaturating"](), 1.0, {"l1": 100.0}
    )
    outputs = translator.generate(batch, for_generator=True)
    (view,) = translator.views(batch, outputs)
    assert view.real_condition is batch["a"]
    assert view.fake_condition is batch["a"]
    terms = translator.generator_terms(batch, outputs, [Verdict("discriminator", None, torch.zeros(2))])
    assert terms["l1"].item() == pytest.approx(100 * abs(0.25 + 0.1 + 0.5))
    assert terms["generator"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_the_perceptual_term_is_weighed_and_its_network_no_part_of_the_translator(batch: Batch) -> None:
    class Distance(nn.Linear):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return (output - target).square().mean((1, 2, 3))

    networks = {"generator": Add(0.1), "discriminator": Judge()}
    weights = {"l1": 0.0, "perceptual": 3.0}
    translator = Pix2Pix(SHAPE, networks, ADVERSARIAL["hinge"](), 1.0, weights, Distance(1, 1).__call__)
    outputs = translator.generate(batch, for_generator=True)
    terms = translator.generator_terms(batch, outputs, [Verdict("discriminator", None, torch.zeros(2))])
    assert set(terms) == {"generator", "perceptual"}
    assert terms["perceptual"].item() == pytest.approx(3 * 0.85**2)
    assert set(translator.state_dict()) == {"generator.value"}


def test_conditional_fakes_take_the_labels_of_the_real_images(batch: Batch) -> None:
    for kind, labels in ((Conditional, batch.labels), (Unconditional, batch.labels)):
        translator = kind(SHAPE, {"generator": Add(0.0), "discriminator": Judge()}, ADVERSARIAL["hinge"]())
        (view,) = translator.views(batch, translator.generate(batch, for_generator=False))
        assert view.real_condition is labels
        assert view.fake_condition is labels


def test_the_noise_belongs_to_the_image_not_to_its_place_in_the_batch(batch: Batch) -> None:
    translator = Unconditional(SHAPE, {"generator": Add(0.0), "discriminator": Judge()}, ADVERSARIAL["hinge"]())
    whole = translator.generate(batch, for_generator=False)["fake"]
    second = Batch({"image": batch["image"][1:]}, None, batch.numbers[1:], batch.seed)
    assert torch.equal(translator.generate(second, for_generator=False)["fake"], whole[1:])


def test_conditional_preview_has_a_row_per_class_with_the_same_noise(batch: Batch) -> None:
    translator = Conditional(SHAPE, {"generator": Add(0.0), "discriminator": Judge()}, ADVERSARIAL["hinge"]())
    rows = translator.preview(batch, {"generator": translator.generator})
    assert list(rows) == ["cat", "dog"]
    assert torch.equal(rows["cat"], rows["dog"])
