"""Pictures for TensorBoard: a slice as it is, interpolated and super-resolved, and the errors of its FA and QA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..dwi import DWI
from .validation import Case

DIFFERENCE_RANGE = 0.2
"""Map difference shown in full red or blue."""


def figures(
    case: Case,
    test: DWI,
    baseline: DWI,
    differences: dict[str, NDArray[np.float32]],
    baseline_differences: dict[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.uint8]]:
    """Images (H, W, 3): reference, interpolation, network side by side; map errors of the last two."""
    middle = case.reference.spatial_shape[2] // 2
    volume = int(np.argmax(case.reference.bvals))
    shown = [dwi.signal[:, :, middle, volume].T for dwi in (case.reference, baseline, test)]
    white = float(np.percentile(shown[0], 99.5))
    grey = np.clip(np.concatenate(shown, axis=1) / (white if white > 0 else 1.0), 0, 1)
    images = {"slice: reference, sinc, network": np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)}
    for name, difference in differences.items():
        pair = [d[:, :, middle].T for d in (baseline_differences[name], difference)]
        images[f"{name.upper()} error: sinc, network"] = _diverging(np.concatenate(pair, axis=1))
    return images


def _diverging(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blue below zero, white at zero, red above."""
    along = np.clip(values / DIFFERENCE_RANGE, -1, 1)
    channels = (1 + np.minimum(along, 0), 1 - np.abs(along), 1 - np.maximum(along, 0))
    return (255 * np.stack(channels, axis=-1)).astype(np.uint8)
