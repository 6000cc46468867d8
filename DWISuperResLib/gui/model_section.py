"""Section 2: the checkpoint, its card, warnings, the scale factors it has, and the guide if it was trained with one."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from .. import mrml
from ..checkpoints import Card, read_card, shipped_checkpoints
from ..errors import DWISuperResError
from ..resampling.grid import slice_axis
from .input_section import chosen_path
from .model_card import card_html, card_line, domain_warnings, scale_label, scale_text
from .parameters import set_entries

TASK = "super-resolution"


class ModelSection:
    """The list of checkpoints, the card of the chosen one, the scale factors."""

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._shown: str | None = None
        self.card: Card | None = None
        self._scales: list[tuple[str, str]] = []
        self._ui.browseButton.clicked.connect(self._browse)
        names = [name for name in shipped_checkpoints() if read_card(name).task == TASK]
        set_entries(self._ui.checkpointComboBox, [(name, name) for name in names])

    @property
    def guided(self) -> bool:
        """Whether the chosen checkpoint was trained with a guide."""
        return self.card is not None and self.card.guided

    def update(self) -> None:
        """Show the card of the chosen checkpoint and warn where the input lies outside of its training."""
        parameters = self._panel.parameters
        if parameters is None:
            return
        if parameters.checkpoint != self._shown:
            self._shown = parameters.checkpoint
            self._read_card(parameters.checkpoint)
            self._scales = []
        warnings = []
        if self.card is not None:
            self._offer_scales(self.card, parameters)
        if self.card is not None and parameters.inputVolume is not None:
            warnings = domain_warnings(self.card, parameters.inputVolume, parameters.sliceAxis.value)
        for widget in (self._ui.guideSelector, self._ui.guideSelectorLabel):
            widget.visible = self.guided
        self._ui.modelWarningLabel.text = "\n".join(f"⚠ {warning}" for warning in warnings)
        self._ui.modelWarningLabel.visible = bool(warnings)

    def _offer_scales(self, card: Card, parameters: Any) -> None:
        """What the model serves; factors that are not in-plane depend on the slice axis of the input."""
        axis = 2
        if parameters.inputVolume is not None:
            axis = slice_axis(mrml.header(parameters.inputVolume), parameters.sliceAxis.value or None)
        entries = [(scale_label(factors), scale_text(factors, axis)) for factors in card.factors]
        if entries == self._scales:
            return
        self._scales = entries
        set_entries(self._ui.scaleComboBox, entries)
        if (index := self._ui.scaleComboBox.findData(parameters.scale)) >= 0:
            self._ui.scaleComboBox.currentIndex = index
        else:
            parameters.scale = entries[0][1]

    def _read_card(self, checkpoint: str) -> None:
        try:
            self.card = read_card(checkpoint)
        except DWISuperResError as error:
            self.card = None
            self._say(str(error), "")
            return
        if self.card.task != TASK:
            text = _("This is a checkpoint for {task}; choose one for super-resolution.")
            self._say(text.format(task=self.card.task), "")
            self.card = None
            return
        self._say(card_line(self.card), card_html(self.card))

    def _say(self, line: str, details: str) -> None:
        self._ui.cardLabel.text = line
        self._ui.cardDetailsLabel.text = details
        self._ui.cardCollapsibleButton.visible = bool(details)

    def _browse(self, *_clicked) -> None:
        kinds = _("Checkpoints (*.safetensors);;All files (*)")
        path = chosen_path(qt.QFileDialog.getOpenFileName(self._panel.widget, _("Choose a checkpoint"), "", kinds))
        if path:
            self._panel.parameters.checkpoint = path
