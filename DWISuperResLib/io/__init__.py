"""Files <-> DWI: NIfTI with bval and bvec, NRRD and NHDR; each converts to and from RAS at its own door.

Volumes are read into one float32 array, X fastest and the volumes slowest, and written from it without a second copy.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dwi import DWI
from ..errors import InputError
from .outputs import check_targets, output_directory, output_files

__all__ = [
    "check_output",
    "image_suffix",
    "output_directory",
    "output_files",
    "read_dwi",
    "read_image",
    "write_dwi",
    "write_image",
]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr")


def image_suffix(path: str | os.PathLike) -> str:
    """The image format a file name asks for: .nii, .nii.gz, .nrrd or .nhdr; InputError for any other."""
    name = os.fspath(path).lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise InputError(f"{path} is not named as an image; expected one of {', '.join(SUFFIXES)}.")


def read_dwi(
    path: str | os.PathLike, *, bval: str | os.PathLike | None = None, bvec: str | os.PathLike | None = None
) -> DWI:
    """Read a diffusion-weighted scan.

    Parameters
    ----------
    path : path
        NIfTI (.nii, .nii.gz) or NRRD of modality DWMRI (.nrrd, .nhdr).
    bval, bvec : path, optional
        FSL tables of a NIfTI file, when they do not lie beside it under its name (or as `bvals` and `bvecs`):
        b-values in s/mm², and directions as 3 x N or N x 3 in FSL's image-axis convention.

    Returns
    -------
    DWI
        Signal in Fortran order.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.
    """
    path = Path(path)
    if _is_nifti(path):
        from . import nifti

        fields = nifti.read_scan(path, bval, bvec)
    else:
        if bval is not None or bvec is not None:
            raise InputError(f"{path} holds its own gradient table; leave bval and bvec out.")
        from . import nrrd

        fields = nrrd.read_scan(path)
    try:
        return DWI(*fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_dwi(dwi: DWI, path: str | os.PathLike, *, overwrite: bool = False, compress: bool = True) -> None:
    """Write a scan: an image with .bval and .bvec beside it (NIfTI), or NRRD; all of it or nothing.

    Integers are stored where that keeps every bit of the signal, else float32. NIfTI-1 rounds the affine to float32;
    a comment in its header keeps the digits for `read_dwi`.

    Parameters
    ----------
    dwi : DWI
    path : path
        .nii, .nii.gz, .nrrd, or .nhdr with its voxels in a .raw.gz beside it.
    overwrite : bool
        Replace files that exist.
    compress : bool
        False writes .nrrd without compression, for a program that reads it at once; other formats say it by their name.

    Raises
    ------
    InputError
        If a file exists, the folder does not, or a NRRD would have fewer than seven volumes, which Slicer cannot read.
    ProcessingError
        If writing fails.
    """
    path = Path(path)
    with output_files(_files(path, table=True), overwrite) as files:
        if _is_nifti(path):
            from . import nifti

            nifti.write_dwi(dwi, *files, compress=image_suffix(path) == ".nii.gz")
        else:
            from . import nrrd

            nrrd.write_dwi(dwi, files[-1], *_data(files, path), compress=compress or len(files) > 1)


def read_image(path: str | os.PathLike) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a mask or a map: (X, Y, Z) float32, and the (4, 4) affine to RAS mm.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.
    """
    path = Path(path)
    if _is_nifti(path):
        from . import nifti

        return nifti.read_image(path)
    from . import nrrd

    return nrrd.read_image(path)


def write_image(array: ArrayLike, affine: ArrayLike, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write a mask or a map, (X, Y, Z) or (X, Y, Z, N), whole or not at all: bool and uint8 as uint8, else float32.

    Raises
    ------
    InputError
        If the array has another number of axes, the file exists, or the folder does not.
    ProcessingError
        If writing fails.
    """
    path = Path(path)
    voxels = np.asarray(array)
    if voxels.ndim not in (3, 4) or voxels.size == 0:
        raise InputError(f"The image has shape {voxels.shape}; expected (X, Y, Z) or (X, Y, Z, N).")
    dtype = np.dtype("u1" if voxels.dtype in (np.bool_, np.uint8) else "<f4")
    affine = np.asarray(affine, dtype=np.float64)
    with output_files(_files(path, table=False), overwrite) as files:
        if _is_nifti(path):
            from . import nifti

            nifti.write_image(voxels, affine, files[-1], dtype, compress=image_suffix(path) == ".nii.gz")
        else:
            from . import nrrd

            nrrd.write_image(voxels, affine, files[-1], dtype, *_data(files, path))


def check_output(path: str | os.PathLike, *, overwrite: bool = False, table: bool = True) -> None:
    """Raise InputError, before a long computation, where `write_dwi` (without `table`: `write_image`) would refuse."""
    check_targets(_files(Path(path), table), overwrite)


def _is_nifti(path: Path) -> bool:
    return image_suffix(path).startswith(".nii")


def _files(path: Path, table: bool) -> list[Path]:
    """Every file an output consists of, the one that names the others last."""
    suffix = image_suffix(path)
    stem = path.name[: -len(suffix)]
    if suffix == ".nhdr":
        return [path.with_name(f"{stem}.raw.gz"), path]
    if table and _is_nifti(path):
        return [path.with_name(f"{stem}.bval"), path.with_name(f"{stem}.bvec"), path]
    return [path]


def _data(files: list[Path], path: Path) -> tuple[Path | None, str]:
    """Where a detached header's voxels are written, and under which name it looks for them."""
    return (None, "") if len(files) == 1 else (files[0], _files(path, table=True)[0].name)
