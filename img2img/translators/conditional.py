"""Noise and a class to image (Mirza & Osindero 2014, arXiv:1411.1784; Miyato & Koyama 2018, arXiv:1802.05637)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import classification
from img2img.penalties import Verdict
from img2img.translators.base import DataShape, NetworkPlan, Outputs
from img2img.translators.unconditional import Unconditional

_PREVIEW_CLASSES = 16  # rows of a sample grid that can still be taken in


class Conditional(Unconditional):
    """As Unconditional, with both players told the class.

    Fakes take the labels of the batch's real images, so that their class frequencies are exactly the data's.

    With a discriminator that tells the classes (ACGAN: Odena et al. 2017, arXiv:1610.09585), both players also minimise
    the classifier's cross-entropy: D on real and generated images, G on its own.

    With label dropout both networks have one class more, which stands for any: it is what a real image and its fake are
    said to be of, with that probability. Its number is the last one.
    """

    source = "classes"

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        assert shape.classes, "a class-conditional method is built for data with classes"
        return super().plan(shape)

    @classmethod
    def num_labels(cls, shape: DataShape) -> int:
        return len(shape.classes) + (shape.label_dropout > 0)

    def labels(self, batch: Batch) -> Tensor | None:
        assert batch.labels is not None, "data with classes have labels"
        if not self.shape.label_dropout:
            return batch.labels
        dropped = batch.draws("label_dropout").uniform() < self.shape.label_dropout
        return batch.labels.masked_fill(dropped, len(self.shape.classes))

    def discriminator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        terms = super().discriminator_terms(batch, outputs, verdicts)
        if self.classifies:
            for verdict in verdicts:
                terms[f"{verdict.name}/classes_of_real"] = self._classification(batch, verdict.real_features)
                terms[f"{verdict.name}/classes_of_fake"] = self._classification(batch, verdict.fake_features)
        return terms

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        terms = super().generator_terms(batch, outputs, verdicts)
        if self.classifies:
            for verdict in verdicts:
                name = verdict.name.replace("discriminator", "generator")
                terms[f"{name}/classes"] = self._classification(batch, verdict.fake_features)
        return terms

    def _classification(self, batch: Batch, features: Tensor | None) -> Tensor:
        assert features is not None, "the engine asks for features where classes are told"
        assert batch.labels is not None, "data with classes have labels"
        logits = self.discriminator.classify(features)  # type: ignore[operator]
        return self.weights["classification"] * classification(logits, batch.labels).mean()

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """One row per class; a column has the same noise in every row, so that only the class differs."""
        noise, draws = self.preview_noise(batch), batch.draws("preview/generator")
        rows = {}
        for label, name in enumerate(self.shape.classes[:_PREVIEW_CLASSES]):
            rows[name] = networks["generator"](noise, torch.full((len(noise),), label, device=noise.device), draws)
        return rows
