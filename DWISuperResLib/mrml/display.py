"""How maps look: perceptual colours for FA and its kin, diverging colours about zero for differences, and legends."""

from __future__ import annotations

import numpy as np
import slicer
from numpy.typing import NDArray

DIVERGING = "vtkMRMLColorTableNodeFileDivergingBlueRed.txt"
SEQUENTIAL = "vtkMRMLColorTableNodeFileViridis.txt"
UNITS = {"md": "mm²/s", "ad": "mm²/s", "rd": "mm²/s"}


def show_value(node, low: float, high: float, title: str) -> None:
    """Viridis from `low` to `high`, nothing where the map is zero (outside of the mask), and a legend."""
    _show(node, low, high, SEQUENTIAL, title)
    limits = np.finfo(np.float32)
    node.GetDisplayNode().SetThreshold(float(limits.tiny), float(limits.max))
    node.GetDisplayNode().ApplyThresholdOn()


def show_difference(node, limit: float, title: str) -> None:
    """Blue below zero, red above, white at zero: a window of ±`limit`, and a legend."""
    _show(node, -limit, limit, DIVERGING, title)


def value_window(name: str, *arrays: NDArray) -> tuple[float, float]:
    """Window shared by maps that are to be compared: 0 to 1 for FA, else 0 to the 99th percentile within the maps."""
    if name == "fa":
        return 0.0, 1.0
    values = np.concatenate([a[a != 0] for a in arrays])
    return 0.0, (float(np.percentile(values, 99)) if values.size else 0.0) or 1.0


def difference_limit(difference: NDArray) -> float:
    """Half width of a difference's window: the 99th percentile of its magnitude where it is not zero."""
    magnitude = np.abs(difference[difference != 0])
    return (float(np.percentile(magnitude, 99)) if magnitude.size else 0.0) or 1.0


def _show(node, low: float, high: float, colours: str, title: str) -> None:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(low, high)
        display.SetAndObserveColorNodeID(colours)
        display.SetInterpolate(0)
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.2g")
    legend.SetMaxNumberOfColors(256)
    legend.SetVisibility(True)
