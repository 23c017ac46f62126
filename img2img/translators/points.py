"""Noise to points of toy worlds, several independent games at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from img2img.data.batches import Batch
from img2img.data.pictures import draw_points, field_points
from img2img.data.values import to_float
from img2img.data.worlds import PointBatch
from img2img.losses import per_sample
from img2img.networks.layers import mixes_samples
from img2img.translators.base import DataShape, NetworkPlan
from img2img.translators.unconditional import Unconditional


class Points(Unconditional):
    """As Unconditional, for points in their own coordinates as "images" of one pixel; batches are member-major."""

    source = "points"
    task = "points"

    @classmethod
    def plan(cls, shape: DataShape) -> dict[str, NetworkPlan]:
        plans = super().plan(replace(shape, resolution=(1, 1)))
        return {
            name: NetworkPlan(plan.role, {**plan.arguments, "members": shape.members}) for name, plan in plans.items()
        }

    def preview(self, batch: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """A picture for each member: its real and generated points over what its discriminator says."""
        assert isinstance(batch, PointBatch), "points come with the worlds they are from"
        images = networks["generator"](self.preview_noise(batch), None).to(batch["image"].dtype)
        real, fake = (rows.flatten(1).unflatten(0, (self.shape.members, -1)) for rows in (batch["image"], images))
        fields = self._fields(batch, real, fake)
        pictures = [draw_points(*parts) for parts in zip(batch.worlds, real, fake, fields, strict=True)]
        return {"points": to_float(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))}

    def _fields(self, batch: PointBatch, real: Tensor, fake: Tensor) -> list[Tensor] | list[None]:
        """What each member's discriminator says at its world's field_points, (M,), positive for real.

        Zero where it lies between what is said of real and of generated points (R, N, dim) on average; else their
        middle, since some objectives leave the discriminator free to add a constant, and least squares aim at 0 and 1.
        None where a discriminator looks at the rest of the batch: a place alone has no answer.
        """
        if mixes_samples(self.discriminator):
            return [None] * len(batch.worlds)
        places = torch.stack([field_points(world) for world in batch.worlds]).to(real)
        everything = torch.cat((places, real, fake), dim=1)
        said = self._judge(everything, real[:, : self.shape.packing - 1])
        field, on_real, on_fake = said.split([places.shape[1], real.shape[1], fake.shape[1]], dim=1)
        means = torch.stack((on_real.mean(1), on_fake.mean(1)))
        differ = means.prod(0) > 0
        return list(field - torch.where(differ, means.mean(0), 0.0)[:, None])

    def _judge(self, points: Tensor, companions: Tensor) -> Tensor:
        """(R, N, dim) -> (R, N): what is said of each point; of packs beside the companions (R, packing − 1, dim)."""
        count = points.shape[1]
        packs = torch.cat((points[:, :, None], companions[:, None].expand(-1, count, -1, -1)), dim=2)
        was_training = self.discriminator.training
        self.discriminator.eval()  # looking must not move running statistics
        said = per_sample(self.discriminator(packs.reshape(len(points) * count, -1, 1, 1), None))
        self.discriminator.train(was_training)
        by_energy = self.objective.judges_by == "energy"
        return (-said if by_energy else said).to(points.dtype).unflatten(0, (-1, count))
