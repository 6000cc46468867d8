"""Tables and charts of a comparison as MRML nodes that a new run updates in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from .nodes import find_or_add

MOST_POINTS = 4000
"""Points a scatter plot shows, evenly picked: more only hide each other and slow the view."""
BINS = 100
INDICES = ("i", "j", "k")
"""Columns that say which voxel a point is."""

_GREY, _BLUE, _RED = (0.45, 0.45, 0.45), (0.20, 0.40, 0.75), (0.80, 0.30, 0.20)


def update_statistics(rows: Sequence[Mapping[str, str]]) -> Any:
    """The statistics table: a row per map and region; columns are of doubles where every cell is a number."""
    columns: dict[str, NDArray | list[str]] = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        try:
            columns[name] = np.array(values, dtype=np.float64)
        except ValueError:
            columns[name] = values
    return _update_table("statistics", _("DWISuperRes statistics"), columns)


def update_charts(
    label: str, reference: NDArray, test: NDArray, voxels: NDArray[np.int64], chart: str
) -> tuple[Any, Any]:
    """Charts of the agreement (all of them; the one asked for is returned) and of the distributions.

    Parameters
    ----------
    label : str
    reference, test : arrays (n,)
    voxels : array (n, 3)
        i, j, k of each value, kept beside the points, so that a picked point can be found in the images.
    chart : "scatter" or "bland_altman"
    """
    charts = {
        "scatter": update_scatter(label, reference, test, voxels),
        "bland_altman": update_bland_altman(label, reference, test, voxels),
    }
    return charts[chart], update_histogram(label, reference, test)


def update_scatter(label: str, reference: NDArray, test: NDArray, voxels: NDArray[np.int64]) -> Any:
    """Test against reference, a point a voxel, and the line of identity."""
    low, high = _limits(reference, test)
    points = {"reference": _pick(reference), "test": _pick(test)} | _indices(voxels)
    line = {"x": np.array([low, high]), "identity": np.array([low, high])}
    cloud = _update_table("scatter_points", _("Scatter"), points)
    straight = _update_table("scatter_lines", _("Scatter line"), line)
    series = [
        _update_series("scatter_points_voxels", _("voxels"), cloud, "reference", "test", _BLUE, points=True),
        _update_series("scatter_lines_identity", _("identity"), straight, "x", "identity", _GREY),
    ]
    title = _("{map}: test against reference").format(map=label)
    return _update_chart("scatter", title, _("reference"), _("test"), series)


def update_bland_altman(label: str, reference: NDArray, test: NDArray, voxels: NDArray[np.int64]) -> Any:
    """Difference against mean, a point a voxel, with the bias and the 95 % limits of agreement (bias ± 1.96 SD)."""
    mean, difference = (reference + test) / 2, test - reference
    bias, spread = (float(difference.mean()), float(difference.std(ddof=1))) if difference.size > 1 else (0.0, 0.0)
    low, high = _limits(mean)
    lines = (
        ("bias", _("bias"), bias, _RED),
        ("lower", _("lower limit"), bias - 1.96 * spread, _GREY),
        ("upper", _("upper limit"), bias + 1.96 * spread, _GREY),
    )
    points = {"mean": _pick(mean), "difference": _pick(difference)} | _indices(voxels)
    levels = {"x": np.array([low, high])} | {column: np.full(2, level) for column, _name, level, _colour in lines}
    cloud = _update_table("bland_altman_points", _("Bland-Altman"), points)
    table = _update_table("bland_altman_lines", _("Bland-Altman lines"), levels)
    series = [
        _update_series("bland_altman_points_voxels", _("voxels"), cloud, "mean", "difference", _BLUE, points=True),
        *(_update_series(f"bland_altman_lines_{y}", name, table, "x", y, colour) for y, name, _level, colour in lines),
    ]
    title = _("{map}: Bland-Altman").format(map=label)
    return _update_chart("bland_altman", title, _("mean of both"), _("test − reference"), series)


def voxel_of(table: Any, row: int) -> NDArray[np.int64] | None:
    """i, j, k of the voxel in a row of a table of points; None where the table is of something else."""
    columns = [table.GetTable().GetColumnByName(name) for name in INDICES]
    if None in columns or not 0 <= row < table.GetNumberOfRows():
        return None
    return np.array([int(column.GetValue(row)) for column in columns])


def update_histogram(label: str, reference: NDArray, test: NDArray) -> Any:
    """Distributions of both maps on common bins, in voxels a bin."""
    low, high = _limits(reference, test)
    edges = np.linspace(low, high, BINS + 1)
    columns = {label: (edges[1:] + edges[:-1]) / 2}
    columns |= {name: np.histogram(v, edges)[0].astype(float) for name, v in (("reference", reference), ("test", test))}
    table = _update_table("histogram", _("Histogram"), columns)
    series = [
        _update_series("histogram_reference", _("reference"), table, label, "reference", _BLUE),
        _update_series("histogram_test", _("test"), table, label, "test", _RED),
    ]
    title = _("{map}: distribution in the mask").format(map=label)
    return _update_chart("histogram", title, label, _("voxels"), series)


def _limits(*arrays: NDArray) -> tuple[float, float]:
    values = np.concatenate(arrays)
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _pick(values: NDArray) -> NDArray:
    return values[:: max(1, -(-len(values) // MOST_POINTS))]


def _indices(voxels: NDArray[np.int64]) -> dict[str, NDArray | list[str]]:
    return dict(zip(INDICES, _pick(voxels).T, strict=True))


def _update_table(role: str, name: str, columns: Mapping[str, NDArray | list[str]]) -> Any:
    node = find_or_add("vtkMRMLTableNode", role, name)
    fill_table(node, columns)
    return node


def fill_table(node: Any, columns: Mapping[str, NDArray | list[str]]) -> None:
    """Replace what a table node holds."""
    table = vtk.vtkTable()
    for title, values in columns.items():
        if isinstance(values, np.ndarray):
            column = numpy_to_vtk(np.ascontiguousarray(values, dtype=np.float64), deep=1)
        else:
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue(value)
        column.SetName(title)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)


def _update_series(
    role: str, name: str, table: Any, x: str, y: str, colour: tuple[float, float, float], *, points: bool = False
) -> Any:
    """A series of one column of a table against another; its name stands in the chart's legend."""
    node = find_or_add("vtkMRMLPlotSeriesNode", role, name)
    with slicer.util.NodeModify(node):
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName(x)
        node.SetYColumnName(y)
        node.SetPlotType(node.PlotTypeScatter)
        node.SetColor(*colour)
        node.SetMarkerStyle(node.MarkerStyleCircle if points else node.MarkerStyleNone)
        node.SetMarkerSize(3)
        node.SetLineStyle(node.LineStyleNone if points else node.LineStyleSolid)
        node.SetLineWidth(2)
    return node


def _update_chart(role: str, title: str, x_title: str, y_title: str, series: Sequence[Any]) -> Any:
    node = find_or_add("vtkMRMLPlotChartNode", role, title)
    with slicer.util.NodeModify(node):
        node.SetTitle(title)
        node.SetXAxisTitle(x_title)
        node.SetYAxisTitle(y_title)
        for item in series:
            if not node.HasPlotSeriesNodeID(item.GetID()):
                node.AddAndObservePlotSeriesNodeID(item.GetID())
    node.Modified()  # else a chart whose tables changed may stay as it was (as in slicer.util.plot)
    return node
