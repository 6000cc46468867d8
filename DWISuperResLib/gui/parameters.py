"""What the user chooses: one typed parameter node, saved with the scene, each parameter bound to one widget.

Choices that come from the library's registries are strings, so that a scene saved with a choice that this copy of the
library lacks can be loaded.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Union

import qt
from slicer import (
    vtkMRMLDiffusionWeightedVolumeNode,
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import GuiConnector, WithinRange, parameterNodeWrapper

from .choices import USUAL_MAPS, map_help, maps


class Device(Enum):
    """What computes; the value is the command line's word."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self) -> str:
        return {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("NVIDIA GPU (CUDA)"), "mps": _("Apple GPU (MPS)")}[
            self.value
        ]


class Precision(Enum):
    """Of the network's arithmetic."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    def label(self) -> str:
        names = {
            "auto": _("Automatic"),
            "fp32": _("32 bit"),
            "bf16": _("16 bit (bfloat16)"),
            "fp16": _("16 bit (half)"),
        }
        return names[self.value]


class SliceAxis(Enum):
    """Voxel axis across the slices."""

    AUTO = ""
    I = "i"  # noqa: E741  the name of a voxel axis
    J = "j"
    K = "k"

    def label(self) -> str:
        return self.value or _("From the image header")


class Chart(Enum):
    """How the agreement of two maps is plotted; the value is `mrml.show_map`'s word."""

    SCATTER = "scatter"
    BLAND_ALTMAN = "bland_altman"

    def label(self) -> str:
        return _("Scatter plot") if self is Chart.SCATTER else _("Bland-Altman plot")


@parameterNodeWrapper
class ParameterNode:
    """The parameters of the panel, in its order."""

    inputVolume: vtkMRMLDiffusionWeightedVolumeNode
    checkpoint: str = "default"
    scale: str = "2"
    guideVolume: vtkMRMLScalarVolumeNode
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    sliceAxis: SliceAxis = SliceAxis.AUTO
    ensemble: bool = False
    consistent: bool = False
    native: bool = False
    uncertainty: bool = False
    outputVolume: vtkMRMLDiffusionWeightedVolumeNode
    showUncertainty: bool = False
    simulatedScale: str = "2"
    degradation: str = "kspace"
    simulatedSNR: Annotated[float, WithinRange(0, 1000)] = 0.0
    referenceVolume: vtkMRMLDiffusionWeightedVolumeNode
    testVolume: vtkMRMLDiffusionWeightedVolumeNode
    maskNode: Union[vtkMRMLLabelMapVolumeNode, vtkMRMLSegmentationNode, None]  # noqa: UP007  what Slicer's wrapper reads
    maps: str = ",".join(USUAL_MAPS)
    displayedMap: str = "fa"
    chart: Chart = Chart.SCATTER
    overlay: Annotated[int, WithinRange(0, 100)] = 0
    flicker: bool = False
    exportFolder: Path = Path.home()


class ListConnector(GuiConnector):
    """Binds a combo box whose entries change while it is bound (Slicer's own wants fixed choices): the entry's data."""

    def __init__(self, widget):
        super().__init__()
        self._widget = widget

    @staticmethod
    def canRepresent(_widget, _datatype) -> bool:
        return False  # only handed to connectParametersToGui, never picked by type

    @staticmethod
    def create(_widget, _datatype):
        return None

    def _connect(self) -> None:
        self._widget.currentIndexChanged.connect(self.changed)

    def _disconnect(self) -> None:
        self._widget.currentIndexChanged.disconnect(self.changed)

    def widget(self):
        return self._widget

    def read(self):
        return self._widget.itemData(self._widget.currentIndex)

    def write(self, value) -> None:
        index = self._widget.findData(value)
        if index < 0:  # a checkpoint from a file, or a value that the list does not offer any more
            self._widget.addItem(Path(str(value)).name, value)
            index = self._widget.findData(value)
        self._widget.currentIndex = index


class MapsConnector(GuiConnector):
    """Binds the names of maps, separated by commas, to a button with a menu of boxes to tick."""

    def __init__(self, button: Any):
        super().__init__()
        self._button = button
        self._menu = qt.QMenu(button)
        self._menu.toolTipsVisible = True
        self._actions = {}
        for label, name in maps():
            action = self._menu.addAction(label)
            action.setCheckable(True)
            action.setToolTip(map_help(name))
            self._actions[name] = action
        button.setMenu(self._menu)

    @staticmethod
    def canRepresent(_widget: Any, _datatype: Any) -> bool:
        return False

    @staticmethod
    def create(_widget: Any, _datatype: Any) -> None:
        return None

    def _connect(self) -> None:
        for action in self._actions.values():
            action.toggled.connect(self._toggled)

    def _disconnect(self) -> None:
        for action in self._actions.values():
            action.toggled.disconnect(self._toggled)

    def _toggled(self, *_checked: Any) -> None:
        self._label()
        self.changed()

    def widget(self) -> Any:
        return self._button

    def read(self) -> str:
        return ",".join(name for name, action in self._actions.items() if action.isChecked())

    def write(self, value: str) -> None:
        chosen = value.split(",")
        for name, action in self._actions.items():
            action.setChecked(name in chosen)
        self._label()

    def _label(self) -> None:
        labels = [label for label, name in maps() if self._actions[name].isChecked()]
        self._button.text = ", ".join(labels) or _("None")


def set_entries(widget, entries) -> None:
    """Replace a list's (text, data) entries without telling anyone, keeping the choice where it still exists."""
    current = widget.itemData(widget.currentIndex)
    blocked = widget.blockSignals(True)
    widget.clear()
    for text, data in entries:
        widget.addItem(text, data)
    widget.currentIndex = max(0, widget.findData(current))
    widget.blockSignals(blocked)
