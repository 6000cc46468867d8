"""The panel with scenes that come and go, with views, with many scans, and its child between jobs."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util
import vtk

from DWISuperResLib import mrml
from DWISuperResLib.dwi import DWI
from DWISuperResLib.mrml import nodes as node_module
from Testing.slicer_host import NoDependencies

from .test_panel import FAKE, folders, host, launcher, scan, widget  # noqa: F401  fixtures

WINDOW_HEIGHT = 1000
AROUND_THE_PANEL = 210
"""Pixels of a Slicer window above and below a module's panel: title, menu, tool bars, module selector, status bar."""


def save_scene(folder, *volumes):
    for node in volumes:
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(folder / f"{node.GetName()}.nrrd"))
        assert node.GetStorageNode().WriteData(node)
    slicer.mrmlScene.SetURL(str(folder / "scene.mrml"))
    slicer.mrmlScene.SetRootDirectory(str(folder))
    assert slicer.mrmlScene.Commit(str(folder / "scene.mrml"))


def load_scene(folder):
    slicer.mrmlScene.SetURL(str(folder / "scene.mrml"))
    assert slicer.mrmlScene.Import()


def test_a_scene_loaded_while_the_module_is_open(widget, scan, small_dwi, tmp_path):  # noqa: F811
    """Every selector shows what the scene holds, without leaving the module; nothing is said of what was before."""
    ui, parameters = widget.panel.ui, widget.panel.parameters
    other = mrml.add_dwi_node(small_dwi, "other")
    parameters.outputVolume = parameters.testVolume = other
    parameters.referenceVolume = scan
    parameters.scale, parameters.ensemble = "4", True
    save_scene(tmp_path, scan, other)
    slicer.mrmlScene.Clear(0)
    widget.panel.run._control.say("Done.")
    widget.panel.compare._compare.say("Done.")
    load_scene(tmp_path)
    shown = {
        name: getattr(ui, name).currentNode().GetName()
        for name in ("inputSelector", "outputSelector", "referenceSelector", "testSelector")
    }
    assert shown == {
        "inputSelector": "scan", "outputSelector": "other", "referenceSelector": "scan", "testSelector": "other",
    }  # fmt: skip
    assert widget.panel.parameters.inputVolume.GetName() == "scan"
    assert ui.scaleComboBox.currentText == "×4"
    assert ui.ensembleCheckBox.checked
    assert ui.applyButton.enabled
    assert "12 × 10 × 4 voxels" in ui.inputInfoLabel.text
    assert not ui.runStatusLabel.text
    assert not ui.compareStatusLabel.text


def test_apply_and_compare_fit_into_a_window(widget, scan, host, monkeypatch):  # noqa: F811
    """With a scan, the model that ships and its warnings, without scrolling, in a window of 1000 pixels."""
    from DWISuperResLib import checkpoints
    from DWISuperResLib.gui import model_section

    monkeypatch.setattr(model_section, "read_card", checkpoints.read_card)
    parent = widget.parent
    widget.panel.parameters.checkpoint = "without_b15"
    widget.panel.parameters.checkpoint = "default"  # read anew
    widget.panel.parameters.referenceVolume = scan
    parent.resize(480, WINDOW_HEIGHT - AROUND_THE_PANEL)
    parent.show()
    host.application.processEvents()
    origin = parent.mapToGlobal(parent.rect.topLeft())
    for button in (widget.panel.ui.applyButton, widget.panel.ui.compareButton):
        bottom = button.mapToGlobal(button.rect.bottomLeft()).y() - origin.y()
        assert 0 < bottom < WINDOW_HEIGHT - AROUND_THE_PANEL, button.objectName
    label = widget.panel.ui.cardLabel
    assert label.height < 2 * label.fontMetrics().height()
    parent.hide()


def test_several_scans(widget, scan, small_dwi, host, tmp_path):  # noqa: F811
    ui = widget.panel.ui
    tree = node_module.hierarchy()
    study = tree.CreateFolderItem(tree.GetSceneItemID(), "study")
    second = mrml.add_dwi_node(small_dwi, "second")
    node_module.file_under(second, study)
    short = DWI(small_dwi.signal[..., :5], small_dwi.affine, small_dwi.bvals[:5], small_dwi.bvecs[:5])
    mrml.add_dwi_node(short, "short")
    widget.panel.update()
    assert [ui.batchComboBox.itemText(n) for n in range(ui.batchComboBox.count)] == ["The whole scene", "study"]
    ui.batchButton.click()
    assert ui.batchButton.text == "Cancel"
    assert not ui.applyButton.enabled
    host.wait(lambda: not widget.logic.isRunning)
    assert not host.errors
    names = {n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLDiffusionWeightedVolumeNode")}
    assert names == {"scan", "second", "short", "scan SR x2", "second SR x2"}
    assert "⚠ short: short has 5 volumes" in ui.runStatusLabel.text
    result = slicer.util.getNode("second SR x2")
    assert tree.GetItemParent(tree.GetItemByDataNode(result)) == study
    ui.batchComboBox.currentIndex = 1
    ui.batchButton.click()
    host.wait(lambda: not widget.logic.isRunning)
    names = [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLDiffusionWeightedVolumeNode")]
    assert len(names) == 6  # the results of the first time were left out
    assert "second SR x2_1" in names
    assert not folders(tmp_path)


def test_scans_that_are_loaded_meanwhile(widget, small_dwi):  # noqa: F811
    """By drag and drop, with nothing chosen as the input."""
    assert not widget.panel.ui.batchButton.enabled
    mrml.add_dwi_node(small_dwi, "scan")
    assert widget.panel.ui.batchButton.enabled


def test_several_scans_cancelled(widget, scan, small_dwi, host, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FAKE_CHILD", "slow")
    mrml.add_dwi_node(small_dwi, "second")
    ui = widget.panel.ui
    ui.batchButton.click()
    host.wait(lambda: ui.runProgressBar.value > 0)
    assert "Scan 1 of 2 (scan)" in ui.runStatusLabel.text
    assert ui.runProgressBar.value <= 50
    ui.batchButton.click()
    assert not widget.logic.isRunning
    assert "Cancelled" in ui.runStatusLabel.text
    assert ui.batchButton.text == "Apply to all of them"
    assert not slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert not folders(tmp_path)


def test_several_scans_from_the_console(widget, scan, small_dwi):  # noqa: F811
    second = mrml.add_dwi_node(small_dwi, "second")
    assert [n.GetName() for n in widget.logic.processAll([scan, second])] == ["scan SR x2", "second SR x2"]


def test_results_in_the_data_module(widget, scan, host):  # noqa: F811
    """Self-checks and uncertainty are nodes under the result; the uncertainty is laid over the views on request."""
    ui, manager = widget.panel.ui, host.show_views()
    mrml.show_comparison_layout()
    view = manager.sliceWidget(mrml.SLICE_VIEWS["test"]).sliceLogic().GetSliceCompositeNode()
    assert not ui.showUncertaintyCheckBox.isVisibleTo(widget.panel.widget)
    widget.panel.parameters.uncertainty = True
    for _ in range(2):
        ui.applyButton.click()
        host.wait(lambda: not widget.logic.isRunning)
        widget.panel.parameters.outputVolume = widget.panel.parameters.testVolume
    result = widget.panel.parameters.testVolume
    tree = node_module.hierarchy()
    children = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetItemByDataNode(result), children)
    names = {tree.GetItemName(children.GetId(n)) for n in range(children.GetNumberOfIds())}
    assert names == {"scan SR x2 self-checks", "scan SR x2 uncertainty"}
    view.SetBackgroundVolumeID(result.GetID())
    assert ui.showUncertaintyCheckBox.isVisibleTo(widget.panel.widget)
    ui.showUncertaintyCheckBox.click()
    assert view.GetForegroundVolumeID() == mrml.uncertainty_of(result).GetID()
    ui.showUncertaintyCheckBox.click()
    assert view.GetForegroundVolumeID() is None


@pytest.fixture
def compared(widget, scan, small_dwi, host):  # noqa: F811
    """The panel after a comparison, with views."""
    host.manager = host.show_views()
    widget.panel.parameters.referenceVolume = scan
    widget.panel.parameters.testVolume = mrml.add_dwi_node(small_dwi, "test")
    widget.panel.ui.compareButton.click()
    host.wait(lambda: not widget.logic.isRunning)
    assert not host.errors
    yield widget
    del host.manager


def selection(*rows):
    ids = vtk.vtkIdTypeArray()
    for row in rows:
        ids.InsertNextValue(row)
    collection = vtk.vtkCollection()
    collection.AddItem(ids)
    return collection


def test_a_click_on_a_point_takes_the_views_there(compared, host):  # noqa: F811
    """As qMRMLPlotView tells it: dataSelected(vtkStringArray*, vtkCollection*)."""
    manager = host.manager
    views = {
        manager.plotWidget(n).mrmlPlotViewNode().GetSingletonTag(): manager.plotWidget(n).plotView()
        for n in range(manager.plotViewCount)
    }
    series = next(s for s in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode") if s.GetYColumnName() == "test")
    ids = vtk.vtkStringArray()
    ids.InsertNextValue(series.GetID())
    views[mrml.AGREEMENT_VIEW].dataSelected.emit(ids, selection(25, 30))
    expected = mrml.picked_position(series, 25)
    for tag in mrml.SLICE_VIEWS.values():
        plane = slicer.util.arrayFromVTKMatrix(
            slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSliceNode").GetSliceToRAS()
        )
        np.testing.assert_allclose(plane[:3, 3], expected, atol=1e-6)
    views[mrml.AGREEMENT_VIEW].dataSelected.emit(vtk.vtkStringArray(), vtk.vtkCollection())  # unselected
    ids.SetValue(0, "vtkMRMLPlotSeriesNode99")
    views[mrml.AGREEMENT_VIEW].dataSelected.emit(ids, selection(1))


def test_test_over_reference_and_flicker(compared, host):  # noqa: F811
    ui, manager = compared.panel.ui, host.manager
    view = manager.sliceWidget(mrml.SLICE_VIEWS["reference"]).sliceLogic().GetSliceCompositeNode()
    test = mrml.comparison_nodes()["fa_test"]
    assert view.GetForegroundVolumeID() is None
    ui.overlaySlider.value = 40
    assert (view.GetForegroundVolumeID(), view.GetForegroundOpacity()) == (test.GetID(), 0.4)
    ui.mapComboBox.currentIndex = ui.mapComboBox.findData("qa")
    assert view.GetForegroundVolumeID() == mrml.comparison_nodes()["qa_test"].GetID()
    ui.overlaySlider.value = 0
    ui.flickerCheckBox.click()
    seen = set()
    shown = {None, mrml.comparison_nodes()["qa_test"].GetID()}
    host.wait(lambda: seen.add(view.GetForegroundVolumeID()) or seen == shown)
    compared.exit()
    compared.enter()
    ui.flickerCheckBox.click()
    assert view.GetForegroundVolumeID() is None


def test_colour_fa_is_shown_beside_fa(compared, host):  # noqa: F811
    ui = compared.panel.ui
    ui.mapComboBox.currentIndex = ui.mapComboBox.findData("colour_fa")
    view = host.manager.sliceWidget(mrml.SLICE_VIEWS["test"]).sliceLogic().GetSliceCompositeNode()
    assert view.GetBackgroundVolumeID() == mrml.comparison_nodes()["colour_fa_test"].GetID()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def started(launcher, tmp_path):  # noqa: F811
    """Process ids of all that the module started so far: the launcher writes them down."""
    log = tmp_path / "started"
    log.touch()
    Path(launcher).write_text(f'#!/bin/sh\necho $$ >> "{log}"\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
    return lambda: [int(pid) for pid in log.read_text().split()]


def apply(widget, host):  # noqa: F811
    widget.panel.ui.applyButton.click()
    host.wait(lambda: not widget.logic.isRunning)
    assert not host.errors


def test_one_child_for_job_after_job(widget, scan, host, started):  # noqa: F811
    """PyTorch is loaded once: looking for a device and two jobs are the work of one process."""
    for _ in range(2):
        apply(widget, host)
    (pid,) = started()
    assert alive(pid)


def test_the_child_is_there_before_the_first_job(widget, scan, host, started):  # noqa: F811
    widget.logic._dependencies = NoDependencies(warm=True)
    widget.exit()
    widget.enter()
    host.wait(started)
    apply(widget, host)
    assert len(started()) == 1


def test_no_child_while_something_is_missing(widget, started):  # noqa: F811
    widget.enter()
    assert not widget.logic._child.is_running
    assert not started()


@pytest.mark.parametrize("how", ["idle", "cancel", "scene", "reload"])
def test_the_child_ends(widget, scan, host, started, how, tmp_path, monkeypatch):  # noqa: F811
    """When nothing came for a while, with a job that is cancelled, and with the module; the next job has another."""
    logic = widget.logic
    if how == "idle":
        apply(widget, host)
        assert logic._idle.isActive()
        logic._idle.setInterval(10)
        logic._idle.start()
    else:
        monkeypatch.setenv("FAKE_CHILD", "slow")
        widget.panel.ui.applyButton.click()
        host.wait(lambda: (tmp_path / "pids").exists())
        {"cancel": widget.panel.ui.applyButton.click, "scene": lambda: slicer.mrmlScene.Clear(0),
         "reload": widget.cleanup}[how]()  # fmt: skip
    (first,) = started()
    host.wait(lambda: not alive(first))
    assert not list(tmp_path.glob("DWISuperRes-*"))
    if how in ("idle", "cancel"):
        monkeypatch.setenv("FAKE_CHILD", "succeed")
        apply(widget, host)
        assert len(started()) == 2
