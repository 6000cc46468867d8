"""Masks the user chose: label maps and segmentations as arrays on a scan's grid."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray
from slicer.i18n import tr as _

from ..errors import InputError
from .nodes import remove
from .volumes import ijk_to_ras


def mask_array(mask, scan) -> NDArray[np.bool_]:
    """(X, Y, Z) True inside a label map or the visible segments of a segmentation, on the grid of the scan's node.

    Raises
    ------
    InputError
        If a label map lies on another grid, or nothing is inside.
    """
    if mask.IsA("vtkMRMLSegmentationNode"):
        inside = _segments_on_grid(mask, scan)
    else:
        inside = slicer.util.arrayFromVolume(mask).transpose(2, 1, 0) != 0
        expected = tuple(scan.GetImageData().GetDimensions())
        if inside.shape != expected or not np.allclose(ijk_to_ras(mask), ijk_to_ras(scan), atol=1e-3):
            text = _(
                "The mask {mask} {found} does not lie on the grid of {scan} {expected}; resample it, or use a "
                "segmentation, which is resampled by itself."
            )
            names = {"mask": mask.GetName(), "scan": scan.GetName()}
            raise InputError(text.format(found=inside.shape, expected=expected, **names))
    if not inside.any():
        text = _("The mask {mask} is empty; draw it first or choose the automatic mask.")
        raise InputError(text.format(mask=mask.GetName()))
    return inside


def _segments_on_grid(segmentation, scan) -> NDArray[np.bool_]:
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    try:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        exported = logic.ExportVisibleSegmentsToLabelmapNode(segmentation, label, scan)
        if not exported or label.GetImageData() is None or not label.GetImageData().GetPointData().GetScalars():
            text = _("{mask} shows no segment; make one visible or choose another mask.")
            raise InputError(text.format(mask=segmentation.GetName()))
        return slicer.util.arrayFromVolume(label).transpose(2, 1, 0) != 0
    finally:
        display = label.GetDisplayNode()
        colours = display.GetColorNode() if display is not None else None
        remove(label)
        if colours is not None and not colours.GetSingletonTag():  # the table that the export made for this label map
            slicer.mrmlScene.RemoveNode(colours)
