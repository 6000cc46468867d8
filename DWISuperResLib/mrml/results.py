"""What a super-resolved scan brings along, filed under it in the Data module: its self-checks and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from numpy.typing import NDArray
from slicer.i18n import tr as _

from . import display, plots
from .nodes import INPUT_REFERENCE, file_under, nodes_by_class

CHECKS_REFERENCE = "DWISuperRes.SelfChecks"
UNCERTAINTY_REFERENCE = "DWISuperRes.Uncertainty"


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
    table.SetName(_("{scan} self-checks").format(scan=result.GetName()))
    columns: dict[str, NDArray | list[str]] = {
        _("check"): [c["name"] for c in checks],
        _("value"): np.array([float(f"{c['value']:.3g}") for c in checks]),
        _("limit"): np.array([float(f"{c['threshold']:.3g}") for c in checks]),
        _("verdict"): [_("warning") if c["fired"] else _("passed") for c in checks],
        _("advice"): [c["advice"] for c in checks],
    }
    plots.fill_table(table, columns)
    return table


def attach_uncertainty(result: Any, uncertainty: Any) -> None:
    """Name a volume of standard deviations after its result, colour it and file it under it."""
    uncertainty.SetName(_("{scan} uncertainty").format(scan=result.GetName()))
    result.SetNodeReferenceID(UNCERTAINTY_REFERENCE, uncertainty.GetID())
    uncertainty.SetNodeReferenceID(INPUT_REFERENCE, result.GetID())  # a DWI volume, too, but no scan
    file_under(uncertainty, result)
    display.show_uncertainty(uncertainty)


def uncertainty_of(result: Any) -> Any:
    """The volume of standard deviations of a result, or None."""
    return result.GetNodeReference(UNCERTAINTY_REFERENCE) if result is not None else None


def show_uncertainty_overlay(uncertainty: Any, opacity: float) -> None:
    """Lay the uncertainty, with a legend, over what every slice view shows; opacity 0 takes it away."""
    display.remove_legend(uncertainty)
    for composite in nodes_by_class("vtkMRMLSliceCompositeNode"):
        own = composite.GetForegroundVolumeID() == uncertainty.GetID()
        if opacity > 0 and composite.GetBackgroundVolumeID():
            composite.SetForegroundVolumeID(uncertainty.GetID())
            composite.SetForegroundOpacity(opacity)
        elif own:
            composite.SetForegroundVolumeID(None)
    if opacity > 0:
        result = uncertainty.GetNodeReference(INPUT_REFERENCE)
        uncertainty.GetDisplayNode().SetDiffusionComponent(result.GetDisplayNode().GetDiffusionComponent())
        display.renew_legend(uncertainty, _("standard deviation (signal)"))
