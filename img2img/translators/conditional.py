"""Noise and a class to image (Mirza & Osindero 2014, arXiv:1411.1784; Miyato & Koyama 2018, arXiv:1802.05637)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.translators.base import DataShape, NetworkPlan
from img2img.translators.unconditional import Unconditional

_PREVIEW_CLASSES = 16  # rows of a sample grid that can still be taken in


class Conditional(Unconditional):
    """As Unconditional, with both players told the class.

    Fakes take the labels of the batch's real images, so that their class frequencies are exactly the data's.
    """

    source = "classes"

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        assert shape.classes, "a class-conditional method is built for data with classes"
        return super().plan(shape)

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """One row per class; a column has the same noise in every row, so that only the class differs."""
        noise, draws = self.preview_noise(batch), batch.draws("preview/generator")
        return {
            name: networks["generator"](noise, torch.full((len(noise),), label, device=noise.device), draws)
            for label, name in enumerate(self.shape.classes[:_PREVIEW_CLASSES])
        }
