"""Gradient tables: FSL's text files, and FSL's image-axis convention <-> RAS."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..dwi import B0_THRESHOLD
from ..errors import InputError
from .streams import open_input

LARGEST_TABLE = 1 << 24
LARGEST_B = 1e5
"""s/mm², beyond what any scanner applies (ex vivo on preclinical systems: some 40,000)."""


def read_table(path: Path) -> NDArray[np.float64]:
    """Numbers of a bval or bvec file as a 2-D array; blanks, tabs, commas, semicolons between them.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("scan.bval").write_text("0 1000 1000")
    >>> read_table(Path("scan.bval")).ravel().tolist()
    [0.0, 1000.0, 1000.0]
    """
    with open_input(path, compressed=False) as (stream, _):
        content = stream.read(LARGEST_TABLE + 1)
    if len(content) > LARGEST_TABLE:
        raise InputError(f"{path} is larger than {LARGEST_TABLE >> 20} MB; it is not a gradient table.")
    try:
        lines = [re.sub(r"#.*|[,;\0]", " ", line).split() for line in content.decode("utf-8-sig").splitlines()]
        rows = [[float(number) for number in line] for line in lines if line]
    except ValueError as error:
        raise InputError(f"{path} is not a table of numbers ({error}).") from error
    if not rows:
        raise InputError(f"{path} holds no numbers; expected a gradient table.")
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"{path} has rows of {sorted({len(row) for row in rows})} numbers; all must be equally long.")
    return np.array(rows)


def read_directions(path: Path) -> NDArray[np.float64]:
    """Directions (N, 3) of a bvec file, 3 x N or N x 3, as they stand there; rows of NaN, as b0 is sometimes, as zero.

    Three volumes leave the layout open: FSL's columns, unless only the rows are unit vectors.
    """
    table = read_table(path)
    if table.shape == (3, 3):
        vectors = table if _are_directions(table) and not _are_directions(table.T) else table.T
    elif 3 in table.shape:
        vectors = table.T if table.shape[0] == 3 else table
    else:
        raise InputError(f"{path} has {table.shape[0]} rows and {table.shape[1]} columns; one of them must be 3.")
    vectors = np.where(np.isnan(vectors).all(axis=1, keepdims=True), 0.0, vectors)
    if odd := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        raise InputError(f"{path} has directions that are not three finite numbers at volumes {odd}; repair the table.")
    return vectors


def _are_directions(vectors: NDArray[np.float64]) -> bool:
    """True where each vector has length 1 to a hundredth, or 0, as it may at b = 0."""
    lengths = np.linalg.norm(np.nan_to_num(vectors), axis=1)
    return bool(lengths.any() and np.all((np.abs(lengths - 1) < 1e-2) | (lengths < 1e-6)))


def b_value_warning(bvals: NDArray[np.float64]) -> str | None:
    """One sentence where b-values are hardly in s/mm², else None.

    Examples
    --------
    >>> b_value_warning(np.array([0.0, 1.0, 2.0]))[:48]
    'The largest b-value is 2 s/mm², so every volume '
    >>> b_value_warning(np.array([0.0, 1000.0]))
    """
    largest = float(np.max(bvals))
    if 0 < largest <= B0_THRESHOLD:
        return (
            f"The largest b-value is {largest:g} s/mm², so every volume counts as unweighted; if the table is in "
            "ms/µm², multiply its b-values by 1000."
        )
    if largest > LARGEST_B:
        return (
            f"The largest b-value is {largest:g} s/mm², beyond any scanner, so diffusivities will come out too small; "
            "expected s/mm²: divide a table in s/m² by 1,000,000, or one multiplied by 1000 by that."
        )
    return None


def table_row(values: Iterable[float]) -> str:
    """A line of numbers, each the shortest text that reads back to the same bits (and 0 for -0).

    Examples
    --------
    >>> table_row(np.array([0.0, 1000.0, 0.1])).split()
    ['0', '1000', '0.1']
    """
    return " ".join(repr(float(value) + 0.0).removesuffix(".0") for value in values) + "\n"


def fsl_to_ras(bvecs: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions (N, 3) from FSL's image axes to RAS, as unit vectors.

    FSL counts the first axis backwards where the affine's determinant is positive
    (https://fsl.fmrib.ox.ac.uk/fsl/docs/#/diffusion/dtifit).

    Examples
    --------
    FSL's first axis runs to the left of a RAS image as it does in a LAS one.

    >>> fsl_to_ras(np.array([[1.0, 0, 0]]), np.diag([2.0, 2, 2, 1])).tolist()
    [[-1.0, 0.0, 0.0]]
    >>> fsl_to_ras(np.array([[1.0, 0, 0]]), np.diag([-2.0, 2, 2, 1])).tolist()
    [[-1.0, 0.0, 0.0]]
    """
    return unit_vectors(bvecs @ _fsl_axes(affine).T)


def ras_to_fsl(bvecs: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of `fsl_to_ras`.

    Examples
    --------
    >>> affine = np.diag([-2.0, 2, 2, 1])
    >>> ras_to_fsl(fsl_to_ras(np.array([[0.6, 0.8, 0]]), affine), affine).tolist()
    [[0.6, 0.8, 0.0]]
    """
    return unit_vectors(np.linalg.solve(_fsl_axes(affine), bvecs.T).T)


def unit_vectors(vectors: NDArray) -> NDArray[np.float64]:
    """Vectors (N, 3) at length 1, or 0 where they were shorter than 1e-6.

    Tables hold a few digits, and some hold directions such as (1, 0, 1) that only a direction is meant by.

    Examples
    --------
    >>> unit_vectors(np.array([[3.0, 4, 0], [0, 0, 0]])).tolist()
    [[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)


def _fsl_axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):  # a singular affine is for the DWI to refuse
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if np.linalg.det(axes) > 0:
            axes[:, 0] *= -1
    return axes
