"""Section 1: the scan to super-resolve, loaded or chosen, and what it is."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from .. import mrml
from ..errors import Cancelled, DWISuperResError, InputError
from .file_io import SUFFIXES, table_beside


class InputSection:
    """The input selector, "Load DWI..." and the line about the scan."""

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._ui.loadButton.clicked.connect(self._choose_file)

    def update(self) -> None:
        """Say what the chosen scan is."""
        parameters = self._panel.parameters
        node = parameters.inputVolume if parameters else None
        if node is None:
            self._ui.inputInfoLabel.text = _("Load or select a diffusion-weighted volume.")
            return
        try:
            self._ui.inputInfoLabel.text = mrml.describe(node)
        except InputError as error:
            self._ui.inputInfoLabel.text = str(error)

    def _choose_file(self, *_clicked) -> None:
        title, kinds = _("Load DWI"), _("Diffusion-weighted images (*.nrrd *.nhdr *.nii *.nii.gz);;All files (*)")
        path = chosen_path(qt.QFileDialog.getOpenFileName(self._panel.widget, title, "", kinds))
        if path:
            self.load(path)

    def load(self, path: str) -> None:
        """Load a file and choose it; ask for .bval and .bvec that are not beside it."""
        tables: dict[str, str] = {}
        if path.lower().endswith(SUFFIXES):
            for kind in ("bval", "bvec"):
                if table_beside(path, kind) is None:
                    title = _("{kind} file of {name}").format(kind=kind, name=Path(path).name)
                    tables[kind] = chosen_path(
                        qt.QFileDialog.getOpenFileName(self._panel.widget, title, str(Path(path).parent))
                    )
                    if not tables[kind]:
                        return
        try:
            node = self._panel.logic.loadDWI(path, **tables)
        except Cancelled as error:
            self._ui.inputInfoLabel.text = str(error)
        except DWISuperResError as error:
            slicer.util.errorDisplay(str(error), windowTitle=_("Load DWI"))
        else:
            self._panel.parameters.inputVolume = node
            show_volume(node)


def show_volume(node) -> None:
    """Show a volume in the slice views, where there are any."""
    if slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=node, fit=True)


def chosen_path(chosen) -> str:
    """PythonQt returns the path, PySide6 a tuple of path and filter."""
    return chosen if isinstance(chosen, str) else chosen[0]
