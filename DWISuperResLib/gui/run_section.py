"""Section 3: Apply, which becomes Cancel; where the result goes."""

from __future__ import annotations

from .input_section import show_volume
from .run_control import RunControl


class RunSection:
    """Apply and its progress."""

    def __init__(self, panel):
        self._panel = panel
        ui = panel.ui
        self._control = RunControl(
            ui.applyButton,
            ui.runProgressBar,
            ui.runStatusLabel,
            start=self._start,
            cancel=panel.logic.cancel,
            finished=self._finished,
            changed=panel.update,
        )

    def update(self) -> None:
        """Apply needs an input and a readable checkpoint, and nothing else running."""
        parameters = self._panel.parameters
        ready = parameters is not None and parameters.inputVolume is not None and self._panel.model.card is not None
        self._control.update(ready and not self._panel.logic.isRunning)

    def _start(self, on_progress, on_finished):
        p = self._panel.parameters
        return self._panel.logic.process(
            p.inputVolume,
            p.outputVolume,
            checkpoint=p.checkpoint,
            scale=p.scale,
            device=p.device.value,
            precision=p.precision.value,
            sliceAxis=p.sliceAxis.value,
            ensemble=p.ensemble,
            consistent=p.consistent,
            uncertainty=p.uncertainty,
            waitForCompletion=False,
            onProgress=on_progress,
            onFinished=on_finished,
        )

    def _finished(self, output) -> None:
        show_volume(output)
        parameters = self._panel.parameters
        if parameters is not None:
            parameters.testVolume = output
            if parameters.referenceVolume is None:
                parameters.referenceVolume = parameters.inputVolume
