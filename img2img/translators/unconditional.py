"""Noise to image without classes (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Outputs, Translator


class NoiseGenerator(Protocol):
    """A generator from noise, as networks/__init__.py says."""

    latent_dim: int

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor: ...


class Unconditional(Translator):
    """One generator of images from Gaussian noise against one discriminator."""

    source = "images"
    task = "sample"
    generator: NoiseGenerator
    discriminator: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        num_classes = len(shape.classes)
        channels = shape.channels["image"]
        return {
            "generator": NetworkPlan(
                "generator",
                {"resolution": shape.resolution, "out_channels": channels, "num_classes": num_classes},
            ),
            "discriminator": NetworkPlan(
                "discriminator",
                {"resolution": shape.resolution, "in_channels": channels, "num_classes": num_classes},
            ),
        }

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        noise = batch.draws("z").normal(self.generator.latent_dim).to(batch["image"].dtype)
        return {"fake": self.generator(noise, batch.labels)}

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        return [View("discriminator", self.discriminator, batch["image"], outputs["fake"], batch.labels, batch.labels)]

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        return {"samples": networks["generator"](self.preview_noise(batch), None)}

    def preview_noise(self, batch: Batch) -> Tensor:
        """(N, latent_dim): the same for the same batch throughout the run."""
        return batch.draws("preview/z").normal(self.generator.latent_dim).to(batch["image"].dtype)

    def deploy(self) -> tuple[str, ...]:
        return ("generator",)
