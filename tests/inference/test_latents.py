"""Latent codes: truncation by what it does to distributions, centres, and that pictures do not depend on their count."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from img2img.checkpoint import ModelInfo
from img2img.data.values import to_uint8
from img2img.draws import Draws
from img2img.errors import UsageFault
from img2img.inference.latents import Codes, LatentSpace, truncate_latents
from img2img.inference.model import Model
from img2img.networks.mixture import GeneratorMixture
from img2img.networks.mlp import MLPGenerator


def test_truncated_normals_have_the_distribution_that_redrawing_gives() -> None:
    z = Draws(0, "test", torch.arange(2000)).normal(50)
    for threshold in (0.1, 1.0, 2.0):
        cut = truncate_latents(z, threshold, "normal")
        redrawn = z[z.abs() <= threshold]
        assert cut.abs().max() <= threshold * (1 + 1e-6)
        assert torch.equal(cut.sign(), z.sign())
        # two samples of n and m: the largest difference of their distribution functions, at the 1 in 10,000 level
        # (Kolmogorov and Smirnov); 100,000 and at least 8,000 values
        grid = torch.linspace(-threshold, threshold, 401)
        ours, theirs = (torch.searchsorted(x.flatten().sort().values, grid) / x.numel() for x in (cut, redrawn))
        assert (ours - theirs).abs().max() < 2.2 * math.sqrt(1 / cut.numel() + 1 / redrawn.numel())
        # the variance of a normal cut off at t is 1 − 2tφ(t)/(Φ(t) − Φ(−t))
        density = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * threshold * density / math.erf(threshold / math.sqrt(2))
        assert cut.var().item() == pytest.approx(variance, rel=0.02)


def test_truncation_keeps_order_and_a_large_threshold_changes_nothing() -> None:
    z = torch.linspace(-6.7, 6.7, 1001)[None]
    assert (truncate_latents(z, 0.5, "normal").diff() >= 0).all()
    assert torch.allclose(truncate_latents(z, 40.0, "normal"), z, atol=1e-4)
    uniform = torch.linspace(-1, 1, 11)[None]
    assert torch.equal(truncate_latents(uniform, 0.5, "uniform"), uniform / 2)
    assert torch.equal(truncate_latents(uniform, 3.0, "uniform"), uniform)


def test_a_mixture_keeps_all_its_generators_under_truncation() -> None:
    torch.manual_seed(0)
    arguments = {"resolution": (4, 4), "out_channels": 1, "latent_dim": 4, "width": 4}
    mixture = GeneratorMixture([MLPGenerator(**arguments) for _ in range(4)])  # type: ignore[arg-type]
    info = ModelInfo("unconditional", "sample", {}, {}, {"image": "things"}, {"image": 1}, (4, 4))
    space = LatentSpace(Model(info, {"generator": mixture}), truncation=0.05)
    z = space.latents(range(256))
    assert mixture.choose(z)[0].bincount(minlength=4).min() > 40
    assert z[:, 1:].abs().max() <= 0.05 * (1 + 1e-6)


def test_styles_shrink_towards_the_mean_of_their_class(styles: Callable[..., Model]) -> None:
    model = styles(2)
    whole = LatentSpace(model)
    codes = whole.codes(range(4000))
    for index in (0, 1):
        own = codes.values[index::2]
        centre = whole.centres(torch.tensor([index]), 1)[0]
        # both are means of thousands of values of standard deviation below 1
        assert (own.mean(dim=0) - centre).abs().max() < 5 / math.sqrt(2000)
        half = LatentSpace(model, truncation=0.5, label=index).codes(range(8)).values
        expected = centre + 0.5 * (LatentSpace(model, label=index).codes(range(8)).values - centre)
        assert torch.allclose(half, expected, atol=1e-6)
    common = LatentSpace(model, truncation=1e-6, centre="global").codes(range(3)).values
    assert torch.allclose(common, codes.values.mean(dim=0).expand(3, -1), atol=0.05)
    assert not torch.allclose(whole.centres(torch.tensor([0]), 1), whole.centres(torch.tensor([1]), 1), atol=0.1)


def test_psi_of_one_and_a_large_threshold_are_no_truncation(
    styles: Callable[..., Model], model_files: dict[str, Path]
) -> None:
    for model, most in ((styles(3), 1.0), (Model.load(model_files["cgan"], "cpu"), 30.0)):
        plain, cut = (list(model.samples(5, seed=2, truncation=value)) for value in (None, most))
        for (label, pixels), (same, expected) in zip(plain, cut):
            assert label == same
            assert np.abs(pixels.astype(int) - expected).max() <= (0 if most == 1 else 1)


def test_a_truncated_picture_does_not_depend_on_the_count(
    styles: Callable[..., Model], model_files: dict[str, Path]
) -> None:
    for model in (styles(3), Model.load(model_files["dcgan"], "cpu")):
        many = [pixels for _, pixels in model.samples(40, seed=1, truncation=0.4)]
        for start, count in ((0, 3), (7, 20), (33, 1)):
            few = [pixels for _, pixels in model.samples(count, seed=1, truncation=0.4, start=start)]
            assert all(np.array_equal(a, b) for a, b in zip(few, many[start:]))
        assert not np.array_equal(many[0], next(model.samples(1, seed=1))[1])


def test_stylegan2_is_sampled_as_its_forward_says(model_files: dict[str, Path]) -> None:
    model = Model.load(model_files["stylegan2"], "cpu")
    numbers = torch.arange(16)
    with torch.inference_mode():
        expected = model.generator()(
            Draws(4, "sample/z", numbers).normal(8), numbers % 2, Draws(4, "sample/generator", numbers)
        )
    made = list(model.samples(16, seed=4))
    assert [label for label, _ in made] == [0, 1] * 8
    for (_, pixels), image in zip(made, expected):
        assert np.array_equal(pixels, to_uint8(image))


def test_codes_are_sliced_with_their_noise(styles: Callable[..., Model]) -> None:
    space = LatentSpace(styles(2))
    codes = space.codes(range(40))
    whole = torch.cat(list(space.images(codes)))
    assert torch.allclose(torch.cat(list(space.images(codes[33:35]))), whole[33:35], atol=1e-6)
    quiet = Codes(codes.values, codes.labels, None)
    assert not torch.allclose(torch.cat(list(space.images(quiet))), whole, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("styles", {"truncation": 1.5}, "no ψ"),
        ("styles", {"truncation": 0.0}, "no ψ"),
        ("styles", {"truncation": math.nan}, "no ψ"),
        ("styles", {"truncation": 0.5, "centre": "class"}, "knows no classes"),
        ("styles", {"centre": "global"}, "Add --truncation"),
        ("dcgan", {"truncation": -1.0}, "no threshold"),
        ("dcgan", {"truncation": math.inf}, "no threshold"),
        ("dcgan", {"truncation": 0.5, "centre": "global"}, "has no styles"),
        ("pix2pix", {}, "Use img2img translate"),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: str, arguments: dict[str, object], words: str, styles: Callable[..., Model], model_files: dict[str, Path]
) -> None:
    model = styles() if kind == "styles" else Model.load(model_files[kind], "cpu")
    with pytest.raises(UsageFault, match=words):
        LatentSpace(model, **arguments)  # type: ignore[arg-type]
