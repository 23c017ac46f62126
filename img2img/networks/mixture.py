"""Several generators as one: each makes its share of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from img2img.draws import Draws
from img2img.errors import UsageFault


class GeneratorMixture(nn.Module):
    """z (N, latent_dim), labels (N,) or None -> images (N, C, H, W), each by one of K generators of equal form.

    The first coordinate of z says which: its probability under the prior, in [0, 1), is cut into K equal parts, and the
    place within the part, stretched to the whole again, is the first coordinate that the chosen generator sees. So a
    sample depends on its z alone, each generator is chosen with probability 1/K, and sees z of the full prior.

    All generators see all rows, at K times the cost of one: every one has rows for its batch normalisation, and with
    members (rows member-major) as many of each.

    Args:
        generators: noise generators with the same latent_dim, prior, num_classes and, where they have them, members.

    Raises:
        UsageFault: they make images of something else than noise.
    """

    def __init__(self, generators: Sequence[nn.Module]) -> None:
        super().__init__()
        assert generators, "a mixture has at least one generator"
        if not hasattr(generators[0], "latent_dim"):
            raise UsageFault(
                "copies",
                f"{type(generators[0]).__name__} makes nothing of noise, so its copies have no z to share",
                "Use 1",
            )
        for name in ("latent_dim", "prior", "num_classes", "out_channels", "members"):
            values = {getattr(generator, name, None) for generator in generators}
            assert len(values) == 1, f"the generators differ in {name}: {values}"
        self.generators = nn.ModuleList(generators)
        self.latent_dim: int = generators[0].latent_dim  # type: ignore[assignment]
        self.prior: str = generators[0].prior  # type: ignore[assignment]
        self.num_classes: int = generators[0].num_classes  # type: ignore[assignment]
        self.out_channels: int = generators[0].out_channels  # type: ignore[assignment]
        self.members: int = getattr(generators[0], "members", 1)

    def choose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(which generator makes each row (N,) int64, the z that it sees (N, latent_dim))."""
        first = z[:, 0].to(torch.promote_types(z.dtype, torch.float32))
        count = len(self.generators)
        even = torch.erf(first * math.sqrt(0.5)) if self.prior == "normal" else first  # in [-1, 1] by either prior
        place = (even + 1) * (count / 2)
        index = place.detach().floor().clamp(0, count - 1)
        within = (place - index) * 2 - 1
        if self.prior == "normal":
            largest = 1 - torch.finfo(within.dtype).eps / 2  # at 1 the inverse is infinite
            within = torch.erfinv(within.clamp(-largest, largest)) * math.sqrt(2)
        return index.long(), torch.cat((within[:, None].to(z.dtype), z[:, 1:]), dim=1)

    def forward(self, z: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        index, seen = self.choose(z)
        images = torch.stack([generator(seen, labels, draws) for generator in self.generators])
        return images[index, torch.arange(len(z), device=z.device)]
