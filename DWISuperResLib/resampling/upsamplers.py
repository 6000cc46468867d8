"""The classical upsamplers every result is compared with, all on the exact same grid, behind one registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled
from ..registry import Registry
from ..scratch import signal_array
from .iterative import Step, low_rank_tv, non_local_upsampling
from .operators import map_volumes, operator
from .scale import Scale, ScaleLike

if TYPE_CHECKING:
    from ..dwi import DWI, AnyScan

Progress = Callable[[float, str], None]
Cancel = Callable[[], bool]


class Upsampler(Protocol):
    """A scan to the finer grid of a scale; gradients stay as they are."""

    def __call__(
        self, dwi: DWI, scale: Scale, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> DWI: ...


UPSAMPLERS: Registry[Upsampler] = Registry("interpolation")
"""Upsamplers by name."""


def interpolate(
    scan: AnyScan,
    scale: ScaleLike,
    *,
    method: str = "sinc",
    axis: int | str | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> AnyScan:
    """Upsample with a classical method.

    Parameters
    ----------
    scan : DWI or Volume
    scale : Scale, number, str or three numbers
        2 (in-plane), "2.5", "1x1x3", "1.25mm": see `Scale.parse`.
    method : str
        One of `UPSAMPLERS`: "nearest", "linear", "cubic", "bspline", "lanczos" or "sinc", as in `operators.operator`;
        "lrtv" or "nmu", see `iterative`, which take up to some minutes for each volume.
    axis : optional
        Slice axis, see `grid.slice_axis`.
    progress : callable, optional
        Called with (fraction, message).
    cancel : callable, optional
        Asked between volumes, by iterative methods between iterations; returns True to stop.

    Returns
    -------
    The scan on the finer grid over the same field of view.

    Raises
    ------
    InputError
        For an unknown method or an impossible scale.
    Cancelled
        If `cancel` said so.

    Examples
    --------
    >>> from DWISuperResLib import degrade, phantom
    >>> scan = phantom((16, 20, 4), (2, 2, 2.5), snr=None, supersampling=1)
    >>> low = degrade(scan, 2)
    >>> interpolate(low, 2).spatial_shape
    (16, 20, 4)
    >>> interpolate(low, "2.5mm", method="linear").voxel_sizes.round(3).tolist()
    [2.462, 2.5, 2.5]
    """
    upsample = UPSAMPLERS.find(method)
    series = scan.series
    return scan.like(upsample(series, Scale.parse(scale, series, axis), progress, cancel))


def separable(kernel: str) -> Upsampler:
    """The upsampler that applies `operator(n_in, n_out, kernel)` along every axis whose length changes.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((16, 20, 4), (2, 2, 2.5), snr=None, supersampling=1)
    >>> separable("nearest")(scan, Scale.of(1, 1, 2)).spatial_shape
    (16, 20, 8)
    """

    def upsample(dwi: DWI, scale: Scale, progress: Progress | None = None, cancel: Cancel | None = None) -> DWI:
        shape = scale.fine_shape(dwi.spatial_shape)
        operators = {
            a: operator(n, m, kernel) for a, (n, m) in enumerate(zip(dwi.spatial_shape, shape, strict=True)) if n != m
        }

        def after_volume(n: int) -> None:
            if cancel is not None and cancel():
                raise Cancelled("Cancelled; nothing was written.")
            if progress is not None:
                progress((n + 1) / dwi.n_volumes, f"interpolating ({kernel})")

        signal = map_volumes(dwi.signal, operators, after_volume)
        return replace(dwi, signal=signal, affine=scale.refine(dwi.affine, dwi.spatial_shape))

    return upsample


@dataclass(frozen=True)
class Iterative:
    """The upsampler that takes one volume at a time, with many iterations for each.

    Attributes
    ----------
    solve : callable (volume (x, y, z), shape, step) -> array of float32, shape `shape`
        Calls `step` with the share that is done after every iteration.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((8, 10, 4), (8, 8, 25), snr=None, supersampling=1, shells=((0, 1),))
    >>> Iterative(low_rank_tv)(scan, Scale.of(1, 1, 2)).spatial_shape
    (8, 10, 8)
    """

    solve: Callable[[NDArray[np.float32], Sequence[int], Step], NDArray[np.float32]]

    def __call__(self, dwi: DWI, scale: Scale, progress: Progress | None = None, cancel: Cancel | None = None) -> DWI:
        """A scan to the finer grid; as it is where the scale is 1."""
        shape = scale.fine_shape(dwi.spatial_shape)
        if shape == dwi.spatial_shape:
            return dwi
        signal = signal_array((*shape, dwi.n_volumes))
        for n in range(dwi.n_volumes):

            def step(share: float, n: int = n) -> None:
                if cancel is not None and cancel():
                    raise Cancelled("Cancelled; nothing was written.")
                if progress is not None:
                    progress((n + share) / dwi.n_volumes, f"upsampling volume {n + 1} of {dwi.n_volumes}")

            step(0.0)
            signal[..., n] = self.solve(np.ascontiguousarray(dwi.signal[..., n]), shape, step)
            step(1.0)
        return replace(dwi, signal=signal, affine=scale.refine(dwi.affine, dwi.spatial_shape))


def quick_upsamplers() -> tuple[str, ...]:
    """Names of the upsamplers without those that iterate: what every comparison can afford.

    Examples
    --------
    >>> quick_upsamplers()
    ('nearest', 'linear', 'cubic', 'bspline', 'lanczos', 'sinc')
    """
    return tuple(name for name, upsample in UPSAMPLERS.items() if not isinstance(upsample, Iterative))


for _kernel in ("nearest", "linear", "cubic", "bspline", "lanczos", "sinc"):
    UPSAMPLERS.register(_kernel)(separable(_kernel))
UPSAMPLERS["lrtv"] = Iterative(low_rank_tv)
UPSAMPLERS["nmu"] = Iterative(non_local_upsampling)
