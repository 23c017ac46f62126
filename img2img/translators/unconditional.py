"""Noise to image without classes (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.draws import Draws
from img2img.networks.layers import draw_latents
from img2img.networks.styles import HasStyles
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Outputs, Translator


class NoiseGenerator(Protocol):
    """A generator from noise, as networks/__init__.py says."""

    latent_dim: int
    prior: Literal["normal", "uniform"]

    def __call__(self, z: Tensor, labels: Tensor | None, draws: Draws | None = None) -> Tensor: ...


class Unconditional(Translator):
    """One generator of images from noise against one discriminator."""

    source = "images"
    task = "sample"
    from_noise = True
    generator: NoiseGenerator
    discriminator: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        num_classes = cls.num_labels(shape)
        channels = shape.channels["image"]
        return {
            "generator": NetworkPlan(
                "generator",
                {"resolution": shape.resolution, "out_channels": channels, "num_classes": num_classes},
            ),
            "discriminator": NetworkPlan(
                "discriminator",
                {
                    "resolution": shape.resolution,
                    "in_channels": channels * shape.packing,
                    "num_classes": num_classes,
                },
            ),
        }

    @classmethod
    def num_labels(cls, shape: DataShape) -> int:
        """How many classes the networks are told apart."""
        return len(shape.classes)

    def labels(self, batch: Batch) -> Tensor | None:
        """What both players are told of the images' classes: (N,) int64, or None."""
        return batch.labels

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        return {"fake": self.generator(self._latents(batch, "z"), self.labels(batch), batch.draws("generator"))}

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        real, fake = self._pack(batch["image"]), self._pack(outputs["fake"])
        labels = self.labels(batch)
        return [View("discriminator", self.discriminator, real, fake, labels, labels)]

    def latents_and_images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        z, labels = self._latents(batch, "path_length/z"), self.labels(batch)
        draws = batch.draws("path_length/generator")
        if isinstance(self.generator, HasStyles):
            w = self.generator.map(z, labels)
            return w, self.generator.synthesize(w, draws)
        z.requires_grad_()
        return z, self.generator(z, labels, draws)

    def _latents(self, batch: Batch, stream: str) -> Tensor:
        return draw_latents(self.generator, batch.draws(stream)).to(batch["image"].dtype)

    def _pack(self, images: Tensor) -> Tensor:
        """Samples that follow each other as one with all their channels (PacGAN: Lin et al. 2017, arXiv:1712.04086)."""
        packing = self.shape.packing
        return images if packing == 1 else images.unflatten(0, (-1, packing)).flatten(1, 2)

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        return {"samples": networks["generator"](self.preview_noise(batch), None, batch.draws("preview/generator"))}

    def samples(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Tensor | None:
        z, draws = self._latents(batch, "watch/z"), batch.draws("watch/generator")
        images: Tensor = networks["generator"](z, batch.labels, draws)
        return images

    def preview_noise(self, batch: Batch) -> Tensor:
        """(N, latent_dim): the same for the same batch throughout the run."""
        return self._latents(batch, "preview/z")

    def deploy(self) -> tuple[str, ...]:
        return ("generator",)
