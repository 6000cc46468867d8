"""File formats by suffix: whoever adds one adds an entry to `FORMATS`, and every reader, writer and command has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from ..dwi import DWI


@dataclass(frozen=True)
class Format:
    """How files of one suffix are read and written.

    Attributes
    ----------
    read_scan : callable (path, bval, bvec) -> the fields of a DWI in their order
        `bval` and `bvec` are paths of FSL's tables or None.
    read_image : callable (path) -> the fields of a Volume in their order
        (X, Y, Z) float32, (4, 4) affine to RAS mm and, where the file says it, the acquisition axis.
    write_scan : callable (dwi, files, path, compress)
        To temporary names: `files` are those of `tables`, then of `voxels`, then the image; `path` will be its name.
        `compress` False asks for a file that is read at once, where the suffix leaves the choice.
    write_image : callable (voxels, affine, files, path, dtype, acquisition_axis=None, compress=True)
        (X, Y, Z) or (X, Y, Z, N), stored as `dtype`; `files` as for `write_scan`, without tables.
    is_structural : callable (path) -> bool
        Whether an existing file holds one volume, and no gradients lie in it or, under its name, beside it.
    tables : tuple of str
        Suffixes of the files that hold a scan's gradient table.
    voxels : tuple of str
        Suffixes of files beside the image that hold its voxels.
    voxels_begin : callable (affine) -> int, optional
        For images that are written uncompressed: the byte at which the voxels will begin.

    Examples
    --------
    >>> FORMATS[".nii.gz"].tables, FORMATS[".nhdr"].voxels
    (('.bval', '.bvec'), ('.raw.gz',))
    """

    read_scan: Callable[[Path, str | os.PathLike | None, str | os.PathLike | None], tuple]
    read_image: Callable[[Path], tuple]
    write_scan: Callable[[DWI, Sequence[Path], Path, bool], None]
    write_image: Callable[..., None]
    is_structural: Callable[[Path], bool]
    tables: tuple[str, ...] = ()
    voxels: tuple[str, ...] = ()
    voxels_begin: Callable[[NDArray], int] | None = None


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported when it is called: nibabel and pynrrd load where they are used."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f".{module}", __package__), name)(*arguments)

    return call


def _of_module(
    module: str, tables: tuple[str, ...] = (), voxels: tuple[str, ...] = (), voxels_begin: str | None = None
) -> Format:
    return Format(
        _later(module, "read_scan"),
        _later(module, "read_image"),
        _later(module, "write_scan"),
        _later(module, "write_image"),
        _later(module, "is_structural"),
        tables,
        voxels,
        None if voxels_begin is None else _later(module, voxels_begin),
    )


FORMATS: dict[str, Format] = {
    ".nii.gz": _of_module("nifti", tables=(".bval", ".bvec")),
    ".nii": _of_module("nifti", tables=(".bval", ".bvec"), voxels_begin="voxels_begin"),
    ".nrrd": _of_module("nrrd"),
    ".nhdr": _of_module("nrrd", voxels=(".raw.gz",)),
}
"""By suffix; the longest that fits a name counts."""


def image_suffix(path: str | os.PathLike) -> str:
    """The suffix of `FORMATS` that a file name ends with; InputError where there is none.

    Examples
    --------
    >>> image_suffix("SCAN.NII.GZ")
    '.nii.gz'
    """
    name = os.fspath(path).lower()
    fitting = [suffix for suffix in FORMATS if name.endswith(suffix)]
    if not fitting:
        raise InputError(f"{path} is not named as an image; expected one of {', '.join(FORMATS)}.")
    return max(fitting, key=len)


def format_of(path: str | os.PathLike) -> Format:
    """How the file of this name is read and written; InputError as `image_suffix`.

    Examples
    --------
    >>> format_of("scan.nrrd").tables
    ()
    """
    return FORMATS[image_suffix(path)]


def output_names(path: Path, *, scan: bool) -> list[Path]:
    """Every file that an output consists of, the one that needs the others last.

    Examples
    --------
    >>> [name.name for name in output_names(Path("scan.nii.gz"), scan=True)]
    ['scan.bval', 'scan.bvec', 'scan.nii.gz']
    """
    kind = format_of(path)
    stem = path.name[: -len(image_suffix(path))]
    return [path.with_name(stem + end) for end in (kind.tables if scan else ()) + kind.voxels] + [path]
