"""What every method offers the engine: its networks, which discriminator sees what, and its loss terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import Objective
from img2img.networks.layers import mixes_samples
from img2img.penalties import View

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class DataShape:
    """What the data decide about the networks.

    Attributes:
        resolution: (height, width) of training images.
        channels: domain ("image", or "a" and "b") -> 1, 3 or 4.
        classes: class names in the order of the labels; empty without classes.
    """

    resolution: tuple[int, int]
    channels: Mapping[str, int]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetworkPlan:
    """One network a method needs: its role in the configuration and the arguments that the data decide.

    Attributes:
        role: "generator" or "discriminator": the configuration table its name and arguments come from.
        arguments: constructor arguments by name, passed where the network's constructor has them.
    """

    role: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Verdict:
    """What a discriminator said of one view: logits (N,) or (N, 1, h, w); `real` is None where nobody asked."""

    name: str
    real: Tensor | None
    fake: Tensor


class Translator(nn.Module, ABC):
    """A method: networks and losses, without optimisers, precision or devices, which the engine owns.

    Attributes:
        source: the kind of data it learns from: "images", "classes", "pairs" or "unpaired".
        task: what its model does, "translate" or "sample".
        directions: "a2b", "b2a" -> the network that does it.
        loss_weights: the `loss.*` keys it uses, each a weight.

    Args:
        shape: the data it is built for.
        networks: one network per name in `plan`.
        objective: the adversarial objective.
        adversarial_weight: multiplies the generators' adversarial terms.
        weights: one weight per name in `loss_weights`.
    """

    source: ClassVar[str]
    task: ClassVar[str]
    directions: ClassVar[dict[str, str]] = {}
    loss_weights: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        shape: DataShape,
        networks: Mapping[str, nn.Module],
        objective: Objective,
        adversarial_weight: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        for name, network in networks.items():
            self.add_module(name, network)
        self.objective = objective
        self.adversarial_weight = adversarial_weight
        self.weights = dict(weights or {})

    @classmethod
    @abstractmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        """The networks this method needs for such data, by name; generators' names begin with "generator"."""

    @abstractmethod
    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        """Run the generators once; both players' terms and views are made from these outputs.

        Args:
            batch: real images, labels and keyed draws.
            for_generator: the generator's step follows, so outputs that only its terms need are wanted too.
        """

    @abstractmethod
    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        """Which discriminator sees which real and fake images, under which condition."""

    def discriminator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        """Named, weighted scalars whose sum the discriminators minimise."""
        terms = {}
        for verdict in verdicts:
            assert verdict.real is not None, "a discriminator judges real images in its own step"
            terms[verdict.name] = self.objective.discriminator(verdict.real, verdict.fake).mean()
        return terms

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        """Named, weighted scalars whose sum the generators minimise."""
        return {
            verdict.name.replace("discriminator", "generator"): self.adversarial_weight
            * self.objective.generator(verdict.fake, verdict.real).mean()
            for verdict in verdicts
        }

    @abstractmethod
    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Named rows of images (N, C, H, W) for the sample grid, made by the given (averaged) generators."""

    def deploy(self) -> tuple[str, ...]:
        """The names of the networks that inference needs; the engine takes their averaged weights."""
        return tuple(self.directions.values())

    def networks_of(self, player: str) -> dict[str, nn.Module]:
        """The networks of "generator" or "discriminator", by name."""
        return {name: network for name, network in self.named_children() if name.startswith(player)}


def apply_together(network: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
    """network(x) for each x, as one batch where no layer mixes the samples of a batch."""
    if len(images) == 1 or mixes_samples(network):
        return tuple(network(image) for image in images)
    return network(torch.cat(images)).split([len(image) for image in images])
