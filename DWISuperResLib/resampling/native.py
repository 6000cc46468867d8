"""The resolution that a scan holds, which its matrix may exceed: scanners and archives deliver interpolated scans.

Beyond the k-space that was acquired there is neither signal nor thermal noise. Signal falls off towards high
frequencies by itself, thermal noise does not: its power over frequency is the transfer function of all that was done
to the scan. Zero filling leaves a step, a window (Hamming, Fermi, Tukey) a decline, a rotated grid empty corners that
are no mirror images of one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..dwi import foreground_mask
from .grid import AXIS_NAMES, regridded_affine
from .operators import map_volumes, operator

if TYPE_CHECKING:
    from ..dwi import DWI

Spectrum = NDArray[np.float64]

SUPPORT_DB = 10.0
"""The support ends where the noise's power falls below its plateau by this much, for good. Within full scans it stays
within 7 dB up to 0.9 of Nyquist (partial Fourier takes 3, since the magnitude's spectrum is that of both sides; filters
at the edge more); beyond the support, what the magnitude and whole numbers leak lies at least 13 dB down."""
FULL_SHARE = 0.9
"""Of Nyquist: an axis held to here or further is full; filters at the edge of k-space end there."""
EDGE_DB = 7.0
"""The edge of a box: the noise falls by this much from 6 % of the support before its end to as far behind it."""
ROTATED_DB = 1.6
"""Root mean square difference between a plane of k-space and its mirror image near its border: at most 1.4 in scans as
acquired (a filter along one axis leans a little), at least 1.9 after they were rotated by 10 degrees."""
ANATOMY_DB = 3.0
"""Noise, filtered or not, has a plateau at low frequencies that falls by less than this; anatomy has none."""

_VOLUMES, _COMPONENTS, _VOXELS = 24, 8, 100_000
"""At most so many are looked at: noise is plentiful."""
_TENSOR = 6
"""Of the combinations of a shell's volumes, so many hold what a tensor explains."""
_SHORTEST = 16
"""An axis of fewer samples has too few frequencies to tell."""
_BLOCKS = 12
"""Along each axis of a plane of k-space, for its comparison with its mirror image."""


@dataclass(frozen=True)
class AxisSupport:
    """How much of an axis of k-space holds anything.

    Attributes
    ----------
    given, held : int
        Samples of the axis as it is, and those that would hold the same.
    kind : {"full", "box", "soft", "rotated"}
        "box": zero-filled, the support ends at an edge; "soft": it fades; "rotated": resampled at an angle to another
        axis, so that the support is no box along the voxel axes.
    level : float
        Mean power of the noise beyond the support, dB of that within; for a full axis that of its last tenth.
    """

    given: int
    held: int
    kind: str
    level: float


@dataclass(frozen=True)
class Support:
    """What `measure_support` found.

    Attributes
    ----------
    axes : three AxisSupport
    asymmetry : float
        Difference in dB between a plane of k-space and its mirror image, the largest of the three planes.

    Examples
    --------
    >>> full = AxisSupport(80, 80, "full", -1.0)
    >>> support = Support((AxisSupport(256, 128, "box", -20.0), full, full))
    >>> support.share, support.matrix
    (0.5, (128, 80, 80))
    >>> print(support.sentence)
    This scan of 256 x 80 x 80 holds 128 x 80 x 80: it was interpolated along i.
    """

    axes: tuple[AxisSupport, AxisSupport, AxisSupport]
    asymmetry: float = 0.0

    @property
    def matrix(self) -> tuple[int, int, int]:
        """The matrix that holds the same."""
        first, second, third = (axis.held for axis in self.axes)
        return first, second, third

    @property
    def share(self) -> float:
        """The smallest share of an axis that is held."""
        return min(axis.held / axis.given for axis in self.axes)

    @property
    def is_rotated(self) -> bool:
        """Whether it was resampled at an angle."""
        return any(axis.kind == "rotated" for axis in self.axes)

    @property
    def sentence(self) -> str:
        """What there is to say of it, for people."""
        told = []
        named = {kind: [AXIS_NAMES[a] for a, axis in enumerate(self.axes) if axis.kind == kind] for kind in _SAID}
        if self.share < 1:
            given = " x ".join(str(axis.given) for axis in self.axes)
            found = " and ".join(f"{_SAID[kind]} along {' and '.join(named[kind])}" for kind in _SAID if named[kind])
            told.append(f"This scan of {given} holds {' x '.join(map(str, self.matrix))}: it was {found}.")
        elif self.is_rotated:
            told.append(f"This scan was resampled at an angle in the plane of {' and '.join(named['rotated'])}.")
        return " ".join(told) or "Every axis holds what its matrix says."


_SAID = {"box": "interpolated", "soft": "filtered or interpolated", "rotated": "resampled at an angle"}
"""Of each kind that is not full."""


def measure_support(dwi: DWI) -> Support:
    """Measure the matrix that a scan holds.

    The noise is taken from those combinations of (at most 24) volumes that vary least over the head, in which anatomy
    cancels. A combination of volumes has the support that each of them has. Its power, over frequencies at which the
    other two axes hold noise, is compared with its own plateau at low frequencies.

    Parameters
    ----------
    dwi : DWI
        Axes of fewer than 16 samples, scans of fewer than 7 weighted volumes and scans without noise count as full; so
        does what holds more than 0.9 of Nyquist. Less than a quarter of Nyquist is not recognised.

    Returns
    -------
    Support

    Examples
    --------
    A scanner's zero filling, from 48 x 48 to 96 x 96.

    >>> from DWISuperResLib import interpolate, phantom
    >>> scan = phantom((48, 48, 6), (4, 4.5, 15), supersampling=1, shells=((0, 1), (1000, 12)))
    >>> measure_support(scan).matrix
    (48, 48, 6)
    >>> support = measure_support(interpolate(scan, 2, method="sinc"))
    >>> support.matrix, support.axes[0].kind
    ((48, 48, 6), 'box')
    """
    power, count = _noise_power(dwi)
    first, second, third = (AxisSupport(n, n, "full", 0.0) for n in dwi.spatial_shape)
    unknown = Support((first, second, third))
    if count == 0:
        return unknown
    shares = [1 / 3] * 3
    for _ in range(2):  # the second time over the band that the other axes are known to hold
        found = [_axis(power, a, shares) for a in range(3)]
        shares = [axis.held / axis.given for axis in found]
    if any(shares[a] < 1 and _is_anatomy(power, a, shares) for a in range(3)):
        return unknown
    asymmetry = {(a, b): _asymmetry(power, count, a, b) for a, b in ((0, 1), (0, 2), (1, 2))}
    rotated = {a for plane, value in asymmetry.items() if value > ROTATED_DB for a in plane}
    first, second, third = (replace(axis, kind="rotated") if a in rotated else axis for a, axis in enumerate(found))
    return Support((first, second, third), max(asymmetry.values()))


def to_native(dwi: DWI, support: Support | None = None) -> DWI:
    """A scan on the matrix that it holds, over the same field of view.

    The centre of k-space is kept, with the phase of the half-voxel shift: nothing is lost where the support is a box.

    Parameters
    ----------
    dwi : DWI
    support : Support, optional
        Of `measure_support`.

    Returns
    -------
    DWI
        The same object where the matrix stays.

    Examples
    --------
    >>> from DWISuperResLib import interpolate, phantom
    >>> scan = phantom((48, 48, 6), (4, 4.5, 15), supersampling=1, shells=((0, 1), (1000, 12)))
    >>> native = to_native(interpolate(scan, 2, method="sinc"))
    >>> bool(np.allclose(native.signal, scan.signal, atol=1e-3 * scan.signal.max()))
    True
    """
    support = measure_support(dwi) if support is None else support
    shape = dwi.spatial_shape
    operators = {
        a: operator(n, m, "sinc") for a, (n, m) in enumerate(zip(shape, support.matrix, strict=True)) if n != m
    }
    if not operators:
        return dwi
    signal = map_volumes(dwi.signal, operators)
    return replace(dwi, signal=signal, affine=regridded_affine(dwi.affine, shape, support.matrix))


def _noise_power(dwi: DWI) -> tuple[Spectrum, int]:
    """(X, Y, Z) power of the noise over frequency, as the Fourier transform orders it, and the mean of how many it is.

    Of none, where there are too few volumes, or no noise in them.
    """
    none = np.zeros(dwi.spatial_shape), 0
    volumes = np.flatnonzero(~dwi.is_b0)
    if len(volumes) <= _TENSOR:
        return none
    volumes = volumes[np.unique(np.linspace(0, len(volumes) - 1, _VOLUMES).round().astype(int))]
    window = _window(_sum(dwi.signal, dict.fromkeys(volumes.tolist(), 1.0)))
    inside = np.flatnonzero(window > 0.5)
    if not inside.size:
        return none
    spread = np.unravel_index(inside[:: -(-len(inside) // _VOXELS)], window.shape)
    values = np.empty((len(spread[0]), len(volumes)), order="F")
    for n, volume in enumerate(volumes):
        values[:, n] = dwi.signal[..., volume][spread]
    variances, combinations = np.linalg.eigh(values.T @ values / len(values))
    count = min(_COMPONENTS, len(volumes) // 3, len(volumes) - _TENSOR)
    if variances[0] <= 1e-10 * variances[-1]:
        return none
    total = np.zeros(dwi.spatial_shape)
    for combination in combinations.T[:count]:
        image = _sum(dwi.signal, dict(zip(volumes.tolist(), combination, strict=True)))
        image = (image - (image * window).sum() / window.sum()) * window
        power = np.abs(np.fft.fftn(image)) ** 2
        total += power / power.mean()
    return total / count, count


def _sum(signal: NDArray[np.float32], weights: Mapping[int, float]) -> NDArray[np.float64]:
    """The weighted sum of some volumes, a volume at a time: no copy of the scan."""
    total = np.zeros_like(signal[..., 0], np.float64)  # in the signal's order: else every term is read across it
    for volume, weight in weights.items():
        total += weight * signal[..., volume]
    return total


def _window(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The head, smoothed so that it blurs the spectrum little, and faded towards the faces of the field of view."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(foreground_mask(mean).astype(np.float64), 1.5, mode="constant")
    window: NDArray[np.float64] = np.clip(2 * blurred - 1, 0, 1)
    for axis, n in enumerate(window.shape):
        if n > 1:
            depth = np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / (0.1 * n)
            fade = np.sin(np.pi / 2 * np.minimum(depth, 1)) ** 2
            window *= fade.reshape([-1 if a == axis else 1 for a in range(3)])
    return window


def _axis(power: Spectrum, axis: int, shares: list[float]) -> AxisSupport:
    """The support along an axis, given how much of each is known to be held."""
    n = power.shape[axis]
    if n < _SHORTEST:
        return AxisSupport(n, n, "full", 0.0)
    k, level = _profile(power, axis, shares)
    level -= np.median(level[_plateau(n, shares[axis])])
    end = _last_above(k, level, -SUPPORT_DB)
    step = max(0.06 * end, 4 / n)
    before, after = np.interp((end - step, end + step), k, level)
    is_box = before - after >= EDGE_DB
    if is_box:
        # The window's blur leaves half the power (3 dB) at the edge, up to which the scan's own filter falls on.
        end = _last_above(k, level, 1.2 * min(before, 0.0) - 3.0)
    if end >= FULL_SHARE:
        return AxisSupport(n, n, "full", float(level[k >= FULL_SHARE].mean()))
    return AxisSupport(n, 2 * int(np.rint(n * end / 2)), "box" if is_box else "soft", float(level[k > end].mean()))


def _plateau(n: int, share: float) -> slice:
    """Samples of a profile between the lowest frequencies, where anatomy remains, and those that filters lower."""
    return slice(2, max(6, int(0.2 * n * share) + 1))


def _is_anatomy(power: Spectrum, axis: int, shares: list[float]) -> bool:
    """Whether power falls from the lowest frequencies on, as that of anatomy does and that of noise does not."""
    n = power.shape[axis]
    if n < _SHORTEST:
        return False
    plateau = _profile(power, axis, shares)[1][_plateau(n, shares[axis])]
    third = len(plateau) // 3 or 1
    return float(plateau[:third].mean() - plateau[-third:].mean()) > ANATOMY_DB


def _profile(power: Spectrum, axis: int, shares: list[float]) -> tuple[Spectrum, Spectrum]:
    """Frequencies (0 to 1, Nyquist) and power in dB along an axis: the mean over a band of the other two.

    Low frequencies of the others are left out, in which anatomy remains, and those that they do not hold.
    """
    for other in range(3):
        m = power.shape[other]
        if other != axis and m >= _SHORTEST:
            at = np.abs(np.fft.fftfreq(m)) * 2
            band = np.flatnonzero((at >= 0.3 * shares[other]) & (at <= 0.95 * shares[other]))
            power = np.take(power, band, axis=other)
    along = np.moveaxis(power, axis, 0)
    n = len(along)
    half = n // 2 + 1
    both = along.reshape(n, -1).mean(1)
    folded = (both[:half] + both[-np.arange(half)]) / 2
    return np.arange(half) * 2 / n, 10 * np.log10(folded + np.finfo(float).tiny)


def _last_above(k: Spectrum, level: Spectrum, threshold: float) -> float:
    """The frequency beyond which the level stays below a threshold, between samples; 1 where it never does."""
    last = int(np.flatnonzero(level >= threshold)[-1])
    if last == len(k) - 1:
        return 1.0
    part = (level[last] - threshold) / (level[last] - level[last + 1])
    return float(k[last] + part * (k[last + 1] - k[last]))


def _asymmetry(power: Spectrum, count: int, a: int, b: int) -> float:
    """Root mean square difference in dB between blocks of a plane of k-space and of its mirror image.

    That which noise alone makes is taken off: a block of M independent samples scatters by 4.34 / sqrt(M) dB.
    """
    if min(power.shape[a], power.shape[b]) < _SHORTEST:
        return 0.0
    plane = power.mean(axis=({0, 1, 2} - {a, b}).pop())
    for axis in (0, 1):
        at = np.fft.fftfreq(plane.shape[axis]) * 2
        block = np.minimum(((at + 1) / 2 * _BLOCKS).astype(int), _BLOCKS - 1)
        plane = np.stack([plane.take(np.flatnonzero(block == i), axis).mean(axis) for i in range(_BLOCKS)], axis)
    level = 10 * np.log10((plane + plane[::-1, ::-1]) / 2 + np.finfo(float).tiny)  # of k and -k alike
    centre = np.abs(np.arange(_BLOCKS) - (_BLOCKS - 1) / 2) / (_BLOCKS / 2)
    border = np.maximum(*np.meshgrid(centre, centre)) > 0.6
    # The head, outside of which the window has nothing, leaves about a third of the samples independent.
    scatter = 2 * 4.34**2 / (power.size * count / _BLOCKS**2 / 3)
    return float(np.sqrt(max(0.0, np.mean((level - level[::-1])[border] ** 2) - scatter)))
