"""The adversarial engine: both players' steps, whatever the method, objective, penalties and networks.

The engine owns optimisers, order, precision and averages. It asks the translator for outputs, views and terms, and
never knows which method it drives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from img2img.config import Config, OptimConfig
from img2img.data.batches import Batch
from img2img.draws import Draws
from img2img.networks.layers import mixes_samples
from img2img.penalties import Penalty, View
from img2img.training.distributed import World
from img2img.training.ema import Ema, ema_decay
from img2img.training.image_pool import ImagePool
from img2img.training.precision import Precision
from img2img.training.schedules import lazy_correction, learning_rate_factor
from img2img.translators.base import Outputs, Translator, Verdict

# training has diverged after ten skipped steps in a row, or 5 % of the last thousand
_SKIPS_IN_A_ROW = 10
_SKIPS_IN_WINDOW = 50
_WINDOW = 1000


@dataclass(frozen=True)
class EngineSettings:
    """How the engine trains, in the units of the configuration keys of the same names."""

    batch: int
    kimg: float
    optim: OptimConfig
    ema_kimg: float
    ema_rampup: float
    image_pool: int = 0

    @classmethod
    def of(cls, config: Config) -> EngineSettings:
        train = config.train
        return cls(train.batch, train.kimg, config.optim, train.ema_kimg, train.ema_rampup, train.image_pool)


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
    """One player's side of one (micro-)batch; what a penalty sees as its Game."""

    def __init__(self, engine: Engine, player: str, batch: Batch, outputs: Outputs) -> None:
        self.engine = engine
        self.player = player
        self.batch = batch
        self.outputs = outputs
        self.views = engine.translator.views(batch, outputs)
        if player == "discriminator":
            self.views = [engine.recall(replace(view, fake=view.fake.detach()), batch) for view in self.views]

    def draws(self, stream: str) -> Draws:
        return self.batch.draws(stream)

    def parameters(self, player: str) -> list[nn.Parameter]:
        return self.engine.players[player].parameters

    def discriminator_terms(self) -> dict[str, Tensor]:
        verdicts = [self.engine.judge(view, with_real=True) for view in self.views]
        for verdict in verdicts:
            assert verdict.real is not None, "asked for above"
            self.engine.monitors.add(
                {f"{verdict.name}_on_real": verdict.real.mean(), f"{verdict.name}_on_fake": verdict.fake.mean()}
            )
        return self.engine.translator.discriminator_terms(self.batch, self.outputs, verdicts)

    def generator_terms(self) -> dict[str, Tensor]:
        translator = self.engine.translator
        outputs = self.outputs if self.player == "generator" else self.engine.generate(self.batch, for_generator=True)
        with self.engine.precision.context():
            views = translator.views(self.batch, outputs)
            verdicts = [self.engine.judge(view, translator.objective.generator_sees_real) for view in views]
            return translator.generator_terms(self.batch, outputs, verdicts)

    def discriminator_loss(self) -> Tensor:
        return torch.stack(list(self.discriminator_terms().values())).sum()

    def generator_loss(self) -> Tensor:
        return torch.stack(list(self.generator_terms().values())).sum()

    def main_terms(self) -> dict[str, Tensor]:
        """The translator's terms for this player and those penalties that are evaluated in every step."""
        terms = self.discriminator_terms() if self.player == "discriminator" else self.generator_terms()
        for name, penalty in self.engine.penalties_of(self.player).items():
            if penalty.every == 1:
                terms |= self.penalty_terms(name, penalty)
        return terms

    def penalty_terms(self, name: str, penalty: Penalty) -> dict[str, Tensor]:
        """The penalty's weighted terms in full precision, `every` times as heavy where it is lazy."""
        weight = penalty.weight * penalty.every
        return {f"{name}/{key}": weight * term.mean() for key, term in penalty.terms(self).items()}


class Engine:
    """Trains a translator: `train_step` is one iteration, `state_dict` everything that changes with time.

    Attributes:
        step: generator steps so far; images_seen = step · batch.
        players: "generator" and "discriminator".
        ema: the averaged generators.
        terms, monitors: means of loss terms and of what is only watched, since the log last asked.
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
        self.pools: dict[str, ImagePool] = {}
        self.terms = Tally()
        self.monitors = Tally()
        self.skipped_steps: deque[int] = deque(maxlen=_SKIPS_IN_WINDOW)
        self.skips_in_a_row = 0
        self.first_bad_weight = ""

    @property
    def images_seen(self) -> int:
        return self.step * self.settings.batch

    @property
    def has_diverged(self) -> bool:
        """Too many steps gave gradients that are not finite."""
        crowded = len(self.skipped_steps) == _SKIPS_IN_WINDOW and self.skipped_steps[0] > self.step - _WINDOW
        return self.skips_in_a_row >= _SKIPS_IN_A_ROW or crowded

    def penalties_of(self, player: str) -> dict[str, Penalty]:
        return {name: penalty for name, penalty in self.penalties.items() if penalty.player == player}

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
            player.scale_learning_rate(factor)
        shared: list[Outputs] = []
        for index, batches in enumerate(critic_batches):
            is_last = index == len(critic_batches) - 1
            share = is_last and len(batches) == 1
            outputs = [self.generate(batch, for_generator=share) for batch in batches]
            self._discriminator_step(batches, outputs, number=self.step * len(critic_batches) + index)
            shared = outputs if share else []
        updated = self._generator_step(critic_batches[-1], shared)
        self.world.average_statistics(self.translator.children())
        self.step += 1
        if updated:
            half_life = self.settings.ema_kimg * 1000
            decay = ema_decay(half_life, self.settings.ema_rampup, self.images_seen, self.settings.batch)
            self.ema.update(self.players["generator"].networks, decay)

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        """The translator's outputs, with a graph where the generator's step will use them."""
        with torch.set_grad_enabled(for_generator), self.precision.context():
            outputs = self.translator.generate(batch, for_generator=for_generator)
        return {name: images.to(self.precision.dtype) for name, images in outputs.items()}

    def recall(self, view: View, batch: Batch) -> View:
        """The view with its fakes exchanged through the image pool, where there is one."""
        if self.settings.image_pool == 0:
            return view
        pool = self.pools.setdefault(view.name, ImagePool(self.settings.image_pool))
        conditions = () if view.fake_condition is None else (view.fake_condition,)
        everyone = tuple(self.world.gather(tensor) for tensor in (view.fake, *conditions))
        numbers = self.world.gather(batch.numbers)
        exchanged = pool.exchange(everyone, Draws(batch.seed, f"pool/{view.name}", numbers))
        mine = self.world.slice(len(numbers))
        fake, *kept = (tensor[mine] for tensor in exchanged)
        return replace(view, fake=fake, fake_condition=kept[0] if kept else None)

    def judge(self, view: View, with_real: bool) -> Verdict:
        """Run a view's discriminator, on real and fake as one batch where no layer mixes samples.

        The logits come in full precision.
        """
        discriminator = view.discriminator
        real: Tensor | None = None
        with self.precision.context():
            if not with_real:
                fake = discriminator(view.fake, view.fake_condition)
            elif mixes_samples(discriminator):
                real = discriminator(view.real, view.real_condition)
                fake = discriminator(view.fake, view.fake_condition)
            else:
                both = [view.real_condition, view.fake_condition]
                condition = torch.cat([part for part in both if part is not None]) if None not in both else None
                logits = discriminator(torch.cat([view.real, view.fake]), condition)
                real, fake = logits.split([len(view.real), len(view.fake)])
        fake = fake.to(self.precision.dtype)
        real = None if real is None else real.to(self.precision.dtype)
        return Verdict(view.name, real, fake)

    def _discriminator_step(self, batches: Sequence[Batch], outputs: Sequence[Outputs], number: int) -> None:
        steps = [Step(self, "discriminator", batch, made) for batch, made in zip(batches, outputs)]
        self._update("discriminator", steps, len(steps), Step.main_terms)
        self._lazy_updates("discriminator", steps, number)
        for penalty in self.penalties_of("discriminator").values():
            for network in self.players["discriminator"].networks.values():
                penalty.constrain(network)

    def _generator_step(self, batches: Sequence[Batch], shared: Sequence[Outputs]) -> bool:
        """Returns whether the weights were updated."""
        self.players["discriminator"].require_gradients(False)
        # without shared outputs each micro-batch is generated when its turn comes: one graph at a time
        made = iter(shared) if shared else (self.generate(batch, for_generator=True) for batch in batches)
        steps = (Step(self, "generator", batch, outputs) for batch, outputs in zip(batches, made))
        updated = self._update("generator", steps, len(batches), Step.main_terms)
        if any(penalty.every > 1 for penalty in self.penalties_of("generator").values()):
            fresh = [Step(self, "generator", batch, self.generate(batch, for_generator=True)) for batch in batches]
            self._lazy_updates("generator", fresh, self.step)
        self.players["discriminator"].require_gradients(True)
        return updated

    def _lazy_updates(self, player: str, steps: Sequence[Step], number: int) -> None:
        """An optimiser step of its own for each lazy penalty that is due in the player's step `number`."""
        for name, penalty in self.penalties_of(player).items():
            if penalty.every > 1 and number % penalty.every == 0:
                self._update(player, steps, len(steps), partial(Step.penalty_terms, name=name, penalty=penalty))

    def _update(
        self, name: str, steps: Iterable[Step], count: int, terms_of: Callable[[Step], dict[str, Tensor]]
    ) -> bool:
        """One optimiser step on the mean over `count` micro-batches; skipped where gradients are not finite."""
        player = self.players[name]
        player.zero_gradients()
        for step in steps:
            terms = terms_of(step)
            if terms:
                (torch.stack(list(terms.values())).sum() / count).backward()
            self.terms.add(terms)
        self.world.average_gradients(player.parameters)
        gradients = [parameter.grad for parameter in player.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            self._skip(player)
            return False
        self.monitors.add({f"{name}_gradient_norm": norm})
        self.skips_in_a_row = 0
        player.update()
        return True

    def _skip(self, player: Player) -> None:
        self.skips_in_a_row += 1
        self.skipped_steps.append(self.step)
        for network_name, network in player.networks.items():
            for key, parameter in network.named_parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    self.first_bad_weight = f"{network_name}.{key}"
                    return

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with time, in parts that become files of the saved state."""
        return {
            "model": self.translator.state_dict(),
            "ema": self.ema.state_dict(),
            "engine": {
                "step": self.step,
                "optimizers": {name: player.state_dict() for name, player in self.players.items()},
                "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
                "skipped_steps": list(self.skipped_steps),
                "skips_in_a_row": self.skips_in_a_row,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.translator.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        engine = state["engine"]
        self.step = engine["step"]
        for name, player in self.players.items():
            player.load_state_dict(engine["optimizers"][name])
        for name, pool in engine["pools"].items():
            self.pools[name] = ImagePool(self.settings.image_pool)
            self.pools[name].load_state_dict(pool, self.precision.device)
        self.skipped_steps.extend(engine["skipped_steps"])
        self.skips_in_a_row = engine["skips_in_a_row"]


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
