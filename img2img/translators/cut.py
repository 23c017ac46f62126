"""Unpaired image to image in one direction, by patches that stay recognisable (Park et al. 2020, arXiv:2007.15651)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.draws import Draws
from img2img.losses import patch_nce
from img2img.networks.layers import mixes_samples, without_autocast
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Of, Outputs, Translator, Verdict


class EncodingGenerator(Protocol):
    """An image generator that shows its encoder's feature maps, as networks/__init__.py says."""

    def __call__(self, images: Tensor, draws: Draws | None = None) -> Tensor: ...

    def encode(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]: ...

    def translate(
        self, images: Tensor, layers: Sequence[int], draws: Draws | None = None
    ) -> tuple[Tensor, list[Tensor]]: ...


class Projection(Protocol):
    """Feature maps of its layers at places that the draws choose -> for each layer unit vectors (N, P, width)."""

    layers: tuple[int, ...]
    mirror: float

    def __call__(self, features: Sequence[Tensor], draws: Draws, mirrored: Tensor | None = None) -> list[Tensor]: ...


class CUT(Translator):
    """A generator a → b against a discriminator of b; each patch of G(a) must be told from a's others by its own in a.

    Patches are feature vectors of the generator's encoder, of several layers, projected to unit vectors; `nce` weighs
    the mean of their losses over layers and places. The vectors of a are constants to both networks: only those of
    G(a) are moved. `nce_identity` weighs the same term of b and G(b), which keeps what is in b already as it is;
    without it this is FastCUT. Of a share of the pictures, `projection.mirror`, the vectors are those of the mirror
    image: the translation of a mirror image shall be the mirror image of the translation.
    """

    source = "unpaired"
    task = "translate"
    directions: ClassVar[dict[str, str]] = {"a2b": "generator"}
    loss_weights = ("nce",)
    optional_weights = ("nce_identity",)
    generator: EncodingGenerator
    generator_projection: Projection
    discriminator: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        a, b = shape.channels["a"], shape.channels["b"]
        return {
            "generator": NetworkPlan(
                "generator",
                {"resolution": shape.resolution, "in_channels": a, "out_channels": b},
                offers=("encode", "translate"),
            ),
            "generator_projection": NetworkPlan("projection", {"channels": Of("generator", "feature_channels")}),
            "discriminator": NetworkPlan("discriminator", {"resolution": shape.resolution, "in_channels": b}),
        }

    @property
    def _weights_of_outputs(self) -> dict[str, float]:
        """The generator's outputs whose patches are compared, with the weights of their terms."""
        weights = {"fake": self.weights["nce"], "identity": self.weights.get("nce_identity", 0.0)}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        if not for_generator or not self._weights_of_outputs:
            return {"fake": self.generator(batch["a"])}
        sources = {"fake": batch["a"], "identity": batch["b"]}
        wanted = {name: sources[name] for name in ("fake", *self._weights_of_outputs)}
        passes = self._together(self._translate, list(wanted.values()))
        outputs: Outputs = {}
        mirrored = self._mirrored(batch)
        for name, (output, *features) in zip(wanted, passes, strict=True):
            outputs[name] = output
            with torch.no_grad():  # a source's vectors are constants
                if mirrored is not None and mirrored.any():
                    rows = mirrored.nonzero().squeeze(1)
                    others = self._encode(wanted[name][rows].flip(3))
                    features = [maps.index_copy(0, rows, other) for maps, other in zip(features, others, strict=True)]
                for number, keys in enumerate(self.generator_projection(features, batch.draws("patches"))):
                    outputs[f"{name}/keys{number}"] = keys
        return outputs

    def _mirrored(self, batch: Batch) -> Tensor | None:
        """Which pictures are compared with their mirror image, (N,) bool; None where none ever is."""
        share = self.generator_projection.mirror
        return batch.draws("mirror").uniform(1).squeeze(1) < share if share > 0 else None

    def _translate(self, images: Tensor) -> list[Tensor]:
        output, features = self.generator.translate(images, self.generator_projection.layers)
        return [output, *features]

    def _encode(self, images: Tensor) -> list[Tensor]:
        return self.generator.encode(images, self.generator_projection.layers)

    def _together(
        self, function: Callable[[Tensor], list[Tensor]], images: Sequence[Tensor]
    ) -> Sequence[Sequence[Tensor]]:
        """function(x) for each x, as one batch where no layer of the generator mixes the samples of a batch."""
        assert isinstance(self.generator, nn.Module), "generators are modules"
        if len(images) == 1 or mixes_samples(self.generator):
            return [function(image) for image in images]
        parts = [tensor.chunk(len(images)) for tensor in function(torch.cat(list(images)))]
        return list(zip(*parts, strict=True))

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        return [View("discriminator", self.discriminator, batch["b"], outputs["fake"])]

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        terms = super().generator_terms(batch, outputs, verdicts)
        weights = self._weights_of_outputs
        passes = self._together(self._encode, [outputs[name] for name in weights]) if weights else []
        for (name, weight), features in zip(weights.items(), passes, strict=True):
            vectors = self.generator_projection(features, batch.draws("patches"), self._mirrored(batch))
            with without_autocast(outputs[name].device):
                losses = [
                    patch_nce(queries, outputs[f"{name}/keys{number}"]).mean() for number, queries in enumerate(vectors)
                ]
            terms["nce" if name == "fake" else "nce_identity"] = weight * torch.stack(losses).mean()
        return terms

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        generator, a, b = networks["generator"], batch["a"], batch["b"]
        rows = {"a": a, "a to b": generator(a), "b": b}
        return {**rows, "b to b": generator(b)} if "identity" in self._weights_of_outputs else rows
