"""Data consistency: the nearest image that, degraded again, is the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..resampling.degradation import coarsening


class Projection:
    """Onto the images whose degradation is the input, along every axis that was refined.

    result + D⁺ (input - D result) with D the degradation and D⁺ its pseudo-inverse, both separable: the limit of
    iterative back-projection (Irani & Peleg 1991, doi:10.1016/1049-9652(91)90045-L) in closed form.

    Parameters
    ----------
    coarse, fine : sequence of int
        Matrices of both grids.
    degradation : mapping
        A card's, see `resampling.degradation.coarsening`.
    slices : int
        Which of the axes is the slice axis.
    device : torch.device
    width : float, optional
        Of a degradation that has one, in coarse voxels; by default the model's own.
    """

    def __init__(
        self,
        coarse: Sequence[int],
        fine: Sequence[int],
        degradation: Mapping[str, object],
        slices: int,
        device: torch.device,
        width: float | None = None,
    ) -> None:
        self.device = device
        self.down: dict[int, torch.Tensor] = {}
        self.up: dict[int, torch.Tensor] = {}
        for axis, matrix in coarsening(coarse, fine, degradation, slices, width).items():
            self.down[axis] = torch.tensor(matrix, dtype=torch.float32, device=device)
            self.up[axis] = torch.tensor(np.linalg.pinv(matrix), dtype=torch.float32, device=device)

    def __call__(self, result: NDArray[np.float32], source: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project a volume of the fine grid, given the coarse one it was made from; both in frame or voxel order."""
        fine, coarse = (torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (result, source))
        missing = coarse - _apply(fine, self.down)
        return (fine + _apply(missing, self.up)).cpu().numpy()


def _apply(volume: torch.Tensor, operators: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for axis, matrix in operators.items():
        volume = torch.tensordot(matrix, volume, dims=([1], [axis])).movedim(0, axis)
    return volume
