"""Section 4: compare two scans, look at the maps and their agreement, export; and simulate a test case."""

from __future__ import annotations

import ctk
import slicer
import slicer.util
from slicer.i18n import tr as _

from .. import mrml
from ..errors import DWISuperResError
from .logic import WARNINGS
from .run_control import RunControl


class CompareSection:
    """Compare, show, export, simulate."""

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        ui, common = panel.ui, {"cancel": panel.logic.cancel, "changed": panel.update}
        bar, label = ui.compareProgressBar, ui.compareStatusLabel
        self._compare = RunControl(ui.compareButton, bar, label, start=self._start, finished=self._finished, **common)
        self._simulate = RunControl(
            ui.simulateButton, bar, label, start=self._start_simulation, finished=self._simulated, **common
        )
        self._shown: tuple[str, str] | None = None
        self._unseen = False
        self._warn("")
        ui.exportPathLineEdit.filters = ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable
        ui.exportButton.clicked.connect(self._export)

    def update(self) -> None:
        """Enable what can be done; show the chosen map when the choice changed."""
        p, idle = self._panel.parameters, not self._panel.logic.isRunning
        two = p is not None and None not in (p.referenceVolume, p.testVolume) and p.referenceVolume is not p.testVolume
        self._compare.update(idle and two)
        self._simulate.update(idle and p is not None and p.referenceVolume is not None)
        self._ui.exportButton.enabled = p is not None and bool(mrml.comparison_nodes())
        if p is not None and self._unseen:  # once the user is back in the module
            self._unseen = False
            if mrml.show_comparison_layout():
                self._show()
                self._fit()
            else:
                self._show()
        elif p is not None and self._shown is not None and self._shown != self._choice():
            self._show()

    def _choice(self) -> tuple[str, str]:
        p = self._panel.parameters
        return p.displayedMap.value, p.chart.value

    def _start(self, on_progress, on_finished):
        p = self._panel.parameters
        wanted = (("md", p.computeMD), ("iso", p.computeISO), ("gfa", p.computeGFA))
        return self._panel.logic.compare(
            p.referenceVolume,
            p.testVolume,
            ("fa", "qa", *(name for name, on in wanted if on)),
            mask=p.maskNode,
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _finished(self, _nodes) -> None:
        self._unseen = True
        self.update()

    def _show(self) -> None:
        self._shown = self._choice()
        name, chart = self._shown
        if f"{name}_difference" in mrml.comparison_nodes():
            mrml.show_map(name, chart)
            test = self._panel.parameters.testVolume
            warnings = (test.GetAttribute(WARNINGS) or "").splitlines() if test is not None else []
            text = "\n".join(f"⚠ {warning}" for warning in warnings)
        else:
            text = _("{map} was not computed; tick it above and compare again.").format(map=name.upper())
        self._warn(text)

    def _warn(self, text: str) -> None:
        self._ui.compareWarningLabel.text = text
        self._ui.compareWarningLabel.visible = bool(text)

    @staticmethod
    def _fit() -> None:
        """Turn the linked views to the image planes and fill them; only Slicer's window has them."""
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        logics = [manager.sliceWidget(tag).sliceLogic() for tag in mrml.SLICE_VIEWS.values()]
        for logic in logics:
            logic.RotateSliceToLowestVolumeAxes()
            logic.FitSliceToAll()
            logic.SetSliceOffset(logics[0].GetSliceOffset())

    def _export(self, *_clicked) -> None:
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
            model=p.simulatedModel.value,
            snr=p.simulatedSNR,
            sliceAxis=p.sliceAxis.value,
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _simulated(self, low) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.inputVolume = low
