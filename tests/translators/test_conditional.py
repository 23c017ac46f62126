"""What conditional models add: label dropout, and discriminators that tell the classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from img2img.config import resolve
from img2img.data.batches import Batch
from img2img.errors import Faults
from img2img.losses import ADVERSARIAL
from img2img.penalties import Verdict
from img2img.translators import build, check
from img2img.translators.base import DataShape
from img2img.translators.conditional import Conditional

CLASSES = ("cat", "dog", "fox")


class Generator(nn.Module):
    latent_dim = 4

    def forward(self, z: Tensor, labels: Tensor, draws: object = None) -> Tensor:
        return labels.to(z.dtype).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


class Classifier(nn.Module):
    """Says that each image is of the class that its features are."""

    def classify(self, features: Tensor) -> Tensor:
        return 2.0 * nn.functional.one_hot(features[:, 0].long(), 3).float()


def make(dropout: float = 0.0, **weights: float) -> Conditional:
    shape = DataShape((8, 8), {"image": 3}, CLASSES, label_dropout=dropout)
    networks = {"generator": Generator(), "discriminator": Classifier()}
    return Conditional(shape, networks, ADVERSARIAL["hinge"](), weights=weights)


def batch_of(count: int) -> Batch:
    numbers = torch.arange(count)
    return Batch({"image": torch.zeros(count, 3, 8, 8)}, numbers % 3, numbers, seed=1)


def test_label_dropout_hides_its_share_of_the_classes_from_both_players() -> None:
    translator, batch = make(dropout=0.25), batch_of(3000)
    outputs = translator.generate(batch, for_generator=False)
    (view,) = translator.views(batch, outputs)
    told = view.real_condition
    assert told is not None
    assert view.fake_condition is told or torch.equal(view.fake_condition, told)
    assert torch.equal(outputs["fake"][:, 0, 0, 0].long(), told)
    hidden = told == len(CLASSES)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(told[~hidden], batch.labels[~hidden])


def test_whose_label_is_hidden_depends_on_the_image_alone() -> None:
    translator, batch = make(dropout=0.5), batch_of(40)
    part = Batch({"image": batch["image"][10:20]}, batch.labels[10:20], batch.numbers[10:20], seed=1)
    assert torch.equal(translator.labels(batch)[10:20], translator.labels(part))


def test_networks_know_a_class_more_that_stands_for_any() -> None:
    config = resolve("cgan-projection-small", sets=["train.label_dropout=0.1", "generator.width=4"])
    assert not check(config)
    translator, specs = build(config, DataShape((64, 64), {"image": 3}, CLASSES))
    assert [specs[name].arguments["num_classes"] for name in ("generator", "discriminator")] == [4, 4]
    assert translator.shape.classes == CLASSES


def test_both_players_pay_for_classes_that_are_not_told() -> None:
    """−log softmax(2, 0, 0): log(1 + 2e⁻²) where the class is right, 2 more where it is not; times the weight."""
    translator, batch = make(classification=0.5), batch_of(6)
    right, wrong = (labels.float()[:, None] for labels in (batch.labels, (batch.labels + 1) % 3))
    verdict = Verdict("discriminator", torch.zeros(6), torch.zeros(6), right, wrong)
    least = torch.tensor(1 + 2 * torch.e**-2).log()
    of_d = translator.discriminator_terms(batch, {}, [verdict])
    of_g = translator.generator_terms(batch, {}, [verdict])
    torch.testing.assert_close(of_d["discriminator/classes_of_real"], 0.5 * least)
    torch.testing.assert_close(of_d["discriminator/classes_of_fake"], 0.5 * (least + 2))
    torch.testing.assert_close(of_g["generator/classes"], 0.5 * (least + 2))


@pytest.mark.parametrize(
    ("recipe", "sets", "subject"),
    [
        ("cgan-projection-small", ["loss.classification=1"], "loss.classification"),
        ("dcgan-small", ["loss.classification=1"], "loss.classification"),
        ("dcgan-small", ["train.label_dropout=0.1"], "train.label_dropout"),
    ],
)
def test_what_no_class_can_be_told_for_is_refused(recipe: str, sets: list[str], subject: str) -> None:
    faults = check(resolve(recipe, sets=sets))
    assert [str(fault.subject) for fault in faults] == [subject]


def test_dropping_every_label_is_refused() -> None:
    with pytest.raises(Faults):
        resolve("cgan-small", sets=["train.label_dropout=1"])
