"""NIfTI with .bval and .bvec as a file format of Slicer's own dialogs: Add Data, drag and drop, Save.

Plain Slicer reads no NIfTI of four dimensions as a volume. `parent` is Slicer's qSlicerScriptedFileReader or -Writer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from .. import mrml
from ..errors import DWISuperResError
from .dependencies import Dependencies

FILE_TYPE = "DWINIfTIFile"
SUFFIXES = (".nii.gz", ".nii")
FEWEST_VOLUMES = 7
READ_CONFIDENCE = 0.8
"""Above 0.5 and some hundredths of Slicer's volume reader, which would fail on four dimensions."""
WRITE_CONFIDENCE = 0.3
"""Below the 0.5 of Slicer's NRRD writer, which stays what a DWI is saved by unless the user chooses otherwise."""


def table_beside(path: str | Path, kind: str) -> Path | None:
    """The FSL table ("bval" or "bvec") that lies beside a NIfTI file under its name, or as bvals and bvecs."""
    path = Path(path)
    stem = next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.stem)
    names = (f"{stem}.{kind}", f"{stem}.{kind}s", f"{kind}s")
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def read_confidence(path: str) -> float:
    """How sure the reader is that a file is its own: NIfTI with both tables beside it."""
    named = path.lower().endswith(SUFFIXES)
    return READ_CONFIDENCE if named and table_beside(path, "bval") and table_beside(path, "bvec") else 0.0


def load(parent: Any, properties: dict[str, Any], logic: Any) -> bool:
    """Load a file into a new DWI node; what goes wrong is said in Slicer's dialog.

    The node gets no storage node for the NIfTI file: MRML would read that by its NRRD reader when the scene is opened
    again. Saved with the scene it becomes NRRD.
    """
    parent.loadedNodes = []
    try:
        node = logic.loadDWI(properties["fileName"])
    except DWISuperResError as error:
        _say(parent, vtk.vtkCommand.ErrorEvent, str(error))
        return False
    if name := properties.get("name"):
        node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    if node.GetNumberOfGradients() < FEWEST_VOLUMES:
        text = _("{name} has fewer than {n} volumes: 3D Slicer loses its gradient table when it is saved as NRRD.")
        _say(parent, vtk.vtkCommand.WarningEvent, text.format(name=node.GetName(), n=FEWEST_VOLUMES))
    node.CreateDefaultDisplayNodes()
    parent.loadedNodes = [node.GetID()]
    return True


def write(parent: Any, properties: dict[str, Any], dependencies: Dependencies | None = None) -> bool:
    """Write a DWI node as NIfTI with .bval and .bvec beside it; existing files are replaced, as Slicer has asked."""
    parent.writtenNodes = []
    node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
    try:
        (dependencies or Dependencies()).ensure_readers()
        from ..io import write_dwi

        write_dwi(mrml.dwi_from_node(node), properties["fileName"], overwrite=True)
    except DWISuperResError as error:
        _say(parent, vtk.vtkCommand.ErrorEvent, str(error))
        return False
    parent.writtenNodes = [node.GetID()]
    return True


def _say(parent: Any, event: int, text: str) -> None:
    parent.userMessages().AddMessage(event, text)
