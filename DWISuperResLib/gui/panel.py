"""The panel: parameters bound to the .ui, and its sections kept up to date with them."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util
import vtk

from .. import mrml
from .choices import degradations
from .compare_section import CompareSection
from .input_section import InputSection
from .logic import Logic
from .model_section import ModelSection
from .parameters import ListConnector, MapsConnector, set_entries
from .run_section import RunSection


class Panel(slicer.util.VTKObservationMixin):
    """Owns the binding of one parameter node at a time.

    Parameters
    ----------
    widget : the loaded .ui
    logic : Logic
    """

    def __init__(self, widget, logic: Logic):
        super().__init__()
        self.widget, self.logic = widget, logic
        self.ui = slicer.util.childWidgetVariables(widget)
        self.parameters: Any = None  # a ParameterNode, with the methods that Slicer's wrapper adds
        self._tags: list[int] = []
        self.input = InputSection(self)
        self.model = ModelSection(self)
        self.run = RunSection(self)
        self.compare = CompareSection(self)
        set_entries(self.ui.degradationComboBox, degradations())
        self._connectors = {
            "checkpoint": ListConnector(self.ui.checkpointComboBox),
            "scale": ListConnector(self.ui.scaleComboBox),
            "degradation": ListConnector(self.ui.degradationComboBox),
            "displayedMap": ListConnector(self.ui.mapComboBox),
            "maps": MapsConnector(self.ui.mapsButton),
        }
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self._node_added)

    def bind(self, parameters) -> None:
        """Follow another `ParameterNode`, or none while a scene closes."""
        if self.parameters is not None:
            for tag in self._tags:
                self.parameters.disconnectGui(tag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.update)
        self.parameters = parameters
        self._tags = []
        if parameters is not None:
            connected = parameters.connectParametersToGui(self._connectors)
            self._tags = [parameters.connectGui(self.widget), connected]
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.update)
        self.update()

    def update(self, *_) -> None:
        """Bring every section up to date with the parameters and the logic."""
        for section in (self.input, self.model, self.run, self.compare):
            section.update()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_added(self, _caller: Any, _event: Any, node: Any) -> None:
        if node.IsA(mrml.DWI_CLASS):  # one more for "Several scans"
            self.run.update()

    def forget(self) -> None:
        """What was said of an earlier run is not true of another scene."""
        for section in (self.run, self.compare):
            section.forget()

    def close(self) -> None:
        """End what runs and let go of the scene; the panel is not used afterwards."""
        self.logic.close()
        self.bind(None)
        self.removeObservers()
