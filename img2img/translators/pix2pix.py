"""Paired image to image: pix2pix (Isola et al. 2017, arXiv:1611.07004) and pix2pixHD (Wang et al. 2018).

pix2pixHD (arXiv:1711.11585) is the same game with other networks and other terms beside the adversarial one: a
coarse-to-fine generator, discriminators at several scales (`train.scales`), feature matching in every layer of each of
them (`loss.feature_matching`) and a perceptual term (`loss.perceptual`) in place of the L1 term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import l1
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Outputs, Translator, Verdict


class Pix2Pix(Translator):
    """A generator a → b against a discriminator that sees b beside the a it belongs to, and distances from that b.

    `l1` weighs ‖G(a) − b‖₁, `perceptual` the distance of both in a network that is given. The generator's dropout is
    keyed by image, so that it is part of the run's exact repetition.
    """

    source = "pairs"
    task = "translate"
    directions: ClassVar[dict[str, str]] = {"a2b": "generator"}
    loss_weights = ("l1",)
    optional_weights = ("perceptual",)
    generator: nn.Module
    discriminator: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        a, b = shape.channels["a"], shape.channels["b"]
        return {
            "generator": NetworkPlan(
                "generator", {"resolution": shape.resolution, "in_channels": a, "out_channels": b}
            ),
            "discriminator": NetworkPlan(
                "discriminator", {"resolution": shape.resolution, "in_channels": b, "condition_channels": a}
            ),
        }

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        return {"fake": self.generator(batch["a"], batch.draws("dropout"))}

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        a = batch["a"]
        return [View("discriminator", self.discriminator, batch["b"], outputs["fake"], a, a, aligned=True)]

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
