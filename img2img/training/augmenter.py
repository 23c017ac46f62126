"""Augments what discriminators see, and moves the probability of it with what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from img2img.augmentation import MOVING_PARTS, ada, diffaugment, parts_named
from img2img.config import AugmentConfig
from img2img.draws import Draws
from img2img.penalties import Verdict, View


class Augmenter:
    """What `augment.discriminator` asks for.

    Args:
        config: the configuration's table, whose method is not "none".
        packing: samples that a discriminator judges as one; each is augmented by itself.
        boundary: the logit above which the discriminator calls an image real; only what adapts needs it.
    """

    def __init__(self, config: AugmentConfig, *, packing: int, boundary: float | None) -> None:
        self.config = config
        self.packing = packing
        self.boundary = boundary
        self.parts = parts_named(config.discriminator, config.parts)

    def augment(
        self, view: View, variables: dict[str, Tensor], draws: Callable[[str, int], Draws], with_real: bool
    ) -> View:
        """The view with its images changed; an image that is a condition changes as the picture beside it.

        Planes of classes only move with it: outside of it, and where it is cut out, there is no class.

        Args:
            variables: what the engine keeps; the view's probability is among it.
            draws: (stream, rows) -> random numbers; other ones for real and for generated images, where they are not
                aligned.
            with_real: whether anybody will look at the real images.
        """
        change: Callable[..., Tensor] = diffaugment
        if self.config.discriminator == "ada":
            change = partial(ada, p=self._p(view, variables) if self.config.is_adaptive else self.config.p)
        moves = tuple(part for part in self.parts if part in MOVING_PARTS) if view.condition_is_labels else self.parts

        def seen(side: str, images: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
            stream = "pair" if view.aligned else side
            own = draws(f"augment/{view.name}/{stream}", len(images) * self.packing)
            samples = images.unflatten(1, (self.packing, -1)).flatten(0, 1)
            images = change(samples, own, parts=self.parts).unflatten(0, (-1, self.packing)).flatten(1, 2)
            if condition is not None and condition.ndim == 4:
                condition = change(condition, own, parts=moves)
            return images, condition

        fake, fake_condition = seen("fake", view.fake, view.fake_condition)
        view = replace(view, fake=fake, fake_condition=fake_condition)
        if not with_real:
            return view
        real, real_condition = seen("real", view.real, view.real_condition)
        return replace(view, real=real, real_condition=real_condition)

    def _p(self, view: View, variables: dict[str, Tensor]) -> Tensor:
        start = torch.full((1,), self.config.p, device=view.real.device, dtype=view.real.dtype)
        return variables.setdefault(f"augment/{view.name}/p", start)

    def sign_on_real(self, verdict: Verdict) -> Tensor:
        """The mean sign of what was said of real images, relative to `boundary`."""
        assert verdict.real is not None, "a discriminator's own step is about real images too"
        assert self.boundary is not None, "check() refuses what has no boundary"
        return (verdict.real - self.boundary).sign().mean()

    def adapt(self, name: str, sign: Tensor, variables: dict[str, Tensor], number: int, batch: int) -> Tensor:
        """The view's probability after discriminator step `number`, (1,).

        r = E[sign D(real)] over `interval` steps moves it by ± batch · interval / speed, up where r is above the target
        (Karras et al. 2020, arXiv:2006.06676, section 3.1, its r_t).

        Args:
            sign: `sign_on_real` of this step.
            batch: images of one discriminator step, over all processes.
        """
        p, excess = f"augment/{name}/p", f"augment/{name}/excess"
        new = torch.where(torch.isfinite(sign), sign - self.config.target, 0.0).reshape(1)
        variables[excess] = variables[excess] + new if excess in variables else new
        if (number + 1) % self.config.interval == 0:
            step = batch * self.config.interval / (self.config.speed_kimg * 1000)
            variables[p] = (variables[p] + step * variables[excess].sign()).clamp(0, 1)
            variables[excess] = torch.zeros_like(new)
        return variables[p]
