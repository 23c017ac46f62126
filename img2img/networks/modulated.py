"""Convolution whose weights follow a style (Karras et al. 2020, arXiv:1912.04958, section 2.2).

For sample n the weights are w'_oik = w_oik · s_ni and, demodulated, w''_oik = w'_oik · d_no with
d_no = 1 / √(Σ_ik w'_oik² + eps), so that inputs of unit variance give outputs of unit variance.

Two forms compute the same. "group" makes every sample's own weights and convolves the batch as groups of one
convolution. "scale" uses that s depends only on the input's channel and d only on the output's: conv(x · s) · d, all
samples with the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.networks.layers import without_autocast

MODULATION_FORMS = ("scale", "group")

# torch 2.15, one core of a Xeon with AMX, 8 images, 512 -> 512 channels, 3×3, forward and backward in ms,
# "scale" against "group": 71 and 560 at 8², 777 and 1245 at 32² in float32; 32 and 612, 161 and 836 in bfloat16. With
# a second derivative the ratios are the same. No type of device has been found where "group" wins.
FASTEST_FORM = "scale"


def modulated_conv2d(
    images: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    padding: int,
    demodulate: bool = True,
    form: str = FASTEST_FORM,
    eps: float = 1e-8,
) -> Tensor:
    """(N, Cin, H, W) -> (N, Cout, H + 2·padding - k + 1, W + 2·padding - k + 1) with zeros around the images.

    The squares are summed in float32 at least; the convolution has the images' dtype, or autocast's. In half precision
    nothing overflows that is not itself too large, see modulation_scales.

    Args:
        weight: (Cout, Cin, k, k), the same for all.
        styles: (N, Cin).
        demodulate: bring every output channel's weights to unit norm.
        form: one of MODULATION_FORMS.
    """
    scale_in, scale_out = modulation_scales(weight, styles, demodulate=demodulate, eps=eps)
    if form == "scale":
        outputs = F.conv2d(images * scale_in.to(images.dtype)[:, :, None, None], weight, padding=padding)
        return outputs if scale_out is None else outputs * scale_out.to(outputs.dtype)[:, :, None, None]
    assert form == "group", f"unknown form {form}"
    weights = weight * scale_in[:, None, :, None, None]
    if scale_out is not None:
        weights = weights * scale_out[:, :, None, None, None]
    # all samples' channels behind each other, one group a sample
    rows = images.flatten(0, 1)[None]
    outputs = F.conv2d(rows, weights.to(images.dtype).flatten(0, 1), padding=padding, groups=len(images))
    return outputs[0].unflatten(0, (len(images), -1))


def modulation_scales(
    weight: Tensor, styles: Tensor, *, demodulate: bool = True, eps: float = 1e-8
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
        energy = styles.square() @ weight.to(dtype).square().sum(dim=(2, 3)).mT
        demodulation = (energy + eps).rsqrt()
        # a constant for the derivatives: it cancels, exactly
        level = demodulation.detach().mean(dim=1, keepdim=True)
        return styles * level, demodulation / level
