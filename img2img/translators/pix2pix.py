"""Paired image to image: pix2pix (Isola et al. 2017, arXiv:1611.07004), pix2pixHD and SPADE.

pix2pixHD (Wang et al. 2018, arXiv:1711.11585) is the same game with other networks and other terms beside the
adversarial one: a coarse-to-fine generator, discriminators at several scales (`train.scales`), feature matching in
every layer of each of them (`loss.feature_matching`) and a perceptual term (`loss.perceptual`) in place of the L1 term.
SPADE (Park et al. 2019, arXiv:1903.07291) is that with another generator, and label maps for a (`data.labels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import l1
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Outputs, Translator, Verdict


class Pix2Pix(Translator):
    """A generator a → b against a discriminator that sees b beside the a it belongs to, and distances from that b.

    `l1` weighs ‖G(a) − b‖₁, `perceptual` the distance of both in a network that is given. The generator's dropout is
    keyed by image, so that it is part of the run's exact repetition. Where a holds label maps, the generator makes
    planes of classes out of them by itself, and the discriminator gets these planes.
    """

    source = "pairs"
    task = "translate"
    directions: ClassVar[dict[str, str]] = {"a2b": "generator"}
    loss_weights = ("l1",)
    optional_weights = ("perceptual",)
    draws_dropout = True
    generator: nn.Module
    discriminator: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        a, b = shape.channels["a"], shape.channels["b"]
        resolution, planes = shape.resolution, len(shape.palette) or a
        return {
            "generator": NetworkPlan(
                "generator",
                {"resolution": resolution, "in_channels": a, "out_channels": b, "palette": shape.palette},
            ),
            "discriminator": NetworkPlan(
                "discriminator", {"resolution": resolution, "in_channels": b, "condition_channels": planes}
            ),
        }

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        return {"fake": self.generator(batch["a"], batch.draws("dropout"))}

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        given, labelled = batch["a"], bool(self.shape.palette)
        if labelled:
            generator: Any = self.generator
            given = generator.palette(given)
        return [
            View(
                "discriminator",
                self.discriminator,
                batch["b"],
                outputs["fake"],
                given,
                given,
                aligned=self.matches_layers,
                condition_is_labels=labelled,
            )
        ]

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        terms = super().generator_terms(batch, outputs, verdicts)
        fake, real = outputs["fake"], batch["b"]
        if self.weights["l1"] > 0:
            terms["l1"] = self.weights["l1"] * l1(fake, real).mean()
        if self.weights.get("perceptual", 0.0) > 0:
            assert self.perceptual is not None, "who sets the weight gives the distance"
            terms["perceptual"] = self.weights["perceptual"] * self.perceptual(fake, real).mean()
        return terms

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        return {"input": batch["a"], "output": networks["generator"](batch["a"]), "target": batch["b"]}
