"""The adversarial engine: both players' steps, whatever the method, objective, penalties and networks.

The engine owns optimisers, order, precision and averages. It asks the translator for outputs, views and terms, and
never knows which method it drives.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from img2img.config import AugmentConfig, Config, OptimConfig
from img2img.data.batches import Batch
from img2img.distributed import World, is_running_statistic
from img2img.draws import Draws
from img2img.growth import GrowthSchedule
from img2img.inference.memory import is_out_of_memory
from img2img.networks.growing import Growing, pick, shrink
from img2img.networks.layers import mixes_samples
from img2img.networks.multiscale import MultiScaleDiscriminator, halved
from img2img.penalties import Penalty, Verdict, View
from img2img.training.augmenter import Augmenter
from img2img.training.ema import Ema, ema_decay
from img2img.training.image_pool import ImagePool
from img2img.training.monitors import diversity, largest_of, watch_translation
from img2img.training.precision import Precision
from img2img.training.schedules import lazy_correction, learning_rate_factor
from img2img.training.unrolled import unroll, with_weights
from img2img.translators.base import Outputs, Translator

# training has diverged after ten skipped steps in a row, or 5 % of the last thousand
SKIPS_IN_A_ROW = 10
_SKIPS_IN_WINDOW = 50
_WINDOW = 1000
# share of the run after which the generator learns from train.top_k of its samples only
_TOP_K_RAMP = 0.5


@dataclass(frozen=True)
class EngineSettings:
    """How the engine trains, in the units of the configuration keys of the same names."""

    growth: GrowthSchedule
    kimg: float
    optim: OptimConfig
    ema_kimg: float
    ema_rampup: float
    image_pool: int = 0
    unroll: int = 0
    top_k: float = 1.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    auto_batch: bool = False

    @classmethod
    def of(cls, config: Config) -> EngineSettings:
        train = config.train
        return cls(
            GrowthSchedule.of(config),
            train.kimg,
            config.optim,
            train.ema_kimg,
            train.ema_rampup,
            train.image_pool,
            train.unroll,
            train.top_k,
            config.augment,
            train.auto_batch,
        )


class Player:
    """One side of the game: its networks, their parameters and their optimiser."""

    def __init__(
        self, networks: Mapping[str, nn.Module], optim: OptimConfig, learning_rate: float, lazy: Sequence[int]
    ) -> None:
        self.networks = dict(networks)
        self.parameters = [parameter for network in networks.values() for parameter in network.parameters()]
        self._orders = [_memory_order(parameter) for parameter in self.parameters]
        # the optimiser sees the same memory with its dimensions in the order they lie in: torch's fused Adam copies
        # whatever is not contiguous first (11 % of a pix2pix step), and takes for granted that all lie alike
        self._walked = [
            nn.Parameter(parameter.detach().permute(order), requires_grad=False)
            for parameter, order in zip(self.parameters, self._orders)
        ]
        correction = lazy_correction(lazy)
        self.base_rate = learning_rate * correction
        self.optimizer: torch.optim.Optimizer
        if optim.name == "rmsprop":
            self.optimizer = torch.optim.RMSprop(self._walked, lr=self.base_rate)
        elif optim.name == "sgd":
            self.optimizer = torch.optim.SGD(self._walked, lr=self.base_rate)
        else:
            betas = (optim.betas[0] ** correction, optim.betas[1] ** correction)
            fused = self.parameters[0].device.type in ("cpu", "cuda")
            self.optimizer = torch.optim.Adam(self._walked, lr=self.base_rate, betas=betas, fused=fused)

    def scale_learning_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_rate * factor

    def require_gradients(self, required: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(required)

    def zero_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def update(self) -> None:
        """One step of the optimiser on the parameters' gradients."""
        for parameter, walked, order in zip(self.parameters, self._walked, self._orders):
            walked.grad = None if parameter.grad is None else parameter.grad.permute(order).contiguous()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, moments in the shapes of their parameters."""
        return self._with_moments(
            self.optimizer.state_dict(),
            lambda moment, order: moment.permute([order.index(i) for i in range(len(order))]),
        )

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """The optimiser's state of each parameter, by the parameter's place, in its shape."""
        state: dict[int, dict[str, Tensor]] = self.state_dict()["state"]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(
            self._with_moments(state, lambda moment, order: moment.permute(order).contiguous())
        )

    def _with_moments(self, state: Mapping[str, Any], change: Callable[[Tensor, list[int]], Tensor]) -> dict[str, Any]:
        """`state` with the tensors that belong to each element of a parameter changed; counters stay."""
        changed = {
            index: {
                key: change(value, self._orders[index])
                if value.ndim and value.ndim == len(self._orders[index])
                else value
                for key, value in values.items()
            }
            for index, values in state["state"].items()
        }
        return {**state, "state": changed}


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions of a dense tensor from the slowest to the fastest in memory."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: (-strides[dim], dim))
    assert tensor.permute(order).is_contiguous(), "parameters are dense"
    return order


class Step:
    """One player's side of one (micro-)batch; what a penalty sees as its Game.

    Args:
        outputs: the translator's, where they were made already.
        shares: those that it makes will be the generators' too, so they get a graph.
    """

    def __init__(
        self, engine: Engine, player: str, batch: Batch, outputs: Outputs | None = None, *, shares: bool = False
    ) -> None:
        self.engine = engine
        self.player = player
        self.batch = batch
        self.shares = shares
        self._made = outputs
        self.members = engine.translator.shape.members
        self.progress = engine.progress
        self.looks_ahead = False
        self.judged: list[Verdict] = []

    @functools.cached_property
    def outputs(self) -> Outputs:
        """The translator's outputs: those that it was given, or made when somebody looks."""
        if self._made is None:
            return self.engine.generate(self.batch, for_generator=self.player == "generator" or self.shares)
        return self._made

    @functools.cached_property
    def views(self) -> list[View]:
        return self._see(self.outputs)

    def halves(self) -> list[Step]:
        """The same as two micro-batches, for which nothing has been judged or generated yet.

        Views that were made stay what they are: the image pool has given its share, and augmentation may have moved.
        """
        halves = [Step(self.engine, self.player, batch) for batch in self.batch.split(2)]
        if "views" in self.__dict__:
            for half, views in zip(halves, zip(*(_halves_of(view) for view in self.views))):
                half.views = list(views)
        return halves

    def _see(self, outputs: Outputs) -> list[View]:
        """What the discriminators see of these outputs, without a graph to them in the discriminators' own step."""
        views = self.engine.translator.views(self.batch, outputs)
        if self.player == "discriminator" and outputs is self.outputs:
            views = [self.engine.recall(replace(view, fake=view.fake.detach()), self.batch) for view in views]
        augmenter, variables = self.engine.augmenter, self.engine.variables
        if augmenter is not None:
            with_real = self.player == "discriminator" or self.engine.generator_step_sees_real
            views = [augmenter.augment(view, variables, self._own_draws, with_real) for view in views]
        views = [scaled for view in views for scaled in _at_scales(view, self.engine.stage.halvings)]
        for penalty in self.engine.penalties.values():
            views = [penalty.perturb(view, self) for view in views]
        return views

    def _own_draws(self, stream: str, count: int) -> Draws:
        """Random numbers that the other player's step does not see."""
        return self.draws(f"{self.player}/{stream}", count)

    def draws(self, stream: str, count: int) -> Draws:
        numbers = self.batch.numbers
        return Draws(self.batch.seed, stream, numbers[:: len(numbers) // count])

    def networks(self, player: str) -> dict[str, nn.Module]:
        return self.engine.players[player].networks

    def parameters(self, player: str) -> list[nn.Parameter]:
        return self.engine.players[player].parameters

    def latents_and_images(self) -> tuple[Tensor, Tensor]:
        return self.engine.translator.latents_and_images(self.batch)

    def running_mean(self, name: str, values: Tensor, decay: float) -> Tensor:
        new = values.detach().unflatten(0, (self.members, -1)).mean(1)
        mean = self.engine.remember(name, new, decay) if not self.looks_ahead else self.engine.variables.get(name, new)
        return mean.repeat_interleave(len(values) // self.members)

    def verdicts(self) -> list[Verdict]:
        if not self.judged:
            with_features = self.engine.translator.classifies
            self.judged = [self.engine.judge(view, with_real=True, with_features=with_features) for view in self.views]
        return self.judged

    def discriminator_terms(self) -> dict[str, Tensor]:
        verdicts = self.verdicts()
        if self.player == "discriminator" and not self.looks_ahead:
            self.engine.watch(verdicts)
        return self.engine.translator.discriminator_terms(self.batch, self.outputs, verdicts)

    def generator_terms(self) -> dict[str, Tensor]:
        engine, translator = self.engine, self.engine.translator
        outputs, views = self.outputs, self.views
        if self.player == "discriminator":
            outputs = engine.generate(self.batch, for_generator=True)
            views = self._see(outputs)
        if engine.settings.unroll:
            views = self._unrolled(views)
        with_layers = translator.matches_layers
        with_features = translator.classifies or translator.objective.generator_sees_features
        with_features |= translator.matches_features and not with_layers
        with_real = translator.objective.generator_sees_real or translator.matches_features
        with engine.precision.context():
            verdicts = [engine.judge(view, with_real, with_features, with_layers) for view in views]
            for verdict in verdicts:
                verdict.kept = engine.kept_share
            return translator.generator_terms(self.batch, outputs, verdicts)

    def _unrolled(self, views: list[View]) -> list[View]:
        """The views, judged by the discriminators as they would be after some more steps on this batch."""
        player = self.engine.players["discriminator"]

        def see_through(weights: list[Tensor]) -> list[View]:
            ahead = with_weights(player.networks, weights)
            return [replace(view, discriminator=ahead[view.name]) for view in views]

        def loss_of(weights: list[Tensor]) -> Tensor:
            step = copy.copy(self)
            step.player, step.looks_ahead, step.judged, step.views = "discriminator", True, [], see_through(weights)
            return self.members * torch.stack(list(step.main_terms().values())).sum()

        count = self.engine.settings.unroll
        return see_through(unroll(player.parameters, player.optimizer, player.moments(), loss_of, count))

    def discriminator_loss(self) -> Tensor:
        self.judged = []
        return self.members * torch.stack(list(self.discriminator_terms().values())).sum()

    def generator_loss(self) -> Tensor:
        return self.members * torch.stack(list(self.generator_terms().values())).sum()

    def main_terms(self) -> dict[str, Tensor]:
        """The translator's terms for this player and those penalties that are evaluated in every step."""
        terms = self.discriminator_terms() if self.player == "discriminator" else self.generator_terms()
        for name, penalty in self.engine.penalties_of(self.player).items():
            if penalty.every == 1:
                terms |= self.penalty_terms(name, penalty)
        return terms

    def lazy_terms(self, name: str, penalty: Penalty) -> dict[str, Tensor]:
        """A penalty's terms in a step of its own, for which nothing has been judged yet."""
        self.judged = []
        return self.penalty_terms(name, penalty)

    def penalty_terms(self, name: str, penalty: Penalty) -> dict[str, Tensor]:
        """The penalty's weighted terms in full precision, `every` times as heavy where it is lazy."""
        weight = penalty.weight * penalty.every
        return {f"{name}/{key}": weight * term.mean() for key, term in penalty.terms(self).items()}


class Engine:
    """Trains a translator: `train_step` is one iteration, `state_dict` everything that changes with time.

    Attributes:
        step: generator steps so far.
        images_seen: real images of these steps; images_before: of all but the last.
        stage: how far the networks have grown, and how many images the next step has.
        players: "generator" and "discriminator".
        ema: the averaged generators.
        augmenter: what changes the images that discriminators see; None where nothing does.
        variables: what objectives, penalties and augmentation keep from step to step, by name, (members,) each.
        terms, monitors: means of loss terms and of what is only watched, since the log last asked.
        rate_factor: multiplies both players' learning rates.
        parts: into how many each micro-batch is divided, since more did not fit into memory (train.auto_batch).
        skipped_steps: the latest steps in which an update was left out, since gradients were not finite.
        skips_in_a_row: how many of them were the last ones.
        first_bad: where numbers stopped being finite in the last of them.
        most_diverse: how different samples have been at most, of what real images are.
    """

    def __init__(
        self,
        translator: Translator,
        penalties: Mapping[str, Penalty],
        settings: EngineSettings,
        precision: Precision,
        world: World,
    ) -> None:
        translator.to(device=precision.device, dtype=precision.dtype).to(memory_format=precision.memory_format)
        self.translator = translator.train()
        self.penalties = dict(penalties)
        self.settings = settings
        self.precision = precision
        self.world = world
        self.step = 0
        self.images_seen = self.images_before = 0
        optim = settings.optim
        rates = {"generator": optim.lr, "discriminator": optim.discriminator_lr or optim.lr}
        self.players = {
            name: Player(
                translator.networks_of(name),
                optim,
                rate,
                [penalty.every for penalty in self.penalties_of(name).values() if penalty.every > 1],
            )
            for name, rate in rates.items()
        }
        self.ema = Ema(self.players["generator"].networks, shared=settings.ema_kimg == 0)
        self.augmenter = self._make_augmenter()
        self.pools: dict[str, ImagePool] = {}
        self.variables: dict[str, Tensor] = {}
        self.terms = Tally()
        self.monitors = Tally()
        self.skipped_steps: deque[int] = deque(maxlen=_SKIPS_IN_WINDOW)
        self.skips_in_a_row = 0
        self.first_bad = ""
        self.rate_factor = 1.0
        self.parts = 1
        self.most_diverse = 0.0
        self._changing = [buffer for name, buffer in self.translator.named_buffers() if _changes(name)]
        self._skips = False
        self.go_to(0)

    def go_to(self, images_seen: int) -> None:
        """Grow the networks as far as they are after so many images: like the learning rate a function of them."""
        self.images_seen = self.translator.images_seen = images_seen
        self.stage = self.settings.growth.at(images_seen)
        for network in (*self.translator.children(), *self.ema.networks.values()):
            if isinstance(network, Growing):
                network.grow_to(network.num_levels - 1 - self.stage.halvings, self.stage.alpha)

    @property
    def has_diverged(self) -> bool:
        """Too many steps gave gradients that are not finite."""
        crowded = len(self.skipped_steps) == _SKIPS_IN_WINDOW and self.skipped_steps[0] > self.step - _WINDOW
        return self.skips_in_a_row >= SKIPS_IN_A_ROW or crowded

    @property
    def generator_step_sees_real(self) -> bool:
        """Real images are judged in the generators' step, or a penalty may ask for them there."""
        judges = self.translator.objective.generator_sees_real or self.translator.matches_features
        return judges or self.settings.unroll > 0 or bool(self.penalties_of("generator"))

    def _make_augmenter(self) -> Augmenter | None:
        """What changes the images that discriminators see."""
        if self.settings.augment.discriminator == "none":
            return None
        packing, boundary = self.translator.shape.packing, self.translator.objective.boundary
        return Augmenter(self.settings.augment, packing=packing, boundary=boundary)

    def penalties_of(self, player: str) -> dict[str, Penalty]:
        return {name: penalty for name, penalty in self.penalties.items() if player in penalty.players}

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return min(1.0, self.images_seen / (self.settings.kimg * 1000))

    @property
    def kept_share(self) -> float:
        """Share of its samples that the generator learns from: 1 at first, then falling to train.top_k."""
        return 1.0 - (1.0 - self.settings.top_k) * min(1.0, self.progress / _TOP_K_RAMP)

    # --- one iteration ------------------------------------------------------------------------------------------------

    def train_step(self, critic_batches: Sequence[Sequence[Batch]]) -> None:
        """One iteration: a discriminator step for each element, then a generator step on the last one.

        Args:
            critic_batches: critic steps, each a sequence of micro-batches whose gradients are accumulated. Where the
                last is one micro-batch, both players use the same generated images.
        """
        total = self.settings.kimg * 1000
        factor = learning_rate_factor(self.images_seen, total, self.settings.optim.decay_share * total)
        for player in self.players.values():
            player.scale_learning_rate(factor * self.rate_factor)
        self._skips = False
        before = [buffer.clone() for buffer in self._changing]
        steps: list[Step] = []
        for index, whole in enumerate(critic_batches):
            batches = [part for batch in whole for part in self._divide(self.at_stage(batch))]
            shares = index == len(critic_batches) - 1 and len(batches) == 1
            steps = [Step(self, "discriminator", batch, shares=shares) for batch in batches]
            self._discriminator_step(steps, number=self.step * len(critic_batches) + index)
        updated = self._generator_step(steps)
        self.world.average_statistics(self.translator.children())
        self._count_skips(before)
        self.step += 1
        self.images_before, batch = self.images_seen, self.stage.batch
        self.go_to(self.images_seen + batch)
        if updated:
            half_life = self.settings.ema_kimg * 1000
            decay = ema_decay(half_life, self.settings.ema_rampup, self.images_seen, batch)
            self.ema.update(self.players["generator"].networks, decay)

    def at_stage(self, batch: Batch) -> Batch:
        """The batch as large as the networks' pictures are."""
        return replace(batch, images={name: self.shrunk(name, images) for name, images in batch.images.items()})

    def shrunk(self, domain: str, images: Tensor) -> Tensor:
        """Whole images of a domain (N, C, H, W) as large as the networks' are; label maps keep to their colours."""
        if domain == "a" and self.translator.shape.palette:
            return pick(images, self.stage.halvings)
        return shrink(images, self.stage.halvings, self.stage.alpha)

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        """The translator's outputs, with a graph where the generator's step will use them."""
        with torch.set_grad_enabled(for_generator), self.precision.context():
            outputs = self.translator.generate(batch, for_generator=for_generator)
        return {name: images.to(self.precision.dtype) for name, images in outputs.items()}

    def recall(self, view: View, batch: Batch) -> View:
        """The view with its fakes exchanged through the image pool, where there is one."""
        if self.settings.image_pool == 0:
            return view
        # a packed view has fewer rows than the batch
        numbers = batch.numbers[:: len(batch.numbers) // len(view.fake)]
        rows = (numbers, view.fake) if view.fake_condition is None else (numbers, view.fake, view.fake_condition)
        parts = []
        for member, own in enumerate(zip(*(tensor.chunk(self.translator.shape.members) for tensor in rows))):
            numbers, *everyone = (self.world.gather(tensor) for tensor in own)
            name = f"{view.name}/{member}" if member else view.name
            pool = self.pools.setdefault(name, ImagePool(self.settings.image_pool))
            exchanged = pool.exchange(tuple(everyone), Draws(batch.seed, f"pool/{view.name}", numbers))
            mine = self.world.slice(len(numbers))
            parts.append([tensor[mine] for tensor in exchanged])
        fake, *condition = (torch.cat(rows) for rows in zip(*parts))
        return replace(view, fake=fake, fake_condition=condition[0] if condition else None)

    def judge(self, view: View, with_real: bool, with_features: bool = False, with_layers: bool = False) -> Verdict:
        """Run a view's discriminator, on real and fake as one batch where no layer mixes samples.

        The logits come in full precision.

        Args:
            with_real: judge the real images too.
            with_features: the activations before its last layer are wanted.
            with_layers: instead, those of every layer but the last.
        """
        assert not (with_features and with_layers), "features are for methods whose discriminators see no pairs"

        def ask(images: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
            discriminator: Any = view.discriminator
            said: tuple[Tensor, ...]
            if with_layers:
                logits, layers = discriminator.judge_by_layers(images, condition)
                said = (logits, *layers)
            elif with_features:
                said = discriminator(images, condition, with_features=True)
            else:
                said = (discriminator(images, condition),)
            return tuple(part.to(self.precision.dtype) for part in said)

        with self.precision.context():
            real: tuple[Tensor, ...] = ()
            if not with_real:
                fake = ask(view.fake, view.fake_condition)
            elif mixes_samples(view.discriminator):
                real, fake = ask(view.real, view.real_condition), ask(view.fake, view.fake_condition)
            else:
                conditions = (view.real_condition, view.fake_condition)
                condition = None if None in conditions else self._join(*conditions)
                both = [self._split(part, len(view.real)) for part in ask(self._join(view.real, view.fake), condition)]
                real, fake = zip(*both)
        return Verdict(
            view.name,
            real=real[0] if with_real else None,
            fake=fake[0],
            real_features=real[1] if with_real and with_features else None,
            fake_features=fake[1] if with_features else None,
            real_layers=tuple(real[1:]) if with_layers else (),
            fake_layers=tuple(fake[1:]) if with_layers else (),
            control=self._control(view.name),
        )

    def _join(self, *parts: Tensor | None) -> Tensor:
        """Rows of several tensors as one batch, each member's together."""
        members = self.translator.shape.members
        tensors = [part for part in parts if part is not None]
        if members == 1:
            return torch.cat(tensors)
        return torch.cat([tensor.unflatten(0, (members, -1)) for tensor in tensors], dim=1).flatten(0, 1)

    def _split(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What _join joined, `count` rows first."""
        members = self.translator.shape.members
        if members == 1:
            first, second = rows.tensor_split([count])
            return first, second
        grouped = rows.unflatten(0, (members, -1))
        first, second = grouped.tensor_split([count // members], dim=1)
        return first.flatten(0, 1), second.flatten(0, 1)

    def _control(self, view_name: str) -> Tensor | None:
        """The objective's control variable for one discriminator, (members,)."""
        start = self.translator.objective.start_of_control
        if start is None:
            return None
        members = self.translator.shape.members
        fresh = torch.full((members,), start, device=self.precision.device, dtype=self.precision.dtype)
        return self.variables.setdefault(f"control/{view_name}", fresh)

    def remember(self, name: str, new: Tensor, decay: float) -> Tensor:
        """The running mean `name` with `new` (members,) in it; values that are not finite are passed over."""
        new = self.world.average(new.clone())
        old = self.variables.get(name, new)
        self.variables[name] = torch.where(torch.isfinite(new), old.lerp(new, 1 - decay), old)
        return self.variables[name]

    def watch(self, verdicts: Sequence[Verdict]) -> None:
        """Note what discriminators say of real and generated images."""
        objective = self.translator.objective
        for verdict in verdicts:
            assert verdict.real is not None, "a discriminator's own step is about real images too"
            values = {f"{verdict.name}_on_real": verdict.real.mean(), f"{verdict.name}_on_fake": verdict.fake.mean()}
            if objective.judges_by == "logit":
                boundary = objective.boundary or 0.0
                values[f"{verdict.name}_sign_on_real"] = (verdict.real - boundary).sign().mean()
                values[f"{verdict.name}_sign_on_fake"] = (verdict.fake - boundary).sign().mean()
            if verdict.control is not None:
                values[f"{verdict.name}_control"] = verdict.control.mean()
            for key, value in objective.watch(verdict.real, verdict.fake).items():
                values[f"{verdict.name}_{key}"] = value
            self.monitors.add(values)

    def watch_weights(self) -> None:
        """Note the largest singular values among each network's weights."""
        for player in self.players.values():
            for name, network in player.networks.items():
                self.monitors.add({f"{name}_{key}": value for key, value in largest_of(network).items()})

    @torch.no_grad()
    def watch_outputs(self, batch: Batch) -> None:
        """Note what the averaged generators make: of `batch` where they translate, else of noise, beside `batch`."""
        translator, networks, batch = self.translator, self.ema.networks, self.at_stage(batch)
        with self.precision.context():
            samples = translator.samples(batch, networks)
            if samples is not None and len(samples) > 1:
                value = diversity(samples.to(self.precision.dtype), batch["image"])
                self.most_diverse = max(self.most_diverse, float(value))  # where that is NaN it stays
                best = torch.tensor(self.most_diverse, device=self.precision.device)
                self.monitors.add({"samples_diversity": value, "samples_most_diversity": best})
            for direction, translation in translator.translations(batch, networks).items():
                values = watch_translation(
                    translation,
                    is_paired=translator.source == "pairs",
                    stride=getattr(networks[translator.directions[direction]], "stride", 1),
                    draws=batch.draws(f"watch/{direction}"),
                )
                self.monitors.add({f"{direction}_{key}": value for key, value in values.items()})

    def undecided(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Each discriminator's mean loss in `terms`, of that of one that cannot tell: 0 where it is always sure."""
        whole = self.translator.objective.undecided_loss
        found = {}
        for name, network in self.players["discriminator"].networks.items():
            sizes = range(len(network)) if isinstance(network, MultiScaleDiscriminator) else ()
            keys = [f"{name}_{size}" for size in sizes] or [name]
            losses = [terms[key] for key in keys if key in terms]
            if whole and losses:
                found[f"{name}_undecided"] = sum(losses) / (len(losses) * whole)
        return found

    def _discriminator_step(self, steps: list[Step], number: int) -> None:
        if self._update("discriminator", steps, Step.main_terms):
            self._move_controls(steps)
            self._adapt_augmentation(steps, number)
        self._lazy_updates("discriminator", steps, number)
        for penalty in self.penalties_of("discriminator").values():
            for network in self.players["discriminator"].networks.values():
                penalty.constrain(network)

    @torch.no_grad()
    def _move_controls(self, steps: Sequence[Step]) -> None:
        """The objective's control variables after a step on these judgements, the mean over micro-batches and ranks."""
        if self.translator.objective.start_of_control is None:
            return
        for verdicts in zip(*(step.judged for step in steps)):
            moved = [
                self.translator.for_each_member(
                    self.translator.objective.next_control, verdict.control, verdict.real, verdict.fake
                )
                for verdict in verdicts
            ]
            self.variables[f"control/{verdicts[0].name}"] = self.world.average(torch.stack(moved).mean(0))

    @torch.no_grad()
    def _adapt_augmentation(self, steps: Sequence[Step], number: int) -> None:
        """The probability of augmentation after a step on these judgements: their mean sign.

        Over micro-batches, ranks, and the discriminators that see one view at several sizes.
        """
        augmenter = self.augmenter
        if augmenter is None or not augmenter.config.is_adaptive:
            return
        signs: dict[str, list[Tensor]] = {}
        for step in steps:
            for view, verdict in zip(step.views, step.judged, strict=True):
                signs.setdefault(view.scale_of or view.name, []).append(augmenter.sign_on_real(verdict))
        for name, values in signs.items():
            sign = self.world.average(torch.stack(values).mean())
            p = augmenter.adapt(name, sign, self.variables, number, self.stage.batch)
            self.monitors.add({f"{name}_augment_sign": sign, f"{name}_augment_p": p.mean()})

    def _generator_step(self, judged: list[Step]) -> bool:
        """The generators' step on the batches of `judged`, the discriminators' last one, which it empties.

        Returns whether the weights were updated.
        """
        # nothing flows to D's weights but where the generators' loss asks how D would move
        needed = self.settings.unroll > 0 or any(penalty.needs_both_losses for penalty in self.penalties.values())
        self.players["discriminator"].require_gradients(needed)
        steps = [Step(self, "generator", step.batch, step.outputs if step.shares else None) for step in judged]
        judged.clear()  # what was made for it alone takes memory
        updated = self._update("generator", steps, Step.main_terms)
        self._lazy_updates("generator", [Step(self, "generator", step.batch) for step in steps], self.step)
        self.players["discriminator"].require_gradients(True)
        return updated

    def _lazy_updates(self, player: str, steps: list[Step], number: int) -> None:
        """An optimiser step of its own for each lazy penalty that is due in the player's step `number`."""
        for name, penalty in self.penalties_of(player).items():
            if penalty.every > 1 and number % penalty.every == 0:
                self._update(player, steps, functools.partial(Step.lazy_terms, name=name, penalty=penalty))

    def _update(self, name: str, steps: list[Step], terms_of: Callable[[Step], dict[str, Tensor]]) -> bool:
        """One optimiser step on the mean over the micro-batches; skipped where gradients are not finite."""
        player = self.players[name]
        # where the step before was skipped, layers are looked at as well: it costs more than a look at the norm
        bad: list[str] = []
        with self._bad_layers(bad) if self.skips_in_a_row else contextlib.nullcontext():
            terms = self._accumulate(player, steps, terms_of)
        self.world.average_gradients(player.parameters)
        gradients = [parameter.grad for parameter in player.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            if not self._skips:  # what came later in the step may follow from it
                self.first_bad = bad[0] if bad else _first_bad(player, terms)
            self._skips = True
            return False
        self.monitors.add({f"{name}_gradient_norm": norm})
        player.update()
        return True

    def _accumulate(
        self, player: Player, steps: list[Step], terms_of: Callable[[Step], dict[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Leave the gradients of the mean over `steps` in the player's parameters; returns the terms of each.

        With train.auto_batch steps that do not fit into memory are halved, here and from now on, and done again; until
        then nothing has moved but what is put back.
        """
        while True:
            kept = self._keep() if self.settings.auto_batch else None
            try:
                terms, done = self._add_gradients(player, steps, terms_of)
            except (RuntimeError, MemoryError) as error:
                fitting = is_out_of_memory(error) and all(self._can_be_halved(step.batch) for step in steps)
                if kept is None or not fitting:
                    raise
            else:
                if steps[0].player == "discriminator":
                    steps[:] = done  # what they judged is asked for again
                return terms
            # here, where the error with all that it holds is gone
            steps[:] = [half for step in steps for half in step.halves()]
            self.parts *= 2
            self._put_back(kept)
            if self.precision.device.type == "cuda":
                torch.cuda.empty_cache()

    def _add_gradients(
        self, player: Player, steps: Sequence[Step], terms_of: Callable[[Step], dict[str, Tensor]]
    ) -> tuple[list[dict[str, Tensor]], list[Step]]:
        """One pass over `steps`, which stay as they are: returns the terms, and the discriminators' steps as done."""
        player.zero_gradients()
        found, done = [], []
        for step in map(copy.copy, steps):  # of the generators' one graph at a time
            terms = terms_of(step)
            if terms:
                # terms are means over members: each member's gradient is as large as if it were alone
                loss = torch.stack(list(terms.values())).sum() * (self.translator.shape.members / len(steps))
                loss.backward(inputs=player.parameters)
            found.append({name: term.detach() for name, term in terms.items()})
            self.terms.add(terms)
            if step.player == "discriminator":
                done.append(step)
        return found, done

    # --- memory -------------------------------------------------------------------------------------------------------

    def _divide(self, batch: Batch) -> list[Batch]:
        """The micro-batch in `parts`, or as many as its size allows at this stage of growing."""
        return batch.split(math.gcd(self.parts, len(batch) // self.translator.shape.packing))

    def _can_be_halved(self, batch: Batch) -> bool:
        shape = self.translator.shape
        return shape.members == 1 and len(batch) % (2 * shape.packing) == 0

    def _keep(self) -> _Kept:
        """What one pass changes beside gradients."""
        return _Kept(
            dict(self.variables),
            {name: list(pool.entries) for name, pool in self.pools.items()},
            self.terms.copy(),
            self.monitors.copy(),
            [buffer.clone() for buffer in self._changing],
        )

    def _put_back(self, kept: _Kept) -> None:
        self.variables = dict(kept.variables)
        self.pools = {name: pool for name, pool in self.pools.items() if name in kept.pools}
        for name, entries in kept.pools.items():
            self.pools[name].entries = list(entries)
        self.terms, self.monitors = kept.terms, kept.monitors
        for buffer, value in zip(self._changing, kept.buffers):
            buffer.copy_(value)

    # --- numbers that are not finite ----------------------------------------------------------------------------------

    def _count_skips(self, before: Sequence[Tensor]) -> None:
        """Note whether an update of this step was skipped, and let nothing of what made it so stay.

        Args:
            before: the changing buffers as they were before the step.
        """
        if not self._skips:
            self.skips_in_a_row = 0
            return
        self.skips_in_a_row += 1
        self.skipped_steps.append(self.step)
        for buffer, value in zip(self._changing, before):
            if not torch.isfinite(buffer).all():
                buffer.copy_(value)
        for pool in self.pools.values():
            pool.forget_bad()

    @contextlib.contextmanager
    def _bad_layers(self, found: list[str]) -> Iterator[None]:
        """Meanwhile, put the first layer whose output is not finite into `found`."""

        def look(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            if not found and not all(torch.isfinite(part).all() for part in parts if isinstance(part, Tensor)):
                found.append(f"the output of {name}")

        hooks = [
            layer.register_forward_hook(functools.partial(look, name))
            for name, layer in self.translator.named_modules()
            if name
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with time, in parts that become files of the saved state."""
        return {
            "model": self.translator.state_dict(),
            "ema": self.ema.state_dict(),
            "engine": {
                "step": self.step,
                "images_seen": self.images_seen,
                "images_before": self.images_before,
                "optimizers": {name: player.state_dict() for name, player in self.players.items()},
                "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
                "variables": dict(self.variables),
                "skipped_steps": list(self.skipped_steps),
                "skips_in_a_row": self.skips_in_a_row,
                "rate_factor": self.rate_factor,
                "parts": self.parts,
                "most_diverse": self.most_diverse,
                "tallies": {"terms": self.terms.state_dict(), "monitors": self.monitors.state_dict()},
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.translator.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        engine = state["engine"]
        self.step = engine["step"]
        # older states are of runs whose steps all had the same number of images
        batch = self.settings.growth.batch
        self.go_to(engine.get("images_seen", self.step * batch))
        self.images_before = engine.get("images_before", self.images_seen - batch)
        for name, player in self.players.items():
            player.load_state_dict(engine["optimizers"][name])
        self.pools = {}
        for name, pool in engine["pools"].items():
            self.pools[name] = ImagePool(self.settings.image_pool)
            self.pools[name].load_state_dict(pool, self.precision.device)
        self.variables = {name: value.to(self.precision.device) for name, value in engine.get("variables", {}).items()}
        self.skipped_steps.clear()
        self.skipped_steps.extend(engine["skipped_steps"])
        self.skips_in_a_row = engine["skips_in_a_row"]
        self.rate_factor, self.parts = engine.get("rate_factor", 1.0), engine.get("parts", 1)
        self.most_diverse = engine.get("most_diverse", 0.0)
        tallies = engine.get("tallies", {})
        for name, tally in (("terms", self.terms), ("monitors", self.monitors)):
            tally.load_state_dict(tallies.get(name, {}), self.precision.device)


@dataclass(frozen=True)
class _Kept:
    """What a pass over micro-batches changes beside gradients, as it was before."""

    variables: dict[str, Tensor]
    pools: dict[str, list[tuple[Tensor, ...]]]
    terms: Tally
    monitors: Tally
    buffers: list[Tensor]


def _changes(buffer: str) -> bool:
    """Whether the buffer of this name moves as its network is trained: a statistic, or spectral normalisation's u."""
    return is_running_statistic(buffer) or buffer.rpartition(".")[2] in ("num_batches_tracked", "u")


def _first_bad(player: Player, terms: Sequence[Mapping[str, Tensor]]) -> str:
    """Where numbers stopped being finite, told after the backward pass: a loss term, or else the layer nearest to it.

    The backward pass goes from the last layer to the first, and what is not finite spreads with it.
    """
    for found in terms:
        for name, term in found.items():
            if not torch.isfinite(term).all():
                return f"the loss {name}"
    bad = [
        f"{network_name}.{key}"
        for network_name, network in player.networks.items()
        for key, parameter in network.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    return f"the gradient of {bad[-1]}" if bad else "the sum of the squared gradients"


def _halves_of(view: View) -> list[View]:
    """The view's rows as two views."""

    def cut(rows: Tensor | None) -> Sequence[Tensor | None]:
        return (None, None) if rows is None else rows.chunk(2)

    parts = zip(*(cut(rows) for rows in (view.real, view.fake, view.real_condition, view.fake_condition)))
    return [
        replace(view, real=real, fake=fake, real_condition=of_real, fake_condition=of_fake)
        for real, fake, of_real, of_fake in parts
    ]


def _at_scales(view: View, stage_halvings: int) -> list[View]:
    """The view as each of its discriminators sees it, finest first.

    While networks grow and images are still so often halved, those that will judge larger ones have no part: each
    discriminator keeps to the size that it judges in the end. The last one judges smaller ones too.
    """
    if not isinstance(view.discriminator, MultiScaleDiscriminator):
        return [view]

    def seen(images: Tensor | None, halvings: int) -> Tensor | None:
        return images if images is None or images.ndim != 4 else halved(images, halvings)

    first = min(stage_halvings, len(view.discriminator) - 1)
    return [
        replace(
            view,
            name=f"{view.name}_{first + halvings}",
            discriminator=discriminator,
            real=halved(view.real, halvings),
            fake=halved(view.fake, halvings),
            real_condition=seen(view.real_condition, halvings),
            fake_condition=seen(view.fake_condition, halvings),
            scale_of=view.name,
        )
        for halvings, discriminator in enumerate(view.discriminator[first:])
    ]


class Tally:
    """Means of named scalars between two log lines, summed on the device so that nothing waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, world: World) -> dict[str, float]:
        """The means over time and ranks, and start anew."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name].float() / self._counts[name] for name in names])
        self._sums, self._counts = {}, {}
        return dict(zip(names, world.average(means).tolist()))

    def copy(self) -> Tally:
        """Another one that goes on from here; sums are replaced, never changed."""
        other = Tally()
        other._sums, other._counts = dict(self._sums), dict(self._counts)
        return other

    def share(self, world: World) -> None:
        """Let every rank go on from the mean of all, so that one can save it for all."""
        if world.size > 1 and self._sums:
            names = sorted(self._sums)
            sums = world.average(torch.stack([self._sums[name].double() for name in names]))
            self._sums = {name: value.to(self._sums[name].dtype) for name, value in zip(names, sums)}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._sums = {name: value.to(device) for name, value in state.get("sums", {}).items()}
        self._counts = dict(state.get("counts", {}))
