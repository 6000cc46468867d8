"""Section 4: compare two scans, look at the maps and their agreement, export; and simulate a test case."""

from __future__ import annotations

from typing import Any

import ctk
import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from .. import mrml
from ..errors import DWISuperResError
from .choices import map_label
from .logic import WARNINGS
from .parameters import set_entries
from .run_control import RunControl

FLICKER_MILLISECONDS = 500


class CompareSection:
    """Compare, show, export, simulate."""

    def __init__(self, panel: Any):
        self._panel, self._ui = panel, panel.ui
        ui, common = panel.ui, {"cancel": panel.logic.cancel, "changed": panel.update}
        bar, label = ui.compareProgressBar, ui.compareStatusLabel
        self._compare = RunControl(ui.compareButton, bar, label, start=self._start, finished=self._finished, **common)
        self._simulate = RunControl(
            ui.simulateButton, bar, label, start=self._start_simulation, finished=self._simulated, **common
        )
        self._shown: tuple[str, str] | None = None
        self._unseen = False
        self._listed: list[str] = []
        self._flicker = qt.QTimer()
        self._flicker.setInterval(FLICKER_MILLISECONDS)
        self._flicker.timeout.connect(self._flick)
        self._test_on_top = False
        self._warn("")
        ui.exportPathLineEdit.filters = ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable
        ui.exportButton.clicked.connect(self._export)

    def update(self) -> None:
        """Enable what can be done; show the chosen map when the choice changed."""
        p, idle = self._panel.parameters, not self._panel.logic.isRunning
        two = p is not None and None not in (p.referenceVolume, p.testVolume) and p.referenceVolume is not p.testVolume
        self._compare.update(idle and two and bool(p.maps))
        self._simulate.update(idle and p is not None and p.referenceVolume is not None)
        self._ui.exportButton.enabled = p is not None and bool(mrml.comparison_nodes())
        self._list_maps()
        if p is not None and self._unseen:  # once the user is back in the module
            self._unseen = False
            views = mrml.show_comparison_layout()
            self._show()
            if views:
                self._centre()
        elif p is not None and self._shown is not None and self._shown != self._choice():
            self._show()
        self._watch_plots()
        self._overlay()

    def forget(self) -> None:
        """Say nothing of an earlier run; the scene may bring a comparison of its own."""
        self._compare.say("")
        self._warn("")
        self._shown = self._choice() if self._panel.parameters is not None and mrml.map_names() else None

    def _choice(self) -> tuple[str, str]:
        p = self._panel.parameters
        return p.displayedMap, p.chart.value

    def _list_maps(self) -> None:
        """Offer the maps that were computed, or else those that will be."""
        p = self._panel.parameters
        if p is None:
            return
        names = mrml.map_names() or p.maps.split(",")
        if names != self._listed:
            self._listed = names
            set_entries(self._ui.mapComboBox, [(map_label(name), name) for name in names])
        if self._ui.mapComboBox.itemData(self._ui.mapComboBox.currentIndex) != p.displayedMap and names:
            if p.displayedMap not in names:
                p.displayedMap = names[0]
            self._ui.mapComboBox.currentIndex = self._ui.mapComboBox.findData(p.displayedMap)

    def _start(self, on_progress, on_finished):
        p = self._panel.parameters
        return self._panel.logic.compare(
            p.referenceVolume,
            p.testVolume,
            p.maps.split(","),
            mask=p.maskNode,
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _finished(self, _nodes: Any) -> None:
        self._unseen = True
        self.update()

    def _show(self) -> None:
        self._shown = self._choice()
        mrml.show_map(*self._shown)
        test = self._panel.parameters.testVolume
        warnings = (test.GetAttribute(WARNINGS) or "").splitlines() if test is not None else []
        self._warn("\n".join(f"⚠ {warning}" for warning in warnings))

    def _warn(self, text: str) -> None:
        self._ui.compareWarningLabel.text = text
        self._ui.compareWarningLabel.visible = bool(text)

    @staticmethod
    def _centre() -> None:
        """Turn the linked views to the image planes, fill them, and put them through the middle of the mask."""
        centre = mrml.centre_of_mask()
        mrml.turn_views_to(next(iter(mrml.comparison_nodes().values())), centre)
        if (manager := slicer.app.layoutManager()) is not None:  # only Slicer's window has what fits a view
            for tag in mrml.SLICE_VIEWS.values():
                manager.sliceWidget(tag).sliceLogic().FitSliceToAll()
            mrml.jump_views_to(centre)

    def _overlay(self) -> None:
        """The test map over the reference in the first view, as opaque as the slider says."""
        p = self._panel.parameters
        if p is None or self._shown is None:
            self._flicker.stop()
            return
        if p.flicker != self._flicker.isActive():
            self._flicker.start() if p.flicker else self._flicker.stop()
        if not p.flicker:
            self._lay_test_over(p.overlay / 100)

    def _flick(self) -> None:
        self._test_on_top = not self._test_on_top
        self._lay_test_over(float(self._test_on_top))

    def _lay_test_over(self, opacity: float) -> None:
        mrml.lay_test_over_reference(self._panel.parameters.displayedMap, opacity)

    def _watch_plots(self) -> None:
        """A click on a point of the agreement chart takes the views to its voxel."""
        manager = slicer.app.layoutManager()
        for index in range(manager.plotViewCount if manager is not None else 0):
            widget = manager.plotWidget(index)
            view, mine = widget.plotView(), f"{id(self)}"
            if widget.mrmlPlotViewNode().GetSingletonTag() == mrml.AGREEMENT_VIEW and view.property("watched") != mine:
                view.setProperty("watched", mine)
                view.dataSelected.connect(self.picked)

    def picked(self, series_ids: Any, selections: Any) -> None:
        """Jump to the first picked voxel.

        Parameters
        ----------
        series_ids : vtkStringArray
            Of the plot series in which points were picked.
        selections : vtkCollection of vtkIdTypeArray
            The rows of these points.
        """
        if self._panel.parameters is None:
            return
        for index in range(min(series_ids.GetNumberOfValues(), selections.GetNumberOfItems())):
            series = slicer.mrmlScene.GetNodeByID(series_ids.GetValue(index))
            rows = selections.GetItemAsObject(index)
            if series is not None and rows.GetNumberOfValues():
                position = mrml.picked_position(series, int(rows.GetValue(0)))
                if position is not None:
                    mrml.jump_views_to(position)
                    return

    def _export(self, *_clicked: Any) -> None:
        try:
            written = self._panel.logic.export(self._panel.parameters.exportFolder)
        except DWISuperResError as error:
            self._compare.say(str(error))
            slicer.util.errorDisplay(str(error), windowTitle=_("Export"))
        else:
            text = _("Wrote {n} files to {folder}.")
            self._compare.say(text.format(n=len(written), folder=written[0].parent))

    def _start_simulation(self, on_progress, on_finished):
        p = self._panel.parameters
        return self._panel.logic.simulateLowResolution(
            p.referenceVolume,
            scale=p.simulatedScale,
            degradation=p.degradation,
            snr=p.simulatedSNR,
            sliceAxis=p.sliceAxis.value,
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _simulated(self, low: Any) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.inputVolume = low
