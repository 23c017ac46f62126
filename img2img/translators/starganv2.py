"""Image to image between many domains, each of many styles (StarGAN v2: Choi et al. 2020, arXiv:1912.01865)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.losses import l1
from img2img.networks.layers import draw_latents
from img2img.penalties import View
from img2img.translators.base import DataShape, NetworkPlan, Of, Outputs, Translation, Translator, Verdict

_PREVIEW_DOMAINS = 16  # rows of a sample grid that can still be taken in


def remaining_share(images_seen: int, kimg: float | None) -> float:
    """What is left of a weight that falls linearly from 1 to 0 over `kimg` thousand images; None: all of it."""
    return 1.0 if kimg is None else max(0.0, 1.0 - images_seen / (1000 * kimg))


class StarGANv2(Translator):
    """One generator that gives a picture the style of a domain, against a discriminator with an output for each.

    A step translates each image x of domain y once, into a domain y' drawn for it. Images with even numbers are guided
    by latents, s = F(z, y'); those with odd ones by a reference picture r of y', s = E(r, y'). The paper takes both
    ways for every image, in two steps one after the other; here they are the halves of one batch, of the same loss:

        adversarial   D's output for y on x, for y' on G(x, s)
      + style         · ‖s − E(G(x, s), y')‖₁
      − diversity     · ‖G(x, s) − G(x, s')‖₁    s' of a second latent or reference; weight falling over diversity_kimg
      + cycle         · ‖x − G(G(x, s), E(x, y))‖₁

    G(x, s') and the styles of references are constants, as in the authors' code: of two results one is pushed away, and
    E learns to tell styles, not to hide in them what makes a result easy. Where theirs has E and F learn from the
    latents' half alone, here E learns its style and cycle terms from both.
    """

    source = "classes"
    task = "translate"
    directions: ClassVar[dict[str, str]] = {"a2b": "generator"}
    loss_weights = ("style", "diversity", "cycle")
    optional_weights = ("diversity_kimg",)
    references = 2
    generator: nn.Module
    generator_mapping: nn.Module
    generator_style_encoder: nn.Module
    discriminator: nn.Module

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        assert shape.classes, "domains are classes"
        channels, domains = shape.channels["image"], {"num_classes": len(shape.classes)}
        seen = {"resolution": shape.resolution, "in_channels": channels}
        style = {"style_dim": Of("generator_mapping", "style_dim")}
        return {
            "generator_mapping": NetworkPlan("mapping", domains),
            "generator": NetworkPlan("generator", {**seen, **style, "out_channels": channels}),
            "generator_style_encoder": NetworkPlan("style_encoder", {**seen, **style, **domains}),
            "discriminator": NetworkPlan("discriminator", {**seen, **domains}),
        }

    def generate(self, batch: Batch, *, for_generator: bool) -> Outputs:
        styles = self._styles(batch, 0)
        outputs = {"styles": styles, "fake": self.generator(batch["image"], styles)}
        if for_generator and self._diversity() > 0:
            with torch.no_grad():
                outputs["other"] = self.generator(batch["image"], self._styles(batch, 1))
        return outputs

    def _styles(self, batch: Batch, index: int) -> Tensor:
        """The first (index 0) or second styles that guide the images: (N, style_dim)."""
        assert batch.targets is not None, "the loader draws domains"
        draws = batch.draws(f"latent{index}")
        z = draw_latents(self.generator_mapping, draws).to(batch["image"].dtype)
        styles: Tensor = self.generator_mapping(z, batch.targets)
        if batch.references is not None:
            rows = batch.references.rows
            with torch.no_grad():
                seen = self.generator_style_encoder(batch.references.images[index], batch.targets[rows])
            styles = styles.index_copy(0, rows, seen.to(styles.dtype))
        return styles

    def _diversity(self) -> float:
        """The weight of the diversity term now."""
        return self.weights["diversity"] * remaining_share(self.images_seen, self.weights.get("diversity_kimg"))

    def views(self, batch: Batch, outputs: Outputs) -> list[View]:
        real, fake = batch["image"], outputs["fake"]
        return [View("discriminator", self.discriminator, real, fake, batch.labels, batch.targets)]

    def generator_terms(self, batch: Batch, outputs: Outputs, verdicts: list[Verdict]) -> dict[str, Tensor]:
        images, fake, styles = batch["image"], outputs["fake"], outputs["styles"]
        assert batch.labels is not None, "data with classes have labels"
        assert batch.targets is not None, "the loader draws domains"
        terms = super().generator_terms(batch, outputs, verdicts)
        found, own = self.generator_style_encoder(
            torch.cat((fake, images)), torch.cat((batch.targets, batch.labels))
        ).chunk(2)
        terms["style"] = self.weights["style"] * l1(found, styles).mean()
        terms["cycle"] = self.weights["cycle"] * l1(self.generator(fake, own), images).mean()
        if "other" in outputs:
            terms["diversity"] = -self._diversity() * l1(fake, outputs["other"]).mean()
        return terms

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The pictures, each with its own latent into every domain, and each in the style of its left neighbour."""
        generator, mapping = networks["generator"], networks["generator_mapping"]
        images, labels = batch["image"], batch.labels
        assert labels is not None, "data with classes have labels"
        z = draw_latents(mapping, batch.draws("preview/latent")).to(images.dtype)
        rows = {"pictures": images}
        for domain, name in enumerate(self.shape.classes[:_PREVIEW_DOMAINS]):
            rows[f"to {name}"] = generator(images, mapping(z, torch.full_like(labels, domain)))
        references = images.roll(1, dims=0)
        styles = networks["generator_style_encoder"](references, labels.roll(1))
        return rows | {"references": references, "in their style": generator(images, styles)}

    def translations(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Translation]:
        """The pictures, each with a latent of its own into the domain of its right neighbour."""
        images, labels = batch["image"], batch.labels
        assert labels is not None, "data with classes have labels"
        mapping = networks["generator_mapping"]
        z = draw_latents(mapping, batch.draws("watch/latent")).to(images.dtype)
        outputs = networks["generator"](images, mapping(z, labels.roll(-1)))
        return {"a2b": Translation(images, outputs, images.roll(-1, dims=0))}

    def deploy(self) -> tuple[str, ...]:
        return ("generator", "generator_mapping", "generator_style_encoder")
