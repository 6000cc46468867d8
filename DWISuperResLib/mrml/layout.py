"""The comparison layout: reference, test and difference in linked slice views; a table and two plots below."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import slicer
from numpy.typing import ArrayLike
from slicer.i18n import tr as _

from .nodes import nodes_by_class

LAYOUT_ID = 50417  # built-in layouts stay below 100
VIEW_GROUP = 50417
SLICE_VIEWS = {"reference": "DWISuperResReference", "test": "DWISuperResTest", "difference": "DWISuperResDifference"}
TABLE_VIEW = "DWISuperResTable"
AGREEMENT_VIEW = "DWISuperResAgreement"
HISTOGRAM_VIEW = "DWISuperResHistogram"

_SLICE = """<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
  <property name="orientation" action="default">Axial</property>
  <property name="viewlabel" action="default">{label}</property>
  <property name="viewcolor" action="default">{colour}</property>
  <property name="viewgroup" action="default">{group}</property></view></item>"""
_OTHER = """<item><view class="{class_name}" singletontag="{tag}">
  <property name="viewlabel" action="default">{label}</property></view></item>"""


def layout_xml() -> str:
    """Slicer's description of the layout."""
    slices = "".join(
        _SLICE.format(tag=SLICE_VIEWS[role], label=escape(label), colour=colour, group=VIEW_GROUP)
        for role, label, colour in (
            ("reference", _("Ref"), "#4A7FB5"),
            ("test", _("Test"), "#4AA577"),
            ("difference", _("Diff"), "#C05A4A"),
        )
    )
    others = "".join(
        _OTHER.format(class_name=class_name, tag=tag, label=escape(label))
        for class_name, tag, label in (
            ("vtkMRMLPlotViewNode", AGREEMENT_VIEW, _("Agreement")),
            ("vtkMRMLPlotViewNode", HISTOGRAM_VIEW, _("Histogram")),
            ("vtkMRMLTableViewNode", TABLE_VIEW, _("Statistics")),
        )
    )
    return (
        '<layout type="vertical" split="true">'
        f'<item splitSize="600"><layout type="horizontal">{slices}</layout></item>'
        f'<item splitSize="400"><layout type="horizontal">{others}</layout></item></layout>'
    )


def show_comparison_layout() -> bool:
    """Switch to the comparison layout; False where there are no views (Slicer without a main window)."""
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is None:
        return False
    if not layout.IsLayoutDescription(LAYOUT_ID):
        layout.AddLayoutDescription(LAYOUT_ID, layout_xml())
    layout.SetViewArrangement(LAYOUT_ID)
    return True


def view_node(class_name: str, tag: str) -> Any:
    """A view of the layout by its tag, or None where it does not exist."""
    return slicer.mrmlScene.GetSingletonNode(tag, class_name)


def composite_node(tag: str) -> Any:
    """What a slice view shows, or None where the view does not exist."""
    nodes = nodes_by_class("vtkMRMLSliceCompositeNode")
    return next((node for node in nodes if node.GetLayoutName() == tag), None)


def turn_views_to(volume: Any, position: ArrayLike) -> None:
    """Turn the comparison's slice views to the planes of a volume and put them through a position (RAS, mm).

    A view keeps its offset when it is turned, and on an oblique scan that may lie outside of it.
    """
    for tag in SLICE_VIEWS.values():
        if (view := view_node("vtkMRMLSliceNode", tag)) is not None:
            view.RotateToVolumePlane(volume)
    jump_views_to(position)


def jump_views_to(position: ArrayLike) -> None:
    """Centre the comparison's slice views on a position (RAS, mm)."""
    r, a, s = np.asarray(position, dtype=np.float64)
    for tag in SLICE_VIEWS.values():
        if (view := view_node("vtkMRMLSliceNode", tag)) is not None:
            view.JumpSliceByCentering(r, a, s)
