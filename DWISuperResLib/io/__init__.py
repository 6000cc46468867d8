"""Files <-> DWI and Volume: NIfTI, with bval and bvec, NRRD and NHDR; each converts to and from RAS at its own door.

Volumes are read into one float32 array, X fastest and the volumes slowest, and written from it without a second copy.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dwi import DWI, Volume
from ..errors import InputError
from ..scratch import MAPPED_FILES_MOVE, is_large, large_arrays_in, mapped, reserve, signal_array
from .formats import FORMATS, Format, format_of, image_suffix, output_names
from .gradients import b_value_warning
from .outputs import output_directory, output_files, working_in, write_text
from .streams import check_exists, stored_dtype

__all__ = [
    "FORMATS",
    "Format",
    "b_value_warning",
    "image_suffix",
    "is_structural",
    "output_directory",
    "output_files",
    "read_dwi",
    "read_image",
    "read_scan",
    "read_volume",
    "scan_outputs",
    "working_in",
    "write_dwi",
    "write_image",
    "write_text",
    "write_volume",
]


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

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((8, 10, 4), supersampling=1)
    >>> write_dwi(scan, "scan.nii.gz")
    >>> again = read_dwi("scan.nii.gz")
    >>> np.array_equal(again.signal, scan.signal), np.array_equal(again.bvals, scan.bvals)
    (True, True)
    >>> read_dwi("scan.txt")
    Traceback (most recent call last):
    DWISuperResLib.errors.InputError: scan.txt is not named as an image; expected one of .nii.gz, .nii, .nrrd, .nhdr.
    """
    path = Path(path)
    fields = format_of(path).read_scan(path, bval, bvec)
    try:
        return DWI(*fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_volume(path: str | os.PathLike) -> Volume:
    """Read a structural image, or any other of one volume.

    Parameters
    ----------
    path : path
        As for `read_dwi`.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.

    Examples
    --------
    >>> write_volume(Volume(np.ones((4, 5, 6)), np.diag([1, 1, 3, 1]), acquisition_axis=2), "t1.nii.gz")
    >>> volume = read_volume("t1.nii.gz")
    >>> volume.spatial_shape, volume.voxel_sizes.tolist(), volume.acquisition_axis
    ((4, 5, 6), [1.0, 1.0, 3.0], 2)
    """
    path = Path(path)
    fields = format_of(path).read_image(path)
    try:
        return Volume(*fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def is_structural(
    path: str | os.PathLike, *, bval: str | os.PathLike | None = None, bvec: str | os.PathLike | None = None
) -> bool:
    """Whether a file is one of a structural image: of one volume, and neither it nor a table has gradients.

    FSL's plain `bvals` in the same folder belong to an image of several volumes.

    Parameters
    ----------
    path, bval, bvec
        As for `read_dwi`.

    Raises
    ------
    InputError
        If the file's header cannot be read.

    Examples
    --------
    >>> write_volume(Volume(np.ones((4, 5, 6)), np.eye(4)), "t1.nii.gz")
    >>> is_structural("t1.nii.gz"), is_structural("t1.nii.gz", bval="t1.bval")
    (True, False)
    """
    path = Path(path)
    kind = format_of(path)
    check_exists(path)
    return bval is None and bvec is None and kind.is_structural(path)


def read_scan(
    path: str | os.PathLike, *, bval: str | os.PathLike | None = None, bvec: str | os.PathLike | None = None
) -> DWI | Volume:
    """Read a scan of either kind: a structural image where `is_structural` says so, else a diffusion-weighted one.

    Parameters and errors as of `read_dwi`.

    Examples
    --------
    >>> write_volume(Volume(np.ones((4, 5, 6)), np.eye(4)), "t1.nii.gz")
    >>> type(read_scan("t1.nii.gz")).__name__
    'Volume'
    """
    if is_structural(path, bval=bval, bvec=bvec):
        return read_volume(path)
    return read_dwi(path, bval=bval, bvec=bvec)


def write_volume(volume: Volume, path: str | os.PathLike, *, overwrite: bool = False, compress: bool = True) -> None:
    """Write a structural image: three axes, no gradients; whole or not at all. Voxels are stored as by `write_dwi`.

    Parameters and errors as of `write_dwi`.

    Examples
    --------
    >>> write_volume(Volume(np.full((4, 5, 6), 0.5), np.eye(4)), "t1.nrrd")
    >>> float(read_volume("t1.nrrd").image.max())
    0.5
    """
    with scan_outputs([path], structural=True, overwrite=overwrite, compress=compress) as write:
        write(path, volume)


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

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> write_dwi(phantom((8, 10, 4), supersampling=1), "scan.nii.gz")
    >>> sorted(path.name for path in Path().glob("scan.*"))
    ['scan.bval', 'scan.bvec', 'scan.nii.gz']
    """
    with scan_outputs([path], overwrite=overwrite, compress=compress) as write:
        write(path, dwi)


@contextmanager
def scan_outputs(
    paths: Sequence[str | os.PathLike], *, structural: bool = False, overwrite: bool = False, compress: bool = True
) -> Iterator[ScanWriter]:
    """Write several scans in one transaction: all of them appear when the block ends, or none.

    Entered before a long computation, it refuses at once what could not be written afterwards, and keeps other runs
    from the same outputs.

    Parameters
    ----------
    paths : sequence of path
        Every scan that will be written.
    structural : bool
        Whether they are structural images, which have no tables beside them.
    overwrite, compress
        As for `write_dwi`.

    Yields
    ------
    ScanWriter: called with a path and a scan, it writes one of them.

    Raises
    ------
    InputError
        As `write_dwi`; also if two outputs share a file, or another run is writing one of them.
    ProcessingError
        If writing fails.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((8, 10, 4), supersampling=1)
    >>> with scan_outputs(["first.nii", "second.nrrd"]) as write:
    ...     write("first.nii", scan)
    ...     write("second.nrrd", scan)
    ...     Path("first.nii").exists()
    False
    >>> Path("first.nii").exists(), Path("second.nrrd").exists()
    (True, True)
    """
    groups = [output_names(Path(path), scan=not structural) for path in paths]
    names = [name for group in groups for name in group]
    with output_files(names, overwrite) as temporary, large_arrays_in(names[-1].parent):
        remaining = iter(temporary)
        yield ScanWriter({group[-1]: [next(remaining) for _ in group] for group in groups}, compress)


@dataclass(frozen=True)
class ScanWriter:
    """Writes scans to temporary files.

    Attributes
    ----------
    files : mapping of path to list of path
        The files that each output consists of, as `output_names` has them.
    compress : bool
        As for `write_dwi`.
    """

    files: Mapping[Path, Sequence[Path]]
    compress: bool

    def __call__(self, path: str | os.PathLike, scan: DWI | Volume) -> None:
        """Write one of the scans."""
        path = Path(path)
        files = self.files[path]
        if isinstance(scan, DWI):
            format_of(path).write_scan(scan, files, path, self.compress)
            return
        image, dtype = scan.image, stored_dtype(scan.image)
        format_of(path).write_image(image, scan.affine, files, path, dtype, scan.acquisition_axis, self.compress)

    def room(self, path: str | os.PathLike, shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.float32]:
        """As `signal_array`, for the signal of a scan on its way to `path`: a large one lies in that very file.

        Where the file will be compressed it lies in a nameless one, and in memory where it is small.
        """
        path = Path(path)
        begin = format_of(path).voxels_begin
        start = begin(affine) if begin is not None and is_large(shape) and MAPPED_FILES_MOVE else None
        if start is None:
            return signal_array(shape)
        with open(self.files[path][-1], "x+b") as file:
            reserve(file, start + 4 * math.prod(shape), path.parent)
            return mapped(file, start, shape, mmap.ACCESS_WRITE)


def read_image(path: str | os.PathLike) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a mask or a map: (X, Y, Z) float32, and the (4, 4) affine to RAS mm.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.

    Examples
    --------
    >>> write_image(np.ones((4, 5, 6), bool), np.diag([2, 2, 3, 1]), "mask.nii.gz")
    >>> mask, affine = read_image("mask.nii.gz")
    >>> mask.shape, np.diag(affine).tolist()
    ((4, 5, 6), [2.0, 2.0, 3.0, 1.0])
    """
    path = Path(path)
    image, affine = format_of(path).read_image(path)[:2]
    return image, affine


def write_image(array: ArrayLike, affine: ArrayLike, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write a mask or a map, (X, Y, Z) or (X, Y, Z, N), whole or not at all: bool and uint8 as uint8, else float32.

    Raises
    ------
    InputError
        If the array has another number of axes, the file exists, or the folder does not.
    ProcessingError
        If writing fails.

    Examples
    --------
    >>> write_image(np.full((4, 5, 6), 0.5), np.eye(4), "fa.nrrd")
    >>> float(read_image("fa.nrrd")[0].max())
    0.5
    """
    path = Path(path)
    voxels = np.asarray(array)
    if voxels.ndim not in (3, 4) or voxels.size == 0:
        raise InputError(f"The image has shape {voxels.shape}; expected (X, Y, Z) or (X, Y, Z, N).")
    dtype = np.dtype("u1" if voxels.dtype in (np.bool_, np.uint8) else "<f4")
    affine = np.asarray(affine, dtype=np.float64)
    with output_files(output_names(path, scan=False), overwrite) as files:
        format_of(path).write_image(voxels, affine, files, path, dtype)
