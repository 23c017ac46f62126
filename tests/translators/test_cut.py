"""CUT's terms against a plain rendering of the paper's, which passes they take, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from img2img import translators
from img2img.config import DataPaths, load_recipe, resolve
from img2img.data.batches import Batch
from img2img.distributed import World
from img2img.losses import ADVERSARIAL
from img2img.networks import PatchProjection, ResnetGenerator, UNetGenerator
from img2img.training.precision import choose_precision
from img2img.training.prepare import prepare
from img2img.translators.base import DataShape, Verdict
from img2img.translators.cut import CUT

SHAPE = DataShape((8, 8), {"a": 1, "b": 1})
LAYERS = (0, 1, 3)
WEIGHTS = {"nce": 0.5, "nce_identity": 0.25}


class Judge(nn.Module):
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        return images.flatten(1).mean(1)


class Pointwise(ResnetGenerator):
    """A generator that commutes with mirroring: every layer looks at one pixel."""

    def __init__(self) -> None:
        super().__init__(in_channels=1, out_channels=1, width=2, blocks=1, downsamplings=0, norm="none")
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 4:
                    centre = parameter[:, :, parameter.shape[2] // 2, parameter.shape[3] // 2].clone() * 20
                    parameter.zero_()[:, :, parameter.shape[2] // 2, parameter.shape[3] // 2] = centre


def make(weights: dict[str, float], generator: ResnetGenerator | UNetGenerator | None = None, **arguments: Any) -> CUT:
    torch.manual_seed(0)
    if generator is None:
        generator = ResnetGenerator(in_channels=1, out_channels=1, width=2, blocks=1)
    settings = {"layers": LAYERS, "width": 6, "patches": 8, **arguments}
    heads = PatchProjection(channels=generator.feature_channels, **settings)
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    networks = {"generator": generator, "generator_projection": heads, "discriminator": Judge()}
    return CUT(SHAPE, networks, ADVERSARIAL["lsgan"](), 2.0, weights).double().train()


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    images = {domain: torch.rand(3, 1, 8, 8, dtype=torch.float64) * 2 - 1 for domain in ("a", "b")}
    return Batch(images=images, labels=None, numbers=torch.arange(4, 7), seed=0)


def terms_of(translator: CUT, batch: Batch) -> dict[str, Tensor]:
    outputs = translator.generate(batch, for_generator=True)
    (view,) = translator.views(batch, outputs)
    assert view.real is batch["b"]
    return translator.generator_terms(batch, outputs, [Verdict(view.name, None, view.discriminator(view.fake))])


def plain_nce(translator: CUT, batch: Batch, source: Tensor) -> Tensor:
    """The paper's loss of G(source) with a pass of its own for everything, by torch's cross-entropy."""
    heads, generator = translator.generator_projection, translator.generator
    queries = heads(generator.encode(generator(source), LAYERS), batch.draws("patches"))
    keys = [vectors.detach() for vectors in heads(generator.encode(source, LAYERS), batch.draws("patches"))]
    losses = []
    for mine, theirs in zip(queries, keys, strict=True):
        similarities = torch.einsum("npd,nqd->npq", mine, theirs) / 0.07
        own = torch.arange(mine.shape[1]).expand(len(mine), -1)
        losses.append(F.cross_entropy(similarities.flatten(0, 1), own.flatten()))
    return torch.stack(losses).mean()


def gradients(translator: CUT, loss: Tensor) -> dict[str, Tensor]:
    named = dict(translator.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("network", [partial(ResnetGenerator, blocks=1), partial(UNetGenerator, depth=3)])
def test_terms_and_gradients_are_the_papers_though_passes_are_shared(
    network: Callable[..., ResnetGenerator | UNetGenerator], norm: str, batch: Batch
) -> None:
    translator = make(WEIGHTS, network(in_channels=1, out_channels=1, width=2, norm=norm))
    terms = terms_of(translator, batch)
    expected = {
        "generator": 2 * 0.5 * (translator.generator(batch["a"]).flatten(1).mean(1) - 1).square().mean(),
        "nce": 0.5 * plain_nce(translator, batch, batch["a"]),
        "nce_identity": 0.25 * plain_nce(translator, batch, batch["b"]),
    }
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])
        mine, theirs = gradients(translator, term), gradients(translator, expected[name])
        assert mine.keys() == theirs.keys()
        for key, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[key])
        if name != "generator":
            assert any(key.startswith("generator_projection.") for key in mine)


def test_one_pass_translates_and_gives_the_keys_and_one_encodes_what_came_out(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []

    def count(name: str) -> None:
        original = getattr(ResnetGenerator, name)

        def counted(self: ResnetGenerator, images: Tensor, *rest: Any) -> Any:
            calls.append((name, len(images)))
            return original(self, images, *rest)

        monkeypatch.setattr(ResnetGenerator, name, counted)

    count("translate")
    count("encode")
    terms_of(make(WEIGHTS), batch)
    assert calls == [("translate", 6), ("encode", 6)]
    calls.clear()
    assert set(terms_of(make({"nce": 10.0}), batch)) == {"generator", "nce"}
    assert calls == [("translate", 3), ("encode", 3)]
    calls.clear()
    assert set(make(WEIGHTS).generate(batch, for_generator=False)) == {"fake"}
    assert calls == [("translate", 3)]


def test_a_weight_of_zero_costs_nothing(batch: Batch) -> None:
    assert set(terms_of(make({"nce": 0.0, "nce_identity": 0.0}), batch)) == {"generator"}
    assert set(terms_of(make({"nce": 0.0, "nce_identity": 1.0}), batch)) == {"generator", "nce_identity"}


def test_the_source_is_not_moved_towards_its_translation(batch: Batch) -> None:
    """Keys have no graph: not to the heads, not to the encoder."""
    outputs = make(WEIGHTS).generate(batch, for_generator=True)
    assert {name for name, tensor in outputs.items() if not tensor.requires_grad} == {
        f"{name}/keys{number}" for name in ("fake", "identity") for number in range(len(LAYERS))
    }


def test_a_pictures_terms_depend_on_it_and_its_number_alone(batch: Batch) -> None:
    translator = make(WEIGHTS, mirror=0.5)
    alone = [
        terms_of(
            translator,
            Batch({name: images[[row]] for name, images in batch.images.items()}, None, batch.numbers[[row]], 0),
        )
        for row in range(3)
    ]
    for name, term in terms_of(translator, batch).items():
        torch.testing.assert_close(term, torch.stack([terms[name] for terms in alone]).mean())


def test_mirroring_changes_nothing_for_a_generator_that_commutes_with_it(batch: Batch) -> None:
    every_place = {"layers": (0, 1), "patches": 64}
    generator = Pointwise()
    plain = terms_of(make(WEIGHTS, generator, **every_place), batch)
    mirrored = terms_of(make(WEIGHTS, generator, mirror=0.999, **every_place), batch)
    for name, term in plain.items():
        torch.testing.assert_close(term, mirrored[name])
        assert term > 0
    # and something where it does not
    plain, mirrored = (terms_of(make(WEIGHTS, layers=(3,), patches=64, mirror=share), batch) for share in (0.0, 0.999))
    assert not torch.isclose(plain["nce"], mirrored["nce"])


def test_a_step_down_the_gradient_brings_patches_nearer_to_where_their_own_were(batch: Batch) -> None:
    translator = make({"nce": 1.0})
    outputs = translator.generate(batch, for_generator=True)
    before = translator.generator_terms(batch, outputs, [])["nce"]
    found = gradients(translator, before)
    step = 0.01 / sum(gradient.square().sum() for gradient in found.values())
    with torch.no_grad():
        for name, parameter in translator.named_parameters():
            if name in found:
                parameter -= step * found[name]
        moved = {**outputs, "fake": translator.generator(batch["a"])}
        after = translator.generator_terms(batch, moved, [])["nce"]
    # to first order a step of s·gradient gains s·‖gradient‖²
    assert before.item() - after.item() == pytest.approx(0.01, rel=0.2)


def test_previews_show_identities_only_where_they_are_learned(batch: Batch) -> None:
    for weights, rows in ((WEIGHTS, ["a", "a to b", "b", "b to b"]), ({"nce": 10.0}, ["a", "a to b", "b"])):
        translator = make(weights)
        assert list(translator.preview(batch, {"generator": translator.generator})) == rows


def test_heads_are_trained_with_the_generator_and_left_out_of_the_model() -> None:
    config = load_recipe("cut-small")
    with torch.device("meta"):
        translator, specs = translators.build(config, DataShape((64, 64), {"a": 3, "b": 3}))
    assert set(translator.networks_of("generator")) == {"generator", "generator_projection"}
    assert translator.deploy() == ("generator",)
    assert specs["generator_projection"].role == "projection"
    assert specs["generator_projection"].arguments["channels"] == (3, 64, 128, *[128] * 6)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["generator.name=spade"], "generator.name: network spade does not fit this method. Fitting: resnet, unet"),
        (["projection=none"], "projection.name: cut needs this network. Set projection.name=patches"),
        (["projection.name=patchs"], "projection.name: 'patchs' is unknown. Did you mean patches?"),
        (["projection.widht=8"], "projection.widht: network patches has no such argument. Did you mean width?"),
        (["projection.channels=3"], "projection.channels: the generator decides this. Remove it"),
        (["generator.blocks=4"], "projection.layers: 7 is out of range. Use a whole number from 0 to 6"),
        (["loss.nce=none"], "loss.nce: cut needs this weight"),
        (["loss.cycle=10"], "loss.cycle: cut has no such term (its weights: loss.nce, loss.nce_identity)"),
    ],
)
def test_what_does_not_fit_is_refused(sets: list[str], expected: str) -> None:
    found = [str(fault) for fault in translators.check(resolve("cut-small", None, sets))]
    assert len(found) == 1
    assert found[0].startswith(expected)


@pytest.mark.parametrize("recipe", ["cut-small", "fastcut"])
def test_unets_are_taken_without_dropout(recipe: str) -> None:
    sets = ["generator.name=unet", "projection.layers=0,1,2,4"]
    (fault,) = translators.check(resolve(recipe, None, sets))
    assert str(fault) == "generator.dropout: 0.5 of unet, and cut trains without dropout. Set generator.dropout=0"
    assert translators.check(resolve(recipe, None, [*sets, "generator.dropout=0"])) == []


def test_heads_are_those_of_the_way_down_of_a_unet() -> None:
    """64 pixels halved six times: numbers 0 to 6."""
    sets = ["generator.name=unet", "generator.width=16", "generator.dropout=0"]
    (fault,) = translators.check(resolve("cut-small", None, [*sets, "projection.layers=0,7"]))
    assert str(fault) == "projection.layers: 7 is out of range. Use a whole number from 0 to 6"
    with torch.device("meta"):
        config = resolve("cut-small", None, [*sets, "projection.layers=0,6"])
        _, specs = translators.build(config, DataShape((64, 64), {"a": 3, "b": 3}))
    assert specs["generator_projection"].arguments["channels"] == (3, 16, 32, 64, 128, 128, 128)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_either_direction_is_learned(direction: str, tmp_path: Path) -> None:
    for domain, level in (("a", 0), ("b", 255)):
        (tmp_path / domain).mkdir()
        for number in range(2):
            Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / domain / f"{number}.png")
    sets = [
        "data.resolution=16",
        f"data.direction={direction}",
        "generator.width=2",
        "discriminator.width=2",
        "discriminator.layers=1",
    ]
    data = DataPaths(a=tmp_path / "a", b=tmp_path / "b")
    prepared = prepare(
        resolve("fastcut-small", None, sets), data, choose_precision("float32", torch.device("cpu")), World(), None
    )
    level = prepared.preview["a"].mean().item()
    assert level == (-1.0 if direction == "a2b" else 1.0)
    assert prepared.source.names["a"] == direction[0]
