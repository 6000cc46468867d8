"""Maps of a whole scan, one chunk of voxels after the other: no second copy of the volume."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .models import MapInfo, MapModel, map_info, models_of, register_map_model

if TYPE_CHECKING:
    from torch import Tensor

    from ..dwi import DWI

CHUNK = 4096


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
    """
    results: dict[str, NDArray[np.float32]] = {}
    fits: list[tuple[Callable[[Tensor], Mapping[str, Tensor]], dict[str, NDArray[np.float32]]]] = []
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

    def store(voxels: NDArray[np.intp], signal: Tensor) -> None:
        for fit, flat in fits:
            for name, values in fit(signal).items():
                if name in flat:
                    flat[name][voxels] = values.numpy()

    _for_each_chunk(dwi, mask, store)
    for finish, made, checked in finishing:
        finish(made, checked)
    return {name: results[name] for name in maps}


def principal_direction(dwi: DWI, mask: NDArray | None = None, *, fit: str = "wls") -> NDArray[np.float32]:
    """(X, Y, Z, 3) unit vectors (RAS, sign arbitrary) along the tensor's largest eigenvalue; zero outside the mask."""
    return compute_maps(dwi, ("direction",), mask=mask, fit=fit)["direction"]


def angular_error(first: NDArray, second: NDArray) -> NDArray[np.float32]:
    """Angle in degrees, 0 to 90, between the axes of two fields of directions (..., 3), whatever their signs."""
    # atan2 keeps its digits at small angles, where the arc cosine of float32 values does not.
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(sine, np.abs((first * second).sum(-1)))).astype(np.float32)


@dataclass(frozen=True)
class TensorOptions:
    """How tensors are fitted.

    Attributes
    ----------
    fit : {"wls", "ols", "iwls"}
        See `tensor.TensorFit`. "wls" and "ols" follow DIPY: eigenvalues are raised to at least 1e-6 over the largest
        b-matrix element, so FA is at most 1. "iwls" follows MRtrix3, which leaves negative eigenvalues as they are:
        FA reaches beyond 1 in some noisy voxels.
    """

    fit: Literal["wls", "ols", "iwls"] = field(default="wls", metadata={"help": "tensor fit: wls, ols or iwls"})

    def __post_init__(self) -> None:
        if self.fit not in ("wls", "ols", "iwls"):
            raise InputError(f"The tensor fit is {self.fit!r}; expected one of wls, ols, iwls.")


class _TensorMaps:
    """FA, MD, AD, RD and the principal direction of signals (N, V): float32, and float64 where that is needed."""

    def __init__(
        self, bvals: NDArray[np.float64], bvecs: NDArray[np.float64], wanted: frozenset[str], options: TensorOptions
    ) -> None:
        import torch

        from .tensor import TensorFit, design_matrix

        self._fit = TensorFit(bvals, bvecs, options.fit)
        self._precise = TensorFit(bvals, bvecs, options.fit, dtype=torch.float64)
        self._smallest = -np.inf if options.fit == "iwls" else 1e-6 / -design_matrix(bvals, bvecs).min()
        self._wanted = wanted

    def tensors(self, signal: Tensor) -> Tensor:
        """(6, V) float64."""
        from .tensor import TRUSTED

        tensors, determined = self._fit(signal)
        tensors = tensors.double()
        doubtful = (~(determined > TRUSTED)).nonzero()[:, 0]
        if len(doubtful):
            tensors[:, doubtful] = self._precise(signal[:, doubtful].double())[0].nan_to_num_(0, 0, 0)
        return tensors

    def __call__(self, signal: Tensor) -> dict[str, Tensor]:
        import torch

        from .tensor import eigenvalues, matrices

        tensors = self.tensors(signal)
        maps = {}
        if "direction" in self._wanted:
            maps["direction"] = torch.linalg.eigh(matrices(tensors))[1][..., -1]
        if self._wanted == {"direction"}:
            return maps
        first, second, third = values = eigenvalues(tensors).clamp_min_(self._smallest)
        difference = (first - second) ** 2 + (second - third) ** 2 + (third - first) ** 2
        maps["fa"] = (0.5 * difference / (values**2).sum(0).clamp_min(1e-300)).sqrt()
        return maps | {"md": values.mean(0), "ad": first, "rd": (second + third) / 2}


@dataclass(frozen=True)
class GQIOptions:
    """How GQI's maps are computed.

    Attributes
    ----------
    balance_shells : bool
        QA, ISO and GFA as DSI Studio computes them; see `gqi.GQI`.
    qa_scale : float or {"dsi-studio", "dipy"}, optional
        Factor for QA and ISO, which by default have the signal's unit. "dsi-studio": the largest QA in the mask
        becomes 1. "dipy": the largest ODF value becomes 1 (`peaks_from_model`). A number: give two scans the same
        one to compare them, as `compare` does.
    """

    balance_shells: bool = field(default=False, metadata={"help": "QA, ISO and GFA as DSI Studio computes them"})
    qa_scale: float | str | None = field(
        default=None, metadata={"help": "factor for QA and ISO: a number, dsi-studio (largest QA 1) or dipy"}
    )

    def __post_init__(self) -> None:
        if isinstance(self.qa_scale, str) and self.qa_scale not in ("dsi-studio", "dipy"):
            raise InputError(f"The QA scale is {self.qa_scale!r}; expected 'dsi-studio', 'dipy', a number or None.")


def _gqi_fit(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64], wanted: frozenset[str], options: GQIOptions
) -> Callable[[Any], Mapping[str, Any]]:
    from .gqi import GQI

    return GQI(bvals, bvecs, balance_shells=options.balance_shells, gfa="gfa" in wanted)


def _gqi_needs(wanted: frozenset[str], options: GQIOptions) -> frozenset[str]:
    if isinstance(options.qa_scale, str) and wanted & {"qa", "iso"}:
        return wanted | {"qa", "iso"}
    return wanted


def _scale_qa(maps: dict[str, NDArray[np.float32]], options: GQIOptions) -> None:
    scaled = {"qa", "iso"} & set(maps)
    if options.qa_scale is None or not scaled:
        return
    factor = options.qa_scale
    if isinstance(factor, str):
        largest = float((maps["qa"] if factor == "dsi-studio" else maps["qa"] + maps["iso"]).max())
        factor = 1 / largest if largest > 0 else 1.0
    for name in scaled:
        maps[name] *= np.float32(factor)


register_map_model(
    MapModel(
        "tensor",
        (
            MapInfo("fa", "FA", "fractional anisotropy", window=(0.0, 1.0)),
            MapInfo("md", "MD", "mean diffusivity", "mm²/s"),
            MapInfo("ad", "AD", "axial diffusivity", "mm²/s"),
            MapInfo("rd", "RD", "radial diffusivity", "mm²/s"),
            MapInfo("direction", "direction", "principal direction", window=(-1.0, 1.0), components=3),
        ),
        TensorOptions,
        _TensorMaps,
    )
)
register_map_model(
    MapModel(
        "gqi",
        (
            MapInfo("qa", "QA", "quantitative anisotropy", "signal"),
            MapInfo("iso", "ISO", "isotropic part of the ODF", "signal"),
            MapInfo("gfa", "GFA", "generalised fractional anisotropy"),
        ),
        GQIOptions,
        _gqi_fit,
        _scale_qa,
        _gqi_needs,
    )
)


def _for_each_chunk(dwi: DWI, mask: NDArray | None, process: Callable[[NDArray[np.intp], Tensor], None]) -> None:
    """Call `process` with flat (Fortran-order) indices and signals (N, V), a few voxels of the mask at a time.

    Planes go to as many threads as torch uses, each computing alone: torch's own threads would wait for one another
    at each of the many small steps, ten times as long as the work takes where another program keeps a core busy.
    """
    import torch

    inside = np.ones(dwi.spatial_shape, dtype=bool) if mask is None else np.asarray(mask) > 0
    if inside.shape != dwi.spatial_shape:
        raise InputError(f"The mask has matrix {inside.shape} and the scan {dwi.spatial_shape}; they must be the same.")
    x, y, z = dwi.spatial_shape

    @torch.inference_mode()
    def process_plane(k: int) -> None:
        voxels = np.flatnonzero(inside[:, :, k].T)
        if not voxels.size:
            return
        # A view for Fortran order; one plane is copied for any other.
        plane = torch.from_numpy(dwi.signal[:, :, k].T.reshape(dwi.n_volumes, y * x))
        for start in range(0, len(voxels), CHUNK):
            part = voxels[start : start + CHUNK]
            process(part + k * x * y, plane.index_select(1, torch.from_numpy(part)))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(process_plane, range(z)):
                pass
    finally:
        torch.set_num_threads(threads)
