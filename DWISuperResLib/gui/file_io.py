"""NIfTI with .bval and .bvec as a file format of Slicer's own dialogs: Add Data, drag and drop, Save.

Plain Slicer reads no NIfTI of four dimensions as a volume. `parent` is Slicer's qSlicerScriptedFileReader or -Writer.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from .. import mrml
from ..errors import DWISuperResError, InputError
from .dependencies import Dependencies

FILE_TYPE = "DWINIfTIFile"
SUFFIXES = (".nii.gz", ".nii")
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
    """How sure the reader is that a file is its own: NIfTI of several volumes with both tables beside it.

    Beside bvals and bvecs, FSL keeps masks and maps of one volume, which are Slicer's to load.
    """
    tables = path.lower().endswith(SUFFIXES) and table_beside(path, "bval") and table_beside(path, "bvec")
    return READ_CONFIDENCE if tables and volumes_in(path) > 1 else 0.0


def volumes_in(path: str) -> int:
    """How many volumes a NIfTI-1 or -2 file has by its header; 0 where it has none that can be read.

    By the standard library: nibabel may have to be installed first, and Slicer asks this of every file it is shown.
    """
    open_file = gzip.open if path.lower().endswith(".gz") else open
    with contextlib.suppress(OSError, EOFError, zlib.error, struct.error), open_file(path, "rb") as file:
        header = file.read(80)
        for order in "<>":
            for size, where, kind in ((348, 40, "h"), (540, 16, "q")):  # https://nifti.nimh.nih.gov: dim
                if struct.unpack_from(f"{order}i", header)[0] == size:
                    dimensions, *sizes = struct.unpack_from(f"{order}8{kind}", header, where)
                    return sizes[3] if dimensions >= 4 else 1
    return 0


def load(parent: Any, properties: dict[str, Any], logic: Any) -> bool:
    """Load a file into a new DWI node; what goes wrong is said in Slicer's dialog.

    The node gets no storage node for the NIfTI file: MRML would read that by its NRRD reader when the scene is opened
    again. Saved with the scene it becomes NRRD.
    """
    parent.loadedNodes = []
    try:
        node = logic.loadDWI(properties["fileName"])
    except DWISuperResError as error:
        parent.userMessages().AddMessage(vtk.vtkCommand.ErrorEvent, str(error))
        return False
    if name := properties.get("name"):
        node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    if node.GetNumberOfGradients() < mrml.FEWEST_VOLUMES:
        text = _("{name} has fewer than {n} volumes: 3D Slicer loses its gradient table when it is saved as NRRD.")
        text = text.format(name=node.GetName(), n=mrml.FEWEST_VOLUMES)
        parent.userMessages().AddMessage(vtk.vtkCommand.WarningEvent, text)
    node.CreateDefaultDisplayNodes()
    parent.loadedNodes = [node.GetID()]
    return True


def write(parent: Any, properties: dict[str, Any], scene: Any) -> bool:
    """Write a DWI node of a scene as NIfTI with .bval and .bvec beside it.

    Existing files are replaced, as Slicer has asked. Messages go to the storage node where there is one: the Save
    dialog shows those alone.
    """
    parent.writtenNodes = []
    node = scene.GetNodeByID(properties["nodeID"])
    storage = node.GetStorageNode()
    messages = storage.GetUserMessages() if storage else parent.userMessages()
    try:
        Dependencies().ensure_readers()
        from ..io import write_dwi

        write_dwi(mrml.dwi_from_node(_with_table(node)), properties["fileName"], overwrite=True)
    except DWISuperResError as error:
        messages.AddMessage(vtk.vtkCommand.ErrorEvent, str(error))
        return False
    if storage and scene is slicer.mrmlScene:  # saved, perhaps with the scene, rather than exported
        text = _("{name} is saved, but a scene file finds it only as NRRD: save it so, too, if you save the scene.")
        messages.AddMessage(vtk.vtkCommand.WarningEvent, text.format(name=node.GetName()))
    parent.writtenNodes = [node.GetID()]
    return True


def _with_table(node: Any) -> Any:
    """The node itself; of a copy that is exported the original, since copies come without the gradient table.

    vtkMRMLDiffusionWeightedVolumeNode has no CopyContent, so that an exported copy has the voxels alone.
    """
    if node.GetScene() is slicer.mrmlScene:
        return node
    volumes = slicer.util.getNodesByClass(node.GetClassName())
    originals = [volume for volume in volumes if volume.GetImageData() is node.GetImageData()]
    if not originals:  # hardened by a transform that the directions would have to follow
        text = _("Gradient directions cannot follow the transform of a scan; export it without hardening transforms.")
        raise InputError(text)
    return originals[0]
