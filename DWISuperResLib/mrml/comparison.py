"""A comparison in the scene: maps of reference and test, differences, statistics, charts; and what the views show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from . import display, layout, plots
from .nodes import find, find_or_add

MAPS = ("fa", "qa", "md", "iso", "gfa")
PARTS = ("reference", "test", "difference")
_MAP_CLASS = "vtkMRMLScalarVolumeNode"


def update_comparison(
    maps: Mapping[str, tuple[NDArray, NDArray]], statistics: Path, report: Path, grid
) -> dict[str, Any]:
    """Put the results of a comparison into the scene, into the same nodes each time.

    Parameters
    ----------
    maps : mapping of map name to (reference, test)
        Arrays (X, Y, Z), zero outside of the mask.
    statistics : Path
        Tab-separated table with a header.
    report : Path
        HTML; kept in the scene as a text node, so it can be exported later.
    grid : volume node
        The scan that the maps lie on.

    Returns
    -------
    dict of node by name: fa_reference, fa_test, fa_difference, ..., statistics, report.
    """
    nodes: dict[str, Any] = {}
    for name, (reference, test) in maps.items():
        low, high = display.value_window(name, reference, test)
        arrays = dict(zip(PARTS, (reference, test, test - reference), strict=True))
        for part, array in arrays.items():
            node = _update_map(f"{name}_{part}", array, grid)
            title = " ".join(filter(None, (name.upper(), part, display.UNITS.get(name, ""))))
            if part == "difference":
                display.show_difference(node, display.difference_limit(array), title)
            else:
                display.show_value(node, low, high, title)
            nodes[f"{name}_{part}"] = node
    for stale in (f"{name}_{part}" for name in MAPS if name not in maps for part in PARTS):
        if (node := find(_MAP_CLASS, stale)) is not None:  # a map of an earlier run would not belong to these scans
            slicer.mrmlScene.RemoveNode(node)
    with statistics.open(encoding="utf-8", newline="") as file:
        nodes["statistics"] = plots.update_statistics(list(csv.DictReader(file, delimiter="\t")))
    text = find_or_add("vtkMRMLTextNode", "report", "DWISuperRes report")
    text.SetText(report.read_text(encoding="utf-8"))
    nodes["report"] = text
    return nodes


def comparison_nodes() -> dict[str, Any]:
    """The nodes of the scene's comparison, as `update_comparison` returned them; empty if there is none."""
    roles = [(f"{name}_{part}", _MAP_CLASS) for name in MAPS for part in PARTS]
    roles += [("statistics", "vtkMRMLTableNode"), ("report", "vtkMRMLTextNode")]
    found = {role: find(class_name, role) for role, class_name in roles}
    return {role: node for role, node in found.items() if node is not None}


def show_map(name: str, chart: str = "scatter") -> None:
    """Show one map of the comparison: its volumes in the linked views, its charts ("scatter" or "bland_altman")."""
    nodes = comparison_nodes()
    if f"{name}_difference" not in nodes:
        return
    reference, test = (slicer.util.arrayFromVolume(nodes[f"{name}_{part}"]) for part in ("reference", "test"))
    inside = (reference != 0) | (test != 0)
    values = reference[inside].astype(np.float64), test[inside].astype(np.float64)
    charts = {
        "scatter": plots.update_scatter(name.upper(), *values),
        "bland_altman": plots.update_bland_altman(name.upper(), *values),
    }
    histogram = plots.update_histogram(name.upper(), *values)
    _show_in_views(nodes, name, charts[chart], histogram)


def _show_in_views(nodes: Mapping[str, Any], name: str, agreement, histogram) -> None:
    for part, tag in layout.SLICE_VIEWS.items():
        if (composite := layout.composite_node(tag)) is not None:
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            composite.SetBackgroundVolumeID(nodes[f"{name}_{part}"].GetID())
    for tag, chart in ((layout.AGREEMENT_VIEW, agreement), (layout.HISTOGRAM_VIEW, histogram)):
        if (view := layout.view_node("vtkMRMLPlotViewNode", tag)) is not None:
            view.SetPlotChartNodeID(chart.GetID())
    if (view := layout.view_node("vtkMRMLTableViewNode", layout.TABLE_VIEW)) is not None:
        view.SetTableNodeID(nodes["statistics"].GetID())


def _update_map(role: str, array: NDArray, grid):
    node = find_or_add(
        _MAP_CLASS, role, role.replace("_", " ").replace(role.split("_")[0], role.split("_")[0].upper(), 1)
    )
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float32))
    node.CopyOrientation(grid)
    node.SetAndObserveTransformNodeID(grid.GetTransformNodeID())
    return node


def statistics_rows() -> Sequence[Sequence[str]]:
    """The statistics table as text, header first; empty without a comparison."""
    node = find("vtkMRMLTableNode", "statistics")
    if node is None:
        return []
    names = [node.GetColumnName(c) for c in range(node.GetNumberOfColumns())]
    cells = [[node.GetCellText(r, c) for c in range(len(names))] for r in range(node.GetNumberOfRows())]
    return [names, *cells]
