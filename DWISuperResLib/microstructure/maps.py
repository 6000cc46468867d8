"""Maps of a whole scan, one chunk of voxels after the other: no second copy of the volume."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ..dwi import DWI

TENSOR_MAPS = ("fa", "md", "ad", "rd")
GQI_MAPS = ("qa", "iso", "gfa")
MAPS = TENSOR_MAPS + GQI_MAPS
CHUNK = 4096


def compute_maps(
    dwi: DWI,
    maps: Collection[str] = ("fa", "qa"),
    *,
    fit: str = "wls",
    mask: NDArray | None = None,
    balance_shells: bool = False,
    qa_scale: float | str | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Microstructure maps of a scan.

    Parameters
    ----------
    dwi : DWI
    maps : collection of {"fa", "md", "ad", "rd", "qa", "iso", "gfa"}
        Diffusivities are in mm²/s.
    fit : {"wls", "ols", "iwls"}
        Of the tensor; see `tensor.TensorFit`. "wls" and "ols" follow DIPY: eigenvalues are raised to at least 1e-6
        over the largest b-matrix element, so FA is at most 1. "iwls" follows MRtrix3, which leaves negative
        eigenvalues as they are: FA reaches beyond 1 in some noisy voxels.
    mask : array (X, Y, Z), optional
        Voxels to compute; the others are 0. All by default.
    balance_shells : bool
        QA, ISO and GFA as DSI Studio computes them; see `gqi.GQI`.
    qa_scale : float or {"dsi-studio", "dipy"}, optional
        Factor for QA and ISO, which by default have the signal's unit. "dsi-studio": the largest QA in the mask
        becomes 1. "dipy": the largest ODF value becomes 1 (`peaks_from_model`). A number: give two scans the same
        one to compare them, as `compare` does.

    Returns
    -------
    dict of name to array (X, Y, Z) float32

    Raises
    ------
    InputError
        If a map, fit or scale is unknown, the mask has another matrix, or the gradient table is too small.
    """
    if unknown := [name for name in maps if name not in MAPS]:
        raise InputError(f"There is no map {', '.join(map(repr, unknown))}; expected some of {', '.join(MAPS)}.")
    if isinstance(qa_scale, str) and qa_scale not in ("dsi-studio", "dipy"):
        raise InputError(f"The QA scale is {qa_scale!r}; expected 'dsi-studio', 'dipy', a number or None.")
    models: list[Callable[[Tensor], dict[str, Tensor]]] = []
    if set(maps) & set(TENSOR_MAPS):
        models.append(_TensorMaps(dwi, fit))
    if set(maps) & set(GQI_MAPS):
        from .gqi import GQI

        models.append(GQI(dwi.bvals, dwi.bvecs, balance_shells=balance_shells, gfa="gfa" in maps))
    needed = set(maps) | ({"iso"} if qa_scale == "dipy" and set(maps) & {"qa", "iso"} else set())
    if isinstance(qa_scale, str) and "iso" in needed:
        needed.add("qa")
    results = {name: np.zeros(dwi.spatial_shape, dtype=np.float32, order="F") for name in needed}
    flat = {name: result.reshape(-1, order="F") for name, result in results.items()}

    def store(voxels: NDArray[np.intp], signal: Tensor) -> None:
        for model in models:
            for name, values in model(signal).items():
                if name in needed:
                    flat[name][voxels] = values.numpy()

    _for_each_chunk(dwi, mask, store)
    if isinstance(qa_scale, str):
        largest = results["qa"].max() if qa_scale == "dsi-studio" else (results["qa"] + results["iso"]).max()
        qa_scale = 1 / float(largest) if largest > 0 else 1.0
    for name in {"qa", "iso"} & needed:
        results[name] *= np.float32(1 if qa_scale is None else qa_scale)
    return {name: results[name] for name in maps}


def principal_direction(dwi: DWI, mask: NDArray | None = None, *, fit: str = "wls") -> NDArray[np.float32]:
    """(X, Y, Z, 3) unit vectors (RAS, sign arbitrary) along the tensor's largest eigenvalue; zero outside the mask."""
    import torch

    from .tensor import matrices

    model = _TensorMaps(dwi, fit)
    directions = np.zeros((*dwi.spatial_shape, 3), dtype=np.float32, order="F")
    flat = directions.reshape(-1, 3, order="F")

    def store(voxels: NDArray[np.intp], signal: Tensor) -> None:
        flat[voxels] = torch.linalg.eigh(matrices(model.tensors(signal)))[1][..., -1].numpy()

    _for_each_chunk(dwi, mask, store)
    return directions


def angular_error(first: NDArray, second: NDArray) -> NDArray[np.float32]:
    """Angle in degrees, 0 to 90, between the axes of two fields of directions (..., 3), whatever their signs."""
    # atan2 keeps its digits at small angles, where the arc cosine of float32 values does not.
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(sine, np.abs((first * second).sum(-1)))).astype(np.float32)


class _TensorMaps:
    """FA, MD, AD and RD of signals (N, V): float32, and float64 for the few voxels that need it."""

    def __init__(self, dwi: DWI, fit: str):
        import torch

        from .tensor import TensorFit, design_matrix

        self._fit = TensorFit(dwi.bvals, dwi.bvecs, fit)
        self._precise = TensorFit(dwi.bvals, dwi.bvecs, fit, dtype=torch.float64)
        self._smallest = -np.inf if fit == "iwls" else 1e-6 / -design_matrix(dwi.bvals, dwi.bvecs).min()

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
        from .tensor import eigenvalues

        first, second, third = values = eigenvalues(self.tensors(signal)).clamp_min_(self._smallest)
        difference = (first - second) ** 2 + (second - third) ** 2 + (third - first) ** 2
        return {
            "fa": (0.5 * difference / (values**2).sum(0).clamp_min(1e-300)).sqrt(),
            "md": values.mean(0),
            "ad": first,
            "rd": (second + third) / 2,
        }


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
