"""One picture judged at several sizes, and pairs matched in every layer: what each discriminator sees, and the terms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from img2img import translators
from img2img.augmentation import ada, diffaugment
from img2img.config import resolve
from img2img.data.batches import Batch
from img2img.data.resize import take_nearest
from img2img.distributed import World
from img2img.networks.labels import Palette
from img2img.penalties import squared_gradient_norm
from img2img.training.engine import Engine, EngineSettings, Step
from img2img.training.precision import choose_precision
from img2img.translators.base import DataShape

SMALL = {
    "data.resolution": 16,
    "generator.width": 2,
    "generator.blocks": 1,
    "generator.local_blocks": 1,
    "generator.downsamplings": 1,
    "discriminator.width": 2,
    "discriminator.layers": 1,
    "train.batch": 4,
}
SHAPE = DataShape((16, 16), {"a": 3, "b": 3})


def make_engine(shape: DataShape = SHAPE, **sets: Any) -> Engine:
    named = {key.replace("__", "."): value for key, value in sets.items()}
    values = {key: value for key, value in {**SMALL, **named}.items() if value is not None}
    config = resolve("pix2pixhd-small", None, values)
    assert translators.check(config) == []
    torch.manual_seed(0)
    translator, _ = translators.build(config, shape)
    precision = choose_precision("float64", torch.device("cpu"))
    return Engine(translator, translators.make_penalties(config), EngineSettings.of(config), precision, World())


def make_batch(start: int = 0, count: int = 4) -> Batch:
    numbers = torch.arange(start, start + count)
    batch = Batch(images={}, labels=None, numbers=numbers, seed=3)
    for name in ("a", "b"):
        batch.images[name] = batch.draws(f"data/{name}").uniform(3, 16, 16).double() * 2 - 1
    return batch


def step_of(engine: Engine, player: str) -> Step:
    batch = engine.at_stage(make_batch())
    return Step(engine, player, batch, engine.generate(batch, for_generator=player == "generator"))


def test_each_discriminator_sees_the_means_of_its_blocks() -> None:
    step = step_of(make_engine(train__scales=3, discriminator__layers=0), "discriminator")
    a, b, fake = step.batch["a"], step.batch["b"], step.outputs["fake"]
    names = ["discriminator_0", "discriminator_1", "discriminator_2"]
    assert [view.name for view in step.views] == names
    assert len({id(view.discriminator) for view in step.views}) == 3
    for halvings, view in enumerate(step.views):
        size = 16 >> halvings
        for seen, whole in ((view.real, b), (view.fake, fake), (view.real_condition, a), (view.fake_condition, a)):
            blocks = whole.unflatten(3, (size, -1)).unflatten(2, (size, -1))
            torch.testing.assert_close(seen, blocks.mean((3, 5)))


def test_the_terms_are_those_of_one_game_for_each_size() -> None:
    engine = make_engine(loss__penalties=("r1",), loss__penalties__r1__weight=2.0, loss__feature_matching="none")
    step = step_of(engine, "discriminator")
    terms = step.main_terms()
    b, fake, a = step.batch["b"], step.outputs["fake"], step.batch["a"]
    for halvings, judge in enumerate(engine.translator.discriminator):
        real, made, given = (F.avg_pool2d(images, 2**halvings) for images in (b, fake, a))
        expected = 0.5 * ((judge(real, given) - 1).square().mean() + judge(made, given).square().mean())
        torch.testing.assert_close(terms[f"discriminator_{halvings}"], expected)
        slope = squared_gradient_norm(judge, real, given).mean()
        torch.testing.assert_close(terms[f"r1/discriminator_{halvings}"], 2.0 * 0.5 * slope)
    assert len(terms) == 4
    generator_terms = step_of(engine, "generator").main_terms()
    assert set(generator_terms) == {"generator_0", "generator_1"}


def test_how_sure_a_discriminator_is_counts_all_its_sizes() -> None:
    """LSGAN's loss is ½ (½² + ½²) = ¼ where it cannot tell."""
    shares = make_engine().undecided({"discriminator_0": 0.25, "discriminator_1": 0.125, "generator_0": 1.0})
    assert shares == {"discriminator_undecided": 0.75}


def test_with_one_size_it_is_the_discriminator_itself() -> None:
    engine = make_engine(train__scales=1)
    assert engine.undecided({"discriminator": 0.25}) == {"discriminator_undecided": 1.0}
    (view,) = step_of(engine, "discriminator").views
    assert view.name == "discriminator"
    assert view.discriminator is engine.translator.discriminator


def test_cyclegan_has_sizes_too() -> None:
    sets = {"generator.local_blocks", "generator.downsamplings"}
    config = resolve("cyclegan-small", None, {k: v for k, v in SMALL.items() if k not in sets} | {"train.scales": 2})
    assert translators.check(config) == []
    translator, _ = translators.build(config, DataShape((16, 16), {"a": 3, "b": 3}))
    precision = choose_precision("float64", torch.device("cpu"))
    engine = Engine(translator, {}, EngineSettings.of(config), precision, World())
    names = {view.name for view in step_of(engine, "discriminator").views}
    assert names == {f"discriminator_{domain}_{size}" for domain in "ab" for size in (0, 1)}
    before = [parameter.detach().clone() for parameter in engine.players["discriminator"].parameters]
    engine.train_step([[make_batch()]])
    assert all(not torch.equal(one, other) for one, other in zip(before, engine.players["discriminator"].parameters))


def test_a_picture_is_augmented_once_then_halved_and_its_pair_like_it() -> None:
    engine = make_engine(augment__discriminator="diffaugment")
    step = step_of(engine, "generator")
    own = step.batch.draws("generator/augment/discriminator/pair")
    parts = ("colour", "translation", "cutout")
    a, b, fake = (
        diffaugment(images, own, parts=parts) for images in (step.batch["a"], step.batch["b"], step.outputs["fake"])
    )
    for halvings, view in enumerate(step.views):
        for seen, whole in ((view.real, b), (view.fake, fake), (view.real_condition, a), (view.fake_condition, a)):
            torch.testing.assert_close(seen, F.avg_pool2d(whole, 2**halvings))


def test_the_probability_of_augmentation_follows_all_sizes_together() -> None:
    """LSGAN calls real what is above ½. With one discriminator that always says so and one that never does the mean
    sign is 0, below the target, so p falls; with two that do it is 1, and p rises."""
    sets = {"discriminator": "ada", "p": 0.5, "target": 0.3, "speed_kimg": 0.04, "interval": 1}
    for verdicts, sign in (((9.0, -9.0), 0.0), ((9.0, 9.0), 1.0)):
        engine = make_engine(**{f"augment__{key}": value for key, value in sets.items()}, optim__discriminator_lr=1e-9)
        for judge, verdict in zip(engine.translator.discriminator, verdicts):
            torch.nn.init.zeros_(judge.layers[-1].weight)
            torch.nn.init.constant_(judge.layers[-1].bias, verdict)
        engine.train_step([[make_batch()]])
        p = engine.variables["augment/discriminator/p"].item()
        assert p == pytest.approx(0.6 if sign > 0.3 else 0.4)
        assert set(engine.variables) == {"augment/discriminator/p", "augment/discriminator/excess"}
        assert engine.monitors.take(World())["discriminator_augment_sign"] == pytest.approx(sign)


class TestLayers:
    def test_the_term_is_the_sum_over_layers_of_the_mean_difference(self) -> None:
        engine = make_engine()
        step = step_of(engine, "generator")
        terms = step.main_terms()
        a, b, fake = step.batch["a"], step.batch["b"], step.outputs["fake"]
        for halvings, judge in enumerate(engine.translator.discriminator):
            seen = {}
            for name, images in (("real", b), ("fake", fake)):
                x = torch.cat([F.avg_pool2d(part, 2**halvings) for part in (images, a)], dim=1)
                # a convolution and its LeakyReLU; a convolution, its norm and its LeakyReLU; the last convolution
                first = judge.layers[:2](x)
                seen[name] = (first, judge.layers[2:5](first))
                assert len(judge.layers) == 6
            expected = sum((r - f).abs().mean() for r, f in zip(seen["real"], seen["fake"]))
            torch.testing.assert_close(terms[f"generator_{halvings}/feature_matching"], 10 * expected)

    @pytest.mark.parametrize("augmentation", ["none", "diffaugment"])
    def test_it_is_zero_for_equal_images(self, augmentation: str) -> None:
        """Augmented too: a picture and the one it is compared with are changed alike."""
        engine = make_engine(augment__discriminator=augmentation)
        batch = make_batch()
        terms = Step(engine, "generator", batch, {"fake": batch["b"]}).main_terms()
        for halvings in (0, 1):
            assert terms[f"generator_{halvings}/feature_matching"] == 0
            assert terms[f"generator_{halvings}"] > 0

    def test_its_gradient_reaches_every_weight_of_the_generator_and_none_of_the_discriminators(self) -> None:
        engine = make_engine(loss__adversarial__weight=0.0)
        engine.players["discriminator"].require_gradients(False)
        sum(step_of(engine, "generator").main_terms().values()).backward()
        for parameter in engine.players["generator"].parameters:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
        assert all(parameter.grad is None for parameter in engine.players["discriminator"].parameters)


class TestLabels:
    """Domain a as label maps: planes of classes at the generator's door and beside what discriminators see."""

    COLOURS = ("#000000", "#ff0000", "#00ff00")

    def make_engine(self, **sets: Any) -> Engine:
        labels = {"data__labels": 3, "data__palette": ",".join(self.COLOURS)}
        return make_engine(DataShape((16, 16), {"a": 3, "b": 3}, palette=self.COLOURS), **labels, **sets)

    @pytest.mark.parametrize("network", ["coarse_to_fine", "spade"])
    def test_discriminators_see_shares_of_classes(self, network: str) -> None:
        sets = {"generator__downsamplings": 2, "generator__width": 2} if network == "spade" else {}
        drop = dict.fromkeys(("generator__blocks", "generator__local_blocks")) if network == "spade" else {}
        engine = self.make_engine(generator__name=network, **sets, **drop)
        step = step_of(engine, "discriminator")
        planes = Palette(self.COLOURS)(step.batch["a"])
        for halvings, view in enumerate(step.views):
            assert view.real_condition is not None
            assert view.fake_condition is not None
            torch.testing.assert_close(view.real_condition, F.avg_pool2d(planes, 2**halvings))
            torch.testing.assert_close(
                view.real_condition.sum(1), torch.ones(4, 16 >> halvings, 16 >> halvings).double()
            )
            assert torch.equal(view.real_condition, view.fake_condition)
        engine.train_step([[make_batch()]])
        assert not engine.skipped_steps

    @pytest.mark.parametrize("method", ["diffaugment", "ada"])
    def test_augmentation_moves_classes_and_does_not_colour_them(self, method: str) -> None:
        fixed = {"augment__p": 0.9, "augment__target": 0.0, "augment__parts": "blit,colour,noise,filter"}
        engine = self.make_engine(augment__discriminator=method, train__scales=1, **(fixed if method == "ada" else {}))
        step = step_of(engine, "discriminator")
        (view,) = step.views
        assert view.real_condition is not None
        assert (view.real_condition * (1 - view.real_condition)).abs().max() < 1e-9  # zero or one
        planes = Palette(self.COLOURS)(step.batch["a"])
        own = step.batch.draws("discriminator/augment/discriminator/pair")
        if method == "ada":
            moved = ada(planes, own, parts=("blit",), p=0.9)
        else:
            moved = diffaugment(planes, own, parts=("translation", "cutout"))
        torch.testing.assert_close(view.real_condition, moved)
        assert not torch.equal(view.real_condition, planes)


class TestGrowing:
    """4, 8 and 16 pixels: 4 images, then fades of 8 with 4 images behind each."""

    def make_engine(self, shape: DataShape = SHAPE, **sets: Any) -> Engine:
        growth = {"growth__start": 4, "growth__stable_kimg": 0.004, "growth__fade_kimg": 0.008}
        few = {"generator__enhancers": 2, "discriminator__layers": 0, "train__scales": 3}
        return make_engine(shape, **{**growth, **few, **sets})

    @pytest.mark.parametrize(("images_seen", "first", "alpha"), [(0, 2, 1), (8, 1, 0.5), (12, 1, 1), (16, 0, 0)])
    def test_each_discriminator_keeps_to_the_size_that_it_judges_in_the_end(
        self, images_seen: int, first: int, alpha: float
    ) -> None:
        engine = self.make_engine()
        engine.go_to(images_seen)
        views = step_of(engine, "discriminator").views
        assert [view.name for view in views] == [f"discriminator_{halvings}" for halvings in range(first, 3)]
        for halvings, view in enumerate(views, start=first):
            assert view.discriminator is engine.translator.discriminator[halvings]
            assert view.fake.shape == (4, 3, 16 >> halvings, 16 >> halvings)
            whole = make_batch()
            for seen, domain in ((view.real, "b"), (view.real_condition, "a")):
                expected = F.avg_pool2d(whole[domain], 2**halvings)
                if halvings == first and alpha < 1:  # a fade changes no means of blocks: only the newcomer sees it
                    coarse = F.avg_pool2d(whole[domain], 2 ** (halvings + 1)).repeat_interleave(2, 2)
                    expected = alpha * expected + (1 - alpha) * coarse.repeat_interleave(2, 3)
                torch.testing.assert_close(seen, expected)

    @pytest.mark.parametrize(("scales", "names"), [(1, ["discriminator"]), (2, ["discriminator_1"])])
    def test_the_last_discriminator_judges_what_is_smaller_than_its_size(self, scales: int, names: list[str]) -> None:
        step = step_of(self.make_engine(train__scales=scales), "discriminator")
        assert [view.name for view in step.views] == names
        torch.testing.assert_close(step.views[0].real, F.avg_pool2d(make_batch()["b"], 4))

    def test_a_small_picture_is_compared_with_its_target_made_small(self) -> None:
        step = step_of(self.make_engine(loss__l1=3.0), "generator")
        terms, target = step.main_terms(), F.avg_pool2d(make_batch()["b"], 4)
        torch.testing.assert_close(terms["l1"], 3 * (step.outputs["fake"] - target).abs().mean())
        assert set(terms) == {"l1", "generator_2", "generator_2/feature_matching"}

    @pytest.mark.parametrize("images_seen", [0, 8, 28])
    def test_gradient_penalties_have_second_derivatives_at_every_size(self, images_seen: int) -> None:
        """Without norm and biases slopes are proportional to each layer's weights, and R1 to their squares: by Euler's
        theorem its gradient times the weights is twice itself."""
        engine = self.make_engine(loss__penalties=("r1",), discriminator__norm="none")
        engine.go_to(images_seen)
        for judge in engine.translator.discriminator:
            for layer in judge.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.zeros_(layer.bias)
        terms = step_of(engine, "discriminator").main_terms()
        for halvings, judge in enumerate(engine.translator.discriminator):
            name = f"r1/discriminator_{halvings}"
            assert (name in terms) == (halvings >= engine.stage.halvings)
            if name in terms:
                assert terms[name] > 0
                weights = [layer.weight for layer in judge.modules() if isinstance(layer, torch.nn.Conv2d)]
                for slope, weight in zip(torch.autograd.grad(terms[name], weights, retain_graph=True), weights):
                    torch.testing.assert_close((slope * weight).sum(), 2 * terms[name].detach())

    def test_a_size_that_joins_adds_no_weight_and_no_shape(self) -> None:
        engine = self.make_engine()
        parts = {player: [name for name, _ in self.named(engine, player)] for player in engine.players}
        start = {name: weight.detach().clone() for player in parts for name, weight in self.named(engine, player)}
        sizes = []
        for index in range(8):
            engine.train_step([[make_batch(4 * index)]])
            moved = {
                name
                for player in parts
                for name, weight in self.named(engine, player)
                if not torch.equal(weight, start[name])
            }
            sizes.append(len(moved))
            for player, names in parts.items():
                weights = self.named(engine, player)
                assert [name for name, _ in weights] == names
                moments = engine.players[player].moments()
                # where a fade begins the newcomers have no weight yet, and gradients of zero
                assert {names[place] for place in moments} >= moved & set(names)
                for place, moment in moments.items():
                    assert moment["exp_avg"].shape == weights[place][1].shape
        # at 4, 16 and 28 images all of a size has moved; the last layers of smaller ones have their moments still
        assert sizes[0] < sizes[1] < sizes[7] == sum(map(len, parts.values()))
        assert not engine.skipped_steps

    @staticmethod
    def named(engine: Engine, player: str) -> list[tuple[str, torch.nn.Parameter]]:
        networks = engine.players[player].networks.items()
        return [(f"{name}.{key}", weight) for name, net in networks for key, weight in net.named_parameters()]

    @pytest.mark.parametrize("images_seen", [0, 8, 12, 16, 28])
    def test_small_label_maps_hold_the_nearest_pixels_and_are_never_mixed(self, images_seen: int) -> None:
        colours = TestLabels.COLOURS
        labels = {"data__labels": 3, "data__palette": ",".join(colours)}
        engine = self.make_engine(DataShape((16, 16), {"a": 3, "b": 3}, palette=colours), **labels)
        engine.go_to(images_seen)
        batch = make_batch()
        palette = Palette(colours)
        batch.images["a"] = palette.colours.double()[batch.draws("classes").uniform(16, 16).mul(3).long()].movedim(3, 1)
        size = (16 >> engine.stage.halvings,) * 2
        small = engine.at_stage(batch)["a"]
        torch.testing.assert_close(small, take_nearest(batch["a"], size), rtol=0, atol=0)
        (view, *_) = Step(engine, "discriminator", engine.at_stage(batch)).views
        assert torch.equal(view.real_condition, palette(small))

    def test_cyclegan_grows_too(self) -> None:
        sets = {**SMALL, "generator.name": "coarse_to_fine", "generator.dropout": None, "train.image_pool": 0}
        growth = {"growth.start": 8, "growth.stable_kimg": 0.004, "growth.fade_kimg": 0.008}
        config = resolve("cyclegan-small", None, {key: v for key, v in {**sets, **growth}.items() if v is not None})
        assert translators.check(config) == []
        translator, specs = translators.build(config, SHAPE)
        assert {name: spec.arguments.get("doublings") for name, spec in specs.items()} == {
            "generator_ab": 1,
            "generator_ba": 1,
            "discriminator_a": None,
            "discriminator_b": None,
        }
        engine = Engine(
            translator, {}, EngineSettings.of(config), choose_precision("float64", torch.device("cpu")), World()
        )
        for index, size in enumerate((8, 16, 16, 16)):
            assert step_of(engine, "generator").outputs["fake_a"].shape == (4, 3, size, size)
            engine.train_step([[make_batch(4 * index)]])
        assert not engine.skipped_steps


@pytest.mark.parametrize(
    ("sets", "fault"),
    [
        (
            {"train.scales": 3},
            "train.scales: the last of 3 discriminators would see 16 × 16 pixels, too few for it. "
            "Set it lower, or discriminator.layers lower or data.resolution higher",
        ),
        (
            {"train.scales": 4, "data.resolution": (36, 64), "discriminator.layers": 0, "generator.downsamplings": 1},
            "data.resolution: [36, 64] is no multiple of 8, as train.scales = 4 needs. Use [32, 64]",
        ),
    ],
)
def test_what_cannot_be_is_refused(sets: dict[str, Any], fault: str) -> None:
    config = resolve("pix2pixhd-small", None, {"discriminator.layers": 3, **sets})
    (found,) = map(str, translators.check(config))
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [("dcgan", "train.scales", 2), ("points", "train.scales", 2)],
)
def test_what_a_method_has_no_use_for_is_refused(recipe: str, key: str, value: object) -> None:
    (found,) = translators.check(resolve(recipe, None, {key: value}))
    assert found.subject == key
