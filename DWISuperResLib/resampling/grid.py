"""Grid arithmetic, all of it: slice axes, and finer and coarser grids over the same field of view.

Voxels are cells: index i is the centre of cell i, so a field of view reaches half a voxel beyond the first and last
centres, and a change of voxel size moves the centre of the first cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from ..dwi import DWI

AXIS_NAMES = ("i", "j", "k")

T = TypeVar("T")


def slice_axis(dwi: DWI, axis: int | str | None = None) -> int:
    """Voxel axis perpendicular to the slices.

    Parameters
    ----------
    dwi : DWI
    axis : {0, 1, 2, "i", "j", "k"}, optional
        Set by hand. Else the axis that the file names, unless the spacing along one is larger by more than 10 %;
        else the axis of largest spacing (by more than 1 %); else 2.

    Raises
    ------
    InputError
        If `axis` names no axis.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((4, 6, 8), (2, 2, 4), supersampling=1)
    >>> slice_axis(scan), slice_axis(scan, "i")
    (2, 0)
    """
    if axis is not None:
        if axis in AXIS_NAMES:
            return AXIS_NAMES.index(axis)
        if str(axis) in ("0", "1", "2"):
            return int(axis)
        raise InputError(f"The slice axis is {axis!r}; expected i, j or k.")
    thickest = _thickest_axis(dwi)
    if thickest is not None:
        return thickest
    return 2 if dwi.acquisition_axis is None else dwi.acquisition_axis


def slice_axis_is_assumed(dwi: DWI) -> bool:
    """Whether nothing in the scan tells its slice axis, neither its header nor its voxel sizes.

    Examples
    --------
    >>> from DWISuperResLib import DWI
    >>> signal = np.ones((2, 2, 2, 1))
    >>> slice_axis_is_assumed(DWI(signal, np.eye(4), [0], [[0, 0, 0]]))
    True
    >>> slice_axis_is_assumed(DWI(signal, np.diag([1, 1, 3, 1]), [0], [[0, 0, 0]]))
    False
    """
    return dwi.acquisition_axis is None and _thickest_axis(dwi) is None


def _thickest_axis(dwi: DWI) -> int | None:
    sizes, margin = dwi.voxel_sizes, 1.01 if dwi.acquisition_axis is None else 1.1
    largest = int(np.argmax(sizes))
    return largest if sizes[largest] > margin * np.delete(sizes, largest).max() else None


def in_plane_axes(axis: int) -> tuple[int, int]:
    """The two voxel axes within a slice, in ascending order.

    Examples
    --------
    >>> in_plane_axes(1)
    (0, 2)
    """
    first, second = (a for a in range(3) if a != axis)
    return first, second


@dataclass(frozen=True)
class Frame:
    """How a voxel array is looked at slice by slice, the same way however the scan is stored.

    Rows and columns are the voxel axes nearest to anatomy's, left-right before back-front before down-up as columns,
    and run to the left, the front and up: so networks see a slice the same way in a file stored as LAS, RAS or PSR, and
    a file in LAS order, as DICOM converters write, as it lies in memory.

    Attributes
    ----------
    order : three ints
        Voxel axes that become slices, rows, columns.
    flipped : three bools
        Whether slices, rows, columns run against their voxel axis.

    Examples
    --------
    >>> frame = Frame.of(np.diag([-2.0, 2, 3, 1]), axis=2)  # stored as LAS
    >>> frame.order, frame.view(np.zeros((4, 5, 6))).shape
    ((2, 1, 0), (6, 5, 4))
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, affine: NDArray[np.float64], axis: int) -> Frame:
        """The frame of a grid whose slices are stacked along voxel axis `axis`."""
        from nibabel.orientations import io_orientation

        anatomical, direction = io_orientation(affine).T
        rows, columns = sorted((a for a in range(3) if a != axis), key=lambda a: -anatomical[a])
        towards = (-1, 1, 1)  # left, front, up, in R, A, S
        order = axis, rows, columns
        slices, rows, columns = (bool(direction[a] != towards[int(anatomical[a])]) for a in order)
        return cls(order, (slices, rows, columns))

    def view(self, array: NDArray) -> NDArray:
        """View of (X, Y, Z) as (slices, rows, columns), of (X, Y, Z, N) as (N, slices, rows, columns): no copy."""
        turned = array.transpose(*range(3, array.ndim), *self.order)
        return turned[(..., *(slice(None, None, -1) if flip else slice(None) for flip in self.flipped))]

    def along(self, values: Sequence[T]) -> tuple[T, T, T]:
        """What belongs to the voxel axes, such as a shape, in the order (slices, rows, columns)."""
        slices, rows, columns = (values[a] for a in self.order)
        return slices, rows, columns


def regridded_affine(
    affine: NDArray[np.float64], shape: Sequence[int], new_shape: Sequence[int]
) -> NDArray[np.float64]:
    """Affine of a grid with `new_shape` voxels over exactly the field of view that `shape` voxels have.

    Voxel sizes change by shape / new_shape; the origin moves by half the difference of the voxel sizes, so the outer
    faces of the field of view stay where they are.

    Examples
    --------
    >>> regridded_affine(np.diag([2.0, 2, 2, 1]), (10, 10, 10), (20, 20, 10))[:, 3]
    array([-0.5, -0.5,  0. ,  1. ])
    """
    step = np.asarray(shape, dtype=np.float64) / np.asarray(new_shape, dtype=np.float64)
    result = np.array(affine, dtype=np.float64)
    result[:3, :3] = affine[:3, :3] * step
    result[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((step - 1) / 2)
    return result


def regridded_mask(mask: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    """A mask on another grid over the same field of view: each voxel takes the one that holds its centre.

    Examples
    --------
    >>> regridded_mask(np.array([[[True, False]]]), (1, 1, 4)).tolist()
    [[[True, True, False, False]]]
    """
    nearest = [((2 * np.arange(m) + 1) * n) // (2 * m) for n, m in zip(mask.shape, shape, strict=True)]
    return mask[np.ix_(*nearest)]


def ras_corners(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """(8, 3) RAS coordinates (mm) of the field of view's corners.

    Examples
    --------
    >>> ras_corners(np.diag([2.0, 2, 2, 1]), (3, 3, 3))[[0, -1]].tolist()
    [[-1.0, -1.0, -1.0], [5.0, 5.0, 5.0]]
    """
    corners = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in shape[:3]), indexing="ij"), -1).reshape(-1, 3)
    return corners @ affine[:3, :3].T + affine[:3, 3]


def ras_bounds(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """(2, 3) smallest and largest RAS coordinates (mm) of the field of view.

    Examples
    --------
    >>> ras_bounds(np.diag([-2.0, 2, 2, 1]), (3, 3, 3)).tolist()
    [[-5.0, -1.0, -1.0], [1.0, 5.0, 5.0]]
    """
    corners = ras_corners(affine, shape)
    return np.stack((corners.min(0), corners.max(0)))


def check_same_grid(first: DWI, second: DWI, names: tuple[str, str] = ("reference", "test")) -> None:
    """Raise InputError unless both volumes share matrix size and affine (to a hundredth of a voxel).

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> check_same_grid(phantom((4, 4, 4), supersampling=1), phantom((4, 4, 4), supersampling=1))
    """
    corners = [ras_corners(dwi.affine, dwi.spatial_shape) for dwi in (first, second)]
    shift = np.abs(np.subtract(*corners)).max()
    if first.spatial_shape != second.spatial_shape:
        advice = "resample one of them first"
        if shift < 0.01 * first.voxel_sizes.min():
            sizes = "x".join(f"{size:.6g}" for size in first.voxel_sizes)
            advice = f"they show the same field of view, so make the {names[1]} again with the scale {sizes}mm"
        raise InputError(
            f"The {names[0]} has matrix {first.spatial_shape} and the {names[1]} {second.spatial_shape}; "
            f"both must lie on the same grid: {advice}."
        )
    if shift > 0.01 * first.voxel_sizes.min():
        raise InputError(
            f"The {names[0]} and the {names[1]} lie up to {shift:.3g} mm apart; both must lie on the same grid, "
            "so check their orientation headers or resample one of them."
        )
