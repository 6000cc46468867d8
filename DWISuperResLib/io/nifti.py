"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz) with FSL's bval and bvec tables beside."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..dwi import DWI
from ..errors import InputError
from ..scratch import lies_in
from .gradients import fsl_to_ras, ras_to_fsl, read_directions, read_table, table_row
from .streams import check_exists, compressed_output, open_input, read_voxels, skip, stored_dtype, write_voxels

LARGEST_EXTENSION = 1 << 20
MILLIMETRES = {1: 1e3, 3: 1e-3}
"""In the header's units of length: metre and micron; 2 is millimetre, 0 unknown, which means millimetre everywhere."""
AFFINE_NOTE = "DWISuperRes affine:"
"""Header extension with the affine in float64: NIfTI-1 stores float32, 4e-6 mm off at 100 mm."""


def read_scan(path: Path, bval: str | os.PathLike | None, bvec: str | os.PathLike | None) -> tuple:
    """Fields of a DWI from an image and its tables; the tables are read and counted first."""
    check_exists(path)
    bval_path = Path(bval) if bval is not None else _beside(path, "bval", "b-values")
    bvec_path = Path(bvec) if bvec is not None else _beside(path, "bvec", "gradient directions")
    bvals = read_table(bval_path).ravel()
    bvecs = read_directions(bvec_path)
    voxels, affine, acquisition_axis = _read(path, {str(bval_path): bvals.size, str(bvec_path): len(bvecs)})
    return voxels, affine, bvals, fsl_to_ras(bvecs, affine), acquisition_axis


def read_image(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64], int | None]:
    """Read one volume: (X, Y, Z) float32, its affine and acquisition axis."""
    voxels, affine, acquisition_axis = _read(path, {"one volume": 1})
    return voxels[..., 0], affine, acquisition_axis


def is_structural(path: Path) -> bool:
    """Whether it holds one volume without a table of its name; plain `bvals` beside it are those of another image."""
    with open_input(path) as (stream, _):
        header = _parse(stream.read(540), path)
    return _shape(header, path)[3] == 1 and not any((path.parent / n).is_file() for n in _own_tables(path, "bval"))


def write_scan(dwi: DWI, files: Sequence[Path], path: Path, compress: bool) -> None:
    """Write b-values, directions and image to `files`; the name decides about compression, not `compress`."""
    bval, bvec, image = files
    directions = ras_to_fsl(dwi.bvecs, dwi.affine)
    bval.write_text(table_row(dwi.bvals), encoding="ascii", newline="\n")
    bvec.write_text("".join(map(table_row, directions.T)), encoding="ascii", newline="\n")
    write_image(dwi.signal, dwi.affine, [image], path, stored_dtype(dwi.signal), dwi.acquisition_axis)


def write_image(
    voxels: NDArray,
    affine: NDArray[np.float64],
    files: Sequence[Path],
    path: Path,
    dtype: np.dtype,
    acquisition_axis: int | None = None,
    compress: bool = True,
) -> None:
    """Write (X, Y, Z) or (X, Y, Z, N) as NIfTI-1, compressed where `path` ends so, whatever `compress` says."""
    if max(voxels.shape) > np.iinfo(np.int16).max:
        raise InputError(f"The image has shape {voxels.shape}; NIfTI holds at most 32767 voxels an axis: write NRRD.")
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(voxels.shape)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm", "sec" if voxels.ndim == 4 else None)
    header.set_dim_info(slice=acquisition_axis)
    header.set_slope_inter(1, 0)
    extension = _affine_extension(affine)
    header["vox_offset"] = voxels_begin(affine)
    in_place = dtype == np.float32 and lies_in(voxels, files[-1])
    if not in_place:
        files[-1].unlink(missing_ok=True)  # taken for float32, while integers will do; who holds the array keeps it
    with open(files[-1], "r+b" if in_place else "xb") as file:
        start = header.binaryblock + bytes([bool(extension), 0, 0, 0]) + extension
        if path.name.lower().endswith(".gz"):
            with compressed_output(file) as stream:
                stream.write(start)
                write_voxels(stream, voxels, dtype)
        else:
            file.write(start)
            if not in_place:
                write_voxels(file, voxels, dtype)


def voxels_begin(affine: NDArray[np.float64]) -> int:
    """The byte behind the header and what it is extended by."""
    return 352 + len(_affine_extension(affine))


def _own_tables(path: Path, kind: str) -> list[str]:
    stem = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    return [f"{stem}.{kind}", f"{stem}.{kind}s"]


def _beside(path: Path, kind: str, content: str) -> Path:
    """The table next to the image: by the image's name, else FSL's plain `bvals` or `bvecs`."""
    own = _own_tables(path, kind)
    for name in (*own, f"{kind}s"):
        if (path.parent / name).is_file():
            return path.parent / name
    raise InputError(
        f"{path} has no {content} beside it: expected {own[0]} there, or give the file ({kind}=, --{kind}); only an "
        "image of one volume is read as structural without."
    )


def _read(path: Path, counts: dict[str, int]) -> tuple[NDArray[np.float32], NDArray[np.float64], int | None]:
    """Voxels (X, Y, Z, N), affine and acquisition axis; `counts` says how many volumes each companion expects."""
    with open_input(path) as (stream, capacity):
        start = stream.read(540)
        header = _parse(start, path)
        shape = _shape(header, path)
        for name, count in counts.items():
            if count != shape[3]:
                raise InputError(f"{path} has {shape[3]} volumes, but {name} has {count}; they must belong together.")
        dtype = _dtype(header, path)
        slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
        if slope == 0 or not np.isfinite([slope, intercept]).all():  # by the standard: no scaling
            slope, intercept = 1.0, 0.0
        offset = float(header["vox_offset"])
        if not 0 <= offset <= capacity:
            raise InputError(
                f"{path} says its voxels begin at byte {offset:g}, beyond its end; copy or export it again."
            )
        offset = max(int(offset), int(header["sizeof_hdr"]) + 4)
        start += stream.read(min(max(offset - len(start), 0), LARGEST_EXTENSION))
        if len(start) > offset:  # a NIfTI-1 header is shorter than what was read to recognise it
            stream.seek(offset)
        else:
            skip(stream, offset - len(start), path)
        voxels = read_voxels(stream, capacity - offset, shape, dtype, path, slope=slope, intercept=intercept)
    return voxels, _affine(header, start[:offset], path), header.get_dim_info()[2]


def _parse(start: bytes, path: Path) -> Any:
    orders: tuple[Literal["little"], Literal["big"]] = ("little", "big")
    for kind, order in [(kind, order) for kind in (nib.Nifti1Header, nib.Nifti2Header) for order in orders]:
        size = kind.sizeof_hdr
        if size == int.from_bytes(start[:4], order) and len(start) >= size:
            header = kind(start[:size], endianness=order, check=False)
            if bytes(header["magic"]).startswith(b"n+"):
                return header
    raise InputError(f"{path} is not a NIfTI file of one piece; convert it (for example with dcm2niix or mrconvert).")


def _shape(header: Any, path: Path) -> tuple[int, int, int, int]:
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7:
        raise InputError(f"{path} says that it has {dims[0]} axes, and NIfTI knows 1 to 7; its header is damaged.")
    extents = [n for n in dims[4 : dims[0] + 1] if n != 1] or [1]
    if min(*dims[1 : dims[0] + 1], *extents) < 1 or len(extents) > 1:
        raise InputError(f"{path} has the dimensions {dims[1:]}; expected up to three of space and one of volumes.")
    x, y, z = [*dims[1 : dims[0] + 1], 1, 1][:3]
    return x, y, z, extents[0]


def _dtype(header: Any, path: Path) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError) as error:
        raise InputError(
            f"{path} has voxels of an unknown type ({error}); expected integers or real numbers."
        ) from error
    if dtype.kind not in "iuf":
        raise InputError(f"{path} has voxels of type {dtype.name}; expected integers or real numbers.")
    return dtype


def _affine(header: Any, start: bytes, path: Path) -> NDArray[np.float64]:
    """The sform, else the qform, else the voxel sizes alone; in float64 where this library wrote it."""
    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{path} has an orientation that cannot be used ({error}); repair its header.") from error
    if note := re.search(re.escape(AFFINE_NOTE).encode() + rb"((?: [-+.e\d]+){12})", start):
        noted = np.vstack((np.array(note[1].split(), dtype=np.float64).reshape(3, 4), (0, 0, 0, 1)))
        # A program that moved the image has changed the sform and carried the note along.
        if header["sform_code"] > 0 and np.array_equal(noted.astype(np.float32), affine.astype(np.float32)):
            return noted
    affine[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _affine_extension(affine: NDArray[np.float64]) -> bytes:
    if np.array_equal(affine, affine.astype(np.float32)):
        return b""
    text = f"{AFFINE_NOTE} {table_row(affine[:3].ravel())}".encode("ascii")
    size = -(-(len(text) + 8) // 16) * 16
    return np.array([size, 6], "<i4").tobytes() + text.ljust(size - 8, b"\0")  # code 6: comment
