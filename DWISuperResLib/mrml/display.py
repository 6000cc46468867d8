"""How maps look: perceptual colours for FA and its kin, diverging colours about zero for differences, and legends."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

DIVERGING = "vtkMRMLColorTableNodeFileDivergingBlueRed.txt"
SEQUENTIAL = "vtkMRMLColorTableNodeFileViridis.txt"
UNCERTAIN = "vtkMRMLColorTableNodeFileInferno.txt"


def show_value(node: Any, low: float, high: float) -> None:
    """Viridis from `low` to `high`, nothing where the map is zero (outside of the mask)."""
    _show(node, low, high, SEQUENTIAL)
    _show_only(node, float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))


def show_difference(node: Any, limit: float) -> None:
    """Blue below zero, red above, white at zero: a window of ±`limit`; nothing where it is NaN (outside the mask)."""
    _show(node, -limit, limit, DIVERGING)
    _show_only(node, float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


def show_uncertainty(node: Any) -> None:
    """Inferno from 0 to the 99th percentile of the standard deviations, nothing where there is none."""
    values = slicer.util.arrayFromVolume(node)
    values = values[values > 0]
    _show(node, 0.0, float(np.percentile(values, 99)) if values.size else 1.0, UNCERTAIN)
    _show_only(node, float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))


def show_colours(node: Any) -> None:
    """Red, green and blue from 0 to 255 as they are; Slicer would stretch them to the brightest."""
    node.SetVoxelVectorType(node.VoxelVectorTypeColorRGB)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0, 255)
        display.SetInterpolate(0)


def difference_limit(difference: NDArray) -> float:
    """Half width of a difference's window: the 99th percentile of its magnitude where it is a number."""
    magnitude = np.abs(difference[np.isfinite(difference)])
    return (float(np.percentile(magnitude, 99)) if magnitude.size else 0.0) or 1.0


def renew_legend(node: Any, title: str, view: Any = None) -> None:
    """A new colour legend for a map that views show already; in one of them, or in all that show it.

    A view draws a legend only if the legend is added while the view exists: views that a layout makes later overlook
    it (vtkMRMLColorLegendDisplayableManager looks at legends when they are added to the scene).
    """
    remove_legend(node)
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.2g")
    legend.SetMaxNumberOfColors(256)
    if view is not None:
        legend.AddViewNodeID(view.GetID())
    legend.SetVisibility(True)


def remove_legend(node: Any) -> None:
    """Take the colour legend of a map out of the scene."""
    if (legend := slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)) is not None:
        slicer.mrmlScene.RemoveNode(legend)


def _show(node: Any, low: float, high: float, colours: str) -> None:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(low, high)
        display.SetAndObserveColorNodeID(colours)
        display.SetInterpolate(0)


def _show_only(node: Any, low: float, high: float) -> None:
    """Nothing but voxels within a range; NaN is within none."""
    node.GetDisplayNode().SetThreshold(low, high)
    node.GetDisplayNode().ApplyThresholdOn()
