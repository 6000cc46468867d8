"""Arrays of a whole scan's size: in memory, or, where a command allows it and they are large, in files without a name.

Pages of a file come and go as they are used, so what the arrays may hold is bounded by the disk and not by memory.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .errors import ProcessingError

LARGEST_IN_MEMORY = 1 << 30
"""Bytes of an array above which it goes to a file. Most scans' results are smaller."""

MAPPED_FILES_MOVE = sys.platform != "win32"
"""Windows lets nobody move a mapped file, or another one over it."""

_FOLDER: ContextVar[Path | None] = ContextVar("folder of large arrays", default=None)


@contextmanager
def large_arrays_in(folder: str | os.PathLike) -> Iterator[None]:
    """Let large arrays that are made while this lasts lie in files of a folder; they vanish with their last user.

    Examples
    --------
    >>> with large_arrays_in("."):
    ...     is_large((4, 5, 6, 7)), is_large((400, 400, 200, 100))
    (False, True)
    """
    token = _FOLDER.set(Path(folder))
    try:
        yield
    finally:
        _FOLDER.reset(token)


def is_large(shape: Sequence[int]) -> bool:
    """Whether an array of float32 of this shape belongs in a file."""
    return _FOLDER.get() is not None and 4 * math.prod(shape) > LARGEST_IN_MEMORY


def signal_array(shape: Sequence[int]) -> NDArray[np.float32]:
    """Zeros (X, Y, Z, N) in Fortran order, as scans are held.

    Raises
    ------
    ProcessingError
        If it belongs in a file and the disk has no room for it.

    Examples
    --------
    >>> signal_array((2, 3, 4, 5)).flags.f_contiguous
    True
    """
    folder = _FOLDER.get()
    if folder is None or not is_large(shape):
        return np.zeros(shape, np.float32, order="F")
    with tempfile.TemporaryFile(dir=folder) as file:
        reserve(file, 4 * math.prod(shape), folder)
        return mapped(file, 0, shape, mmap.ACCESS_WRITE)


def mapped(file: IO[bytes], start: int, shape: Sequence[int], access: int = mmap.ACCESS_READ) -> NDArray[np.float32]:
    """The float32 of an open file from byte `start` on, first axis fastest, as an array; read-only unless told."""
    before = start % mmap.ALLOCATIONGRANULARITY
    pages = _Pages(file.fileno(), before + 4 * math.prod(shape), access=access, offset=start - before)
    pages.file = os.fstat(file.fileno())
    return np.ndarray(shape, np.float32, pages, offset=before, order="F")


def lies_in(array: NDArray, path: Path) -> bool:
    """Whether an array that `mapped` made, or a view of it, is a part of this very file.

    Examples
    --------
    >>> with open("values", "w+b") as file:
    ...     _ = file.write(bytes(16)), file.flush()
    ...     array = mapped(file, 0, (4,))
    >>> lies_in(array[1:], Path("values")), lies_in(array.copy(), Path("values"))
    (True, False)
    """
    holder: object = array
    while isinstance(holder, np.ndarray):
        holder = holder.base
    return isinstance(holder, _Pages) and path.exists() and os.path.samestat(holder.file, path.stat())


class _Pages(mmap.mmap):
    """A mapped file that knows which it is."""

    file: os.stat_result


def reserve(file: IO[bytes], size: int, folder: Path) -> None:
    """Take `size` bytes of the disk for an empty file: a mapped page that finds none later would end the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            zeros = bytes(1 << 20)
            for start in range(0, size, len(zeros)):
                file.write(zeros[: size - start])
            file.flush()
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise ProcessingError(
            f"A scan of this size needs {size / 1e9:.1f} GB in {folder.absolute()}, which has {free / 1e9:.1f} GB free "
            f"({error.strerror}); nothing was written: free space or choose another place for the output."
        ) from error
