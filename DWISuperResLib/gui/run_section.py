"""Section 3: Apply, which becomes Cancel; where the result goes; the same for several scans."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .. import mrml
from .input_section import show_volume
from .parameters import set_entries
from .run_control import RunControl

OVERLAY_OPACITY = 0.5
WHOLE_SCENE = 0


class RunSection:
    """Apply and its progress, for one scan or several."""

    def __init__(self, panel: Any):
        self._panel, self._ui = panel, panel.ui
        ui, common = panel.ui, {"cancel": panel.logic.cancel, "changed": panel.update}
        bar, label = ui.runProgressBar, ui.runStatusLabel
        self._control = RunControl(ui.applyButton, bar, label, start=self._start, finished=self._finished, **common)
        self._batch = RunControl(
            ui.batchButton, bar, label, start=self._start_batch, finished=self._finished_batch, **common
        )
        self._folders: list[tuple[str, int]] = []
        self._overlaid = None

    def update(self) -> None:
        """Apply needs an input, a readable checkpoint and the guide it was trained with, and nothing else running."""
        parameters = self._panel.parameters
        idle = parameters is not None and not self._panel.logic.isRunning and self._panel.model.card is not None
        guided = self._panel.model.guided
        ready = idle and parameters.inputVolume is not None
        self._control.update(ready and (parameters.guideVolume is not None or not guided))
        self._list_folders()
        self._batch.update(idle and not guided and bool(self._scans()))  # a guide belongs to one scan
        self._update_overlay()

    def forget(self) -> None:
        """Say nothing of an earlier run."""
        self._control.say("")

    def _start(self, on_progress, on_finished):
        p = self._panel.parameters
        return self._panel.logic.process(
            p.inputVolume,
            p.outputVolume,
            guide=p.guideVolume if self._panel.model.guided else None,
            **self._options(),
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _start_batch(self, on_progress, on_finished):
        return self._panel.logic.processAll(
            self._scans(),
            **self._options(),
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _options(self) -> dict[str, Any]:
        p = self._panel.parameters
        return {
            "checkpoint": p.checkpoint,
            "scale": p.scale,
            "device": p.device.value,
            "precision": p.precision.value,
            "sliceAxis": p.sliceAxis.value,
            "ensemble": p.ensemble,
            "consistent": p.consistent,
            "native": p.native,
            "uncertainty": p.uncertainty,
        }

    def _finished(self, output: Any) -> None:
        show_volume(output)
        parameters = self._panel.parameters
        if parameters is not None:
            parameters.testVolume = output
            if parameters.referenceVolume is None:
                parameters.referenceVolume = parameters.inputVolume

    def _finished_batch(self, outputs: Any) -> None:
        if outputs:
            show_volume(outputs[-1])

    def _list_folders(self) -> None:
        folders = mrml.folders_with_scans() if self._panel.parameters is not None else []
        entries = [(_("The whole scene"), WHOLE_SCENE), *folders]
        if entries != self._folders:
            self._folders = entries
            set_entries(self._ui.batchComboBox, entries)

    def _scans(self) -> list[Any]:
        folder = self._ui.batchComboBox.itemData(self._ui.batchComboBox.currentIndex)
        return mrml.scans(folder or None)

    def _update_overlay(self) -> None:
        """Show the uncertainty of the latest result, or take it away."""
        parameters = self._panel.parameters
        uncertainty = mrml.uncertainty_of(parameters.testVolume) if parameters is not None else None
        self._ui.showUncertaintyCheckBox.visible = uncertainty is not None
        wanted = uncertainty if parameters is not None and parameters.showUncertainty else None
        if wanted is self._overlaid:
            return
        if self._overlaid is not None:
            mrml.show_uncertainty_overlay(self._overlaid, 0.0)
        if wanted is not None:
            mrml.show_uncertainty_overlay(wanted, OVERLAY_OPACITY)
        self._overlaid = wanted
