"""What a super-resolved scan brings along, filed under it in the Data module: its self-checks and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import slicer

from . import display, plots
from .nodes import file_under, nodes_by_class

CHECKS_REFERENCE = "DWISuperRes.SelfChecks"
UNCERTAINTY_REFERENCE = "DWISuperRes.Uncertainty"
CHECK_COLUMNS = ("check", "value", "limit", "verdict", "advice")


def update_self_checks(result: Any, checks: Sequence[Mapping[str, Any]]) -> Any:
    """A table of the self-checks of a result, named after it and filed under it; a row a check.

    Parameters
    ----------
    result : vtkMRMLDiffusionWeightedVolumeNode
    checks : sequence of mapping
        With name, value, threshold, fired and advice, as `evaluation.selfchecks.Check`.
    """
    table = result.GetNodeReference(CHECKS_REFERENCE)
    if table is None:
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
        result.SetNodeReferenceID(CHECKS_REFERENCE, table.GetID())
        file_under(table, result)
    table.SetName(f"{result.GetName()} self-checks")
    cells = [
        (c["name"], f"{c['value']:.3g}", f"{c['threshold']:.3g}", "warning" if c["fired"] else "passed", c["advice"])
        for c in checks
    ]
    rows = [dict(zip(CHECK_COLUMNS, row, strict=True)) for row in cells]
    plots.fill_table(table, plots.as_columns(rows) if rows else {name: [] for name in CHECK_COLUMNS})
    return table


def attach_uncertainty(result: Any, uncertainty: Any) -> None:
    """Name a volume of standard deviations after its result, colour it and file it under it."""
    uncertainty.SetName(f"{result.GetName()} uncertainty")
    result.SetNodeReferenceID(UNCERTAINTY_REFERENCE, uncertainty.GetID())
    file_under(uncertainty, result)
    display.show_uncertainty(uncertainty)


def uncertainty_of(result: Any) -> Any:
    """The volume of standard deviations of a result, or None."""
    return result.GetNodeReference(UNCERTAINTY_REFERENCE) if result is not None else None


def show_uncertainty_overlay(uncertainty: Any, opacity: float) -> None:
    """Lay the uncertainty over what every slice view shows; opacity 0 takes it away."""
    for composite in nodes_by_class("vtkMRMLSliceCompositeNode"):
        own = composite.GetForegroundVolumeID() == uncertainty.GetID()
        if opacity > 0 and composite.GetBackgroundVolumeID():
            composite.SetForegroundVolumeID(uncertainty.GetID())
            composite.SetForegroundOpacity(opacity)
        elif own:
            composite.SetForegroundVolumeID(None)
