"""The training scans, held as memory-mapped slices."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import io
from ..dwi import DWI
from ..errors import InputError
from ..microstructure import brain_mask
from ..networks.views import Normalisation
from ..resampling.grid import in_plane_axes, slice_axis


@dataclass(frozen=True)
class Scan:
    """One scan seen along one slice axis, its slices memory-mapped from an uncompressed copy.

    `signal` is (S, N, H, W): slice, volume, second and first in-plane axis, so a slice of all volumes is one
    contiguous read; `mask` is (S, H, W).
    """

    path: Path
    folder: Path
    axis: int
    shape: tuple[int, int, int, int]
    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    affine: NDArray[np.float64]
    normalisation: Normalisation
    level: float
    """Mean signal of the b0 volumes (of all volumes where there is none) in the brain."""

    # Opened on first use in each process: a memory map sent to a worker would be copied.
    @cached_property
    def signal(self) -> NDArray:
        return np.load(self.folder / "signal.npy", mmap_mode="r")

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        return np.load(self.folder / "mask.npy", mmap_mode="r")

    @cached_property
    def brain_area(self) -> NDArray[np.float64]:
        """(S,) brain pixels of each slice."""
        return np.count_nonzero(self.mask, axis=(1, 2)).astype(np.float64)

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """(3,) mm, along the slice axis last."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return np.array([*sizes[list(in_plane_axes(self.axis))], sizes[self.axis]])

    def dwi(self) -> DWI:
        """The whole scan, read into memory."""
        first, second = in_plane_axes(self.axis)
        order = [source for _, source in sorted(((self.axis, 0), (first, 3), (second, 2), (3, 1)))]
        signal = np.asfortranarray(self.signal.transpose(order), dtype=np.float32)
        return DWI(signal, self.affine, self.bvals, self.bvecs)

    def slab(self, position: int, neighbours: int, volumes: NDArray[np.intp] | slice) -> NDArray[np.float32]:
        """(N, 1 + 2 * neighbours, H, W) signal around a slice; beyond the ends the last slice repeats."""
        slices = np.clip(np.arange(position - neighbours, position + neighbours + 1), 0, self.shape[0] - 1)
        return np.stack([self.signal[z][volumes] for z in slices], axis=1).astype(np.float32)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("signal", "mask")}


def open_scan(path: Path, cache: Path, normalisation: str, axis: int | None = None) -> Scan:
    """Memory-map a scan's slices, writing the copy first if it is not in `cache`."""
    stamp = path.stat()
    key = f"{path}|{stamp.st_size}|{stamp.st_mtime_ns}|{axis}|{normalisation}"
    folder = cache / f"{path.name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        _write_copy(path, folder, normalisation, axis)
    facts = json.loads((folder / "scan.json").read_text())
    return Scan(
        path=path,
        folder=folder,
        axis=facts["axis"],
        shape=tuple(facts["shape"]),
        bvals=np.array(facts["bvals"]),
        bvecs=np.array(facts["bvecs"]),
        affine=np.array(facts["affine"]),
        normalisation=Normalisation(facts["offset"], np.array(facts["gains"], np.float32)),
        level=facts["level"],
    )


def _write_copy(path: Path, folder: Path, kind: str, axis: int | None) -> None:
    dwi = io.read_dwi(path)
    axis = slice_axis(dwi, axis)
    mask = brain_mask(dwi)
    if not mask.any():
        raise InputError(f"{path} shows no brain: its mask is empty; exclude this scan.")
    first, second = in_plane_axes(axis)
    slices = dwi.signal.transpose(axis, 3, second, first)
    normalisation = Normalisation.measure(dwi.signal, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        temporary = Path(name) / "scan"
        temporary.mkdir()
        signal = np.lib.format.open_memmap(
            temporary / "signal.npy", mode="w+", dtype=_compact_type(dwi), shape=slices.shape
        )
        signal[:] = slices
        signal.flush()
        np.save(temporary / "mask.npy", np.ascontiguousarray(mask.transpose(axis, second, first)))
        facts = {
            "axis": axis,
            "shape": slices.shape,
            "bvals": dwi.bvals.tolist(),
            "bvecs": dwi.bvecs.tolist(),
            "affine": dwi.affine.tolist(),
            "offset": normalisation.offset,
            "gains": normalisation.gains.tolist(),
            "level": _level(dwi, mask),
        }
        (temporary / "scan.json").write_text(json.dumps(facts))
        try:
            os.rename(temporary, folder)
        except OSError:
            # Another process has written the same copy meanwhile.
            if not folder.is_dir():
                raise


def _compact_type(dwi: DWI) -> np.dtype:
    """Half the size where the values are whole numbers of 16 bits, as scanners write them."""
    low, high = float(dwi.signal.min()), float(dwi.signal.max())
    whole = all((volume == np.rint(volume)).all() for volume in np.moveaxis(dwi.signal, 3, 0))
    if whole and low >= 0 and high <= 65535:
        return np.dtype(np.uint16)
    return np.dtype(np.int16 if whole and low >= -32768 and high <= 32767 else np.float32)


def _level(dwi: DWI, mask: NDArray[np.bool_]) -> float:
    volumes = np.flatnonzero(dwi.is_b0) if dwi.is_b0.any() else np.arange(dwi.n_volumes)
    return float(np.mean([dwi.signal[..., n][mask].mean(dtype=np.float64) for n in volumes]))
