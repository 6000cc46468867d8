"""High resolution to low resolution: what a scanner set to larger voxels would have measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..registry import Registry
from .grid import in_plane_axes, slice_axis
from .operators import Matrix, apply_operators, gaussian, map_volumes, operator, slice_profile
from .scale import Scale, ScaleLike

if TYPE_CHECKING:
    from ..dwi import DWI, AnyScan


@dataclass(frozen=True)
class Degradation:
    """How resolution is lost along one axis.

    Attributes
    ----------
    summary : str
        One line for people.
    matrix : callable (n_in, n_out, fwhm) -> array (n_out, n_in)
        `fwhm` in input samples, for models that have a width; None: their own default.
    has_width : bool
    through_plane : bool
        Whether it is of the slice axis alone; see `of_axis`.

    Examples
    --------
    >>> DEGRADATIONS["gaussian"].has_width, DEGRADATIONS["area"].matrix(4, 2, None).tolist()
    (True, [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    """

    summary: str
    matrix: Callable[[int, int, float | None], Matrix]
    has_width: bool = False
    through_plane: bool = False

    def of_axis(self, across_slices: bool) -> Degradation:
        """What lowers the resolution along the slice axis, or along an axis within the slices.

        Examples
        --------
        >>> DEGRADATIONS["profile"].of_axis(across_slices=False) is DEGRADATIONS["kspace"]
        True
        """
        return self if across_slices or not self.through_plane else DEGRADATIONS["kspace"]


DEGRADATIONS: Registry[Degradation] = Registry("degradation")
"""Degradations by name."""
_ROUNDED_DISTANCE = 0.1
"""By which share thickness and gap may miss the distance of slices, which whole voxels over a field of view round."""


def degrade(
    scan: AnyScan,
    scale: ScaleLike,
    *,
    model: str = "kspace",
    axis: int | str | None = None,
    fwhm: float | Sequence[float] | None = None,
    gap: float | None = None,
    snr: float | None = None,
    seed: int = 0,
) -> AnyScan:
    """Lower the resolution of a scan.

    Parameters
    ----------
    scan : DWI or Volume
    scale : Scale, number, str or three numbers
        How much coarser: 2 (in-plane), "2.5", "1x1x3", or "4mm", the size of the coarser voxels: see `Scale.parse`.
        The result has the whole number of voxels nearest to n / factor along each axis, over exactly the same field of
        view.
    model : str
        One of `DEGRADATIONS`. "kspace" keeps the centre of k-space (a scanner with a smaller matrix); "gaussian"
        blurs; "area" averages; "paper" is cubic decimation without anti-aliasing, as Lohr & Werner 2026
        (arXiv:2605.15895) made their data; "profile" makes thicker slices, see `operators.slice_profile`, and within
        them keeps the centre of k-space, each where the scale asks for it.
    axis : optional
        Slice axis, see `grid.slice_axis`.
    fwhm : float or three floats, optional
        For models with a width: full width at half maximum in mm, one for all axes that become coarser (in-plane
        where none does), or one for each voxel axis (0: none). By default the low-resolution voxel size. For
        "profile" one number, the slice thickness.
    gap : float, optional
        For "profile": what is left between slices, in mm. Thickness and gap make the distance of the slices, so one
        of them is enough; by default the slices touch.
    snr : float, optional
        Add Rician noise to the result: its standard deviation is the mean b0 signal of the foreground divided by
        `snr` (Gudbjartsson & Patz 1995, doi:10.1002/mrm.1910340618).
    seed : int
        Of the noise.

    Returns
    -------
    The scan on the coarser grid over the same field of view; its acquisition axis is the slice axis, which voxel sizes
    may no longer tell.

    Raises
    ------
    InputError
        For an unknown model, an impossible scale, a blur or an SNR that is not positive; for slices whose thickness and
        gap are not their distance.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((16, 20, 4), (2, 2, 2.5), snr=None, supersampling=1)
    >>> low = degrade(scan, 2)
    >>> low.spatial_shape, low.voxel_sizes.tolist()
    ((8, 10, 4), [4.0, 4.0, 2.5])
    >>> degrade(scan, "1x1x2", model="area").spatial_shape
    (16, 20, 2)
    """
    dwi = scan.series
    degradation = DEGRADATIONS.find(model)
    axis = slice_axis(dwi, axis)
    scale = Scale.parse(scale, dwi, axis, coarser=True)
    if fwhm is not None and not degradation.has_width:
        raise InputError(f"fwhm has no meaning for the degradation {model!r}; leave it out, or use gaussian.")
    if snr is not None and not snr > 0:
        raise InputError(f"The SNR is {snr!r}; expected a positive number.")
    shape = scale.coarse_shape(dwi.spatial_shape)
    if degradation.through_plane:
        widths = _thickness(dwi, shape, fwhm, gap, axis)
    elif gap is not None:
        raise InputError(f"gap has no meaning for the degradation {model!r}; leave it out, or use profile.")
    else:
        widths = _widths(dwi, shape, fwhm, axis)
    operators = {
        a: degradation.of_axis(a == axis).matrix(n, m, width or None)
        for a, (n, m, width) in enumerate(zip(dwi.spatial_shape, shape, widths, strict=True))
        if n != m or width
    }
    coarse = map_volumes(dwi.signal, operators)
    if snr is not None:
        add_rician(coarse, dwi.foreground_b0() / snr, np.random.default_rng(seed))
    affine = scale.coarsen(dwi.affine, dwi.spatial_shape)
    return scan.like(replace(dwi, signal=coarse, affine=affine, acquisition_axis=axis))


def coarsening(
    coarse: Sequence[int], fine: Sequence[int], drawn: Mapping[str, object], axis: int, width: float | None = None
) -> dict[int, Matrix]:
    """Matrices that bring a fine grid to a coarse one, of each axis that becomes coarser.

    Parameters
    ----------
    coarse, fine : sequence of int
        Matrices of both grids.
    drawn : mapping
        A card's degradation: its "model" is one of `DEGRADATIONS`; k-space truncation where it has none.
    axis : int
        Slice axis.
    width : float, optional
        For models with a width: in coarse voxels; by default the model's own.

    Raises
    ------
    InputError
        For an unknown model.

    Examples
    --------
    >>> {a: m.shape for a, m in coarsening((8, 8, 2), (8, 8, 6), {"model": "profile"}, axis=2).items()}
    {2: (2, 6)}
    """
    model = _model_of(drawn)
    return {
        a: model.of_axis(a == axis).matrix(int(m), int(n), None if width is None else width * m / n)
        for a, (n, m) in enumerate(zip(coarse, fine, strict=True))
        if n != m
    }


def fitting_width(
    low: NDArray[np.float32], high: NDArray[np.float32], drawn: Mapping[str, object], axis: int
) -> float | None:
    """The width with which `high`, degraded again, is nearest to `low`, of those that a card says were drawn.

    A network trained on slices of many thicknesses, or on blurs of many widths, is not told which one an input has.

    Parameters
    ----------
    low, high : arrays, shape (X, Y, Z, N)
        Of the coarse and the fine grid.
    drawn : mapping
        A card's degradation: "model", and for models with a width "fwhm" and "gap", as a training configuration has
        them.
    axis : int
        Slice axis.

    Returns
    -------
    float in coarse voxels; None where the model has no width, or the card does not tell it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> high = rng.random((4, 4, 24, 1), np.float32)
    >>> drawn = {"model": "profile", "fwhm": [0.8, 1.2], "gap": [0.0, 0.2]}
    >>> low = apply_operators(high, coarsening((4, 4, 8), (4, 4, 24), drawn, axis=2, width=0.7))
    >>> round(fitting_width(low, high, drawn, axis=2), 2)
    0.7
    """
    model = _model_of(drawn)
    width, gap = _pair(drawn.get("fwhm"), 1e-3, 10), _pair(drawn.get("gap"), 0, 0.99)
    if not model.has_width or width is None:
        return None
    if model.through_plane and gap is not None:
        width = width[0] * (1 - gap[1]), width[1] * (1 - gap[0])
    if width[0] == width[1]:
        return width[0]
    from scipy.optimize import minimize_scalar

    def miss(wanted: float) -> float:
        operators = coarsening(low.shape[:3], high.shape[:3], drawn, axis, round(wanted, 3))
        return float(np.mean(np.square(apply_operators(high, operators) - low), dtype=np.float64))

    return round(float(minimize_scalar(miss, bounds=width, method="bounded", options={"xatol": 2e-3}).x), 3)


def _model_of(drawn: Mapping[str, object]) -> Degradation:
    return DEGRADATIONS.find(str(drawn.get("model", "kspace")))


def _pair(value: object, low: float, high: float) -> tuple[float, float] | None:
    """[lowest, highest] of a card, which may hold anything; None where it is no such pair."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    if not all(isinstance(v, int | float) for v in value) or not low <= value[0] <= value[1] <= high:
        return None
    return float(value[0]), float(value[1])


def _widths(dwi: DWI, shape: Sequence[int], fwhm: float | Sequence[float] | None, axis: int) -> list[float]:
    """Full width at half maximum of each voxel axis in input samples; 0 where the axis is left to the model."""
    if fwhm is None:
        return [0.0, 0.0, 0.0]
    if isinstance(fwhm, int | float):
        blurred = [a for a in range(3) if shape[a] != dwi.spatial_shape[a]] or list(in_plane_axes(axis))
        wanted = [float(fwhm) if a in blurred else 0.0 for a in range(3)]
        valid = fwhm > 0
    else:
        wanted = [float(w) for w in fwhm]
        valid = len(wanted) == 3 and min(wanted) >= 0 < max(wanted)
    if not valid or not np.isfinite(wanted).all():
        raise InputError(f"fwhm is {fwhm!r}; expected a positive width in mm, or one for each voxel axis.")
    return [width / float(size) for width, size in zip(wanted, dwi.voxel_sizes, strict=True)]


def _thickness(
    dwi: DWI, shape: Sequence[int], fwhm: float | Sequence[float] | None, gap: float | None, axis: int
) -> list[float]:
    """Slice thickness in input samples, along the slice axis."""
    sample = float(dwi.voxel_sizes[axis])
    distance = sample * dwi.spatial_shape[axis] / shape[axis]
    if fwhm is not None and not isinstance(fwhm, int | float):
        raise InputError(f"fwhm is {fwhm!r}; expected one number, the slice thickness in mm.")
    if fwhm is None and gap is None:
        return [0.0, 0.0, 0.0]
    if gap is not None:
        _check_gap(gap, distance, kept=shape[axis] == dwi.spatial_shape[axis])
    if fwhm is None:
        return [(distance - (gap or 0.0)) / sample if a == axis else 0.0 for a in range(3)]
    if not 0 < fwhm < np.inf:
        raise InputError(f"fwhm is {fwhm!r}; expected a positive slice thickness in mm.")
    if gap is not None and abs(fwhm + gap - distance) > _ROUNDED_DISTANCE * distance:
        raise InputError(
            f"Slices of {fwhm:g} mm with gaps of {gap:g} mm lie {fwhm + gap:.4g} mm apart, but the scale makes it "
            f"{distance:.4g} mm; give one of the two, or the scale that fits."
        )
    return [fwhm / sample if a == axis else 0.0 for a in range(3)]


def _check_gap(gap: float, distance: float, kept: bool) -> None:
    if kept:
        raise InputError(f"gap is {gap!r} mm, but the scale leaves the slices as they are; give one such as 1x1x2.")
    if not 0 <= gap < distance:
        raise InputError(f"gap is {gap!r} mm; expected 0 to less than the distance of the slices, {distance:.4g} mm.")


def _of_kernel(kernel: str) -> Callable[[int, int, float | None], Matrix]:
    return lambda n_in, n_out, fwhm: operator(n_in, n_out, kernel)


DEGRADATIONS["kspace"] = Degradation("a smaller matrix: the centre of k-space", _of_kernel("sinc"))
DEGRADATIONS["gaussian"] = Degradation(
    "a Gaussian blur",
    lambda n_in, n_out, fwhm: gaussian(n_in, n_out, n_in / n_out if fwhm is None else fwhm),
    has_width=True,
)
DEGRADATIONS["area"] = Degradation("the mean over the larger voxel", _of_kernel("area"))
DEGRADATIONS["paper"] = Degradation("cubic decimation without anti-aliasing", _of_kernel("opencv_cubic"))
DEGRADATIONS["profile"] = Degradation(
    "thick slices of an excitation's profile, k-space truncation within them",
    lambda n_in, n_out, fwhm: slice_profile(n_in, n_out, n_in / n_out if fwhm is None else fwhm),
    has_width=True,
    through_plane=True,
)


def rician(signal: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Magnitude of `signal` with complex Gaussian noise of standard deviation `sigma` in each channel.

    Examples
    --------
    Without signal, what is left is the noise, with the mean of a Rayleigh distribution.

    >>> noise = rician(np.zeros(100_000, np.float32), 1.0, np.random.default_rng(0))
    >>> round(float(noise.mean()), 2), round(float(np.sqrt(np.pi / 2)), 2)
    (1.25, 1.25)
    """
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(signal + noise[0], noise[1])


def add_rician(signal: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """`rician` of all volumes (X, Y, Z, N), in place and one by one: a scan's noise takes no memory of its size.

    Examples
    --------
    >>> signal = np.zeros((2, 2, 2, 3), np.float32)
    >>> add_rician(signal, 1.0, np.random.default_rng(0))
    >>> bool((signal > 0).all())
    True
    """
    for n in range(signal.shape[3]):
        signal[..., n] = rician(signal[..., n], sigma, rng)
