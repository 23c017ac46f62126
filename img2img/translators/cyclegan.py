"""Unpaired image to image in both directions (Zhu et al. 2017, arXiv:1703.10593)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import l1
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Outputs, Translator, Verdict, apply_together


class CycleGAN(Translator):
    """Generators a → b and b → a that undo each other, each against a discriminator of its target domain.

    `cycle` weighs ‖G_ba(G_ab(a)) − a‖₁ and its mirror, `identity` ‖G_ab(b) − b‖₁ and its mirror (section 5.2 of the
    paper). Both weights are absolute; a project that gives identity relative to cycle as 0.5 means 0.5 · cycle here.
    """

    source = "unpaired"
    task = "translate"
    directions: ClassVar[dict[str, str]] = {"a2b": "generator_ab", "b2a": "generator_ba"}
    loss_weights = ("cycle", "identity")
    generator_ab: nn.Module
    generator_ba: nn.Module
    discriminator_a: nn.Module
    discriminator_b: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        a, b = shape.channels["a"], shape.channels["b"]
        resolution = shape.resolution
        return {
            "generator_ab": NetworkPlan("generator", {"resolution": resolution, "in_channels": a, "out_channels": b}),
            "generator_ba": NetworkPlan("generator", {"resolution": resolution, "in_channels": b, "out_channels": a}),
            "discriminator_a": NetworkPlan("discriminator", {"resolution": resolution, "in_channels": a}),
            "discriminator_b": NetworkPlan("discriminator", {"resolution": resolution, "in_channels": b}),
        }

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        a, b = batch["a"], batch["b"]
        if for_generator and self.weights["identity"] > 0:
            fake_b, identity_b = apply_together(self.generator_ab, a, b)
            fake_a, identity_a = apply_together(self.generator_ba, b, a)
            return {"fake_a": fake_a, "fake_b": fake_b, "identity_a": identity_a, "identity_b": identity_b}
        return {"fake_a": self.generator_ba(b), "fake_b": self.generator_ab(a)}

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        return [
            View("discriminator_a", self.discriminator_a, batch["a"], outputs["fake_a"]),
            View("discriminator_b", self.discriminator_b, batch["b"], outputs["fake_b"]),
        ]

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        cycled = {"a": self.generator_ba(outputs["fake_b"]), "b": self.generator_ab(outputs["fake_a"])}
        terms = super().generator_terms(batch, outputs, verdicts)
        for domain in ("a", "b"):
            terms[f"cycle_{domain}"] = self.weights["cycle"] * l1(cycled[domain], batch[domain]).mean()
            if f"identity_{domain}" in outputs:
                identity = l1(outputs[f"identity_{domain}"], batch[domain]).mean()
                terms[f"identity_{domain}"] = self.weights["identity"] * identity
        return terms

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        a2b, b2a = networks["generator_ab"], networks["generator_ba"]
        fake_b, fake_a = a2b(batch["a"]), b2a(batch["b"])
        return {
            "a": batch["a"],
            "a to b": fake_b,
            "a to b to a": b2a(fake_b),
            "b": batch["b"],
            "b to a": fake_a,
            "b to a to b": a2b(fake_a),
        }
