"""The training scans, memory-mapped: any slab or block of any volumes is read without the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import io
from ..dwi import DWI
from ..errors import DWISuperResError, InputError
from ..inference.guides import placed
from ..io.cohort import divide, find_guide
from ..microstructure import brain_mask
from ..networks.views import Normalisation
from ..resampling.grid import Frame, slice_axis
from ..resampling.native import measure_support, to_native
from ..resampling.scale import Scale
from .configuration import Configuration, Data, Structural
from .simulation import simulated_dwi

FINEST_STEP = 20
"""Factors are taken as fractions with at most this denominator: patches begin where voxels of both grids do."""

STORED_AS = (np.uint16, np.int16, np.float32)


@dataclass(frozen=True)
class Scan:
    """One scan, its signal memory-mapped from an uncompressed copy, looked at along one stack of slices.

    Attributes
    ----------
    path, folder : Path
        The scan's file, and its copy.
    axis : int
        Slice axis.
    stacked : int
        Voxel axis along which it is looked at slice by slice: the slice axis, or another for planes that hold it.
    bvals, bvecs, affine : arrays
        As of a DWI.
    normalisation : Normalisation
    level : float
        Mean signal of the b0 volumes (of all volumes where there is none) in the brain.
    guide_path : Path, optional
        File of the guide, whose copy lies on the scan's grid.
    is_simulated : bool
        Whether it was made of structural images: no scan is like it.
    remark : str
        What was found to be wrong with its resolution: a sentence, or nothing.
    is_reference : bool
        Whether it shows what a network should make: not where it was resampled at an angle.
    """

    path: Path
    folder: Path
    axis: int
    stacked: int
    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    affine: NDArray[np.float64]
    normalisation: Normalisation
    level: float
    guide_path: Path | None = None
    is_simulated: bool = False
    remark: str = ""
    is_reference: bool = True

    # Opened on first use in each process: a memory map sent to a worker would be copied.
    @cached_property
    def signal(self) -> NDArray:
        """(N, slices, rows, columns) in the scan's frame, stored as compactly as its values allow."""
        return self.frame.view(_mapped(self.folder / "signal.npy"))

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(slices, rows, columns) the brain."""
        return self.frame.view(_mapped(self.folder / "mask.npy"))

    @cached_property
    def guide(self) -> NDArray[np.float32]:
        """(slices, rows, columns) the guide, of mean 1 in its foreground; where the scan has one."""
        return self.frame.view(_mapped(self.folder / "guide.npy"))

    @cached_property
    def frame(self) -> Frame:
        """How it is looked at."""
        return Frame.of(self.affine, self.stacked)

    @cached_property
    def brain_area(self) -> NDArray[np.float64]:
        """(slices,) brain pixels of each slice."""
        return np.count_nonzero(self.mask, axis=(1, 2)).astype(np.float64)

    @property
    def count(self) -> int:
        """Number of volumes."""
        return len(self.bvals)

    @property
    def extent(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        slices, rows, columns = self.mask.shape
        return slices, rows, columns

    @property
    def frame_sizes(self) -> NDArray[np.float64]:
        """(3,) voxel sizes in mm along slices, rows, columns."""
        return np.array(self.frame.along(np.linalg.norm(self.affine[:3, :3], axis=0)))

    def scale(self, triple: Sequence[float]) -> Scale:
        """A card's factors (within slices, across them) as those of the voxel axes.

        Slices are those acquired where the factor across them is above 1; else they are those looked at, since an image
        of any plane shows a network what it is to refine within slices.
        """
        first, second, across = (Fraction(f).limit_denominator(FINEST_STEP) for f in triple)
        return Scale.of_slices(first, second, across, self._across(triple))

    def factors(self, triple: Sequence[float]) -> tuple[Fraction, Fraction, Fraction]:
        """A card's factors as those of slices, rows and columns."""
        return self.frame.along(self.scale(triple).factors)

    def coarse_sizes(self, triple: Sequence[float]) -> tuple[list[float], float]:
        """Voxel sizes in mm within slices and across them, before they are refined by a card's factors."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0) * np.array(self.scale(triple).factors, float)
        across = self._across(triple)
        return [float(size) for size in np.delete(sizes, across)], float(sizes[across])

    def _across(self, triple: Sequence[float]) -> int:
        return self.axis if triple[2] > 1 else self.stacked

    def stacked_along(self, axis: int) -> Scan:
        """The same scan, looked at in slices stacked along another voxel axis."""
        return replace(self, stacked=axis)

    def planes(self, triple: Sequence[float], data: Data) -> list[int]:
        """Voxel axes along which slices are stacked that show a network of slices what it is to refine.

        The first is the one that inference takes.
        """
        _, rows, columns = Frame.of(self.affine, self.axis).order
        in_plane = columns, rows
        if triple[2] > 1:
            return [a for a in in_plane if self.scale(triple).factors[a] == 1]
        others = in_plane if data.axes == "all" else ()
        # An image lower than a patch, of a scan with few slices, would shrink the patches of its whole batch.
        return [self.axis, *(a for a in others if min(self.stacked_along(a).extent[1:]) >= (data.patch or 0))]

    def dwi(self) -> DWI:
        """The whole scan, read into memory."""
        signal = np.asfortranarray(_mapped(self.folder / "signal.npy"), dtype=np.float32)
        return DWI(signal, self.affine, self.bvals, self.bvecs, self.axis)

    def slab(self, position: int, neighbours: int, volumes: NDArray[np.intp] | slice) -> NDArray[np.float32]:
        """(N, 1 + 2 * neighbours, H, W) signal around a slice; beyond the ends the last slice repeats."""
        slices = np.clip(np.arange(position - neighbours, position + neighbours + 1), 0, self.extent[0] - 1)
        return np.stack([self.signal[volumes, z] for z in slices], axis=1).astype(np.float32)

    def part(
        self, volumes: NDArray[np.intp] | slice, region: Sequence[slice] = (slice(None),) * 3
    ) -> NDArray[np.float32]:
        """(N, slices, rows, columns) signal of some volumes, of a region or all of it."""
        return np.ascontiguousarray(self.signal[(volumes, *region)], np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("signal", "mask", "guide")}


def divided(config: Configuration) -> tuple[list[Path], list[Path]]:
    """Scans to train on, and scans held out; InputError as of `io.cohort.divide`."""
    data = config.data
    return divide(data.scans, held_out=data.validation, exclude=data.exclude, subject=data.subject, seed=config.seed)


def open_scan(
    path: Path,
    cache: Path,
    normalisation: str,
    guides: str | Mapping[str, str] | None = None,
    native: bool = False,
) -> Scan:
    """Memory-map a scan as acquired, and its guide, writing the copy first if it is not in `cache`.

    `guides` as for `io.cohort.find_guide`.

    With `native` its resolution is measured first, and a scan that was interpolated is taken down to the matrix that it
    holds: where k-space is empty, it would teach that nothing is there.

    Raises
    ------
    InputError
        If the scan cannot be read or shows no brain, its guide does not lie on it, or its copy is damaged.
    """
    guide = find_guide(path, guides)
    folder = cache / f"{path.name.split('.')[0]}-{_key(path, normalisation, guide, native)}"
    _make_once(folder, lambda temporary: _copy_file(path, temporary, normalisation, guide, native))
    return copied_scan(folder, path, guide)


def open_simulated(structural: Structural, seed: int, cache: Path, normalisation: str) -> Scan:
    """Memory-map a scan that is simulated of structural images of one head, making it first if it is not in `cache`.

    Raises
    ------
    InputError
        If an image cannot be read, they lie on different grids or show nothing, or the copy is damaged.
    """
    files = [Path(file) for file in structural.images]
    keys = [_key(path, normalisation, None, native=False) for path in files]
    key = hashlib.sha256(f"{keys}|{structural.coarser}|{seed}".encode()).hexdigest()[:16]
    folder = cache / f"simulated-{files[0].name.split('.')[0]}-{key}"
    _make_once(folder, lambda temporary: _simulate(files, structural.coarser, seed, temporary, normalisation))
    return replace(copied_scan(folder, files[0]), is_simulated=True)


def _simulate(files: Sequence[Path], coarser: tuple[float, float], seed: int, folder: Path, kind: str) -> None:
    volumes = [io.read_volume(path) for path in files]
    for path, volume in zip(files, volumes, strict=True):
        if not np.allclose(volume.affine, volumes[0].affine, atol=1e-3):
            raise InputError(f"{path} lies on another grid than {files[0]}; list only images of one grid together.")
    try:
        images = [volume.image for volume in volumes]
        copy_scan(simulated_dwi(images, volumes[0].affine, seed, coarser=coarser), folder, kind)
    except InputError as error:
        raise InputError(f"{files[0]}: {error}") from error


def _make_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill the folder of a copy unless it, or another process meanwhile, has been filled."""
    if (folder / "scan.json").is_file():
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise _damaged(folder, "it holds no scan.json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with io.output_directory(folder, wait=True) as temporary:
            write(temporary)
    except DWISuperResError:
        if not (folder / "scan.json").is_file():
            raise


def copied_scan(folder: Path, path: Path, guide: Path | None = None) -> Scan:
    """The scan whose copy, with its guide, is in a folder, made of the file `path`; InputError if it is damaged."""
    try:
        facts = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
        scan = Scan(
            path=path,
            folder=folder,
            axis=int(facts["axis"]),
            stacked=int(facts["axis"]),
            bvals=np.array(facts["bvals"], np.float64),
            bvecs=np.array(facts["bvecs"], np.float64),
            affine=np.array(facts["affine"], np.float64),
            normalisation=Normalisation(float(facts["offset"]), np.array(facts["gains"], np.float32)),
            level=float(facts["level"]),
            guide_path=guide,
            remark=str(facts["remark"]),
            is_reference=bool(facts["is_reference"]),
        )
        _check(scan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise error if isinstance(error, InputError) else _damaged(folder, error) from error
    return scan


def _check(scan: Scan) -> None:
    """ValueError unless the parts of a copy belong together; batches are made where nobody would see it."""
    signal, mask = (_mapped(scan.folder / name) for name in ("signal.npy", "mask.npy"))
    count = len(scan.bvals)
    tables = (scan.bvals.shape, scan.bvecs.shape, scan.normalisation.gains.shape, scan.affine.shape)
    if mask.ndim != 3 or signal.shape != (*mask.shape, count) or tables != ((count,), (count, 3), (count,), (4, 4)):
        raise ValueError("its signal, mask and tables do not belong together")
    if mask.dtype != bool or signal.dtype not in STORED_AS or scan.axis not in (0, 1, 2):
        raise ValueError(f"it holds {signal.dtype} and {mask.dtype}")
    if scan.guide_path is not None and (scan.guide.shape, scan.guide.dtype) != (scan.mask.shape, np.float32):
        raise ValueError("its guide is of another matrix")


def _key(path: Path, normalisation: str, guide: Path | None, native: bool) -> str:
    """Of image, guide and all beside that bears the image's name: a corrected gradient table is another scan."""
    stem = path.name.split(".")[0]
    beside = [p for p in path.parent.iterdir() if p.name.split(".")[0] == stem or p.name in ("bvals", "bvecs")]
    stamps = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in {path, *beside} if p.is_file())
    if guide is not None:
        stamps.append((str(guide), guide.stat().st_size, guide.stat().st_mtime_ns))
    return hashlib.sha256(f"{path}|{stamps}|{normalisation}|{native}|frame".encode()).hexdigest()[:16]


def _mapped(path: Path) -> NDArray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path.parent, error) from error


def _damaged(folder: Path, reason: Exception | str) -> InputError:
    return InputError(f"The cached copy {folder} is damaged ({reason}); delete that folder, it is made again.")


def _copy_file(path: Path, folder: Path, kind: str, guide: Path | None, native: bool) -> None:
    try:
        dwi = copy_scan(io.read_scan(path).series, folder, kind, native=native)
    except InputError as error:
        named = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise InputError(named) from error
    if guide is not None:
        try:
            resliced = placed(io.read_volume(guide), dwi, dwi.spatial_shape)
        except InputError as error:
            raise InputError(f"{guide}, the guide of {path}: {error}") from error
        np.save(folder / "guide.npy", np.asfortranarray(resliced))


def copy_scan(dwi: DWI, folder: Path, kind: str, axis: int | None = None, native: bool = False) -> DWI:
    """Write what `copied_scan` reads into an empty folder.

    Parameters
    ----------
    dwi : DWI
    folder : Path
    kind : str
        Of the normalisation, see `Normalisation`.
    axis : int, optional
        Slice axis, see `grid.slice_axis`.
    native : bool
        Take it down to the matrix that it holds first.

    Returns
    -------
    DWI that was copied.

    Raises
    ------
    InputError
        If the scan shows no brain, or has no magnitudes.
    """
    axis, remark, is_reference = slice_axis(dwi, axis), "", True
    if native:
        support = measure_support(dwi)
        is_reference = not support.is_rotated
        remark = "" if support.share == 1 and is_reference else support.sentence
        dwi = to_native(dwi, support)
    mask = brain_mask(dwi)
    if not mask.any():
        raise InputError("The scan shows no brain: its mask is empty; exclude this scan.")
    normalisation = Normalisation.measure(dwi.signal, kind)
    facts = {
        "axis": axis,
        "remark": remark,
        "is_reference": is_reference,
        "bvals": dwi.bvals.tolist(),
        "bvecs": dwi.bvecs.tolist(),
        "affine": dwi.affine.tolist(),
        "offset": normalisation.offset,
        "gains": normalisation.gains.tolist(),
        "level": float(dwi.mean_b0()[mask].mean(dtype=np.float64)),
    }
    dtype = _compact_type(dwi)
    # As a file holds it, X fastest: a slice of a volume is one piece, a block a few. Not through a memory map, since
    # the system would end the program where the disk is full.
    with (folder / "signal.npy").open("wb") as file:
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": True, "shape": dwi.signal.shape}
        np.lib.format.write_array_header_1_0(file, described)
        for volume in np.moveaxis(dwi.signal, 3, 0):
            file.write(volume.astype(dtype).tobytes(order="F"))
    np.save(folder / "mask.npy", np.asfortranarray(mask))
    (folder / "scan.json").write_text(json.dumps(facts), encoding="utf-8")
    return dwi


def _compact_type(dwi: DWI) -> np.dtype:
    """Half the size where the values are whole numbers of 16 bits, as scanners write them."""
    low, high = float(dwi.signal.min()), float(dwi.signal.max())
    whole = all((volume == np.rint(volume)).all() for volume in np.moveaxis(dwi.signal, 3, 0))
    if whole and low >= 0 and high <= 65535:
        return np.dtype(np.uint16)
    return np.dtype(np.int16 if whole and low >= -32768 and high <= 32767 else np.float32)
