"""What every method offers the engine: its networks, which discriminator sees what, and its loss terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import Objective, feature_matching, layer_matching, most_realistic, per_sample
from img2img.networks.layers import mixes_samples
from img2img.penalties import Verdict, View

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class DataShape:
    """What the networks are built for.

    Attributes:
        resolution: (height, width) of training images.
        channels: domain ("image", or "a" and "b") -> 1, 3 or 4; of points their coordinates.
        classes: class names in the order of the labels; empty without classes.
        members: independent games trained side by side, with stacked weights; 1 but for toy worlds.
        packing: samples that a discriminator judges together (PacGAN).
        label_dropout: share of the images whose class nobody is told.
        palette: colours of the classes, as "#0000aa", where domain a holds label maps; empty where it holds pictures.
    """

    resolution: tuple[int, int]
    channels: Mapping[str, int]
    classes: tuple[str, ...] = ()
    members: int = 1
    packing: int = 1
    label_dropout: float = 0.0
    palette: tuple[str, ...] = ()


@dataclass(frozen=True)
class Of:
    """A constructor argument that an earlier network of the plan decides: its attribute of that name."""

    network: str
    attribute: str


@dataclass(frozen=True)
class NetworkPlan:
    """One network a method needs: its role in the configuration and the arguments that are decided for it.

    Attributes:
        role: a key of networks.ROLES: the configuration table its name and arguments come from.
        arguments: constructor arguments by name, passed where the network's constructor has them: values that follow
            from the data, or an Of.
        offers: attributes that the method needs of the network's class, beyond calling it.
    """

    role: str
    arguments: dict[str, Any] = field(default_factory=dict)
    offers: tuple[str, ...] = ()

    def resolved(self, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """The arguments' values, with the networks that were built before this one."""
        return {
            key: getattr(networks[value.network], value.attribute) if isinstance(value, Of) else value
            for key, value in self.arguments.items()
        }


@dataclass(frozen=True)
class Translation:
    """One direction of a method as it is used, to be watched.

    Attributes:
        inputs: real images (N, C, H, W).
        outputs: what becomes of them.
        targets: real images of the domain that they are to be in.
        way_back: outputs -> images of the inputs' domain, where the method learns it as well.
    """

    inputs: Tensor
    outputs: Tensor
    targets: Tensor
    way_back: Callable[[Tensor], Tensor] | None = None


class Translator(nn.Module, ABC):
    """A method: networks and losses, without optimisers, precision or devices, which the engine owns.

    Attributes:
        source: the kind of data it learns from: "images", "classes", "pairs", "unpaired" or "points".
        task: what its model does, "translate", "sample" or "points".
        directions: "a2b", "b2a" -> the network that does it.
        loss_weights: the `loss.*` keys it needs, each a weight.
        optional_weights: those it can do without.
        draws_dropout: its generators are given draws in training, without which they have no dropout.
        from_noise: its generator makes samples out of noise alone; what is done against mode collapse applies.
        references: pictures of another class that every second image comes with, see data.batches.References.
        images_seen: real images of all steps so far, which the engine says; weights that change follow it.

    Args:
        shape: the data it is built for.
        networks: one network per name in `plan`.
        objective: the adversarial objective.
        adversarial_weight: multiplies the generators' adversarial terms.
        weights: one weight per name in `loss_weights`, and of `optional_weights`, "feature_matching" and
            "classification" those that are wanted.
        perceptual: the distance of `loss.perceptual`, output and target (N, C, H, W) -> (N,). It is no part of the
            translator, neither trained nor saved.
    """

    source: ClassVar[str]
    task: ClassVar[str]
    directions: ClassVar[dict[str, str]] = {}
    loss_weights: ClassVar[tuple[str, ...]] = ()
    optional_weights: ClassVar[tuple[str, ...]] = ()
    draws_dropout: ClassVar[bool] = False
    from_noise: ClassVar[bool] = False
    references: ClassVar[int] = 0

    def __init__(
        self,
        shape: DataShape,
        networks: Mapping[str, nn.Module],
        objective: Objective,
        adversarial_weight: float = 1.0,
        weights: Mapping[str, float] | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        for name, network in networks.items():
            self.add_module(name, network)
        self.objective = objective
        self.adversarial_weight = adversarial_weight
        self.weights = dict(weights or {})
        self.images_seen = 0
        self.perceptual = perceptual

    @classmethod
    @abstractmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        """The networks this method needs for such data, by name.

        A name begins with the player the network belongs to, "generator" or "discriminator": "generator_projection"
        is optimised and averaged with the generators.
        """

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
            losses = self._judge_by(self.objective.discriminator, verdict.real, verdict.fake, verdict.control)
            terms[verdict.name] = losses.mean()
        return terms

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        """Named, weighted scalars whose sum the generators minimise."""
        terms = {}
        for verdict in verdicts:
            name = verdict.name.replace("discriminator", "generator")
            losses = self._judge_by(self.objective.generator, verdict.fake, verdict.real, verdict.fake_features)
            if verdict.kept < 1:
                scores = per_sample(verdict.fake) * (-1 if self.objective.judges_by == "energy" else 1)
                losses = self.for_each_member(partial(most_realistic, share=verdict.kept), losses, scores)
            terms[name] = self.adversarial_weight * losses.mean()
            if self.matches_layers:
                distances = layer_matching(verdict.real_layers, verdict.fake_layers)
                terms[f"{name}/feature_matching"] = self.weights["feature_matching"] * distances.mean()
            elif self.matches_features:
                distances = self.for_each_member(feature_matching, verdict.real_features, verdict.fake_features)
                terms[f"{name}/feature_matching"] = self.weights["feature_matching"] * distances.mean()
        return terms

    @property
    def matches_features(self) -> bool:
        """The generators' terms compare D's features of real and generated images."""
        return self.weights.get("feature_matching", 0.0) > 0

    @property
    def matches_layers(self) -> bool:
        """They do so image by image in every layer, since each generated image has its real one."""
        return self.matches_features and self.source == "pairs"

    @property
    def classifies(self) -> bool:
        """Both players' terms ask which class D's features tell."""
        return self.weights.get("classification", 0.0) > 0

    def _judge_by(self, half: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        """One half of the objective; members apart where a sample's loss depends on others."""
        return self.for_each_member(half, *tensors) if self.objective.sees_batch else half(*tensors)

    def for_each_member(self, function: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        """`function` of each member's rows by themselves: tensors (members · N, ...) or None -> (members · K, ...)."""
        members = self.shape.members
        if members == 1:
            return function(*tensors)
        rows = [None if tensor is None else tensor.unflatten(0, (members, -1)) for tensor in tensors]
        in_dims = tuple(None if tensor is None else 0 for tensor in tensors)
        return torch.vmap(function, in_dims)(*rows).flatten(0, 1)

    @abstractmethod
    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Named rows of images (N, C, H, W) for the sample grid, made by the given (averaged) generators."""

    def translations(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Translation]:
        """What the given (averaged) generators make of a batch in each direction, by the direction's name."""
        found = {}
        for direction, name in self.directions.items():
            source, target = direction[0], direction[-1]
            back = self.directions.get(f"{target}2{source}")
            way_back = None if back is None else networks[back]
            found[direction] = Translation(batch[source], networks[name](batch[source]), batch[target], way_back)
        return found

    def samples(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Tensor | None:
        """What the given (averaged) generators make of noise (N, C, H, W), of the batch's classes; None of methods
        that make nothing of noise alone, or no pictures."""
        return None

    def latents_and_images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents (N, L) that require gradients, and the images generated from them; of methods that have latents."""
        raise AssertionError(f"{type(self).__name__} has no latents: check() refuses what would ask for them")

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
