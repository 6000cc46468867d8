"""The real .ui and the real widget in the minimal host: every control both ways, Apply, progress, Cancel, failures."""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util

from DWISuperResLib import mrml
from DWISuperResLib.checkpoints import Card
from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError
from Testing.slicer_host import NoDependencies, start

FAKE = Path(__file__).parents[1] / "slicer_host" / "fake_child.py"
CARD = Card(
    name="tiny",
    architecture="sr_unet",
    arguments={},
    factors=((2, 2, 1), (4, 4, 1)),
    voxel_sizes={"in_plane": [1.5, 2.5], "slice": [2, 3]},
    bvals=(800, 1200),
    training={"scans": ["anna.nii.gz", "bert.nrrd"]},
    scores={"fa_mae": 0.03},
    loss={"l1": 1.0},
    licence="CC-BY <b>4.0</b>",
)


@pytest.fixture
def host():
    host = start()
    host.new_scene()
    yield host
    host.main_window = "a window"
    host.new_scene()


@pytest.fixture
def launcher(tmp_path):
    """An executable that takes PythonSlicer's place and runs the fake child."""
    path = tmp_path / "Python Slicer ü"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKE}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def widget(host, launcher, monkeypatch, tmp_path):
    """The module's widget with two checkpoints and the fake child; temporary folders go to tmp_path."""
    from DWISuperResLib.gui import model_section

    def read_card(name):
        if str(name).endswith("broken.safetensors"):
            raise InputError(f"{name} is no checkpoint.")
        return CARD

    monkeypatch.setattr(model_section, "read_card", read_card)
    monkeypatch.setattr(model_section, "shipped_checkpoints", lambda: ["default", "other"])
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    monkeypatch.setenv("FAKE_CHILD_PIDS", str(tmp_path / "pids"))
    widget = host.open_module(launcher)
    yield widget
    widget.cleanup()


@pytest.fixture
def scan(widget, small_dwi):
    node = mrml.add_dwi_node(small_dwi, "scan")
    widget.panel.parameters.inputVolume = node
    return node


def folders(tmp_path):
    """Of jobs; that of the child goes with the child."""
    return [path for path in tmp_path.glob("DWISuperRes-*") if not path.name.startswith("DWISuperRes-child")]


def test_every_parameter_has_one_widget(widget):
    import qt

    names = [w.property("SlicerParameterName") for w in widget.panel.widget.findChildren(qt.QWidget)]
    bound = [name for name in names if name] + ["checkpoint", "scale", "degradation", "displayedMap", "maps"]
    assert sorted(bound) == sorted(type(widget.panel.parameters).allParameters)


def controls(ui, second, label, image):
    """Widget, how the user changes it, and the value it then has."""
    from DWISuperResLib.gui import parameters as p

    return {
        "inputVolume": (lambda: ui.inputSelector.setCurrentNode(second), second),
        "checkpoint": (lambda: setattr(ui.checkpointComboBox, "currentIndex", 1), "other"),
        "scale": (lambda: setattr(ui.scaleComboBox, "currentIndex", 1), "4"),
        "guideVolume": (lambda: ui.guideSelector.setCurrentNode(image), image),
        "device": (lambda: setattr(ui.deviceComboBox, "currentIndex", 1), p.Device.CPU),
        "precision": (lambda: setattr(ui.precisionComboBox, "currentIndex", 1), p.Precision.FP32),
        "sliceAxis": (lambda: setattr(ui.sliceAxisComboBox, "currentIndex", 3), p.SliceAxis.K),
        "ensemble": (ui.ensembleCheckBox.click, True),
        "consistent": (ui.consistentCheckBox.click, True),
        "native": (ui.nativeCheckBox.click, True),
        "uncertainty": (ui.uncertaintyCheckBox.click, True),
        "outputVolume": (lambda: ui.outputSelector.setCurrentNode(second), second),
        "showUncertainty": (ui.showUncertaintyCheckBox.click, True),
        "simulatedScale": (lambda: setattr(ui.simulatedScaleLineEdit, "text", "1x1x2.5"), "1x1x2.5"),
        "degradation": (lambda: setattr(ui.degradationComboBox, "currentIndex", 1), "gaussian"),
        "simulatedSNR": (lambda: setattr(ui.simulatedSnrSpinBox, "value", 25.0), 25.0),
        "referenceVolume": (lambda: ui.referenceSelector.setCurrentNode(second), second),
        "testVolume": (lambda: ui.testSelector.setCurrentNode(second), second),
        "maskNode": (lambda: ui.maskSelector.setCurrentNode(label), label),
        "maps": (tick(ui, "MD"), "fa,md,qa,colour_fa"),
        "displayedMap": (lambda: setattr(ui.mapComboBox, "currentIndex", 1), "md"),
        "overlay": (lambda: setattr(ui.overlaySlider, "value", 60), 60),
        "flicker": (ui.flickerCheckBox.click, True),
        "chart": (lambda: setattr(ui.chartComboBox, "currentIndex", 1), p.Chart.BLAND_ALTMAN),
        "exportFolder": (lambda: setattr(ui.exportPathLineEdit, "currentPath", "/tmp/a b"), Path("/tmp/a b")),
    }


def tick(ui, label):
    """Tick or untick a map in the button's menu."""

    def click():
        next(action for action in ui.mapsButton.menu().actions() if action.text() == label).trigger()

    return click


def test_every_control_both_ways(widget, scan, small_dwi, host):
    second = mrml.add_dwi_node(small_dwi, "second")
    label = slicer.util.addVolumeFromArray(np.ones((4, 10, 12), np.uint8), None, "mask", "vtkMRMLLabelMapVolumeNode")
    image = slicer.util.addVolumeFromArray(np.ones((4, 10, 12), np.float32), None, "T1w")
    parameters = widget.panel.parameters
    table = controls(widget.panel.ui, second, label, image)
    assert set(table) == set(type(parameters).allParameters)
    before = {name: getattr(parameters, name) for name in table}
    shown_before = shown(widget)
    for name, (change, value) in table.items():
        change()
        assert getattr(parameters, name) == value, name
    shown_after = shown(widget)
    assert all(shown_before[name] != shown_after[name] for name in shown_before)
    for name, value in before.items():  # from a script, the widgets follow
        setattr(parameters, name, value)
    assert shown(widget) == shown_before
    assert not host.errors


def shown(widget):
    """What each bound widget shows."""
    import ctk
    import qt

    found = {}
    for child in widget.panel.widget.findChildren(qt.QWidget):
        lists = ("checkpointComboBox", "scaleComboBox", "degradationComboBox", "mapComboBox", "mapsButton")
        if child.property("SlicerParameterName") or child.name in lists:
            if type(child) is slicer.qMRMLNodeComboBox:
                found[child.name] = child.currentNode()
            elif type(child) is qt.QCheckBox:
                found[child.name] = child.checked
            elif type(child) in (qt.QPushButton, qt.QLineEdit):
                found[child.name] = child.text
            elif type(child) is ctk.ctkPathLineEdit:
                found[child.name] = child.currentPath
            else:
                found[child.name] = child.currentText if type(child) is qt.QComboBox else child.value
    return found


def test_tooltips_keyboard_and_mnemonics(widget):
    import ctk
    import qt

    inputs = (qt.QPushButton, qt.QCheckBox, qt.QComboBox, qt.QDoubleSpinBox, qt.QSlider, qt.QLineEdit, qt.QProgressBar)
    letters = []
    for child in widget.panel.widget.findChildren(qt.QWidget):
        if not child.name or child.name.startswith("qt_"):  # parts that Qt makes of others
            continue
        assert child.toolTip or not isinstance(child, inputs), f"{child.name} has no tooltip"
        if isinstance(child, (*inputs, ctk.ctkCollapsibleButton)):
            assert child.accessibleName, f"a screen reader cannot name {child.name}"
        text = child.property("text") if type(child) is not qt.QLabel or child.buddy() else None
        if isinstance(text, str) and "&" in text and type(child) in (qt.QLabel, qt.QPushButton, qt.QCheckBox):
            letters.append(text[text.index("&") + 1].lower())
    assert len(letters) == len(set(letters)) > 10
    assert not set(letters) & set("fevh")  # File, Edit, View and Help of Slicer's menu bar, which would not open
    order = Path(__file__).parents[2].joinpath("Resources/UI/DWISuperRes.ui").read_text(encoding="utf-8")
    stops = [line.split("<tabstop>")[1].split("<")[0] for line in order.splitlines() if "<tabstop>" in line]
    for earlier, later in (("inputSelector", "checkpointComboBox"), ("applyButton", "referenceSelector")):
        assert stops.index(earlier) < stops.index(later)
    assert all(hasattr(widget.panel.ui, name) for name in stops)


def test_the_guide_is_asked_for_where_the_model_was_trained_with_one(widget, scan, monkeypatch):
    from DWISuperResLib.gui import model_section

    ui, parameters = widget.panel.ui, widget.panel.parameters
    assert ui.guideSelector.isHidden()
    assert ui.applyButton.enabled
    guided = dataclasses.replace(CARD, factors=((2, 2, 1), (1, 1, 3), (2, 2, 2)), view={"kind": "slice", "guide": True})
    monkeypatch.setattr(model_section, "read_card", lambda name: guided)
    parameters.checkpoint = "other"
    assert not ui.guideSelector.isHidden()
    assert not ui.guideSelectorLabel.isHidden()
    assert "Guide" in ui.cardDetailsLabel.text
    assert [ui.scaleComboBox.itemText(n) for n in range(3)] == ["×3 across the slices", "×2", "×2 isotropic"]
    assert not ui.applyButton.enabled
    assert not ui.batchButton.enabled
    parameters.guideVolume = slicer.util.addVolumeFromArray(np.ones((4, 10, 12), np.float32), None, "T1w")
    assert ui.applyButton.enabled
    asked = []
    monkeypatch.setattr(widget.logic, "process", lambda *nodes, **options: asked.append(options["guide"]))
    ui.applyButton.click()
    assert asked == [parameters.guideVolume]


def test_card_and_warnings(widget, scan, small_dwi):
    ui = widget.panel.ui
    assert ui.cardLabel.text == "×2, ×4 finer voxels; held out: fa mae 0.03"
    assert ui.cardCollapsibleButton.collapsed
    assert "anna.nii.gz, bert.nrrd" in ui.cardDetailsLabel.text
    assert "&lt;b&gt;4.0" in ui.cardDetailsLabel.text  # a foreign file's words are text, not mark-up
    assert not ui.modelWarningLabel.text
    affine = small_dwi.affine @ np.diag([2, 2, 2, 1])
    widget.panel.parameters.inputVolume = mrml.add_dwi_node(
        DWI(small_dwi.signal, affine, small_dwi.bvals * 3, small_dwi.bvecs), "coarse"
    )
    warnings = ui.modelWarningLabel.text.splitlines()
    assert [w.split("(")[0] for w in warnings] == [
        "⚠ The in-plane voxel size of this scan ",
        "⚠ The slice thickness of this scan ",
        "⚠ The b-value of this scan ",
    ]
    assert "(4 mm)" in warnings[0]
    assert "1.5 to 2.5 mm" in warnings[0]
    assert "3000 s/mm²" in warnings[2]


def test_a_checkpoint_from_a_file(widget, scan, monkeypatch):
    import qt

    ui, parameters = widget.panel.ui, widget.panel.parameters
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: ("/models/mine.safetensors", ""), raising=False)
    parameters.scale = "4"
    ui.browseButton.click()
    assert parameters.checkpoint == "/models/mine.safetensors"
    assert ui.checkpointComboBox.currentText == "mine.safetensors"
    assert parameters.scale == "4"
    assert ui.applyButton.enabled
    parameters.checkpoint = "/models/broken.safetensors"
    assert "no checkpoint" in ui.cardLabel.text
    assert not ui.applyButton.enabled


def test_a_scale_that_the_checkpoint_lacks(widget, scan):
    widget.panel.parameters.scale = "3"
    widget.panel.parameters.checkpoint = "other"
    assert widget.panel.parameters.scale == "2"


def test_scales_of_a_network_that_serves_all_between_some(widget, scan, monkeypatch):
    from DWISuperResLib.gui import model_section

    ui, parameters = widget.panel.ui, widget.panel.parameters
    blocks = {"kind": "block", "kernel": "bspline"}
    free = dataclasses.replace(CARD, factors=((2, 2, 2), (3, 3, 3), (1, 1, 2.5)), view=blocks)
    monkeypatch.setattr(model_section, "read_card", lambda name: free)
    parameters.checkpoint = "other"
    offered = [(ui.scaleComboBox.itemText(n), ui.scaleComboBox.itemData(n)) for n in range(ui.scaleComboBox.count)]
    along_k = [("×2.5 across the slices", "1x1x2.5"), ("×2 isotropic", "2x2x2"), ("×3 isotropic", "3x3x3")]
    assert offered == along_k
    assert parameters.scale == "1x1x2.5"
    assert ui.cardLabel.text.startswith(
        "×2.5 across the slices, ×2 isotropic, ×3 isotropic and all between finer voxels"
    )
    for factors in free.factors:
        fine = [round(n * factor) for n, factor in zip((20, 20, 10), factors, strict=True)]
        assert free.serves((20, 20, 10), fine, axis=2)
    parameters.scale = "3x3x3"
    parameters.sliceAxis = type(parameters.sliceAxis)("i")
    assert [ui.scaleComboBox.itemData(n) for n in range(3)] == ["2.5x1x1", "2x2x2", "3x3x3"]
    assert parameters.scale == "3x3x3"


def test_apply_needs_an_input(widget, small_dwi):
    ui = widget.panel.ui
    assert not ui.applyButton.enabled
    assert "Load or select" in ui.inputInfoLabel.text
    node = mrml.add_dwi_node(small_dwi, "scan")
    ui.inputSelector.setCurrentNode(node)
    assert ui.applyButton.enabled
    assert "12 × 10 × 4 voxels" in ui.inputInfoLabel.text


def test_apply_makes_a_volume(widget, scan, host, tmp_path):
    ui = widget.panel.ui
    widget.panel.parameters.uncertainty = True
    ui.applyButton.click()
    assert ui.applyButton.text == "Cancel"
    host.wait(lambda: not widget.logic.isRunning)
    assert ui.applyButton.text == "&Apply"
    assert "Done" in ui.runStatusLabel.text
    assert "⚠ The result shows a grid pattern" in ui.runStatusLabel.text
    output = widget.panel.parameters.testVolume
    assert output.GetName() == "scan SR x2"
    assert slicer.util.getFirstNodeByName("scan SR x2 uncertainty") is not None
    np.testing.assert_array_equal(mrml.gradient_table(output)[1], mrml.gradient_table(scan)[1])
    assert output.GetNodeReference("DWISuperRes.Input") is scan
    assert widget.panel.parameters.referenceVolume is scan
    assert not host.errors
    assert not folders(tmp_path)


def test_cancel_midway(widget, scan, host, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_CHILD", "slow")
    ui, nodes = widget.panel.ui, slicer.mrmlScene.GetNumberOfNodes()
    ui.applyButton.click()
    host.wait(lambda: ui.runProgressBar.value > 0)
    assert ui.runStatusLabel.text == "Slice 3 of 9; 1 min 15 s left; PyTorch 0 on the processor"
    assert not ui.compareButton.enabled
    pid = int((tmp_path / "pids").read_text().split()[0])
    ui.applyButton.click()
    assert ui.applyButton.text == "&Apply"
    assert "Cancelled" in ui.runStatusLabel.text
    assert not widget.logic.isRunning
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert not host.errors
    assert not folders(tmp_path)


@pytest.mark.parametrize(("behaviour", "sentence"), [("error", "no b0 volume"), ("crash", "code 3")])
def test_failures_are_shown_once(widget, scan, host, tmp_path, monkeypatch, behaviour, sentence):
    monkeypatch.setenv("FAKE_CHILD", behaviour)
    widget.panel.ui.applyButton.click()
    host.wait(lambda: not widget.logic.isRunning)
    assert len(host.errors) == 1
    assert sentence in host.errors[0]
    assert sentence in widget.panel.ui.runStatusLabel.text
    assert widget.panel.ui.applyButton.enabled
    assert not folders(tmp_path)


def test_input_that_cannot_be_handed_over(widget, host, small_dwi, tmp_path):
    short = DWI(small_dwi.signal[..., :5], small_dwi.affine, small_dwi.bvals[:5], small_dwi.bvecs[:5])
    widget.panel.parameters.inputVolume = mrml.add_dwi_node(short, "short")
    widget.panel.ui.applyButton.click()
    assert "5 volumes" in host.errors[0]
    assert widget.panel.ui.applyButton.text == "&Apply"
    assert not folders(tmp_path)


@pytest.mark.parametrize("how", ["scene", "reload"])
def test_scene_closed_or_module_reloaded_while_running(widget, scan, host, tmp_path, monkeypatch, how):
    monkeypatch.setenv("FAKE_CHILD", "slow")
    widget.panel.ui.applyButton.click()
    host.wait(lambda: (tmp_path / "pids").exists())
    if how == "scene":
        slicer.mrmlScene.Clear(0)
        assert widget.panel.parameters is not None  # a new, empty one
        assert widget.panel.parameters.inputVolume is None
    else:
        widget.cleanup()
        assert widget.panel.parameters is None
    assert not widget.logic.isRunning
    assert not folders(tmp_path)
    assert not host.errors
    host.application.processEvents()


def test_a_script_ends_with_its_scene(host, launcher, small_dwi, tmp_path, monkeypatch):
    """A job that was started without the panel ends with the scene, too."""
    monkeypatch.setenv("FAKE_CHILD", "slow")
    monkeypatch.setenv("FAKE_CHILD_PIDS", str(tmp_path / "pids"))
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    logic = host.load_module().DWISuperResLogic(python=launcher, dependencies=NoDependencies())
    ended = []
    job = logic.process(mrml.add_dwi_node(small_dwi, "s"), waitForCompletion=False, onFinished=ended.append)
    with pytest.raises(InputError, match="running"):
        logic.superResolve(mrml.add_dwi_node(small_dwi, "s"))
    slicer.mrmlScene.Clear(0)
    assert job.state == "cancelled"
    assert ended == [job]
    assert not folders(tmp_path)


def test_compare_shows_and_exports(widget, scan, small_dwi, host, tmp_path):
    ui, parameters = widget.panel.ui, widget.panel.parameters
    assert not ui.exportButton.enabled
    parameters.referenceVolume = scan
    parameters.testVolume = mrml.add_dwi_node(small_dwi, "test")
    parameters.testVolume.SetAttribute("DWISuperRes.Warnings", "A grid pattern of period 2.")
    parameters.maps = "fa,qa,md"
    label = slicer.util.addVolumeFromArray(
        np.ones((4, 10, 12), np.uint8), small_dwi.affine, "mask", "vtkMRMLLabelMapVolumeNode"
    )
    parameters.maskNode = label
    ui.compareButton.click()
    host.wait(lambda: not widget.logic.isRunning)
    assert not host.errors
    nodes = mrml.comparison_nodes()
    assert {"fa_difference", "qa_test", "md_reference", "statistics", "report"} <= set(nodes)
    assert "grid pattern" in ui.compareWarningLabel.text
    charts = {n.GetTitle() for n in slicer.util.getNodesByClass("vtkMRMLPlotChartNode")}
    assert "FA: Bland-Altman" in charts
    ui.mapComboBox.currentIndex = ui.mapComboBox.findData("md")
    charts = {n.GetTitle() for n in slicer.util.getNodesByClass("vtkMRMLPlotChartNode")}
    assert "MD: Bland-Altman" in charts
    assert ui.mapComboBox.findData("gfa") < 0  # what was not computed is not offered
    folder = tmp_path / "aus gabe ü"
    folder.mkdir()
    parameters.exportFolder = folder
    ui.exportButton.click()
    names = {path.name for path in folder.iterdir()}
    assert {"fa_difference.nii.gz", "md_test.nii.gz", "statistics.tsv", "report.html"} <= names
    assert len(names) == 11
    assert (folder / "statistics.tsv").read_text().startswith("map\tregion\tn\tmae\nfa\tbrain\t48")
    parameters.exportFolder = tmp_path / "absent"
    ui.exportButton.click()
    assert "does not exist" in host.errors[0]
    assert not folders(tmp_path)


def test_comparison_is_shown_on_return(widget, scan, small_dwi, host):
    """The user left the module while it ran: nothing changes under their hands until they come back."""
    widget.panel.parameters.referenceVolume = scan
    widget.panel.parameters.testVolume = mrml.add_dwi_node(small_dwi, "test")
    widget.panel.ui.compareButton.click()
    widget.exit()
    host.wait(lambda: not widget.logic.isRunning)
    assert mrml.comparison_nodes()
    assert not slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    widget.enter()
    assert slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert not host.errors


def test_simulate_makes_the_input(widget, scan, host):
    widget.panel.parameters.referenceVolume = scan
    widget.panel.ui.simulateButton.click()
    host.wait(lambda: not widget.logic.isRunning)
    assert widget.panel.parameters.inputVolume.GetName() == "scan low resolution x2"
    assert not host.errors


def test_load_through_the_panel(widget, host, small_dwi, tmp_path, monkeypatch):
    import qt

    from DWISuperResLib.io import write_dwi

    path = tmp_path / "ein scan ü.nii.gz"
    write_dwi(small_dwi, path)
    tables = tmp_path / "tables"
    tables.mkdir()
    chosen = [str(path)]
    for kind in ("bval", "bvec"):
        chosen.append(str((tmp_path / f"ein scan ü.{kind}").rename(tables / kind)))
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (chosen.pop(0), ""), raising=False)
    widget.panel.ui.loadButton.click()
    assert not chosen
    node = widget.panel.parameters.inputVolume
    assert node.GetName() == "ein scan ü"
    np.testing.assert_allclose(mrml.gradient_table(node)[1], small_dwi.bvecs, atol=1e-6)
    widget.panel.input.load(str(tmp_path / "absent.nrrd"))
    assert "absent.nrrd" in host.errors[0]


def test_parameters_are_saved_with_the_scene(widget, scan, host, tmp_path):
    widget.panel.parameters.scale = "4"
    widget.panel.parameters.ensemble = True
    xml = tmp_path / "scene.mrml"
    slicer.mrmlScene.SetURL(str(xml))
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    assert slicer.mrmlScene.Commit(str(xml))
    slicer.mrmlScene.Clear(0)
    assert not widget.panel.ui.ensembleCheckBox.checked
    slicer.mrmlScene.SetURL(str(xml))
    slicer.mrmlScene.Import()
    assert widget.panel.parameters.scale == "4"
    assert widget.panel.ui.ensembleCheckBox.checked
    assert widget.panel.ui.scaleComboBox.currentText == "×4"


def test_leaving_and_entering(widget, scan, host):
    widget.exit()
    assert not widget.panel.ui.applyButton.enabled
    widget.enter()
    assert widget.panel.ui.applyButton.enabled
