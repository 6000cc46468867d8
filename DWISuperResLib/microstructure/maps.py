"""Maps of a whole scan, one chunk of voxels after the other: no second copy of the volume."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..dwi import signals_at
from ..errors import InputError
from .models import Fit, map_info, models_of

if TYPE_CHECKING:
    from ..dwi import DWI

CHUNK = 2**18
"""Signals computed at once: 1 MB, so that the few arrays of their size that a fit makes stay in a core's cache."""
USUAL_LEVEL = 500.0
"""b0 signal of most scanners within half a decade: 16 scans of three vendors have 250 to 520."""
MAX_THREADS = 8
"""More would wait for the interpreter between NumPy's steps, of some ten microseconds each, rather than compute."""


def compute_maps(
    dwi: DWI, maps: Collection[str] = ("fa", "qa"), *, mask: NDArray | None = None, **options: Any
) -> dict[str, NDArray[np.float32]]:
    """Microstructure maps of a scan.

    Parameters
    ----------
    dwi : DWI
    maps : collection of str
        Of `models.map_names()`: "fa", "md", "ad", "rd" (diffusivities in mm²/s), "qa", "iso", "gfa"; or "direction",
        unit vectors in RAS (sign arbitrary) along the tensor's largest eigenvalue.
    mask : array (X, Y, Z), optional
        Voxels to compute; the others are 0. All by default.
    **options
        Of the models: `fit` of the tensor (`TensorOptions`), `balance_shells` and `qa_scale` of GQI (`GQIOptions`).

    Returns
    -------
    dict of name to array (X, Y, Z) float32; (X, Y, Z, 3) for "direction"

    Raises
    ------
    InputError
        If a map or an option is unknown, the mask has another matrix, or the gradient table is too small.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> maps = compute_maps(phantom((16, 16, 4), (10, 10, 20), supersampling=1), ("fa", "direction"), fit="ols")
    >>> maps["fa"].shape, maps["direction"].shape
    ((16, 16, 4), (16, 16, 4, 3))
    """
    results: dict[str, NDArray[np.float32]] = {}
    fits: list[tuple[Fit, dict[str, NDArray[np.float32]]]] = []
    finishing = []
    for model, wanted, checked in models_of(maps, options):
        needed = wanted | (model.needs(wanted, checked) if model.needs else frozenset())
        components = {name: map_info(name).components for name in needed}
        made = {
            name: np.zeros(dwi.spatial_shape if count == 1 else (*dwi.spatial_shape, count), np.float32, order="F")
            for name, count in components.items()
        }
        flat = {
            name: values.reshape(-1 if components[name] == 1 else (-1, components[name]), order="F")
            for name, values in made.items()
        }
        fits.append((model.fit(dwi.bvals, dwi.bvecs, needed, checked), flat))
        if model.finish:
            finishing.append((model.finish, made, checked))
        results |= made

    unit = np.float32(_decade(dwi.foreground_b0()))

    def store(voxels: NDArray[np.intp], signal: NDArray) -> None:
        signal /= unit
        for fit, flat in fits:
            for name, values in fit(signal).items():
                if name in flat:
                    flat[name][voxels] = values * unit if map_info(name).unit == "signal" else values

    _for_each_chunk(dwi, mask, store)
    for finish, made, checked in finishing:
        finish(made, checked)
    return {name: results[name] for name in maps}


def _decade(level: float) -> float:
    """The power of ten to divide a scan's signals by, so that its b0 comes closest to that of usual scans.

    Floors below which signals count as nothing then mean the same in every scan, whatever its intensities are scaled
    by, and are DIPY's where the intensities are usual.
    """
    exponent = math.log10(level / USUAL_LEVEL) if level > 0 else 0.0
    return 10.0 ** min(max(round(exponent), -30), 30)


def angular_error(first: NDArray, second: NDArray) -> NDArray[np.float32]:
    """Angle in degrees, 0 to 90, between the axes of two fields of directions (..., 3), whatever their signs.

    Examples
    --------
    >>> angular_error(np.array([[1.0, 0, 0]]), np.array([[-1.0, 0, 0]]))
    array([0.], dtype=float32)
    """
    # atan2 keeps its digits at small angles, where the arc cosine of float32 values does not.
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(sine, np.abs((first * second).sum(-1)))).astype(np.float32)


def _for_each_chunk(dwi: DWI, mask: NDArray | None, process: Callable[[NDArray[np.intp], NDArray], None]) -> None:
    """Call `process` with flat (Fortran-order) indices and signals (N, V), a few voxels of the mask at a time.

    Chunks go to several threads, each computing alone: threads of the matrix products would wait for one another at
    each of the many small steps.
    """
    inside = np.ones(dwi.spatial_shape, dtype=bool) if mask is None else np.asarray(mask) > 0
    if inside.shape != dwi.spatial_shape:
        raise InputError(f"The mask has matrix {inside.shape} and the scan {dwi.spatial_shape}; they must be the same.")
    voxels = np.flatnonzero(inside.T)
    count = CHUNK // max(dwi.n_volumes, 28)

    def process_chunk(start: int) -> None:
        part = voxels[start : start + count]
        signal = signals_at(dwi.signal, part)
        with np.errstate(all="ignore"):  # empty voxels divide by zero; their maps are set to 0
            process(part, signal)

    from threadpoolctl import threadpool_limits  # here, for Slicer reads the registry before it is installed

    threads = min(os.cpu_count() or 1, MAX_THREADS)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(process_chunk, range(0, len(voxels), count)):
            pass
