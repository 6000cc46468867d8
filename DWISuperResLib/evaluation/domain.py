"""Whether a scan is like those a checkpoint was trained on: one rule for the command line, reports and the panel.

Standard library and NumPy only: Slicer's process imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dwi import B0_THRESHOLD

if TYPE_CHECKING:
    from ..checkpoints import Card

TOLERANCE = 1.5
"""Factor by which a voxel size, b-value or SNR may lie outside the range of the training data before it is worth a
warning: twenty scans, each judged by those of the other scanners, stay within 1.34."""


@dataclass(frozen=True)
class DomainCheck:
    """A property of a scan beside its range in the training data.

    Attributes
    ----------
    name, unit : str
    found, trained : pair of float
        Lowest and highest.
    factor : float
        By which the scan lies outside of the range; 1 and less within.
    """

    name: str
    unit: str
    found: tuple[float, float]
    trained: tuple[float, float]
    factor: float

    @property
    def outside(self) -> bool:
        """Whether that is worth a warning."""
        return self.factor > TOLERANCE


def check_domain(
    card: Card, voxel_sizes: ArrayLike, axis: int, bvals: ArrayLike, snr: float | None = None
) -> list[DomainCheck]:
    """Compare a scan's voxel sizes, b-values and SNR with a card's ranges; what the card does not know is left out.

    Only noise above that of training counts against an SNR, and only b-values above: a lower shell is an easier image,
    and b0 was among those of training.

    Parameters
    ----------
    card : Card
    voxel_sizes : three floats
        In mm.
    axis : int
        Slice axis.
    bvals : array (N,)
        In s/mm².
    snr : float, optional
        See `DWI.foreground_b0`.

    Examples
    --------
    >>> from DWISuperResLib.checkpoints import Card
    >>> card = Card("a", "sr_unet", {"scales": [2]}, (2,), voxel_sizes={"in_plane": [2.0, 3.0]}, bvals=(0.0, 1000.0))
    >>> [(c.name, round(c.factor, 2), c.outside) for c in check_domain(card, (6.0, 6.0, 3.0), 2, [0, 700])]
    [('in-plane voxel size', 2.0, True), ('b-value', 0.7, False)]
    """
    sizes, b = np.asarray(voxel_sizes, dtype=float), np.asarray(bvals, dtype=float)
    rows = (
        ("in-plane voxel size", "mm", np.delete(sizes, axis), card.voxel_sizes.get("in_plane", ()), True, True),
        ("slice thickness", "mm", sizes[[axis]], card.voxel_sizes.get("slice", ()), True, True),
        ("b-value", "s/mm²", b[b > B0_THRESHOLD], card.bvals, False, True),
        ("SNR", "", np.array([] if snr is None else [snr]), card.snr, True, False),
    )
    return [
        DomainCheck(
            name, unit, (float(values.min()), float(values.max())), (float(limits[0]), float(limits[1])),
            _factor_outside(values, limits, below, above),
        )
        for name, unit, values, limits, below, above in rows
        if len(values) and len(limits)
    ]  # fmt: skip


def _factor_outside(values: NDArray[np.float64], limits: tuple[float, ...], below: bool, above: bool) -> float:
    smallest = 1e-6
    factors = [max(limits[0], smallest) / max(float(values.min()), smallest)] if below else []
    factors += [float(values.max()) / max(limits[1], smallest)] if above else []
    return max(factors)
