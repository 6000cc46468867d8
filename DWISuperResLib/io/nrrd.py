"""NRRD and NHDR, the format 3D Slicer keeps diffusion scans in (modality DWMRI).

The format: http://teem.sourceforge.net/nrrd/format.html; the gradient keys: https://www.na-mic.org/wiki/NAMIC_Wiki:DTI:Nrrd_format
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..dwi import DWI
from ..errors import InputError, MissingDependencyError
from .formats import output_names
from .gradients import unit_vectors
from .streams import compressed_output, open_input, read_voxels, skip, stored_dtype, write_voxels

LARGEST_HEADER = 1 << 22
FEWEST_VOLUMES = 7
"""Slicer drops the gradients of a file with fewer volumes (vtkTeemNRRDWriter.cxx)."""

SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
"""Signs that turn the file's world axes to RAS."""

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}


class _Image(NamedTuple):
    voxels: NDArray[np.float32]  # (X, Y, Z, N)
    affine: NDArray[np.float64]
    signs: NDArray[np.float64]
    acquisition_axis: int | None


def read_scan(path: Path, bval: str | os.PathLike | None = None, bvec: str | os.PathLike | None = None) -> tuple:
    """Fields of a DWI from an image of modality DWMRI; tables beside it are refused."""
    if bval is not None or bvec is not None:
        raise InputError(f"{path} holds its own gradient table; leave bval and bvec out.")
    header, end = _read_header(path)
    table = _gradient_keys(header, path)
    image = _read(header, end, path, volumes=len(table))
    frame = np.asarray(header.get("measurement frame", np.eye(3)), dtype=np.float64)
    if frame.shape != (3, 3) or not np.isfinite(frame).all():
        raise InputError(
            f"{path} has a measurement frame that is not three vectors of three numbers; repair its header."
        )
    if abs(np.linalg.det(unit_vectors(frame))) < 1e-3:
        raise InputError(
            f"{path} has a measurement frame whose vectors lie in one plane, so its gradient directions cannot be "
            "told; repair its header."
        )
    bvals, directions = _b_values(table, header, path)
    # The vectors of the frame are the columns of the matrix, hence directions @ rows.
    bvecs = unit_vectors(directions @ frame * image.signs)
    return image.voxels, image.affine, bvals, bvecs, image.acquisition_axis


def read_image(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64], int | None]:
    """Read one volume: (X, Y, Z) float32, its affine and acquisition axis."""
    header, end = _read_header(path)
    image = _read(header, end, path, volumes=1)
    return image.voxels[..., 0], image.affine, image.acquisition_axis


def is_structural(path: Path) -> bool:
    """Whether it has three axes and no gradient keys."""
    header, _ = _read_header(path)
    return header.get("dimension") == 3 and not any(key.startswith("DWMRI_") for key in header)


def write_scan(dwi: DWI, files: Sequence[Path], path: Path, compress: bool) -> None:
    """Write one file, or two: the voxels, and the header that will lie at `path` and look for them beside it."""
    if dwi.n_volumes < FEWEST_VOLUMES:
        raise InputError(
            f"The scan has {dwi.n_volumes} volumes, and 3D Slicer loses the gradients of a NRRD file with fewer than "
            f"{FEWEST_VOLUMES}; write NIfTI (.nii.gz) instead."
        )
    # The length of a vector carries its b-value, so an unweighted volume without direction becomes b = 0.
    largest = dwi.bvals[dwi.bvecs.any(axis=1)].max(initial=0.0)
    scaled = dwi.bvecs * np.sqrt(dwi.bvals / (largest or 1.0))[:, None] * SPACES["lps"] + 0.0
    keys = {"modality": "DWMRI", "DWMRI_b-value": repr(float(largest))}
    keys |= {f"DWMRI_gradient_{n:04d}": " ".join(repr(float(x)) for x in g) for n, g in enumerate(scaled)}
    write_image(
        dwi.signal,
        dwi.affine,
        files,
        path,
        stored_dtype(dwi.signal),
        keys=keys,
        acquisition_axis=dwi.acquisition_axis,
        compress=compress,
    )


def write_image(
    voxels: NDArray,
    affine: NDArray[np.float64],
    files: Sequence[Path],
    path: Path,
    dtype: np.dtype,
    acquisition_axis: int | None = None,
    compress: bool = True,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Write (X, Y, Z) or (X, Y, Z, N) in LPS space, gzipped unless told otherwise; files as for `write_scan`."""
    detached = len(files) > 1
    compress = compress or detached
    volumes = voxels.ndim == 4
    columns = (affine[:3] * np.array(SPACES["lps"])[:, None] + 0.0).T
    lines = [
        "NRRD0005",
        f"type: {TYPES[dtype.str[1:]][0]}",
        f"dimension: {voxels.ndim}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, voxels.shape)),
        "space directions: " + " ".join(map(_vector, columns[:3])) + " none" * volumes,
        "kinds: space space space" + " list" * volumes,
        "endian: little",
        "encoding: " + ("gzip" if compress else "raw"),
        'space units: "mm" "mm" "mm"',
        "space origin: " + _vector(columns[3]),
    ]
    if acquisition_axis is not None:  # the one axis with a thickness is the slice axis
        size = repr(float(np.linalg.norm(affine[:3, acquisition_axis])))
        lines.append("thicknesses: " + " ".join(size if a == acquisition_axis else "NaN" for a in range(voxels.ndim)))
    if keys:
        lines.append("measurement frame: (1,0,0) (0,1,0) (0,0,1)")
        lines += [f"{key}:={value}" for key, value in keys.items()]
    if detached:
        lines.append(f"data file: {output_names(path, scan=True)[0].name}")
    with open(files[-1], "xb") as file:
        file.write("\n".join([*lines, "", ""]).encode("utf-8"))
        if not detached:
            _write_data(file, voxels, dtype, compress)
    if detached:
        with open(files[0], "xb") as file:
            _write_data(file, voxels, dtype, compress)


def _write_data(file: IO[bytes], voxels: NDArray, dtype: np.dtype, compress: bool) -> None:
    with compressed_output(file) if compress else nullcontext(file) as stream:
        write_voxels(stream, voxels, dtype)


def _vector(values: NDArray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Header fields and keys, and the byte after the header."""
    try:
        import nrrd
    except ImportError as error:
        raise MissingDependencyError(f"{path} is NRRD, which needs pynrrd: pip install pynrrd.") from error
    lines: list[bytes] = []
    end = 0
    with open_input(path, compressed=False) as (stream, _):
        while line := stream.readline(LARGEST_HEADER):
            end += len(line)
            if end > LARGEST_HEADER:
                raise InputError(
                    f"{path} has no end of header within {LARGEST_HEADER >> 20} MB; it is not a NRRD file."
                )
            if not line.strip():
                break
            lines.append(line)
    try:
        with np.errstate(invalid="ignore"):  # a size beyond 64 bits wraps to a negative one, refused below
            return dict(nrrd.read_header(lines)), end
    except (nrrd.NRRDError, ValueError, TypeError, LookupError, ArithmeticError, StopIteration) as error:
        raise InputError(f"{path} has a header that is not NRRD ({error or 'empty'}); export it again.") from error


def _read(header: Mapping[str, Any], end: int, path: Path, *, volumes: int) -> _Image:
    shape, dtype, signs, vectors = _geometry(header, path)
    spatial = [axis for axis, vector in enumerate(vectors) if np.isfinite(vector).all()]
    if len(spatial) != 3 or len(shape) not in (3, 4):
        raise InputError(
            f"{path} has {len(shape)} axes, {len(spatial)} of them of space; expected three and one of volumes."
        )
    volume_axis = next((axis for axis in range(len(shape)) if axis not in spatial), len(shape))
    if len(shape) == 3:
        shape = (*shape, 1)
    if shape[volume_axis] != volumes:
        raise InputError(f"{path} has {shape[volume_axis]} volumes; expected {volumes}.")
    affine = np.eye(4)
    affine[:3, :3] = (vectors[spatial] * signs).T
    affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), dtype=np.float64) * signs
    thicknesses = dict(enumerate(header.get("thicknesses", ())))
    thick = [n for n, axis in enumerate(spatial) if math.isfinite(thicknesses.get(axis, math.nan))]
    voxels = _read_data(header, end, path, shape, dtype, volume_axis)
    return _Image(voxels, affine, signs, thick[0] if len(thick) == 1 else None)


def _stored_type(header: Mapping[str, Any], path: Path) -> np.dtype:
    code = next((code for code, names in TYPES.items() if header["type"] in names), None)
    if code is None:
        raise InputError(f"{path} has voxels of type '{header['type']}'; expected integers or real numbers.")
    endian = header.get("endian", "little" if code[1] == "1" else "")
    if endian not in ("little", "big"):
        raise InputError(f"{path} has the byte order '{endian}'; expected little or big.")
    return np.dtype(code).newbyteorder("<" if endian == "little" else ">")


def _geometry(header: Mapping[str, Any], path: Path) -> tuple[tuple[int, ...], np.dtype, NDArray, NDArray]:
    """Sizes, stored type, signs of the world axes, direction of each axis (NaN where it is not of space)."""
    for field in ("type", "dimension", "sizes", "encoding", "space", "space directions"):
        if field not in header:
            raise InputError(f"{path} lacks the field '{field}'; expected a NRRD image with a position in space.")
    space = header["space"].lower()
    if space not in SPACES:
        raise InputError(f"{path} is in the space '{header['space']}'; expected RAS, LPS or LAS.")
    stored = _stored_type(header, path)
    shape = tuple(int(n) for n in header["sizes"])
    # pynrrd gives an axis without direction as NaN or as None, by its settings.
    vectors = [
        np.full(3, math.nan) if v is None else np.asarray(v, dtype=np.float64) for v in header["space directions"]
    ]
    if len(shape) != header["dimension"] or len(vectors) != len(shape) or any(v.shape != (3,) for v in vectors):
        raise InputError(f"{path} disagrees with itself about the number of its axes; repair its header.")
    if np.asarray(header.get("space origin", np.zeros(3))).shape != (3,):
        raise InputError(f"{path} has a space origin that is not three numbers; repair its header.")
    return (
        shape,
        stored,
        np.array(SPACES[space]),
        np.array(vectors),
    )


def _read_data(
    header: Mapping[str, Any], end: int, path: Path, shape: tuple[int, ...], dtype: np.dtype, volume_axis: int
) -> NDArray[np.float32]:
    encoding = header["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path} has the encoding '{encoding}'; expected raw or gzip: save it again in 3D Slicer.")
    byte_skip = header.get("byteskip", header.get("byte skip", 0))
    if byte_skip < -1 or header.get("lineskip", header.get("line skip", 0)) != 0:
        raise InputError(f"{path} skips lines or a negative number of bytes, which is not supported: save it again.")
    source, start = path, end
    if detached := header.get("data file", header.get("datafile")):
        source, start = _detached(path, detached), 0
    compressed = encoding != "raw"
    if byte_skip == -1:
        needed = math.prod(shape) * dtype.itemsize
        with open_input(source, start=start, compressed=compressed) as (stream, capacity):
            byte_skip = _length(stream) - needed if compressed else capacity - needed
    with open_input(source, start=start, compressed=compressed) as (stream, capacity):
        skip(stream, byte_skip, source)
        return read_voxels(stream, capacity - max(byte_skip, 0), shape, dtype, source, volume_axis=volume_axis)


def _length(stream: IO[bytes]) -> int:
    """Bytes of a compressed stream, counted: gzip does not store them reliably."""
    length = 0
    while block := stream.read(1 << 20):
        length += len(block)
    return length


def _detached(path: Path, name: str) -> Path:
    if "%" in name or name.split()[0] == "LIST":
        raise InputError(
            f"{path} spreads its voxels over several files, which is not supported: save it again in 3D Slicer."
        )
    # A header from elsewhere must not reach for other files of this computer.
    if (
        ".." in PurePosixPath(name).parts + PureWindowsPath(name).parts
        or PureWindowsPath(name).anchor
        or name[0] in "/\\"
    ):
        raise InputError(f"{path} keeps its voxels in '{name}', outside of its folder; put both files into one folder.")
    return path.parent / name


def _gradient_keys(header: Mapping[str, Any], path: Path) -> list[str]:
    """Text of the gradient of every volume, repeats (DWMRI_NEX) written out."""
    found = {int(m[1]): value for key, value in header.items() if (m := re.fullmatch(r"DWMRI_gradient_(\d+)", key))}
    if not found or "DWMRI_b-value" not in header:
        raise InputError(f"{path} has no DWMRI_gradient and DWMRI_b-value keys; expected a NRRD of modality DWMRI.")
    repeats = {int(m[1]): value for key, value in header.items() if (m := re.fullmatch(r"DWMRI_NEX_(\d+)", key))}
    table: list[str] = []
    for index in sorted(found):
        count = repeats.pop(index, "1")
        if index != len(table) or not re.fullmatch(r"0*[1-9]\d{0,4}", count):
            raise InputError(
                f"{path} has gradient {index} ({count} times) where gradient {len(table)} comes next; repair the keys."
            )
        table += [found[index]] * int(count)
    if repeats:
        raise InputError(f"{path} repeats the gradients {sorted(repeats)}, which it does not hold; repair the keys.")
    return table


def _b_values(table: list[str], header: Mapping[str, Any], path: Path) -> tuple[NDArray, NDArray]:
    """(N,) b = b_max |g|² / max |g|², as Slicer reads it, and the vectors (N, 3) in the measurement frame."""
    try:
        nominal = float(header["DWMRI_b-value"])
        vectors = np.array([[float(x) for x in text.replace(",", " ").split()] for text in table], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path} has gradient keys that are not numbers ({error}); repair them.") from error
    if vectors.ndim != 2 or vectors.shape[1] != 3 or not np.isfinite(vectors).all() or not math.isfinite(nominal):
        raise InputError(f"{path} has gradient keys that are not three finite numbers each; repair them.")
    squares = np.sum((vectors / (np.abs(vectors).max() or 1.0)) ** 2, axis=1)
    return nominal * squares / (squares.max() or 1.0), vectors
