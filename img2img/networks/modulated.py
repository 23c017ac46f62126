"""Convolution whose weights follow a style (Karras et al. 2020, arXiv:1912.04958, section 2.2).

For sample n the weights are w'_oik = w_oik · s_ni and, demodulated, w''_oik = w'_oik · d_no with
d_no = 1 / √(Σ_ik w'_oik² + eps), so that inputs of unit variance give outputs of unit variance.

Two forms compute the same. "group" makes every sample's own weights and convolves the batch as groups of one
convolution. "scale" uses that s depends only on the input's channel and d only on the output's: conv(x · s) · d, all
samples with the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from img2img.networks.convolution import conv2d
from img2img.networks.layers import without_autocast
from img2img.networks.resample import conv_up

MODULATION_FORMS = ("scale", "group")

# torch 2.14, one core of a Xeon with AMX, 8 images, 512 -> 512 channels, 3×3, forward and backward in ms,
# "scale" against "group": 71 and 560 at 8², 777 and 1245 at 32² in float32; 32 and 612, 161 and 836 in bfloat16. With
# a second derivative the ratios are the same. Other devices have not been measured.
FASTEST_FORM = "scale"


def modulated_conv2d(
    images: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    padding: int,
    up: int = 1,
    demodulate: bool = True,
    gain: float = 1.0,
    bias: Tensor | None = None,
    form: str = FASTEST_FORM,
    eps: float = 1e-8,
) -> Tensor:
    """(N, Cin, H, W) -> (N, Cout, H + 2·padding - k + 1, W + 2·padding - k + 1), or (N, Cout, 2H, 2W) with up = 2.

    There are zeros around the images. The squares are summed in float32 at least; the convolution has the images'
    dtype, or autocast's. In half precision nothing overflows that is not itself too large, see modulation_scales.

    Args:
        weight: (Cout, Cin, k, k), the same for all; with `up` = 2 (Cin, Cout, k, k), as torch's transposed convolutions
            have it, for turned around it costs up to half of the time.
        styles: (N, Cin).
        padding: zeros on every side; with `up` = 2 it is 1.
        up: 2 doubles the images by the filter of resample.conv_up; for k = 3.
        demodulate: bring every output channel's weights to unit norm.
        gain: what the result is multiplied with.
        bias: (Cout,), added last.
        form: one of MODULATION_FORMS.
    """
    assert up == 1 or (up == 2 and padding == 1), "doubling keeps the borders as padding by 1 does"
    scale_in, scale_out = modulation_scales(weight, styles, up=up, demodulate=demodulate, eps=eps)
    if scale_out is None:
        scale_in = scale_in * gain
    else:
        scale_out = scale_out * gain
    if form == "group":
        outputs = _convolve_groups(images, _sample_weights(weight, scale_in, scale_out, up), padding, up)
    else:
        assert form == "scale", f"unknown form {form}"
        outputs = images * scale_in.to(images.dtype)[:, :, None, None]
        outputs = conv_up(outputs, weight) if up == 2 else conv2d(outputs, weight, padding=padding)
        if scale_out is not None:
            outputs = outputs * scale_out.to(outputs.dtype)[:, :, None, None]
    # in place, not with torch.addcmul, whose backward makes one more copy
    return outputs if bias is None else outputs.add_(bias.to(outputs.dtype)[:, None, None])


def _sample_weights(weight: Tensor, scale_in: Tensor, scale_out: Tensor | None, up: int) -> Tensor:
    """(N, Cout, Cin, k, k), or (N, Cin, Cout, k, k)."""
    scales = scale_in[:, None] if scale_out is None else scale_out[:, :, None] * scale_in[:, None]
    return weight * (scales.mT if up == 2 else scales)[..., None, None]


def _convolve_groups(images: Tensor, weights: Tensor, padding: int, up: int) -> Tensor:
    """Every sample with its own weights: all samples' channels behind each other, one group a sample."""
    rows, filters, count = images.flatten(0, 1)[None], weights.to(images.dtype).flatten(0, 1), len(images)
    outputs = conv_up(rows, filters, count) if up == 2 else conv2d(rows, filters, padding=padding, groups=count)
    return outputs[0].unflatten(0, (count, -1))


def modulation_scales(
    weight: Tensor, styles: Tensor, *, up: int = 1, demodulate: bool = True, eps: float = 1e-8
) -> tuple[Tensor, Tensor | None]:
    """What multiplies a convolution's input, (N, Cin), and its output, (N, Cout) or None where nothing does.

    Demodulated, only the product of the two counts, so both are divided among them such that what lies between has
    about the variance of the input, however large weights and styles have grown: float16 holds no more than 65504.
    """
    with without_autocast(weight.device):
        dtype = torch.promote_types(styles.dtype, torch.float32)
        styles = styles.to(dtype)
        if not demodulate:
            return styles, None
        squares = weight.to(dtype).square().sum(dim=(2, 3))
        energy = styles.square() @ (squares if up == 2 else squares.mT)
        demodulation = (energy + eps).rsqrt()
        # a constant for the derivatives: it cancels, exactly
        level = demodulation.detach().mean(dim=1, keepdim=True)
        return styles * level, demodulation / level
