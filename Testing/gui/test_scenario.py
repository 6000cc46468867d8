"""The module's whole scenario in the host, through the panel and the real child: load, simulate, apply, compare, save,
load again, compare again. With SLICER_PYTHON_DIR it runs on Slicer's own Python files."""

import os

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util

from DWISuperResLib import mrml
from DWISuperResLib.dwi import DWI
from DWISuperResLib.io import write_dwi
from Testing.conftest import oblique_affine
from Testing.slicer_host import start

from .test_module import checkpoint, launcher  # noqa: F401  fixtures
from .test_panel_scenes import load_scene


@pytest.fixture
def host():
    host = start()
    host.new_scene()
    yield host
    host.new_scene()


@pytest.fixture
def scan_file(tmp_path):
    """An oblique phantom with an odd matrix, as NIfTI with its tables, far from the origin."""
    from DWISuperResLib.phantoms import phantom

    dwi = phantom((33, 37, 8), (5, 5, 6), snr=40, supersampling=1, shells=((0, 2), (1000, 12)))
    affine = oblique_affine(voxel_sizes=(5, 5, 6), angles=(0.3, -0.2, 0.1), origin=(-80, -60, 60))
    write_dwi(DWI(dwi.signal, affine, dwi.bvals, dwi.bvecs), tmp_path / "oblique scan.nii.gz")
    return tmp_path / "oblique scan.nii.gz"


def finish(host, widget):
    host.wait(lambda: not widget.logic.isRunning, 240)
    assert not host.errors


def planes_cut_the_mask(manager):
    for tag in mrml.SLICE_VIEWS.values():
        assert (manager.sliceWidget(tag).picture()[..., 3] > 0).mean() > 0.03
        assert manager.sliceWidget(tag).legend_titles()


def test_load_simulate_apply_compare_save_load_compare(host, scan_file, checkpoint, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(slicer.app, "temporaryPath", str(temporary))
    manager = host.show_views()
    widget = host.open_module()
    ui = widget.panel.ui
    widget.panel.input.load(str(scan_file))
    reference = widget.panel.parameters.inputVolume
    assert reference.GetName() == "oblique scan"
    widget.panel.parameters.referenceVolume = reference
    ui.simulateButton.click()
    finish(host, widget)
    low = widget.panel.parameters.inputVolume
    assert low.GetImageData().GetDimensions() == (17, 19, 8)  # 33 and 37 over 2: whole voxels, the field of view kept
    bounds = np.zeros((2, 6))
    reference.GetRASBounds(bounds[0])
    low.GetRASBounds(bounds[1])
    np.testing.assert_allclose(bounds[0], bounds[1], atol=1e-6)
    widget.panel.parameters.checkpoint = checkpoint
    ui.applyButton.click()
    finish(host, widget)
    result = widget.panel.parameters.testVolume
    assert result.GetName() == "oblique scan low resolution x2 SR x2"
    widget.panel.parameters.testVolume = low
    ui.compareButton.click()
    finish(host, widget)
    assert {"fa", "qa", "colour_fa"} <= set(mrml.map_names())
    planes_cut_the_mask(manager)
    ids = {role: node.GetID() for role, node in mrml.comparison_nodes().items()}
    children = widget.logic._child._child._process.pid

    folder = tmp_path / "scene"
    folder.mkdir()
    saved = [reference, low, result, *mrml.comparison_nodes().values()]
    for node in saved:
        node.AddDefaultStorageNode()
        if (storage := node.GetStorageNode()) is not None:
            suffix = "tsv" if node.IsA("vtkMRMLTableNode") else "nrrd"
            storage.SetFileName(str(folder / f"{node.GetID()}.{suffix}"))
            assert storage.WriteData(node)
    slicer.mrmlScene.SetURL(str(folder / "scene.mrml"))
    slicer.mrmlScene.SetRootDirectory(str(folder))
    assert slicer.mrmlScene.Commit(str(folder / "scene.mrml"))
    values = slicer.util.arrayFromVolume(mrml.comparison_nodes()["fa_difference"]).copy()
    slicer.mrmlScene.Clear(0)
    host.add_colours()
    assert widget.panel.parameters.inputVolume is None
    load_scene(folder)
    assert widget.panel.parameters.referenceVolume.GetName() == "oblique scan"
    assert ui.referenceSelector.currentNode() is widget.panel.parameters.referenceVolume
    assert not ui.compareStatusLabel.text
    loaded = mrml.comparison_nodes()
    assert {role: node.GetID() for role, node in loaded.items()} == ids
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded["fa_difference"]), values)

    ui.compareButton.click()
    finish(host, widget)
    assert {role: node.GetID() for role, node in mrml.comparison_nodes().items()} == ids
    np.testing.assert_allclose(slicer.util.arrayFromVolume(mrml.comparison_nodes()["fa_difference"]), values, atol=1e-3)
    planes_cut_the_mask(manager)
    assert widget.logic._child._child._process.pid == children  # the same child did it all
    widget.cleanup()
    assert not list(temporary.iterdir())


@pytest.mark.skipif(
    "SLICER_PYTHON_DIR" not in os.environ, reason="needs a checkout of Slicer/Slicer (SLICER_PYTHON_DIR)"
)
def test_the_host_uses_slicers_own_files(host):
    assert set(host.slicers_own) == {
        "slicer.i18n", "slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper", "slicer.packaging", "SampleData",
    }  # fmt: skip
    import SampleData

    for module in (
        slicer.i18n,
        slicer.ScriptedLoadableModule,
        slicer.parameterNodeWrapper,
        slicer.packaging,
        SampleData,
    ):
        assert module.__file__.startswith(os.environ["SLICER_PYTHON_DIR"])
