"""Section 2: the checkpoint, its card, warnings, and the scale factors it has."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from ..checkpoints import read_card, shipped_checkpoints
from ..errors import DWISuperResError
from .input_section import chosen_path
from .model_card import card_html, domain_warnings
from .parameters import set_entries

TASK = "super-resolution"


class ModelSection:
    """The list of checkpoints, the card of the chosen one, the scale factors."""

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._shown: str | None = None
        self.card = None
        self._ui.browseButton.clicked.connect(self._browse)
        names = [name for name in shipped_checkpoints() if read_card(name).task == TASK]
        set_entries(self._ui.checkpointComboBox, [(name, name) for name in names])

    def update(self) -> None:
        """Show the card of the chosen checkpoint and warn where the input lies outside of its training."""
        parameters = self._panel.parameters
        if parameters is None:
            return
        if parameters.checkpoint != self._shown:
            self._shown = parameters.checkpoint
            self._read_card(parameters.checkpoint)
            if self.card is not None:
                set_entries(self._ui.scaleComboBox, [(f"×{scale}", scale) for scale in self.card.scales])
                if parameters.scale in self.card.scales:
                    self._ui.scaleComboBox.currentIndex = self._ui.scaleComboBox.findData(parameters.scale)
                else:
                    parameters.scale = self.card.scales[0]
        warnings = []
        if self.card is not None and parameters.inputVolume is not None:
            warnings = domain_warnings(self.card, parameters.inputVolume, parameters.sliceAxis.value)
        self._ui.modelWarningLabel.text = "\n".join(f"⚠ {warning}" for warning in warnings)
        self._ui.modelWarningLabel.visible = bool(warnings)

    def _read_card(self, checkpoint: str) -> None:
        try:
            self.card = read_card(checkpoint)
        except DWISuperResError as error:
            self.card = None
            self._ui.cardLabel.text = str(error)
            return
        if self.card.task != TASK:
            text = _("This is a checkpoint for {task}; choose one for super-resolution.")
            self._ui.cardLabel.text = text.format(task=self.card.task)
            self.card = None
            return
        self._ui.cardLabel.text = card_html(self.card)

    def _browse(self, *_clicked) -> None:
        kinds = _("Checkpoints (*.safetensors);;All files (*)")
        path = chosen_path(qt.QFileDialog.getOpenFileName(self._panel.widget, _("Choose a checkpoint"), "", kinds))
        if path:
            self._panel.parameters.checkpoint = path
