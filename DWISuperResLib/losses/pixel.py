"""Losses that compare intensities: Charbonnier, SSIM, MS-SSIM (L1 and L2 are PyTorch's own)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from ..errors import InputError
from .registry import register_loss

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales (Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216, section 3.2)."""

_WINDOW = 11


@register_loss("l1")
def mean_absolute_error() -> nn.Module:
    """PyTorch's mean absolute error, which has no options here.

    Examples
    --------
    >>> float(mean_absolute_error()(torch.zeros(2), torch.ones(2)))
    1.0
    """
    return nn.L1Loss()


@register_loss("l2")
def mean_squared_error() -> nn.Module:
    """PyTorch's mean squared error, which has no options here.

    Examples
    --------
    >>> float(mean_squared_error()(torch.zeros(2), 2 * torch.ones(2)))
    4.0
    """
    return nn.MSELoss()


@register_loss("charbonnier")
class CharbonnierLoss(nn.Module):
    """Mean of sqrt(d² + epsilon²) - epsilon: L1 that is smooth at zero (doi:10.1109/ICIP.1994.413553).

    Parameters
    ----------
    epsilon : float
        Intensity difference below which it turns quadratic.

    Examples
    --------
    >>> round(float(CharbonnierLoss(3.0)(torch.zeros(1), torch.tensor([4.0]))), 6)
    2.0
    """

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__()
        if not epsilon > 0:
            raise InputError(f"The Charbonnier epsilon is {epsilon!r}; expected a number above 0.")
        self.epsilon = float(epsilon)
        self.description = {"epsilon": self.epsilon}

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        # hypot has no gradient at (0, 0) and loses none to cancellation elsewhere.
        epsilon = prediction.new_tensor(self.epsilon)
        return (torch.hypot(prediction - target, epsilon) - epsilon).mean()


@register_loss("ssim")
class SSIMLoss(nn.Module):
    """1 - SSIM, Gaussian window sigma 1.5 (doi:10.1109/TIP.2003.819861); images (B, N, H, W) or (B, 1, D,
    H, W).

    Parameters
    ----------
    data_range : float
        Intensity range L of the constants (0.01 L)² and (0.03 L)².

    Examples
    --------
    >>> image = torch.rand(1, 1, 16, 16)
    >>> round(float(SSIMLoss()(image, image)), 6)
    0.0
    """

    needs_float32 = True  # variances are differences of means

    def __init__(self, data_range: float = 1.0) -> None:
        super().__init__()
        self.data_range = _checked_range(data_range)
        self.description = {"data_range": self.data_range}

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        ssim = structural_similarity_index_measure(prediction, target, data_range=self.data_range)
        return 1 - cast(Tensor, ssim)  # a pair only where the full image is asked for


@register_loss("ms_ssim")
class MultiScaleSSIMLoss(nn.Module):
    """1 - MS-SSIM (doi:10.1109/ACSSC.2003.1292216).

    Similarities are mapped from [-1, 1] to [0, 1] before their fractional powers: left negative, or cut at
    zero, their gradient would not be finite.

    Parameters
    ----------
    data_range : float
        Intensity range, see `SSIMLoss`.
    scales : int, optional
        Number of dyadic scales, 1 to 5 (exponents rescaled to sum to 1); by default as many as the image
        holds: 5 above 160 px.

    Examples
    --------
    >>> image = torch.rand(1, 1, 32, 32)
    >>> round(float(MultiScaleSSIMLoss()(image, image)), 5)
    0.0
    """

    needs_float32 = True

    def __init__(self, data_range: float = 1.0, scales: int | None = None) -> None:
        super().__init__()
        self.data_range = _checked_range(data_range)
        if scales is not None and scales not in range(1, 6):
            raise InputError(f"The number of MS-SSIM scales is {scales!r}; expected 1 to 5.")
        self.scales = scales
        self.description = {"data_range": self.data_range, "scales": scales}

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        side = min(prediction.shape[2:])
        fitting = [n for n in range(1, 6) if side // max(1, n - 1) ** 2 >= _WINDOW and side >= 2**n]
        scales = max(fitting, default=0) if self.scales is None else self.scales
        if scales not in fitting:
            raise InputError(
                f"The image's shortest side is {side} px, too short for MS-SSIM at {self.scales or 1} "
                "scales; "
                "use fewer scales or larger patches."
            )
        total = sum(MS_SSIM_WEIGHTS[:scales])
        return 1 - multiscale_structural_similarity_index_measure(
            prediction,
            target,
            data_range=self.data_range,
            betas=tuple(beta / total for beta in MS_SSIM_WEIGHTS[:scales]),
            normalize="simple",
        )


def _checked_range(data_range: float) -> float:
    if not data_range > 0:
        raise InputError(f"The data range is {data_range!r}; expected a number above 0.")
    return float(data_range)
