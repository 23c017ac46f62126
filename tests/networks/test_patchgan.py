"""PatchGAN: receptive fields by the gradient's footprint, the published parameter counts, sizes."""

from __future__ import annotations

import pytest
import torch

from img2img.errors import UsageFault
from img2img.networks.patchgan import PatchDiscriminator, PatchKernels

PAPER = {0: 1, 1: 16, 3: 70, 5: 286}  # appendix 6.1.2
both_ways = pytest.mark.parametrize("downsampling", ["strided", "antialiased"])


@both_ways
@pytest.mark.parametrize(
    "arguments",
    [{"layers": layers} for layers in range(5)]
    + [{"receptive_field": field} for field in (1, 2, 5, 7, 8, 9, 13, 17, 18, 31, 36, 45, 71)],
    ids=str,
)
def test_receptive_field_is_the_footprint_of_the_gradient(arguments: dict[str, int], downsampling: str) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(in_channels=1, width=1, norm="none", downsampling=downsampling, **arguments)
    field = discriminator.receptive_field
    assert field == arguments.get("receptive_field", field)
    images = torch.randn(1, 1, field + 128, field + 96, requires_grad=True)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.abs_().add_(0.1)  # all positive: no path cancels another and no unit is off
    logits = discriminator(images.abs())
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert images.grad is not None
    touched = images.grad[0, 0] != 0
    assert touched.any(dim=1).sum() == touched.any(dim=0).sum() == field
    assert touched.sum() == field**2


@pytest.mark.parametrize(("layers", "field"), PAPER.items())
def test_receptive_fields_of_the_paper(layers: int, field: int) -> None:
    with torch.device("meta"):
        assert PatchDiscriminator(layers=layers).receptive_field == field


@both_ways
def test_any_receptive_field_has_its_kernels(downsampling: str) -> None:
    antialiased = downsampling == "antialiased"
    for field in range(1, 700):
        kernels = PatchKernels.of_field(field, antialiased)
        assert kernels.field == field
        assert set(kernels.halving) <= {3, 4}
        assert set(kernels.last) <= {1, 2, 3, 4}
        # with fewer halvings not even 4×4 throughout would do
        assert not kernels.halving or PatchKernels(kernels.halving[1:], (4, 4), antialiased).field < field


@pytest.mark.parametrize(("layers", "field"), PAPER.items())
def test_a_receptive_field_of_the_paper_brings_the_papers_network(layers: int, field: int) -> None:
    with torch.device("meta"):
        by_layers, by_field = PatchDiscriminator(layers=layers), PatchDiscriminator(receptive_field=field, layers=2)
    assert str(by_layers) == str(by_field)


def test_parameter_counts_of_the_paper() -> None:
    """The authors' code prints 2.765 M for CycleGAN's (2,764,737, of which instance norm subtracts 896 biases) and
    2.769 M for pix2pix's (6 channels, batch norm: 2,768,705)."""
    with torch.device("meta"):
        single = PatchDiscriminator()
        pair = PatchDiscriminator(condition_channels=3, norm="batch")
    assert sum(p.numel() for p in single.parameters()) == 2_764_737 - (128 + 256 + 512)
    assert sum(p.numel() for p in pair.parameters()) == 2_768_705


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes(channels: int) -> None:
    discriminator = PatchDiscriminator(in_channels=channels, condition_channels=2, width=2, layers=2)
    logits = discriminator(torch.randn(2, channels, 32, 48), torch.randn(2, 2, 32, 48))
    assert logits.shape == (2, 1, 6, 10)


def test_condition_changes_the_logits() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(condition_channels=1, width=2, layers=1)
    images = torch.randn(1, 3, 8, 8)
    assert not torch.allclose(discriminator(images, torch.randn(1, 1, 8, 8)), discriminator(images, images[:, :1]))


@both_ways
@pytest.mark.parametrize(
    "arguments",
    [*({"layers": layers} for layers in range(4)), {"receptive_field": 9}, {"receptive_field": 23}],
    ids=str,
)
def test_min_size_is_the_smallest_that_works(arguments: dict[str, int], downsampling: str) -> None:
    discriminator = PatchDiscriminator(width=1, downsampling=downsampling, **arguments)
    size = discriminator.min_size
    logits = discriminator(torch.randn(1, 3, size, size))
    assert logits.shape[0] == 1 <= logits.numel()
    if size > 1:
        with pytest.raises(RuntimeError):
            discriminator(torch.randn(1, 3, size - 1, size))


def test_a_resolution_below_min_size_is_refused_with_the_most_that_works() -> None:
    with pytest.raises(UsageFault, match=r"^layers: 5 needs sides of 96 .*Use at most 4"):
        PatchDiscriminator(layers=5, resolution=(64, 200))
    PatchDiscriminator(layers=4, resolution=(64, 200), width=1)
    with pytest.raises(UsageFault, match=r"^receptive_field: 286 needs sides of 96 .*Use at most (\d+)") as caught:
        PatchDiscriminator(receptive_field=286, resolution=(64, 200))
    most = int(caught.value.mend.split()[-1])
    PatchDiscriminator(receptive_field=most, resolution=(64, 200), width=1)
    with pytest.raises(UsageFault):
        PatchDiscriminator(receptive_field=most + 1, resolution=(64, 200))


@both_ways
@pytest.mark.parametrize("layers", [0, 2])
def test_features_are_what_the_last_layer_takes(layers: int, downsampling: str) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(condition_channels=1, width=2, layers=layers, downsampling=downsampling)
    given = torch.randn(2, 3, 16, 24), torch.randn(2, 1, 16, 24)
    logits, features = discriminator(*given, with_features=True)
    assert torch.equal(logits, discriminator(*given))
    last = discriminator.layers[-1]
    height, width = (side + (1 if layers else 0) for side in logits.shape[2:])
    planes = features.unflatten(1, (last.in_channels, height, width))
    assert torch.equal(last(planes), logits)


def test_antialiased_verdicts_depend_less_on_where_a_thing_lies() -> None:
    """Shifted by one pixel of the four between two logits, textures of the highest frequencies are judged alike."""
    changes = {}
    for downsampling in ("strided", "antialiased"):
        torch.manual_seed(0)
        discriminator = PatchDiscriminator(width=8, layers=2, norm="none", downsampling=downsampling).double()
        images = torch.randn(16, 3, 96, 96, dtype=torch.float64)
        here, there = (discriminator(part)[:, :, 3:-3, 3:-3] for part in (images[..., :-1], images[..., 1:]))
        changes[downsampling] = ((here - there).square().mean() / (here - here.mean()).square().mean()).item()
    assert changes["antialiased"] < 0.6 * changes["strided"], changes
