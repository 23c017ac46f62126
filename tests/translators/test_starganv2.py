"""StarGAN v2's terms on networks whose outputs are known, its schedule, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from img2img import translators
from img2img.config import resolve
from img2img.data.batches import Batch, References
from img2img.losses import ADVERSARIAL
from img2img.penalties import Verdict
from img2img.translators.base import DataShape
from img2img.translators.starganv2 import StarGANv2, remaining_share

WEIGHTS = {"style": 2.0, "diversity": 3.0, "cycle": 5.0}
SHAPE = DataShape((4, 4), {"image": 1}, ("cat", "dog"))


class Add(nn.Module):
    """x + scale · the style's mean."""

    style_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        return images + self.scale * styles.mean(1)[:, None, None, None]


class Mapping(nn.Module):
    """scale · z, 10 more for the second domain."""

    latent_dim = style_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.scale * z + 10.0 * labels[:, None]


class Encoder(nn.Module):
    """The mean of the picture, twice, times scale, 100 more for the second domain."""

    style_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.scale * images.flatten(1).mean(1, keepdim=True).expand(-1, 2) + 100.0 * labels[:, None]


def make(**weights: float) -> StarGANv2:
    networks = {
        "generator": Add(),
        "generator_mapping": Mapping(),
        "generator_style_encoder": Encoder(),
        "discriminator": nn.Identity(),
    }
    return StarGANv2(SHAPE, networks, ADVERSARIAL["nonsaturating"](), 1.0, {**WEIGHTS, **weights})


def batch_of(count: int = 4, second: float = 0.5) -> Batch:
    """Grey pictures of 0.25; images 1, 3, … have references of 0.5 and of `second`."""
    numbers = torch.arange(count)
    references = References(numbers[1::2], tuple(torch.full((count // 2, 1, 4, 4), value) for value in (0.5, second)))
    targets = torch.tensor([0, 1, 1, 0] * count)[:count]
    images = {"image": torch.full((count, 1, 4, 4), 0.25)}
    return Batch(images, numbers % 2, numbers, 3, targets=targets, references=references)


def terms_of(translator: StarGANv2, batch: Batch) -> dict[str, Tensor]:
    outputs = translator.generate(batch, for_generator=True)
    return translator.generator_terms(
        batch, outputs, [Verdict("discriminator", None, torch.zeros(len(batch), requires_grad=True))]
    )


def test_latents_guide_even_images_and_references_odd_ones() -> None:
    translator, batch = make(), batch_of()
    outputs = translator.generate(batch, for_generator=True)
    z = batch.draws("latent0").normal(2)
    expected = z + 10.0 * batch.targets[:, None]
    expected[1], expected[3] = 0.5 + 100.0, 0.5  # of the reference's own domain, the target
    torch.testing.assert_close(outputs["styles"], expected)
    torch.testing.assert_close(outputs["fake"], batch["image"] + expected.mean(1)[:, None, None, None])
    (view,) = translator.views(batch, outputs)
    assert view.real is batch["image"]
    assert view.real_condition is batch.labels
    assert view.fake_condition is batch.targets


def test_terms_in_closed_form() -> None:
    """Of references alone: s is 0.5 + 100 · domain, the result 0.25 + s, of which E says 0.25 + s + 100 · domain."""
    translator, batch = make(), batch_of()
    batch.references = References(torch.arange(4), tuple(torch.full((4, 1, 4, 4), value) for value in (0.5, 0.75)))
    terms = terms_of(translator, batch)
    assert set(terms) == {"generator", "style", "cycle", "diversity"}
    styles = 0.5 + 100.0 * batch.targets
    assert terms["style"].item() == pytest.approx(2.0 * (0.25 + 100.0 * batch.targets).mean().item())
    cycled = 0.25 + styles + 0.25 + 100.0 * batch.labels
    assert terms["cycle"].item() == pytest.approx(5.0 * (cycled - 0.25).abs().mean().item())
    assert terms["diversity"].item() == pytest.approx(-3.0 * 0.25)
    assert terms["generator"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_equal_styles_have_no_diversity() -> None:
    translator, batch = make(), batch_of(second=0.5)
    batch.references = References(torch.arange(4), tuple(torch.full((4, 1, 4, 4), 0.5) for _ in range(2)))
    assert terms_of(translator, batch)["diversity"].item() == 0


def test_diversity_drives_results_apart() -> None:
    """A step down its slope moves a result away from the one of the other style."""
    translator, batch = make(), batch_of(second=0.75)
    outputs = translator.generate(batch, for_generator=True)
    verdicts = [Verdict("discriminator", None, torch.zeros(4))]
    term = translator.generator_terms(batch, outputs, verdicts)["diversity"]
    (slope,) = torch.autograd.grad(term, outputs["fake"])
    before, after = ((fake - outputs["other"]).abs() for fake in (outputs["fake"], outputs["fake"] - slope))
    assert (after > before).all()


def test_constants_are_the_second_result_and_the_styles_of_references() -> None:
    translator, batch = make(), batch_of()
    outputs = translator.generate(batch, for_generator=True)
    assert not outputs["other"].requires_grad
    translator.generator_mapping.scale.requires_grad_(False)
    assert not translator.generate(batch, for_generator=True)["styles"].requires_grad


def test_every_network_of_the_generator_s_side_learns() -> None:
    translator, batch = make(), batch_of(second=0.75)
    torch.stack(list(terms_of(translator, batch).values())).sum().backward()
    for name in ("generator", "generator_mapping", "generator_style_encoder"):
        assert getattr(translator, name).scale.grad.abs() > 0, name
    assert list(translator.networks_of("generator")) == list(translator.deploy())


def test_a_step_s_share_is_the_whole_s_rows() -> None:
    translator, batch = make(), batch_of(8)
    whole = translator.generate(batch, for_generator=True)
    for first in range(0, 8, 2):
        rows = slice(first, first + 2)
        references = References(torch.tensor([1]), tuple(torch.full((1, 1, 4, 4), 0.5) for _ in range(2)))
        part = Batch(
            {"image": batch["image"][rows]}, batch.labels[rows], batch.numbers[rows], 3,
            targets=batch.targets[rows], references=references,
        )  # fmt: skip
        for name, values in translator.generate(part, for_generator=True).items():
            assert torch.equal(values, whole[name][rows]), name


def test_images_without_references_are_guided_by_latents() -> None:
    translator, batch = make(), batch_of(1)
    batch.references = None
    styles = translator.generate(batch, for_generator=False)["styles"]
    torch.testing.assert_close(styles, batch.draws("latent0").normal(2))


class TestSchedule:
    def test_falls_linearly_to_zero_and_stays(self) -> None:
        shares = [remaining_share(images, 2.0) for images in (0, 500, 1000, 1999, 2000, 10**6)]
        assert shares == pytest.approx([1, 0.75, 0.5, 0.0005, 0, 0])
        assert remaining_share(10**9, None) == 1

    def test_the_weight_follows_the_images_seen(self) -> None:
        translator, batch = make(diversity_kimg=2.0), batch_of(second=0.75)
        full = terms_of(translator, batch)["diversity"].item()
        translator.images_seen = 500
        assert terms_of(translator, batch)["diversity"].item() == pytest.approx(0.75 * full)
        translator.images_seen = 2000
        assert "diversity" not in terms_of(translator, batch)
        assert "other" not in translator.generate(batch, for_generator=True)


def test_preview_has_a_row_for_each_domain_and_one_for_references() -> None:
    translator, batch = make(), batch_of()
    batch.images["image"] = torch.arange(4.0)[:, None, None, None].expand(-1, 1, 4, 4)
    rows = translator.preview(batch, dict(translator.named_children()))
    assert list(rows) == ["pictures", "to cat", "to dog", "references", "in their style"]
    torch.testing.assert_close(rows["to dog"] - rows["to cat"], torch.full((4, 1, 4, 4), 10.0))
    assert torch.equal(rows["references"], batch["image"][[3, 0, 1, 2]])
    expected = batch["image"] + rows["references"] + 100.0 * batch.labels[[3, 0, 1, 2]][:, None, None, None]
    torch.testing.assert_close(rows["in their style"], expected)


@pytest.mark.parametrize(
    ("recipe", "sets", "expected"),
    [
        ("starganv2", ["generator.name=resnet"], "generator.name: network resnet does not fit this method. Fitting: s"),
        ("cyclegan", ["generator.name=starganv2"], "generator.name: network starganv2 does not fit this method."),
        ("starganv2", ["mapping=none"], "mapping.name: starganv2 needs this network. Set mapping.name=starganv2"),
        ("starganv2", ["style_encoder=none"], "style_encoder.name: starganv2 needs this network."),
        ("starganv2", ["generator.style_dim=3"], "generator.style_dim: the generator_mapping decides this."),
        ("starganv2", ["generator.downsamplings=9"], "generator.downsamplings: 9 is out of range"),
        ("starganv2", ["loss.style=none"], "loss.style: starganv2 needs this weight. Set it to zero or more"),
        ("starganv2", ["loss.l1=1"], "loss.l1: starganv2 has no such term (its weights: loss.style, loss.diversity"),
        ("cyclegan", ["loss.diversity_kimg=1"], "loss.diversity_kimg: cyclegan has no such term"),
        ("starganv2", ["train.label_dropout=0.1"], "train.label_dropout: starganv2 makes no pictures of classes out"),
        ("starganv2", ["loss.classification=1"], "loss.classification: starganv2 makes no pictures of classes out of"),
        ("starganv2", ["train.packing=2"], "train.packing: is for generators that start from noise, starganv2 starts"),
        ("starganv2", ["data.resolution=250"], "data.resolution: [250, 250] is not"),
    ],
)
def test_refusals_name_the_key_and_the_mend(recipe: str, sets: list[str], expected: str) -> None:
    found = [str(fault) for fault in translators.check(resolve(recipe, None, sets))]
    assert any(line.startswith(expected) for line in found), found


def test_styles_are_as_long_as_the_mapping_network_says() -> None:
    config = resolve("starganv2-small", sets={"mapping.style_dim": 7})
    with torch.device("meta"):
        translator, specs = translators.build(config, DataShape((32, 32), {"image": 3}, ("cat", "dog", "owl")))
    roles: dict[str, Any] = {name: (spec.role, spec.arguments.get("style_dim")) for name, spec in specs.items()}
    assert roles == {
        "generator_mapping": ("mapping", 7),
        "generator": ("generator", 7),
        "generator_style_encoder": ("style_encoder", 7),
        "discriminator": ("discriminator", None),
    }
    assert translator.generator_mapping.num_classes == 3
