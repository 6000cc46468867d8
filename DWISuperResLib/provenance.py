"""What a result rests on: the data, by their hash, and the software, by its versions."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from . import __version__
from .errors import InputError

if TYPE_CHECKING:
    from .dwi import DWI


def signal_hash(dwi: DWI) -> str:
    """sha256 of signal (float32, X fastest, volume slowest), affine, b-values, directions (to 5 decimals, float64).

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((4, 4, 4), supersampling=1)
    >>> signal_hash(scan) == signal_hash(phantom((4, 4, 4), supersampling=1))
    True
    """
    digest = hashlib.sha256()
    for n in range(dwi.n_volumes):
        digest.update(np.asfortranarray(dwi.signal[..., n]).T.data)
    # Directions are normalised whenever a DWI is built, which may move their last bit.
    for array in (dwi.affine, dwi.bvals, dwi.bvecs.round(5) + 0.0):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def file_hash(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = f"{os.fspath(path)} cannot be read ({error.strerror})"
        raise InputError(f"{reason}; get its content (git annex get, datalad get) or repair the link.") from error


def versions() -> dict[str, str]:
    """Versions of what the numbers rest on.

    Examples
    --------
    >>> "numpy" in versions()
    True
    """
    names = ("torch", "numpy", "scipy", "dipy", "nibabel", "torchmetrics")
    found = {n: metadata.version(n) for n in names if next(iter(metadata.distributions(name=n)), None)}
    return {"DWISuperRes": __version__, "Python": platform.python_version(), "platform": platform.platform(), **found}
