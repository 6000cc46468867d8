"""Losses on what is fitted to the signals: log-signal ratios, fractional and quantitative anisotropy.

All see the volumes of one scan together, (B, N, H, W) in one common intensity unit: volumes normalised
one by one would have lost the ratios. Voxels weigh by the target's b0 signal, in QA by themselves, so tissue counts
and background does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..dwi import B0_THRESHOLD
from ..errors import InputError
from .registry import register_loss

Gradients = tuple[Tensor, Tensor]
_TINY = torch.finfo(torch.float32).tiny


class _SignalLoss(nn.Module):
    needs_gradients = True
    needs_float32 = True

    def __init__(self, floor: float = 0.01) -> None:
        super().__init__()
        if not 0 < floor < 1:
            raise InputError(f"The signal floor is {floor!r}; expected a fraction of the b0 signal between 0 and 1.")
        self.floor = float(floor)
        self.description: dict[str, Any] = {"floor": self.floor}

    def _prepare(self, images: Tensor, is_b0: Tensor) -> tuple[Tensor, Tensor]:
        """Signals and their mean b0 (B, 1, H, W), raised to the floor (of the image's mean b0, for the
        b0)."""
        b0 = images[:, is_b0].mean(1, keepdim=True)
        b0 = torch.maximum(b0, self.floor * b0.detach().mean((1, 2, 3), keepdim=True).clamp_min(_TINY))
        return torch.maximum(images, self.floor * b0.detach()), b0


@register_loss("log_ratio")
class LogRatioLoss(_SignalLoss):
    """Mean over weighted volumes and voxels of |ln(S/S0) - ln(S'/S0')|, voxels weighted by S0.

    S0 is the mean of the b0 volumes, so the loss sees b times the error of the apparent diffusivity.

    Parameters
    ----------
    floor : float
        Signals below this fraction of their S0 count as this much; keeps the logarithm finite.

    Examples
    --------
    >>> gradients = torch.tensor([0.0, 1000.0]), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    >>> prediction, target = (torch.tensor([1.0, ratio]).view(1, 2, 1, 1) for ratio in (0.5, 0.25))
    >>> round(float(LogRatioLoss()(prediction, target, gradients)), 4)  # ln 2
    0.6931
    """

    def forward(self, prediction: Tensor, target: Tensor, gradients: Gradients) -> Tensor:
        """Loss of (B, N, H, W) given (b-values (N,), directions (N, 3))."""
        is_b0 = _checked_b0(prediction, gradients)
        ratios = []
        for images in (prediction, target.detach()):
            signal, b0 = self._prepare(images, is_b0)
            ratios.append(torch.log(signal[:, ~is_b0] / b0))
        return _weighted_mean((ratios[0] - ratios[1]).abs().mean(1, keepdim=True), target, is_b0)


@register_loss("fa")
class FractionalAnisotropyLoss(_SignalLoss):
    """Mean over voxels of |FA - FA'|, weighted by S0, from a tensor fit that is differentiated through.

    Parameters
    ----------
    fit : {"ols", "wls"}
        Method of the tensor fit.
    floor : float
        See `LogRatioLoss`.

    Examples
    --------
    >>> FractionalAnisotropyLoss("ols").description
    {'fit': 'ols', 'floor': 0.01}
    """

    def __init__(self, fit: str = "wls", floor: float = 0.01) -> None:
        super().__init__(floor)
        if fit not in ("ols", "wls"):
            raise InputError(f"The tensor fit is {fit!r}; expected ols or wls.")
        self.fit = fit
        self.description = {"fit": fit, "floor": self.floor}

    def forward(self, prediction: Tensor, target: Tensor, gradients: Gradients) -> Tensor:
        """Loss of (B, N, H, W) given (b-values (N,), directions (N, 3)); at least 6 directions."""
        from ..microstructure.tensor import fit_tensor, fractional_anisotropy

        is_b0 = _checked_b0(prediction, gradients)
        bvals, bvecs = (table.detach().cpu().double().numpy() for table in gradients)
        anisotropies = []
        for images in (prediction, target.detach()):
            signal, b0 = self._prepare(images, is_b0)
            # Tensors do not depend on a voxel's unit, and the fit's floor is one for signals above 1 or so.
            tensor = fit_tensor((signal / b0.detach()).movedim(1, -1), bvals, bvecs, self.fit)
            anisotropies.append(fractional_anisotropy(tensor)[:, None])
        return _weighted_mean((anisotropies[0] - anisotropies[1]).abs(), target, is_b0)


@register_loss("qa")
class QuantitativeAnisotropyLoss(nn.Module):
    """Sum over voxels of |QA - QA'|, as a share of the target's sum of QA'.

    QA of generalised q-sampling, largest minus smallest value of the ODF (Yeh et al. 2010,
    doi:10.1109/TMI.2010.2045126, equation 12), is in the signal's unit, and next to nothing outside of tissue.

    Examples
    --------
    >>> gradients = torch.tensor([0.0, 1000.0, 1000.0]), torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> target = torch.tensor([1.0, 0.2, 0.6]).view(1, 3, 1, 1)
    >>> round(float(QuantitativeAnisotropyLoss()(1.5 * target, target, gradients)), 4)
    0.5
    """

    needs_gradients = True
    needs_float32 = True

    def __init__(self) -> None:
        super().__init__()
        self.description: dict[str, Any] = {}

    def forward(self, prediction: Tensor, target: Tensor, gradients: Gradients) -> Tensor:
        """Loss of (B, N, H, W) given (b-values (N,), directions (N, 3))."""
        from ..microstructure.gqi import GQI

        _checked_b0(prediction, gradients)
        gqi = GQI(*(table.detach().cpu().double().numpy() for table in gradients), gfa=False)
        found, wanted = (gqi(images.movedim(1, 0).flatten(1))["qa"] for images in (prediction, target.detach()))
        return (found - wanted).abs().sum() / wanted.sum().clamp_min(_TINY)


def _weighted_mean(error: Tensor, target: Tensor, is_b0: Tensor) -> Tensor:
    weight = target[:, is_b0].detach().mean(1, keepdim=True).clamp_min(0)
    return (error * weight).sum() / weight.sum().clamp_min(_TINY)


def _checked_b0(images: Tensor, gradients: Gradients) -> Tensor:
    bvals, bvecs = gradients
    count = images.shape[1]
    if images.ndim != 4 or bvals.shape != (count,) or bvecs.shape != (count, 3):
        raise InputError(
            f"Images of shape {tuple(images.shape)} do not fit a gradient table of {tuple(bvals.shape)} "
            "b-values and "
            f"{tuple(bvecs.shape)} directions; expected (B, N, H, W), (N,) and (N, 3)."
        )
    is_b0 = bvals <= B0_THRESHOLD
    if not is_b0.any() or is_b0.all():
        raise InputError(
            f"{int(is_b0.sum())} of {count} volumes are b0; a microstructure loss needs b0 and weighted volumes."
        )
    return is_b0
