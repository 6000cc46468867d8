"""NIfTI with .bval and .bvec through Slicer's own dialogs: who claims a file, what becomes of it and of its scene."""

import shutil

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util
import vtk

from DWISuperResLib import mrml
from DWISuperResLib.dwi import DWI
from DWISuperResLib.io import read_dwi, write_dwi, write_image
from Testing.slicer_host import start

DWI_CLASS = "vtkMRMLDiffusionWeightedVolumeNode"


class Plugin:
    """Slicer's side of a scripted reader or writer: what it takes as answers, and its messages."""

    def __init__(self, cls):
        self._messages = vtk.vtkCollection()
        self.said = []
        self.loadedNodes, self.writtenNodes = None, None
        self.python = cls(self)

    def userMessages(self):
        return self

    def AddMessage(self, event, text):
        self.said.append((event, text))

    def call(self, name, kind, *arguments):
        """As qSlicerScriptedFileReader calls: an answer of another type counts as none."""
        answer = getattr(self.python, name)(*arguments)
        assert type(answer) is kind, f"Slicer expects {name} to return {kind.__name__}"
        return answer


@pytest.fixture
def host():
    host = start()
    host.new_scene()
    yield host
    host.new_scene()


@pytest.fixture
def module(host):
    return host.load_module()


@pytest.fixture
def files(tmp_path, small_dwi):
    """Two scans with their tables, one image without, one that is no image."""
    for name in ("erster scan", "zweiter"):
        write_dwi(small_dwi, tmp_path / f"{name}.nii.gz")
    write_dwi(small_dwi, tmp_path / "plain.nii")
    shutil.copy(tmp_path / "zweiter.nii.gz", tmp_path / "alone.nii.gz")
    fsl = tmp_path / "fsl"
    fsl.mkdir()
    for name in ("data.nii.gz", "mask.nii.gz"):  # bvals and bvecs without a stem are those of all images there
        shutil.copy(tmp_path / "zweiter.nii.gz", fsl / name)
    for kind in ("bval", "bvec"):
        shutil.copy(tmp_path / f"zweiter.{kind}", fsl / f"{kind}s")
    write_image(np.ones(small_dwi.spatial_shape, np.uint8), small_dwi.affine, fsl / "mask.nii.gz", overwrite=True)
    (fsl / "broken.nii.gz").write_bytes(b"\x1f\x8b\x08 and no more")
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


def test_what_the_reader_claims(module, files):
    reader = Plugin(module.DWISuperResFileReader)
    confidence = {
        name: reader.call("canLoadFileConfidence", float, str(files / name))
        for name in (
            "erster scan.nii.gz", "zweiter.nii.gz", "plain.nii", "alone.nii.gz", "notes.txt", "zweiter.bval",
            "absent.nii", "fsl/data.nii.gz", "fsl/mask.nii.gz", "fsl/broken.nii.gz",
        )
    }  # fmt: skip
    assert {name for name, value in confidence.items() if value > 0} == {
        "erster scan.nii.gz", "zweiter.nii.gz", "plain.nii", "fsl/data.nii.gz",
    }  # fmt: skip
    volumes_reader = 0.5 + 0.01 * len(".nii.gz")  # qSlicerFileReader::canLoadFileConfidence
    assert min(value for value in confidence.values() if value) > volumes_reader
    assert reader.call("canLoadFile", bool, str(files / "plain.nii"))
    assert not reader.call("canLoadFile", bool, str(files / "alone.nii.gz"))
    assert reader.call("extensions", list) == ["Diffusion-weighted NIfTI (*.nii.gz *.nii)"]
    assert reader.call("description", str)
    assert reader.call("fileType", str) == "DWINIfTIFile"


def test_several_files_at_once(module, files, small_dwi):
    reader = Plugin(module.DWISuperResFileReader)
    for name in ("erster scan", "zweiter"):
        assert reader.call("load", bool, {"fileName": str(files / f"{name}.nii.gz")})
        (node_id,) = reader.loadedNodes
        node = slicer.mrmlScene.GetNodeByID(node_id)
        assert (node.GetName(), node.GetClassName()) == (name, DWI_CLASS)
        assert node.GetDisplayNode() is not None
        np.testing.assert_allclose(mrml.gradient_table(node)[1], small_dwi.bvecs, atol=1e-6)
    assert not reader.said
    assert reader.call("load", bool, {"fileName": str(files / "plain.nii"), "name": "zweiter"})
    assert slicer.mrmlScene.GetNodeByID(reader.loadedNodes[0]).GetName() == "zweiter_1"


def test_what_cannot_be_loaded_is_said(module, files):
    reader = Plugin(module.DWISuperResFileReader)
    (files / "zweiter.bval").write_text("0 1000")
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    assert not reader.call("load", bool, {"fileName": str(files / "zweiter.nii.gz")})
    assert reader.loadedNodes == []
    ((event, text),) = reader.said
    assert event == vtk.vtkCommand.ErrorEvent
    assert "zweiter" in text
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_short_scans_come_with_a_warning(module, tmp_path, small_dwi):
    short = DWI(small_dwi.signal[..., :5], small_dwi.affine, small_dwi.bvals[:5], small_dwi.bvecs[:5])
    write_dwi(short, tmp_path / "short.nii.gz")
    reader = Plugin(module.DWISuperResFileReader)
    assert reader.call("load", bool, {"fileName": str(tmp_path / "short.nii.gz")})
    ((event, text),) = reader.said
    assert event == vtk.vtkCommand.WarningEvent
    assert "fewer than 7" in text


def test_scene_reload(module, files, small_dwi, host, tmp_path):
    """What was dropped on Slicer is a DWI again when the scene is opened again."""
    reader = Plugin(module.DWISuperResFileReader)
    reader.call("load", bool, {"fileName": str(files / "zweiter.nii.gz")})
    node = slicer.mrmlScene.GetNodeByID(reader.loadedNodes[0])
    assert node.GetStorageNode() is None  # else MRML would read NIfTI by its NRRD reader
    folder = tmp_path / "scene"
    folder.mkdir()
    node.AddDefaultStorageNode()
    node.GetStorageNode().SetFileName(str(folder / "zweiter.nrrd"))
    assert node.GetStorageNode().WriteData(node)
    slicer.mrmlScene.SetURL(str(folder / "s.mrml"))
    slicer.mrmlScene.SetRootDirectory(str(folder))
    assert slicer.mrmlScene.Commit(str(folder / "s.mrml"))
    host.new_scene()
    slicer.mrmlScene.SetURL(str(folder / "s.mrml"))
    assert slicer.mrmlScene.Import()
    again = slicer.mrmlScene.GetFirstNodeByClass(DWI_CLASS)
    np.testing.assert_allclose(mrml.gradient_table(again)[1], small_dwi.bvecs, atol=1e-6)
    np.testing.assert_array_equal(mrml.dwi_from_node(again).signal, read_dwi(files / "zweiter.nii.gz").signal)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_writer(module, tmp_path, small_dwi, suffix):
    writer = Plugin(module.DWISuperResFileWriter)
    node = mrml.add_dwi_node(small_dwi, "scan")
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert 0 < writer.call("canWriteObjectConfidence", float, node) < 0.5  # NRRD stays the first choice
    assert writer.call("canWriteObject", bool, node)
    assert writer.call("canWriteObjectConfidence", float, other) == 0
    assert any(suffix in extension for extension in writer.call("extensions", list, node))
    path = tmp_path / f"eine Datei{suffix}"
    for _ in range(2):  # Slicer has asked whether to replace it
        assert writer.call("write", bool, {"nodeID": node.GetID(), "fileName": str(path)})
    assert writer.writtenNodes == [node.GetID()]
    back = read_dwi(path)
    np.testing.assert_allclose(back.signal, small_dwi.signal, rtol=1e-6)
    np.testing.assert_allclose(back.bvecs, small_dwi.bvecs, atol=1e-5)
    np.testing.assert_allclose(back.affine, small_dwi.affine, atol=1e-5)
    assert not writer.call("write", bool, {"nodeID": node.GetID(), "fileName": str(tmp_path / "absent" / "x.nii")})
    assert "absent" in writer.said[0][1]


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("shape", "volumes"), [((3, 4, 5), 1), ((3, 4, 5, 1), 1), ((3, 4, 5, 9), 9)])
def test_volumes_are_counted_as_nibabel_does(kind, order, shape, volumes, tmp_path):
    import nibabel as nib

    from DWISuperResLib.gui.file_io import volumes_in

    image = getattr(nib, kind)(np.zeros(shape, np.int16), np.eye(4))
    image = image.__class__(image.dataobj, image.affine, image.header.as_byteswapped(order))
    for suffix in (".nii", ".nii.gz"):
        image.to_filename(tmp_path / f"x{suffix}")
        assert nib.load(tmp_path / f"x{suffix}").header.endianness == order
        assert volumes_in(str(tmp_path / f"x{suffix}")) == volumes


def test_export_writes_the_node_of_its_own_scene(module, tmp_path, small_dwi):
    """As qSlicerCoreIOManager::exportNodes: a copy in a temporary scene, with an ID that another has here."""
    here = mrml.add_dwi_node(small_dwi, "another")
    dwi = DWI(small_dwi.signal * 2, small_dwi.affine, small_dwi.bvals, small_dwi.bvecs)
    scene = slicer.vtkMRMLScene()
    copy = scene.AddNewNodeByClass(DWI_CLASS)
    copy.CopyContent(mrml.add_dwi_node(dwi, "exported"), False)
    assert copy.GetID() == here.GetID()
    assert copy.GetNumberOfGradients() != len(dwi.bvals)  # what Slicer forgets
    writer = Plugin(module.DWISuperResFileWriter)
    writer.call("extensions", list, copy)
    assert writer.call("write", bool, {"nodeID": copy.GetID(), "fileName": str(tmp_path / "x.nii")})
    written = read_dwi(tmp_path / "x.nii")
    np.testing.assert_allclose(written.signal, dwi.signal, rtol=1e-6)
    np.testing.assert_allclose(written.bvecs, dwi.bvecs, atol=1e-5)
    assert writer.call("write", bool, {"nodeID": here.GetID(), "fileName": str(tmp_path / "y.nii")})  # by a script
    np.testing.assert_allclose(read_dwi(tmp_path / "y.nii").signal, small_dwi.signal, rtol=1e-6)
    copy.CopyContent(slicer.util.getNode("exported"), True)  # to be hardened
    writer.call("extensions", list, copy)
    assert not writer.call("write", bool, {"nodeID": copy.GetID(), "fileName": str(tmp_path / "z.nii")})
    assert "without hardening" in writer.said[-1][1]


def test_saving_says_that_a_scene_needs_nrrd(module, tmp_path, small_dwi):
    """In the Save dialog, which shows the storage node's messages and no others."""
    writer = Plugin(module.DWISuperResFileWriter)
    node = mrml.add_dwi_node(small_dwi, "scan")
    node.AddDefaultStorageNode()
    said = node.GetStorageNode().GetUserMessages()
    for folder, text in ((tmp_path, "only as NRRD"), (tmp_path / "absent", "absent")):
        said.ClearMessages()
        writer.call("extensions", list, node)
        writer.call("write", bool, {"nodeID": node.GetID(), "fileName": str(folder / "x.nii")})
        assert said.GetNumberOfMessages() == 1
        assert text in said.GetNthMessageText(0)
    assert not writer.said
