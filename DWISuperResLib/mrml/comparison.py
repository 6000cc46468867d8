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
from slicer.i18n import tr as _

from ..microstructure.models import display_window, map_info
from . import display, layout, plots
from .nodes import find, find_or_add, nodes_by_class, remove
from .volumes import ijk_to_ras, voxel_to_world

PARTS = ("reference", "test", "difference")
COLOUR_FA = "colour_fa"
"""What `show_map` shows as directions: red left-right, green front-back, blue up-down, as bright as FA is high."""
_MAP_CLASS = "vtkMRMLScalarVolumeNode"
_COLOUR_CLASS = "vtkMRMLVectorVolumeNode"


def update_comparison(
    maps: Mapping[str, tuple[NDArray, NDArray]],
    statistics: Path,
    report: Path,
    grid: Any,
    colours: tuple[NDArray, NDArray] | None = None,
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
    colours : two arrays (X, Y, Z, 3) of uint8, optional
        Colour FA of reference and test.

    Returns
    -------
    dict of node by name: fa_reference, fa_test, fa_difference, ..., colour_fa_reference, colour_fa_test, statistics,
    report. Differences are NaN outside of the mask, so that views show nothing there.
    """
    nodes: dict[str, Any] = {}
    for name, (reference, test) in maps.items():
        low, high = display_window(name, reference, test)
        inside = (reference != 0) | (test != 0)
        difference = np.where(inside, test - reference, np.float32(np.nan))
        for part, array in zip(PARTS, (reference, test, difference), strict=True):
            node = _update_map(_MAP_CLASS, f"{name}_{part}", array, grid)
            if part == "difference":
                display.show_difference(node, display.difference_limit(difference))
            else:
                display.show_value(node, low, high)
            nodes[f"{name}_{part}"] = node
    for part, image in zip(PARTS, colours or (), strict=False):
        node = _update_map(_COLOUR_CLASS, f"{COLOUR_FA}_{part}", image, grid)
        display.show_colours(node)
        nodes[f"{COLOUR_FA}_{part}"] = node
    for role, node in _maps().items():
        if role not in nodes:  # a map of an earlier run would not belong to these scans
            remove(node)
    with statistics.open(encoding="utf-8", newline="") as file:
        nodes["statistics"] = plots.update_statistics(list(csv.DictReader(file, delimiter="\t")))
    text = find_or_add("vtkMRMLTextNode", "report", _("DWISuperRes report"))
    text.SetText(report.read_text(encoding="utf-8"))
    nodes["report"] = text
    return nodes


def comparison_nodes() -> dict[str, Any]:
    """The nodes of the scene's comparison, as `update_comparison` returned them; empty if there is none."""
    others = {"statistics": "vtkMRMLTableNode", "report": "vtkMRMLTextNode"}
    found = {role: find(class_name, role) for role, class_name in others.items()}
    return {**_maps(), **{role: node for role, node in found.items() if node is not None}}


def _maps() -> dict[str, Any]:
    """Node by role of every map of the comparison."""
    nodes = [node for name in (_MAP_CLASS, _COLOUR_CLASS) for node in nodes_by_class(name)]
    roles = {node.GetAttribute("DWISuperRes.Role"): node for node in nodes}
    return {role: node for role, node in roles.items() if role and role.rpartition("_")[2] in PARTS}


def map_names() -> list[str]:
    """Names of the maps that the scene's comparison holds."""
    return [role.removesuffix("_reference") for role in _maps() if role.endswith("_reference")]


def shown_names(name: str) -> dict[str, str]:
    """Role of the map in each slice view; beside colour FA stands the difference of FA."""
    return {part: f"{'fa' if (name, part) == (COLOUR_FA, 'difference') else name}_{part}" for part in PARTS}


def show_map(name: str, chart: str = "scatter") -> None:
    """Show one map of the comparison: its volumes in the linked views, its charts ("scatter" or "bland_altman")."""
    nodes = comparison_nodes()
    roles = shown_names(name)
    if not set(roles.values()) <= set(nodes):
        return
    plotted = "fa" if name == COLOUR_FA else name
    reference, test = (slicer.util.arrayFromVolume(nodes[f"{plotted}_{part}"]) for part in ("reference", "test"))
    voxels = np.argwhere((reference != 0) | (test != 0))[:, ::-1]  # (n, 3): i, j, k
    first, second = (a[tuple(voxels[:, ::-1].T)].astype(np.float64) for a in (reference, test))
    agreement, histogram = plots.update_charts(map_info(plotted).label, first, second, voxels, chart)
    _show_in_views({part: nodes[role] for part, role in roles.items()}, agreement, histogram, nodes["statistics"])
    for node in _maps().values():
        display.remove_legend(node)
    for part, role in roles.items():
        if nodes[role].IsA(_COLOUR_CLASS):  # colours are directions, not values
            continue
        info = map_info(role.removesuffix(f"_{part}"))
        unit = "" if info.unit == "signal" else info.unit  # compared relative to the reference's largest
        title = " ".join(filter(None, (info.label, _part_label(part), unit)))
        # In its own view alone: the reference's shows the test map over its own at times, and both would be one mess.
        display.renew_legend(nodes[role], title, layout.view_node("vtkMRMLSliceNode", layout.SLICE_VIEWS[part]))


def lay_test_over_reference(name: str, opacity: float) -> None:
    """Lay the test's map over the reference's in its view: 0 takes it away, 1 hides what lies below.

    What somebody else laid over that view, like an uncertainty, is not taken away.
    """
    if (composite := layout.composite_node(layout.SLICE_VIEWS["reference"])) is None:
        return
    tests = {role: node.GetID() for role, node in _maps().items() if role.endswith("_test")}
    if opacity and f"{name}_test" in tests:
        composite.SetForegroundVolumeID(tests[f"{name}_test"])
        composite.SetForegroundOpacity(opacity)
    elif composite.GetForegroundVolumeID() in tests.values():
        composite.SetForegroundVolumeID(None)


def centre_of_mask() -> NDArray[np.float64]:
    """World position (RAS, mm) of the middle of the compared voxels; the comparison must exist."""
    node = find(_MAP_CLASS, "fa_difference") or next(n for r, n in _maps().items() if r.endswith("_difference"))
    inside = np.argwhere(np.isfinite(slicer.util.arrayFromVolume(node)))[:, ::-1]
    if not len(inside):
        inside = (np.array([node.GetImageData().GetDimensions()]) - 1) // 2
    nearest = inside[np.argmin(((inside - inside.mean(0)) ** 2).sum(1))]  # a voxel of the mask, where that is bent
    return voxel_to_world(node, nearest)


def picked_position(series: Any, row: int) -> NDArray[np.float64] | None:
    """World position (RAS, mm) of a point picked in a plot, or None where the point is no voxel."""
    table = series.GetTableNode()
    maps = _maps()
    voxel = plots.voxel_of(table, row) if table is not None and maps else None
    return None if voxel is None else voxel_to_world(next(iter(maps.values())), voxel)


def _show_in_views(volumes: Mapping[str, Any], agreement: Any, histogram: Any, statistics: Any) -> None:
    for part, tag in layout.SLICE_VIEWS.items():
        if (composite := layout.composite_node(tag)) is not None:
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            composite.SetBackgroundVolumeID(volumes[part].GetID())
    for tag, chart in ((layout.AGREEMENT_VIEW, agreement), (layout.HISTOGRAM_VIEW, histogram)):
        if (view := layout.view_node("vtkMRMLPlotViewNode", tag)) is not None:
            view.SetPlotChartNodeID(chart.GetID())
    if (view := layout.view_node("vtkMRMLTableViewNode", layout.TABLE_VIEW)) is not None:
        view.SetTableNodeID(statistics.GetID())


def _update_map(class_name: str, role: str, array: NDArray, grid: Any) -> Any:
    name, part = role.rsplit("_", 1)
    node = find_or_add(class_name, role, f"{name.replace('_', ' ').upper()} {_part_label(part)}")
    voxels = np.moveaxis(array, (0, 1, 2), (2, 1, 0))  # (K, J, I), or with three colours last
    dtype = np.uint8 if array.ndim == 4 else np.float32
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(voxels, dtype=dtype))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras(grid)))
    node.SetAndObserveTransformNodeID(grid.GetTransformNodeID())
    return node


def _part_label(part: str) -> str:
    return {"reference": _("reference"), "test": _("test"), "difference": _("difference")}[part]


def statistics_rows() -> Sequence[Sequence[str]]:
    """The statistics table as text, header first; empty without a comparison."""
    node = find("vtkMRMLTableNode", "statistics")
    if node is None:
        return []
    names = [node.GetColumnName(c) for c in range(node.GetNumberOfColumns())]
    cells = [[node.GetCellText(r, c) for c in range(len(names))] for r in range(node.GetNumberOfRows())]
    return [names, *cells]
