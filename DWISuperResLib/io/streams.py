"""Voxel data <-> byte streams, slab by slab, so that no scan is held twice; gzip by ISA-L where it is installed."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import InputError
from ..scratch import MAPPED_FILES_MOVE, is_large, mapped, signal_array

try:
    from isal import igzip, igzip_threaded, isal_zlib

    DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, isal_zlib.error)  # type: ignore[assignment]
except ImportError:  # no wheel for this platform: zlib writes the same, ten times more slowly
    igzip = gzip  # type: ignore[misc]
    igzip_threaded = None  # type: ignore[assignment]
    DAMAGED = (OSError, EOFError, zlib.error)

GZIP_RATIO = 1032
"""DEFLATE cannot expand a byte to more than this many (https://www.zlib.net/zlib_tech.html)."""

LONGEST_SHOWN = 200
"""Letters of a path that a message repeats where the path itself is the trouble."""

WRITE_THREADS = 8
"""At most this many threads compress; beyond, the one that feeds them is the limit."""


def check_exists(path: Path) -> None:
    """InputError unless `path` is a file."""
    try:
        present = path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        shown = path if len(str(path)) <= LONGEST_SHOWN else f"{str(path)[:LONGEST_SHOWN]}..."
        raise InputError(f"{shown} cannot be looked up ({error.strerror}); check the name and its folder.") from error
    if not present:
        raise InputError(f"{path} does not exist or is not a file; check the name.")


@contextmanager
def open_input(path: Path, *, start: int = 0, compressed: bool | None = None) -> Iterator[tuple[IO[bytes], int]]:
    """Stream of a file's bytes from `start`, decompressed, and the most bytes it can hold.

    `compressed` None looks at the first two bytes. Whatever goes wrong while reading becomes an InputError that
    names the file.
    """
    check_exists(path)
    try:
        with open(path, "rb") as file:
            if compressed is None:
                compressed = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, os.SEEK_END)
            file.seek(start)
            if compressed:
                with igzip.open(file, "rb") as stream:
                    yield stream, (size - start) * GZIP_RATIO
            else:
                yield file, size - start
    except PermissionError as error:
        raise InputError(f"{path} may not be read; change its permissions or copy it.") from error
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read to its end ({error}); copy or export it again.") from error


def skip(stream: IO[bytes], count: int, path: Path) -> None:
    """Move `count` bytes ahead."""
    while count > 0:
        block = stream.read(min(count, 1 << 20))
        if not block:
            raise InputError(f"{path} ends before its voxels begin; copy or export it again.")
        count -= len(block)


def read_voxels(
    stream: IO[bytes],
    capacity: int,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    path: Path,
    *,
    volume_axis: int = -1,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> NDArray[np.float32]:
    """Read voxels stored first axis fastest.

    Parameters
    ----------
    stream : binary stream
        At the first voxel.
    capacity : int
        The most bytes it can hold; checked before memory is taken.
    shape : tuple of int
        Axis lengths in the order of the file.
    dtype : numpy type
        Stored type, byte order included.
    path : Path
        Named in errors.
    volume_axis : int
        Axis of the file that becomes the last one.
    slope, intercept : float
        value = stored * slope + intercept, computed in float64.

    Returns
    -------
    array of float32 in Fortran order
    """
    dtype = np.dtype(dtype)
    needed = math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or needed > capacity:
        size = " x ".join(map(str, shape))
        raise InputError(
            f"{path} promises {size} voxels of {dtype.itemsize} bytes but holds less; copy or export it again."
        )
    as_held = dtype == np.float32 and (slope, intercept) == (1, 0) and volume_axis % len(shape) == len(shape) - 1
    if as_held and is_large(shape) and _may_be_mapped(stream):
        voxels = mapped(stream, stream.tell(), shape)
        stream.seek(needed, os.SEEK_CUR)
    else:
        voxels = _converted(stream, shape, dtype, path, volume_axis, slope, intercept)
    # A slice or more behind the last voxel: the header has lost slices, so that volumes would be mixed. (This also
    # reaches the end of a gzip stream, where its checksum is compared.)
    slice_bytes = math.prod(shape[:2]) * dtype.itemsize
    if sum(len(block) for block in _blocks(stream, slice_bytes)) >= slice_bytes:
        raise InputError(
            f"{path} holds more voxels than the {' x '.join(map(str, shape))} that its header promises; repair the "
            "header or export it again."
        )
    return voxels


def _may_be_mapped(stream: IO[bytes]) -> bool:
    """Whether what is read is the file itself, which the result may have to replace."""
    return isinstance(stream, io.BufferedReader) and stream.tell() % 4 == 0 and MAPPED_FILES_MOVE


def _converted(
    stream: IO[bytes],
    shape: tuple[int, ...],
    dtype: np.dtype,
    path: Path,
    volume_axis: int,
    slope: float,
    intercept: float,
) -> NDArray[np.float32]:
    """Read, converted and in the order of a DWI, a slab of the file's last axis at a time."""
    order = [axis for axis in range(len(shape)) if axis != volume_axis % len(shape)]
    try:
        voxels = signal_array([*(shape[a] for a in order), shape[volume_axis]])
        slab = bytearray(math.prod(shape[:-1]) * dtype.itemsize)
    except (MemoryError, ValueError, OverflowError) as error:
        raise InputError(f"{path} needs {math.prod(shape) * 4e-9:.1f} GB of memory, more than there is.") from error
    in_file_order = np.moveaxis(voxels, -1, volume_axis)
    for n in range(shape[-1]):
        _fill(stream, slab, path)
        stored = np.frombuffer(slab, dtype).reshape(shape[:-1], order="F")
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: infinite, which the DWI reports
            if slope != 1 or intercept != 0:
                stored = stored * np.float64(slope) + intercept
            in_file_order[..., n] = stored
    return voxels


def _blocks(stream: IO[bytes], count: int) -> Iterator[bytes]:
    while count > 0 and (block := stream.read(min(count, 1 << 20))):
        count -= len(block)
        yield block


def _fill(stream: IO[bytes], buffer: bytearray, path: Path) -> None:
    view = memoryview(buffer)
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise InputError(f"{path} ends before its last voxel; copy or export it again.")
        view = view[count:]


def stored_dtype(voxels: NDArray[np.float32]) -> np.dtype:
    """int16 or uint16 where that keeps every bit of every value, else float32; (X, Y, Z, N)."""
    possible = [np.dtype("<i2"), np.dtype("<u2")]
    for n in range(voxels.shape[-1]):
        volume = voxels[..., n]
        low, high = float(volume.min()), float(volume.max())
        possible = [d for d in possible if np.iinfo(d).min <= low and high <= np.iinfo(d).max]
        # Bits, not values: a negative zero has no integer.
        if not possible or not np.array_equal(
            volume.astype(possible[0]).astype(np.float32).view(np.int32), volume.view(np.int32)
        ):
            return np.dtype("<f4")
    return possible[0]


def write_voxels(file: IO[bytes], voxels: NDArray, dtype: np.dtype) -> None:
    """Write first axis fastest, one slab of the last axis at a time."""
    for n in range(voxels.shape[-1]):
        slab = voxels[..., n].astype(dtype, order="F", copy=False)
        file.write(slab.reshape(-1, order="F").view(np.uint8).data)


@contextmanager
def compressed_output(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Stream whose bytes reach `file` as one gzip member, compressed on all cores."""
    if igzip_threaded is None:
        stream = gzip.GzipFile("", "wb", 1, file, mtime=0)
    else:
        threads = min(WRITE_THREADS, os.cpu_count() or 1)
        stream = igzip_threaded.open(file, "wb", compresslevel=1, threads=threads)
    try:
        with stream:
            yield stream
    except OSError as error:
        error.__context__ = (
            None  # ISA-L's writer raises one error twice; as its own context it would hang any ExitStack
        )
        raise
