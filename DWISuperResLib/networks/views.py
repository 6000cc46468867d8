"""What a network is shown of a volume: normalised slices, their neighbours, and guidance from the other directions.

Training and inference both assemble the input here, from a slab: a few adjacent slices of all volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..dwi import B0_THRESHOLD, shells
from ..errors import InputError


@dataclass(frozen=True)
class SliceInput:
    """The channels a network takes.

    Parameters
    ----------
    neighbours : int
        Adjacent slices of the same volume on either side.
    guidance : tuple of {"q_smooth", "mean_b0", "mean_dwi"}
        Images made from all volumes of the same slice. q_smooth is the volume's own contrast with less noise: the
        least-squares fit of an even polynomial in the direction to its shell, evaluated at its own direction.
    """

    neighbours: int = 0
    guidance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", tuple(self.guidance))
        if unknown := set(self.guidance) - set(_GUIDANCE):
            raise InputError(f"Unknown guidance {sorted(unknown)}; expected some of {', '.join(_GUIDANCE)}.")
        if self.neighbours not in range(9):
            raise InputError(f"neighbours is {self.neighbours!r}; expected 0 to 8 slices on either side.")

    @property
    def channels(self) -> int:
        """Number of input channels: the slice, its neighbours, the guidance images."""
        return 1 + 2 * self.neighbours + len(self.guidance)


@dataclass(frozen=True)
class Normalisation:
    """Signal <-> network intensity: (signal - offset) * gains[n] for volume n.

    `measure` finds it from a scan; "volume" divides each volume by its mean over the foreground, "paper" maps the
    whole 4D volume's minimum and maximum to 0 and 1 (arXiv:2605.15895, public code).
    """

    offset: float
    gains: NDArray[np.float32]

    @classmethod
    def measure(cls, signal: NDArray[np.float32], kind: str) -> Normalisation:
        """Find the normalisation of a signal (X, Y, Z, N); `kind` is "volume" or "paper"."""
        if kind == "paper":
            low, high = float(signal.min()), float(signal.max())
            return cls(low, np.full(signal.shape[3], 1 / max(high - low, 1e-12), np.float32))
        if kind != "volume":
            raise InputError(f"The normalisation is {kind!r}; expected volume or paper.")
        foreground = foreground_mask(signal)
        means = [signal[..., n][foreground].mean(dtype=np.float64) for n in range(signal.shape[3])]
        return cls(0.0, (1 / np.maximum(means, 1e-12)).astype(np.float32))


def foreground_mask(signal: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels brighter than the mean of the mean volume: the head, roughly, at the cost of one pass."""
    mean = np.zeros(signal.shape[:3], np.float32)
    for n in range(signal.shape[3]):
        mean += signal[..., n]
    return mean >= mean.mean()


class SliceAssembler:
    """Turn a slab of signal into network input for one scan.

    Parameters
    ----------
    slice_input : SliceInput
    bvals, bvecs : arrays (N,), (N, 3)
    normalisation : Normalisation
    """

    def __init__(
        self,
        slice_input: SliceInput,
        bvals: NDArray[np.float64],
        bvecs: NDArray[np.float64],
        normalisation: Normalisation,
    ) -> None:
        self.slice_input = slice_input
        self.offset = normalisation.offset
        self.gains = torch.from_numpy(normalisation.gains)
        matrices = [_GUIDANCE[name](bvals, bvecs, normalisation.gains) for name in slice_input.guidance]
        self._guidance = torch.from_numpy(np.stack(matrices).astype(np.float32)) if matrices else None

    def __call__(self, slab: torch.Tensor, volumes: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Assemble channels: the slice, neighbours in the order -1, +1, -2, +2, ..., guidance.

        Parameters
        ----------
        slab : tensor, shape (N, 1 + 2 * neighbours, H, W)
            Signal of every volume, the slice itself in the middle.
        volumes : sequence of int, length B

        Returns
        -------
        tensor, shape (B, channels, H, W)
        """
        k = self.slice_input.neighbours
        order = [k] + [k + side * step for step in range(1, k + 1) for side in (-1, 1)]
        volumes = torch.as_tensor(volumes, device=slab.device)
        gains = self.gains.to(slab.device)[volumes].view(-1, 1, 1, 1)
        channels = (slab[volumes][:, order] - self.offset) * gains
        if self._guidance is None:
            return channels
        guidance = self._guidance.to(slab.device)[:, volumes]
        images = torch.tensordot(guidance, slab[:, k] - self.offset, dims=([2], [0]))
        return torch.cat((channels, images.transpose(0, 1)), dim=1)

    def restore(self, images: torch.Tensor, volumes: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Network intensity (B, 1, H, W) back to signal."""
        gains = self.gains.to(images.device)[torch.as_tensor(volumes, device=images.device)]
        return images / gains.view(-1, 1, 1, 1) + self.offset


def shell_fit(bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hat matrix (N, N): each shell's least-squares fit of an even quadratic in the direction, else its mean.

    Even polynomials up to order 2 span the even spherical harmonics up to order 2. The mean where fewer than seven
    directions, or none, are given.
    """
    matrix = np.zeros((len(bvals), len(bvals)))
    for members in (np.flatnonzero(bvals <= B0_THRESHOLD), *shells(bvals)):
        g = bvecs[members]
        x, y, z = g.T
        basis = np.stack((x * x, y * y, z * z, x * y, x * z, y * z), axis=1)
        if len(members) < 7 or (np.linalg.norm(g, axis=1) < 0.5).any():
            basis = np.ones((len(members), 1))
        matrix[np.ix_(members, members)] = basis @ np.linalg.pinv(basis)
    return matrix


def _q_smooth(bvals, bvecs, gains) -> NDArray[np.float64]:
    return shell_fit(bvals, bvecs) * gains[:, None]


def _mean_of(weighted: NDArray[np.bool_], gains) -> NDArray[np.float64]:
    row = weighted * gains / max(weighted.sum(), 1)
    return np.tile(row, (len(gains), 1))


_GUIDANCE = {
    "q_smooth": _q_smooth,
    "mean_b0": lambda bvals, bvecs, gains: _mean_of(bvals <= B0_THRESHOLD, gains),
    "mean_dwi": lambda bvals, bvecs, gains: _mean_of(bvals > B0_THRESHOLD, gains),
}
