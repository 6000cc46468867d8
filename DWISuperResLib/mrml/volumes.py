"""DWI volume nodes: to and from DWI objects, and to and from the NRRD files handed to the child process."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import ArrayLike, NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..dwi import DWI, Volume
from ..errors import InputError, ProcessingError
from ..resampling.grid import ras_corners, regridded_affine
from ..resampling.scale import Scale
from .nodes import file_under, hierarchy

FEWEST_VOLUMES = 7
"""Slicer's NRRD writer drops the gradient table of smaller scans without a word (vtkTeemNRRDWriter, numGrad > 6)."""


def ijk_to_ras(node) -> NDArray[np.float64]:
    """(4, 4) voxel -> RAS mm of a volume node."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def voxel_to_world(node: Any, voxel: ArrayLike) -> NDArray[np.float64]:
    """(3,) RAS mm of a voxel (i, j, k), the node's linear transforms applied, as views show it."""
    position = ijk_to_ras(node) @ np.append(np.asarray(voxel, dtype=np.float64), 1.0)
    if (transform := node.GetParentTransformNode()) is not None:
        matrix = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(matrix)
        position = slicer.util.arrayFromVTKMatrix(matrix) @ position
    return position[:3]


def gradient_table(node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """b-values (N,) in s/mm² and unit directions (N, 3) in RAS: the node's vectors turned by its measurement frame."""
    frame = vtk.vtkMatrix4x4()
    node.GetMeasurementFrameMatrix(frame)
    bvals = np.array(vtk_to_numpy(node.GetBValues()), dtype=np.float64).reshape(-1)
    vectors = np.array(vtk_to_numpy(node.GetDiffusionGradients()), dtype=np.float64).reshape(-1, 3)
    bvecs = vectors @ slicer.util.arrayFromVTKMatrix(frame)[:3, :3].T
    lengths = np.linalg.norm(bvecs, axis=1, keepdims=True)
    return bvals, np.divide(bvecs, lengths, out=np.zeros_like(bvecs), where=lengths > 1e-6)


def dwi_from_node(node) -> DWI:
    """The scan in a vtkMRMLDiffusionWeightedVolumeNode, for use with the library in the Python console.

    Raises
    ------
    InputError
        If the node is empty, or its gradient table does not fit.
    """
    array = _array(node)
    bvals, bvecs = gradient_table(node)
    return DWI(array.transpose(2, 1, 0, 3), ijk_to_ras(node), bvals, bvecs)


def volume_from_node(node: Any, scan: Any) -> Volume:
    """The image in a vtkMRMLScalarVolumeNode, placed relative to a scan's node as views show both.

    Raises
    ------
    InputError
        If the node is empty or has several components, or a transform between the two is not linear.
    """
    array = _array(node)
    if array.shape[3] != 1:
        text = _("{volume} has {n} components; choose a volume of one, such as a T1w.")
        raise InputError(text.format(volume=node.GetName(), n=array.shape[3]))
    between = vtk.vtkMatrix4x4()
    transforms = node.GetParentTransformNode(), scan.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*transforms, between):
        text = _("The transform of {volume} is not linear; harden it, and choose the result.")
        raise InputError(text.format(volume=node.GetName()))
    return Volume(array[..., 0].transpose(2, 1, 0), slicer.util.arrayFromVTKMatrix(between) @ ijk_to_ras(node))


def header(node: Any) -> DWI:
    """The grid of a volume node as a scan of one voxel, for questions that need no more; spares copying the scan."""
    return DWI(np.zeros((1, 1, 1, 1), dtype=np.float32), ijk_to_ras(node), np.zeros(1), np.zeros((1, 3)))


def add_dwi_node(dwi: DWI, name: str):
    """A new vtkMRMLDiffusionWeightedVolumeNode in the scene; its measurement frame is the identity.

    Raises
    ------
    ProcessingError
        If MRML rejects the gradient table, so that no scan with a wrong table enters the scene.
    """
    node = slicer.util.addVolumeFromArray(
        np.ascontiguousarray(dwi.signal.transpose(2, 1, 0, 3)),
        dwi.affine,
        name,
        "vtkMRMLDiffusionWeightedVolumeNode",
    )
    try:
        _set_gradients(node, dwi.bvals, dwi.bvecs, np.eye(3))
    except ProcessingError:
        slicer.mrmlScene.RemoveNode(node)
        raise
    return node


def write_dwi_nrrd(node, path: str | os.PathLike[str]) -> None:
    """Write a DWI node as an uncompressed NRRD (a second for gigabytes; compressing takes minutes).

    Raises
    ------
    InputError
        If the node is empty, has no gradient table or fewer than 7 volumes.
    ProcessingError
        If the file cannot be written.
    """
    volumes = _array(node).shape[3]
    if volumes < FEWEST_VOLUMES:
        text = _(
            "{scan} has {n} volumes, and Slicer's NRRD files keep a gradient table only from {fewest} volumes on; use "
            "the command line dwi-superres for so short a scan."
        )
        raise InputError(text.format(scan=node.GetName(), n=volumes, fewest=FEWEST_VOLUMES))
    bvals = gradient_table(node)[0]
    if not np.isfinite(bvals).all() or not bvals.any():
        text = _("{scan} has no b-values; load the scan again with its gradient table.")
        raise InputError(text.format(scan=node.GetName()))
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(os.fspath(path))
    storage.SetUseCompression(0)
    if not storage.WriteData(node) or not os.path.isfile(path):
        text = _("{scan} could not be written to {path}; check that the disk has space.")
        raise ProcessingError(text.format(scan=node.GetName(), path=path))


def read_dwi_nrrd(path: str | os.PathLike[str], like, target=None, name: str = ""):
    """Read a computed scan into `target` (a new node if None) with the gradient table of the node `like`, bit by bit.

    A new node appears at its source's place in the subject hierarchy.

    Raises
    ------
    ProcessingError
        If the file is no DWI NRRD, or has another number of volumes than `like`.
    """
    loaded = slicer.vtkMRMLDiffusionWeightedVolumeNode()
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(os.fspath(path))
    expected = like.GetNumberOfGradients()
    if not storage.ReadData(loaded) or loaded.GetNumberOfGradients() != expected:
        text = _("The result {path} is not a DWI of {n} volumes; please report this.")
        raise ProcessingError(text.format(path=path, n=expected))
    created = target is None
    node = target or slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLDiffusionWeightedVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    frame = vtk.vtkMatrix4x4()
    like.GetMeasurementFrameMatrix(frame)
    with slicer.util.NodeModify(node):
        node.SetAndObserveImageData(loaded.GetImageData())
        node.CopyOrientation(loaded)
        _set_gradients(
            node,
            vtk_to_numpy(like.GetBValues()),
            vtk_to_numpy(like.GetDiffusionGradients()),
            slicer.util.arrayFromVTKMatrix(frame)[:3, :3],
        )
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    _show_like(node, like)
    if created:
        place_beside(node, like)
    return node


def size_in_bytes(node) -> int:
    """Of the voxels of a volume node."""
    return _array(node).nbytes


def scale_between(low, high) -> Scale | None:
    """How much finer one node's grid is than another's over the same field of view, or None where it is not.

    Any factors, whole or not, along any axes: the exact ones of the two matrices.
    """
    coarse, fine = low.GetImageData().GetDimensions(), high.GetImageData().GetDimensions()
    if coarse == fine:
        return None
    try:
        scale = Scale.between(coarse, fine)
    except InputError:  # coarser along an axis
        return None
    expected = ras_corners(regridded_affine(ijk_to_ras(low), coarse, fine), fine)
    apart = np.abs(expected - ras_corners(ijk_to_ras(high), fine)).max()
    return scale if apart < 0.01 * np.linalg.norm(ijk_to_ras(high)[:3, :3], axis=0).min() else None


def place_beside(node, neighbour) -> None:
    """Give a node the transform of another and put it under the same subject hierarchy item."""
    node.SetAndObserveTransformNodeID(neighbour.GetTransformNodeID())
    item = hierarchy().GetItemByDataNode(neighbour)
    if item:
        file_under(node, hierarchy().GetItemParent(item))


def describe(node) -> str:
    """One line: matrix, voxel size, b-values, directions.

    Raises
    ------
    InputError
        If the node is empty.
    """
    bvals, bvecs = gradient_table(node)
    k, j, i = _array(node).shape[:3]
    sizes = " × ".join(f"{size:.3g}" for size in np.linalg.norm(ijk_to_ras(node)[:3, :3], axis=0))
    counts = zip(*np.unique(bvals.round(-2), return_counts=True), strict=True)
    shells = [_("{n} at b = {b}").format(n=count, b=f"{b:g}") for b, count in counts]
    weighted = bvecs[(np.linalg.norm(bvecs, axis=1) > 0) & (bvals > 50)]
    directions = len(np.unique(_hemisphere(weighted).round(3), axis=0))
    text = _("{matrix} voxels of {sizes} mm; {n} volumes: {shells} s/mm²; {directions} directions")
    return text.format(
        matrix=f"{i} × {j} × {k}", sizes=sizes, n=len(bvals), shells=", ".join(shells), directions=directions
    )


def _hemisphere(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each vector or its opposite (the same diffusion direction), on one side, rounded first so -0.0 cannot split."""
    vectors = vectors.round(3) + 0.0
    first = np.take_along_axis(vectors, np.argmax(vectors != 0, axis=1)[:, None], axis=1)
    return np.where(first < 0, -vectors, vectors) + 0.0


def _array(node) -> NDArray:
    """(K, J, I, N) view of a DWI node's voxels."""
    if node.GetImageData() is None or not node.GetImageData().GetPointData().GetScalars():
        raise InputError(_("{volume} holds no image; choose another volume.").format(volume=node.GetName()))
    array = slicer.util.arrayFromVolume(node)
    return array if array.ndim == 4 else array[..., None]


def _set_gradients(node, bvals, vectors, frame) -> None:
    """Set the table (vectors already unit length) and read it back, since MRML setters only log what they refuse."""
    node.SetNumberOfGradients(len(bvals))
    node.SetBValues(numpy_to_vtk(np.ascontiguousarray(bvals, dtype=np.float64), deep=1))
    node.SetDiffusionGradients(numpy_to_vtk(np.ascontiguousarray(vectors, dtype=np.float64), deep=1))
    matrix = np.eye(4)
    matrix[:3, :3] = frame
    node.SetMeasurementFrameMatrix(slicer.util.vtkMatrixFromArray(matrix))
    kept = np.array_equal(vtk_to_numpy(node.GetDiffusionGradients()), vectors)
    if not kept or not np.array_equal(vtk_to_numpy(node.GetBValues()), bvals):
        text = _("Slicer rejected the gradient table of {scan}; please report this scan.")
        raise ProcessingError(text.format(scan=node.GetName()))


def _show_like(node, like) -> None:
    """Show the same gradient with the same window as the source, so the two can be compared at once."""
    source, own = like.GetDisplayNode(), node.GetDisplayNode()
    if source is None or source.GetAutoWindowLevel():
        return
    own.AutoWindowLevelOff()
    own.SetWindowLevelMinMax(source.GetWindowLevelMin(), source.GetWindowLevelMax())
    own.SetDiffusionComponent(source.GetDiffusionComponent())
